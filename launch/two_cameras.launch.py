"""Two cameras, two nodes, one graph: /left/r3 and /right/r3, each with its own map and files.

ros2 launch r3_ros two_cameras.launch.py left_image_topic:=... right_image_topic:=...
The maps are not fused; rviz:=true opens a window for each. Other arguments of stream.launch.py
apply to both.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from r3_ros.ros.services.saving import ros_home

from launch import LaunchDescription

STREAM = Path(__file__).with_name('stream.launch.py')


def camera(side):
    """Return one node; its topics, frames and files are prefixed with the side."""
    arguments = {
        'image_topic': LaunchConfiguration(f'{side}_image_topic'),
        'camera_info_topic': '',
        'odom_topic': 'odom',
        'namespace': side,
        'frame_prefix': f'{side}/',
        'base_frame': '',
        'camera_optical_frame': LaunchConfiguration(f'{side}_optical_frame'),
        'map_directory': [LaunchConfiguration('map_directory'), f'/{side}'],
    }
    return GroupAction(
        [
            DeclareLaunchArgument(
                f'{side}_image_topic',
                default_value=f'/{side}/image_raw',
                description=f'images of the {side} camera',
            ),
            DeclareLaunchArgument(
                f'{side}_optical_frame',
                default_value='',
                description=f'frame of the {side} camera, if both cameras have the same frame_id '
                'or none; empty: frame_id of the images',
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(STREAM)), launch_arguments=arguments.items()
            ),
        ]
    )


def generate_launch_description():
    """Start one node for each side."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'map_directory',
                default_value=str(ros_home() / 'r3_maps'),
                description='folder of saved maps, with one folder per camera',
            ),
            camera('left'),
            camera('right'),
        ]
    )
