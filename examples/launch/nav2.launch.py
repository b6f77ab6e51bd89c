"""r3 under nav2: it corrects map -> odom, and its clouds are obstacles.

Needs: sudo apt install ros-$ROS_DISTRO-nav2-bringup, a robot that publishes odom -> base_link and
its odometry in metres, and nav2's parameter file with config/integration/nav2.yaml copied into it.

    ros2 launch examples/launch/nav2.launch.py nav2_params_file:=nav2.yaml odom_topic:=/odom

Arguments of stream.launch.py can be given, too. See docs/integration.md.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

R3 = Path(get_package_share_directory('r3_ros'))
NAV2 = Path(get_package_share_directory('nav2_bringup'))


def generate_launch_description():
    """Start both."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'nav2_params_file', description="nav2's parameters, with those for r3 in them"
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(R3 / 'launch' / 'stream.launch.py')),
                launch_arguments={
                    'base_frame': 'base_link',
                    'publish_odom_to_base_tf': 'false',
                    'scale_source': 'odometry',
                }.items(),
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(NAV2 / 'launch' / 'navigation_launch.py')),
                launch_arguments={
                    'params_file': LaunchConfiguration('nav2_params_file'),
                    'use_sim_time': 'false',
                }.items(),
            ),
        ]
    )
