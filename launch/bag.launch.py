"""Play a recording to the node, with RViz: ros2 launch r3_ros bag.launch.py bag:=path.

The recording starts once the node is active, so no image is missed, and provides the clock. All
arguments of stream.launch.py can be given.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from r3_ros.core.errors import SourceError

from launch import LaunchDescription

STREAM = Path(__file__).with_name('stream.launch.py')
# With a slower clock, images would have stamps in the future.
CLOCK_HZ = '100'


def recording(context):
    """Return the path of the recording."""
    bag = Path(context.launch_configurations['bag']).expanduser()
    if not bag.exists():
        raise SourceError(f"there is no recording '{bag}': correct the argument bag")
    return str(bag)


def play(event, context):
    """Play once the node is active; shut down if it does not become active."""
    if event.returncode:
        return Shutdown(reason='the node did not become active')
    given = context.launch_configurations
    command = ['ros2', 'bag', 'play', recording(context), '--clock', CLOCK_HZ]
    command += ['--rate', given['rate'], '--disable-keyboard-controls']
    return ExecuteProcess(
        cmd=command + (['--loop'] if given['loop'] == 'true' else []),
        output='screen',
        on_exit=LogInfo(msg='The recording has ended. The node still runs: Ctrl-C ends it.'),
    )


def is_stream(action):
    """Return whether a process is that of the node."""
    return isinstance(action, Node) and action.node_executable == 'r3_stream'


def check(context):
    """Check that the recording exists before anything starts."""
    recording(context)


def generate_launch_description():
    """Start the node and RViz, wait for the node, then play."""
    wait = Node(
        package='r3_ros',
        executable='r3_wait_active',
        arguments=[[LaunchConfiguration('namespace'), '/', LaunchConfiguration('name')]],
        output='screen',
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'bag', description='the recording: a rosbag2 folder, or an .mcap or .db3 file'
            ),
            DeclareLaunchArgument('rate', default_value='1.0', description='speed of playing'),
            DeclareLaunchArgument(
                'loop',
                default_value='false',
                choices=['true', 'false'],
                description='play in a loop; each time a new session starts',
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='true',
                choices=['true', 'false'],
                description='use the time of /clock, which the recording provides',
            ),
            DeclareLaunchArgument(
                'rviz',
                default_value='true',
                choices=['true', 'false'],
                description='start RViz too',
            ),
            OpaqueFunction(function=check),
            RegisterEventHandler(OnProcessExit(target_action=wait, on_exit=play)),
            RegisterEventHandler(
                OnProcessExit(
                    target_action=is_stream, on_exit=Shutdown(reason='the node has ended')
                )
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(STREAM)),
                launch_arguments={'autostart': 'true', 'respawn': 'false'}.items(),
            ),
            wait,
        ]
    )
