"""r3 and depth_image_proc, which makes a dense coloured cloud of its depth image.

Needs: sudo apt install ros-$ROS_DISTRO-depth-image-proc.

    ros2 launch examples/launch/depth_image_proc.launch.py image_topic:=/camera/image_raw

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
                PythonLaunchDescriptionSource(str(R3 / 'launch' / 'stream.launch.py'))
            ),
            Node(
                package='depth_image_proc',
                executable='point_cloud_xyzrgb_node',
                namespace='depth_image_proc',
                name='cloud',
                parameters=[{'exact_sync': True, 'queue_size': 10}],
                remappings=[
                    ('rgb/image_rect_color', '/r3/color/image'),
                    ('rgb/camera_info', '/r3/color/camera_info'),
                    ('depth_registered/image_rect', '/r3/depth/image'),
                ],
            ),
        ]
    )
