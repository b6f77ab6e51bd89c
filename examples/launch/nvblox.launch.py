"""r3 and nvblox, which makes a distance field of its depth.

Needs: nvblox_ros of Isaac ROS, an NVIDIA GPU, and metres (scale_source:=model, odometry or
fixed).

    ros2 launch examples/launch/nvblox.launch.py scale_source:=model

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
                package='nvblox_ros',
                executable='nvblox_node',
                name='nvblox_node',
                parameters=[str(R3 / 'config' / 'integration' / 'nvblox.yaml')],
                remappings=[
                    ('camera_0/depth/image', '/r3/depth/image'),
                    ('camera_0/depth/camera_info', '/r3/depth/camera_info'),
                    ('camera_0/color/image', '/r3/color/image'),
                    ('camera_0/color/camera_info', '/r3/color/camera_info'),
                ],
            ),
        ]
    )
