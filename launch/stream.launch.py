"""The node on a camera's topics, and RViz if asked: ros2 launch r3_ros stream.launch.py."""

from r3_ros.ros.launch.launch_arguments import STREAM
from r3_ros.ros.launch.launching import description, r3_node, rviz_if_asked


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(STREAM, lambda given: [r3_node(given), *rviz_if_asked(given)])
