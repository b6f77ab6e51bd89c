"""r3 and octomap_server, which keeps free and occupied space of its clouds.

Needs: sudo apt install ros-$ROS_DISTRO-octomap-server, and metres
(scale_source:=model, odometry or fixed).

    ros2 launch examples/launch/octomap.launch.py scale_source:=model

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
                package='octomap_server',
                executable='octomap_server_node',
                name='octomap_server',
                parameters=[str(R3 / 'config' / 'integration' / 'octomap.yaml')],
                # In the camera's frame, not keyframe_points: rays are cast from the origin of the
                # cloud's frame, which has to be where the camera was.
                remappings=[('cloud_in', '/r3/points')],
            ),
        ]
    )
