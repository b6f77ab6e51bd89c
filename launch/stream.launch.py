"""The node on a camera's topics: ros2 launch r3_ros stream.launch.py.

RViz and a view in the browser are started too, if requested.

The other launch files include this one and accept its arguments, too.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from r3_ros.core.errors import ConfigError
from r3_ros.ros.launch.launch_arguments import (
    BOOLEAN,
    parameter_arguments,
    parameter_files,
    parameter_texts,
    PRESETS,
)
from r3_ros.ros.outputs.outputs import TOPICS

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]


def argument(name, description, default='', choices=None):
    """Declare an argument."""
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=choices or None
    )


ARGUMENTS = [
    argument('image_topic', 'topic of the images', '/camera/image_raw'),
    argument('camera_info_topic', 'topic of the calibration; empty: beside image_topic'),
    argument('odom_topic', "topic of the robot's odometry, for scale_source odometry", 'odom'),
    argument(
        'preset',
        f'parameters for a kind of place or machine: {", ".join(PRESETS)}, or a parameter file',
        'indoor',
    ),
    argument('params_file', 'parameter file; overrides the preset, other arguments override it'),
    argument('namespace', 'namespace of the node'),
    argument('name', 'name of the node; its topics are below it', 'r3'),
    argument(
        'frame_prefix',
        'prefix of the map and odometry frames, for several cameras in one graph: left/ gives '
        'left/map and left/odom',
    ),
    *(argument(a.name, a.description, choices=a.choices) for a in parameter_arguments()),
    argument('rviz', 'start RViz too', 'false', BOOLEAN),
    argument('rviz_config', 'configuration of RViz: a file of rviz/, or a path', 'stream.rviz'),
    argument('viewer', 'show the node in a browser too (docs/view.md)', 'false', BOOLEAN),
    argument('viewer_host', 'address at which the view is served', '127.0.0.1'),
    argument('viewer_port', 'port of the view', '8080'),
    argument('respawn', 'start the node again when it ends', 'false', BOOLEAN),
    argument(
        'log_level', 'log level of the node', 'info', ('debug', 'info', 'warn', 'error', 'fatal')
    ),
]


def start(context):
    """Start the node, and what else is requested."""
    given = context.launch_configurations
    files = parameter_files(given['preset'], given['params_file'], SHARE / 'config')
    remappings = [('image', given['image_topic']), ('odom', given['odom_topic'])]
    if given['camera_info_topic']:
        remappings.append(('camera_info', given['camera_info_topic']))
    node = Node(
        package='r3_ros',
        executable='r3_stream',
        namespace=given['namespace'],
        name=given['name'],
        output='screen',
        respawn=given['respawn'] == 'true',
        respawn_delay=2.0,
        parameters=[*map(str, files), typed(parameter_texts(given))],
        remappings=remappings,
        ros_arguments=['--log-level', given['log_level']],
    )
    wanted = {'rviz': rviz, 'viewer': viewer}
    return [node, *(show(given) for name, show in wanted.items() if given[name] == 'true')]


def typed(texts):
    """Return parameters with explicit types; launch would guess them."""
    return {
        name: ParameterValue(TextSubstitution(text=text), value_type=kind)
        for name, (text, kind) in texts.items()
    }


def rviz(given):
    """Return RViz on the node's topics; its configurations are for a node /r3."""
    config = SHARE / 'rviz' / given['rviz_config']
    if not config.is_file():
        config = Path(given['rviz_config']).expanduser()
    if not config.is_file():
        raise ConfigError(f"there is no file '{config}': correct the argument rviz_config")
    texts = parameter_texts(given)
    # Names without a slash are below the namespace.
    remappings = [(f'/r3/{topic}', f'{given["name"]}/{topic}') for topic in TOPICS]
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=given['namespace'],
        arguments=['-d', str(config), '-f', texts.get('map_frame', ('map', str))[0]],
        parameters=[{'use_sim_time': given['use_sim_time'] == 'true'}],
        remappings=[*remappings, ('/initialpose', 'initialpose')],
    )


def viewer(given):
    """Return the view of the node in the browser, a process of its own."""
    return Node(
        package='r3_ros',
        executable='r3_viewer',
        namespace=given['namespace'],
        name=f'{given["name"]}_viewer',
        output='screen',
        arguments=[given['name'], '--host', given['viewer_host'], '--port', given['viewer_port']],
    )


def generate_launch_description():
    """Declare the arguments and start the nodes."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
