"""The node as one source of robot_localization's filter, which owns odom -> base_link.

ros2 launch r3_ros robot_localization.launch.py. See docs/integration.md.
"""

from r3_ros.ros.launch.launch_arguments import Argument, START_R3, STREAM, with_defaults
from r3_ros.ros.launch.launching import description, other_node, r3_if_asked, rviz_if_asked, share

ARGUMENTS = (
    Argument('ekf_params_file', "the filter's parameters; empty: those of this package"),
    START_R3,
    *with_defaults(
        STREAM,
        base_frame='base_link',
        publish_map_to_odom_tf='false',
        publish_odom_to_base_tf='false',
    ),
)


def start(given):
    """Start the node without transforms, and the filter on its odometry."""
    own = share('config', 'integration', 'robot_localization.yaml')
    filter_node = other_node(
        given,
        'robot_localization',
        'ekf_node',
        'fuses odometry',
        parameters=[
            given['ekf_params_file'] or own,
            {
                'odom0': given.topic('odometry'),
                'map_frame': given.frame('map_frame'),
                'odom_frame': given.frame('odom_frame'),
                'world_frame': given.frame('odom_frame'),
                'base_link_frame': given['base_frame'],
            },
        ],
        name='ekf_filter_node',
    )
    return [*r3_if_asked(given), filter_node, *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(ARGUMENTS, start)
