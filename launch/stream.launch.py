"""Start the node on a camera's topics, and RViz if asked: ros2 launch r3_ros stream.launch.py."""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SHARE = FindPackageShare('r3_ros')
BOOLEAN = ['true', 'false']
#: With an empty choice: what params_file says holds.
MAYBE_BOOLEAN = ['', *BOOLEAN]

#: Argument, default, what it does, choices. Those that set a parameter are empty, so that
#: params_file holds unless somebody asks for something else.
ARGUMENTS = [
    ('image_topic', '/camera/image_raw', 'topic of the pictures', None),
    (
        'camera_info_topic',
        '',
        'topic of the calibration; empty: camera_info beside image_topic',
        None,
    ),
    ('transport', '', 'transport of the pictures', ['', 'raw', 'compressed']),
    ('model', '', 'predictor: classical, r3 or r3_long', None),
    ('checkpoint', '', 'file of weights for r3; empty: found by the name', None),
    (
        'params_file',
        PathJoinSubstitution([SHARE, 'config', 'r3_stream.yaml']),
        'parameter file; the arguments below come after it',
        None,
    ),
    ('namespace', '', 'namespace of the node', None),
    ('name', 'r3', 'name of the node', None),
    ('map_frame', '', 'id of the map frame', None),
    ('odom_frame', '', 'id of the odometry frame', None),
    ('base_frame', '', 'moving frame, for example base_link', None),
    ('publish_map_to_odom_tf', '', 'broadcast map -> odom', MAYBE_BOOLEAN),
    ('publish_odom_to_base_tf', '', 'broadcast odom -> base', MAYBE_BOOLEAN),
    (
        'frame_policy',
        '',
        'newest drops frames that come too fast, queue keeps them',
        ['', 'newest', 'queue'],
    ),
    ('use_sim_time', 'false', 'take the time from /clock', BOOLEAN),
    ('rviz', 'false', 'start RViz too', BOOLEAN),
    (
        'rviz_config',
        PathJoinSubstitution([SHARE, 'rviz', 'stream.rviz']),
        'configuration of RViz',
        None,
    ),
    ('autostart', '', 'configure and activate the node at once', MAYBE_BOOLEAN),
    ('respawn', 'false', 'start the node again when it ends', BOOLEAN),
    ('log_level', 'info', 'log level of the node', ['debug', 'info', 'warn', 'error', 'fatal']),
]

#: Launch argument -> parameter and its type.
PARAMETERS = {
    'transport': ('input.transport', str),
    'model': ('model.name', str),
    'checkpoint': ('model.checkpoint', str),
    'map_frame': ('map_frame', str),
    'odom_frame': ('odom_frame', str),
    'base_frame': ('base_frame', str),
    'publish_map_to_odom_tf': ('publish_map_to_odom_tf', bool),
    'publish_odom_to_base_tf': ('publish_odom_to_base_tf', bool),
    'frame_policy': ('input.frame_policy', str),
    'use_sim_time': ('use_sim_time', bool),
    'autostart': ('autostart', bool),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start what they ask for."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name, default_value=default, description=description, choices=choices
                )
                for name, default, description, choices in ARGUMENTS
            ),
            OpaqueFunction(function=start_node),
            Node(
                package='rviz2',
                executable='rviz2',
                arguments=['-d', LaunchConfiguration('rviz_config')],
                parameters=[
                    {
                        'use_sim_time': ParameterValue(
                            LaunchConfiguration('use_sim_time'), value_type=bool
                        )
                    }
                ],
                condition=IfCondition(LaunchConfiguration('rviz')),
            ),
        ]
    )


def start_node(context):
    """Return the node; an argument left empty changes nothing."""

    def given(name):
        return LaunchConfiguration(name).perform(context)

    remappings = [('image', given('image_topic'))]
    if given('camera_info_topic'):
        remappings.append(('camera_info', given('camera_info_topic')))
    arguments = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (parameter, kind) in PARAMETERS.items()
        if given(name)
    }
    return [
        Node(
            package='r3_ros',
            executable='r3_stream',
            namespace=given('namespace'),
            name=given('name'),
            output='screen',
            respawn=given('respawn') == 'true',
            respawn_delay=2.0,
            parameters=[given('params_file'), arguments],
            remappings=remappings,
            ros_arguments=['--log-level', given('log_level')],
        )
    ]
