"""A camera on USB through the node: ros2 launch r3_ros webcam.launch.py device:=/dev/video0."""

from r3_ros.ros.launch.launch_arguments import Argument, BOOLEAN, STREAM, without
from r3_ros.ros.launch.launching import description, other_node, r3_node, rviz_if_asked

ARGUMENTS = (
    Argument('driver', 'package of the driver', 'v4l2_camera', ('v4l2_camera', 'usb_cam')),
    Argument('device', 'device of the camera', '/dev/video0'),
    Argument('width', 'width of the pictures [pixels]', '640'),
    Argument('height', 'height of the pictures [pixels]', '480'),
    Argument('camera_frame', 'frame of the pictures, in optical axes', 'camera_optical_frame'),
    Argument('camera_info_url', 'calibration: file:///path/camera.yaml; empty: none'),
    Argument(
        'rectify',
        'undistort the pictures by image_proc; needed where others want them too, since the node '
        'undistorts what it takes by itself',
        'false',
        BOOLEAN,
    ),
    *without(STREAM, 'image_topic', 'camera_info_topic', 'transport'),
)
CAMERA = 'camera'


def driver_node(given):
    """Return the camera's driver, publishing ``/camera/image_raw`` and ``/camera/camera_info``."""
    width, height = int(given['width']), int(given['height'])
    common = {'video_device': given['device'], 'camera_info_url': given['camera_info_url']}
    if given['driver'] == 'usb_cam':
        executable = 'usb_cam_node_exe'
        size = {'image_width': width, 'image_height': height, 'frame_id': given['camera_frame']}
    else:
        executable = 'v4l2_camera_node'
        size = {'image_size': [width, height], 'camera_frame_id': given['camera_frame']}
    return other_node(
        given,
        given['driver'],
        executable,
        'reads the camera',
        parameters=[common | size],
        namespace=CAMERA,
        name='driver',
    )


def start(given):
    """Start the driver, image_proc if asked, and the node on what comes out."""
    nodes, picture = [driver_node(given)], f'/{CAMERA}/image_raw'
    if given.is_true('rectify'):
        rectified = f'/{CAMERA}/image_rect'
        nodes.append(
            other_node(
                given,
                'image_proc',
                'rectify_node',
                'undistorts pictures',
                remappings=[('image', picture), ('image_rect', rectified)],
                namespace=CAMERA,
                name='rectify',
            )
        )
        picture = rectified
    return [*nodes, r3_node(given, image_topic=picture), *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(ARGUMENTS, start)
