"""The node and octomap_server, which keeps free and occupied space of its clouds.

ros2 launch r3_ros octomap.launch.py. See docs/integration.md.
"""

from r3_ros.ros.launch.launch_arguments import START_R3, STREAM
from r3_ros.ros.launch.launching import description, other_node, r3_if_asked, rviz_if_asked, share


def start(given):
    """Start the node, and the octree of its clouds.

    Those of the camera's frame, not ``keyframe_points``: the server casts rays from the origin of
    the cloud's frame, which has to be where the camera was.
    """
    server = other_node(
        given,
        'octomap_server',
        'octomap_server_node',
        'keeps the octree',
        parameters=[
            share('config', 'integration', 'octomap.yaml'),
            {'frame_id': given.frame('map_frame')},
        ],
        remappings=[('cloud_in', given.topic('points'))],
        name='octomap_server',
    )
    return [*r3_if_asked(given), server, *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description((START_R3, *STREAM), start)
