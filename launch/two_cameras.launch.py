"""Two cameras, two nodes, one graph: /left/r3 and /right/r3, each with its own map and files.

ros2 launch r3_ros two_cameras.launch.py left_image_topic:=... right_image_topic:=...
The maps are not fused. RViz on one of them:
ros2 launch r3_ros rviz.launch.py namespace:=left frame_prefix:=left/
"""

from pathlib import Path

from r3_ros.ros.launch.launch_arguments import Argument, STREAM, without
from r3_ros.ros.launch.launching import description, r3_node

SIDES = ('left', 'right')
ARGUMENTS = (
    *(
        Argument(f'{side}_image_topic', f'pictures of the {side} camera', f'/{side}/image_raw')
        for side in SIDES
    ),
    *(
        Argument(
            f'{side}_optical_frame',
            f'frame of the {side} camera, where both cameras give the same frame_id or none; '
            'empty: as the pictures say',
        )
        for side in SIDES
    ),
    Argument(
        'map_directory',
        'folder of saved maps, with one folder per camera; empty: r3_maps in the ROS home',
    ),
    *without(
        STREAM, 'image_topic', 'camera_info_topic', 'namespace', 'frame_prefix', 'odom_topic',
        'base_frame', 'rviz', 'rviz_config',
    ),
)  # fmt: skip


def start(given):
    """Start one node for each side; everything it names begins with the side."""
    nodes = []
    for side in SIDES:
        own = given.but(namespace=side, frame_prefix=f'{side}/', base_frame='', odom_topic='odom')
        folders = {'map__directory': str(Path(given['map_directory'] or default_maps()) / side)}
        if given[f'{side}_optical_frame']:
            folders['camera_optical_frame'] = given[f'{side}_optical_frame']
        nodes.append(r3_node(own, image_topic=given[f'{side}_image_topic'], **folders))
    return nodes


def default_maps():
    """Return where maps go by default."""
    from r3_ros.ros.services.saving import ros_home

    return ros_home() / 'r3_maps'


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(ARGUMENTS, start)
