"""RViz on a node /r3 that runs already, here or on another machine.

Needs: sudo apt install ros-$ROS_DISTRO-rviz2.

    ros2 launch examples/launch/rviz.launch.py
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch_ros.actions import Node

from launch import LaunchDescription

R3 = Path(get_package_share_directory('r3_ros'))


def generate_launch_description():
    """Start RViz."""
    return LaunchDescription(
        [
            Node(
                package='rviz2',
                executable='rviz2',
                arguments=['-d', str(R3 / 'rviz' / 'stream.rviz'), '-f', 'map'],
            )
        ]
    )
