"""r3 as one source of robot_localization's filter, which owns odom -> base_link.

Needs: sudo apt install ros-$ROS_DISTRO-robot-localization, a transform from
base_link to the camera, and metres (scale_source:=model, odometry or fixed).

    ros2 launch examples/launch/robot_localization.launch.py scale_source:=model

Arguments of stream.launch.py can be given, too. See docs/integration.md.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchDescription

R3 = Path(get_package_share_directory('r3_ros'))


def generate_launch_description():
    """Start both."""
    return LaunchDescription(
        [
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(R3 / 'launch' / 'stream.launch.py')),
                launch_arguments={
                    'base_frame': 'base_link',
                    'publish_map_to_odom_tf': 'false',
                    'publish_odom_to_base_tf': 'false',
                }.items(),
            ),
            Node(
                package='robot_localization',
                executable='ekf_node',
                name='ekf_filter_node',
                parameters=[str(R3 / 'config' / 'integration' / 'robot_localization.yaml')],
            ),
        ]
    )
