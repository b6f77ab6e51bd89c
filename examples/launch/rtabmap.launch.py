"""r3 as visual odometry of RTAB-Map, which closes loops and owns map -> odom.

Needs: sudo apt install ros-$ROS_DISTRO-rtabmap-slam, and a transform from
camera_link to the camera, as most drivers publish it.

    ros2 launch examples/launch/rtabmap.launch.py scale_source:=model

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
                    'base_frame': 'camera_link',
                    'publish_map_to_odom_tf': 'false',
                }.items(),
            ),
            Node(
                package='rtabmap_slam',
                executable='rtabmap',
                namespace='rtabmap',
                name='rtabmap',
                parameters=[
                    str(R3 / 'config' / 'integration' / 'rtabmap.yaml'),
                    {'frame_id': 'camera_link'},
                ],
                remappings=[
                    ('rgb/image', '/r3/color/image'),
                    ('rgb/camera_info', '/r3/color/camera_info'),
                    ('depth/image', '/r3/depth/image'),
                    ('odom', '/r3/odometry'),
                ],
            ),
        ]
    )
