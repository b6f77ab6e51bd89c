"""The node and nvblox, which makes a distance field of its depth.

ros2 launch r3_ros nvblox_bridge.launch.py scale_source:=model. See docs/integration.md.
"""

from r3_ros.ros.launch.launch_arguments import START_R3, STREAM
from r3_ros.ros.launch.launching import description, other_node, r3_if_asked, rviz_if_asked, share


def start(given):
    """Start the node, and nvblox on its depth, colour and transforms."""
    nvblox = other_node(
        given,
        'nvblox_ros',
        'nvblox_node',
        'integrates depth on an NVIDIA GPU',
        parameters=[
            share('config', 'integration', 'nvblox.yaml'),
            {'global_frame': given.frame('odom_frame')},
        ],
        remappings=[
            ('camera_0/depth/image', given.topic('depth/image')),
            ('camera_0/depth/camera_info', given.topic('depth/camera_info')),
            ('camera_0/color/image', given.topic('color/image')),
            ('camera_0/color/camera_info', given.topic('color/camera_info')),
        ],
        name='nvblox_node',
    )
    return [*r3_if_asked(given), nvblox, *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description((START_R3, *STREAM), start)
