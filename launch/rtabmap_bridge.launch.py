"""The node as visual odometry of RTAB-Map, which closes loops and keeps the map.

ros2 launch r3_ros rtabmap_bridge.launch.py base_frame:=camera_link. See docs/integration.md.
"""

from r3_ros.ros.launch.launch_arguments import START_R3, STREAM, with_defaults
from r3_ros.ros.launch.launching import description, other_node, r3_if_asked, rviz_if_asked, share

ARGUMENTS = (
    START_R3,
    *with_defaults(STREAM, base_frame='camera_link', publish_map_to_odom_tf='false'),
)


def start(given):
    """Start the node, and RTAB-Map on its pictures, depth and odometry."""
    rtabmap = other_node(
        given,
        'rtabmap_slam',
        'rtabmap',
        'closes loops and keeps the map',
        parameters=[
            share('config', 'integration', 'rtabmap.yaml'),
            {'frame_id': given['base_frame'], 'map_frame_id': given.frame('map_frame')},
        ],
        remappings=[
            ('rgb/image', given.topic('color/image')),
            ('rgb/camera_info', given.topic('color/camera_info')),
            ('depth/image', given.topic('depth/image')),
            ('odom', given.topic('odometry')),
        ],
        namespace='rtabmap',
        name='rtabmap',
    )
    return [*r3_if_asked(given), rtabmap, *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(ARGUMENTS, start)
