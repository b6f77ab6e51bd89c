"""The node on a USB camera: ros2 launch r3_ros webcam.launch.py device:=/dev/video0.

All arguments of stream.launch.py except the image topics can be given.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import IfElseSubstitution, LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

STREAM = Path(__file__).with_name('stream.launch.py')
RECTIFY = LaunchConfiguration('rectify')


def driver(context):
    """Return the camera's driver, publishing /camera/image_raw and /camera/camera_info."""
    given = context.launch_configurations
    width, height, frame = int(given['width']), int(given['height']), given['camera_frame']
    executable, parameters = {
        'v4l2_camera': (
            'v4l2_camera_node',
            {'image_size': [width, height], 'camera_frame_id': frame},
        ),
        'usb_cam': (
            'usb_cam_node_exe',
            {'image_width': width, 'image_height': height, 'frame_id': frame},
        ),
    }[given['driver']]
    common = {'video_device': given['device'], 'camera_info_url': given['camera_info_url']}
    return [
        Node(
            package=given['driver'],
            executable=executable,
            namespace='camera',
            name='driver',
            output='screen',
            parameters=[common | parameters],
        )
    ]


def generate_launch_description():
    """Start the driver, image_proc if requested, and the node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'driver',
                default_value='v4l2_camera',
                choices=['v4l2_camera', 'usb_cam'],
                description='package of the driver',
            ),
            DeclareLaunchArgument(
                'device', default_value='/dev/video0', description='device of the camera'
            ),
            DeclareLaunchArgument(
                'width', default_value='640', description='width of the images [pixels]'
            ),
            DeclareLaunchArgument(
                'height', default_value='480', description='height of the images [pixels]'
            ),
            DeclareLaunchArgument(
                'camera_frame',
                default_value='camera_optical_frame',
                description='frame of the images, in optical axes',
            ),
            DeclareLaunchArgument(
                'camera_info_url',
                default_value='',
                description='calibration: file:///path/camera.yaml; empty: none',
            ),
            DeclareLaunchArgument(
                'rectify',
                default_value='false',
                choices=['true', 'false'],
                description='undistort the images with image_proc, for other nodes; the node '
                'undistorts its own input itself',
            ),
            OpaqueFunction(function=driver),
            Node(
                package='image_proc',
                executable='rectify_node',
                namespace='camera',
                name='rectify',
                output='screen',
                remappings=[('image', '/camera/image_raw'), ('image_rect', '/camera/image_rect')],
                condition=IfCondition(RECTIFY),
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(STREAM)),
                launch_arguments={
                    'image_topic': IfElseSubstitution(
                        RECTIFY, '/camera/image_rect', '/camera/image_raw'
                    ),
                    'camera_info_topic': '',
                }.items(),
            ),
        ]
    )
