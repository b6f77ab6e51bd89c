"""The node and depth_image_proc, which makes a dense coloured cloud of its depth image.

ros2 launch r3_ros depth_image_proc.launch.py. See docs/integration.md.
"""

from r3_ros.ros.launch.launch_arguments import START_R3, STREAM
from r3_ros.ros.launch.launching import description, other_node, r3_if_asked, rviz_if_asked


def start(given):
    """Start the node, and the cloud of every depth image, whose pairs have one stamp."""
    cloud = other_node(
        given,
        'depth_image_proc',
        'point_cloud_xyzrgb_node',
        'makes clouds of depth images',
        parameters=[{'exact_sync': True, 'queue_size': 10}],
        remappings=[
            ('rgb/image_rect_color', given.topic('color/image')),
            ('rgb/camera_info', given.topic('color/camera_info')),
            ('depth_registered/image_rect', given.topic('depth/image')),
        ],
        namespace='depth_image_proc',
        name='cloud',
    )
    return [*r3_if_asked(given), cloud, *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description((START_R3, *STREAM), start)
