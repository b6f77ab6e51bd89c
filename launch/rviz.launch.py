"""RViz on a node that runs already, here or on another machine: ros2 launch r3_ros rviz.launch.py.

With another name or namespace than r3, RViz is pointed to that node's topics.
"""

from r3_ros.ros.launch.launch_arguments import RVIZ, STREAM
from r3_ros.ros.launch.launching import description, rviz_node

NAMES = ('namespace', 'name', 'map_frame', 'frame_prefix', 'use_sim_time')


def generate_launch_description():
    """Declare the arguments and start RViz."""
    arguments = [a for a in STREAM if a.name in NAMES] + [a for a in RVIZ if a.name != 'rviz']
    return description(arguments, lambda given: [rviz_node(given)])
