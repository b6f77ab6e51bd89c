"""A recording through the node, with RViz: ros2 launch r3_ros bag.launch.py bag:=path.

The recording starts once the node is active, so that none of its pictures is missed, and brings
the clock.
"""

from pathlib import Path

from launch.actions import ExecuteProcess, LogInfo, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch_ros.actions import Node
from r3_ros.core.errors import SourceError
from r3_ros.ros.launch.launch_arguments import Argument, BOOLEAN, STREAM, with_defaults, without
from r3_ros.ros.launch.launching import description, r3_node, require_command, rviz_if_asked

# A clock that ticks slower than the pictures come would date them ahead of now.
CLOCK_HZ = '100'

ARGUMENTS = (
    Argument('bag', 'the recording: a rosbag2 folder, or an .mcap or .db3 file', None),
    Argument('rate', 'speed of playing', '1.0'),
    Argument('loop', 'play again and again; each time a new session starts', 'false', BOOLEAN),
    *with_defaults(without(STREAM, 'respawn', 'autostart'), use_sim_time='true', rviz='true'),
)


def start(given):
    """Start the node and RViz, wait for the node, then play."""
    bag = Path(given['bag']).expanduser()
    if not bag.exists():
        raise SourceError(f"there is no recording '{bag}': correct the argument bag")
    require_command('ros2', 'plays the recording')
    play = ['ros2', 'bag', 'play', str(bag), '--clock', CLOCK_HZ, '--rate', given['rate']]
    play += ['--disable-keyboard-controls', *(['--loop'] if given.is_true('loop') else [])]
    node = r3_node(given, autostart=True)
    wait = Node(
        package='r3_ros', executable='r3_wait_active', arguments=[given.node], output='screen'
    )
    player = ExecuteProcess(cmd=play, output='screen')

    def when_active(event, context):
        if event.returncode:
            return Shutdown(reason='the node does not become active')
        return player

    return [
        node,
        wait,
        RegisterEventHandler(OnProcessExit(target_action=wait, on_exit=when_active)),
        RegisterEventHandler(
            OnProcessExit(
                target_action=player,
                on_exit=LogInfo(msg='The recording is over. The node goes on: Ctrl-C ends it.'),
            )
        ),
        RegisterEventHandler(
            OnProcessExit(target_action=node, on_exit=Shutdown(reason='the node has ended'))
        ),
        *rviz_if_asked(given),
    ]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(ARGUMENTS, start)
