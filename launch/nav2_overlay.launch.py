"""The node under nav2: it corrects map -> odom, and its clouds are obstacles.

ros2 launch r3_ros nav2_overlay.launch.py image_topic:=/camera/image_raw nav2:=true
The robot publishes odom -> base_link and its odometry in metres. See docs/integration.md.
"""

from launch.actions import IncludeLaunchDescription, LogInfo
from launch.launch_description_sources import PythonLaunchDescriptionSource
from r3_ros.ros.launch.launch_arguments import Argument, BOOLEAN, START_R3, STREAM, with_defaults
from r3_ros.ros.launch.launching import (
    description,
    installed_file,
    r3_if_asked,
    rviz_if_asked,
    share,
)
from r3_ros.ros.launch.parameter_files import overlaid, read_tree, renamed, write_tree

ARGUMENTS = (
    Argument(
        'nav2', "start nav2's servers too, with the overlaid parameters", 'false', BOOLEAN
    ),
    Argument('nav2_params_file', "nav2's parameter file; empty: the one of nav2_bringup"),
    START_R3,
    *with_defaults(
        STREAM,
        base_frame='base_link',
        publish_odom_to_base_tf='false',
        scale_source='odometry',
        rviz_config='nav.rviz',
    ),
)  # fmt: skip


def nav2_parameters(given):
    """Write nav2's parameters with our part over them, for this node's name; return the file."""
    base = given['nav2_params_file']
    if not base:
        base = installed_file('nav2_bringup', 'drives the robot', 'params', 'nav2_params.yaml')
    overlay = renamed(read_tree(share('config', 'integration', 'nav2.yaml')), '/r3', given.node)
    for parameter in ('map_frame', 'odom_frame'):
        usual = parameter.removesuffix('_frame')
        overlay = renamed(overlay, usual, given.frame(parameter))
    overlay = renamed(overlay, 'base_link', given['base_frame'])
    return write_tree(overlaid(read_tree(base), overlay))


def start(given):
    """Start what is asked for."""
    actions = [*r3_if_asked(given)]
    if given.is_true('nav2'):
        path = nav2_parameters(given)
        actions += [
            LogInfo(msg=f'nav2 reads {path}'),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(
                    installed_file(
                        'nav2_bringup', 'drives the robot', 'launch', 'navigation_launch.py'
                    )
                ),
                launch_arguments={
                    'params_file': path,
                    'use_sim_time': str(given.is_true('use_sim_time')).lower(),
                }.items(),
            ),
        ]
    return [*actions, *rviz_if_asked(given)]


def generate_launch_description():
    """Declare the arguments and start what they ask for."""
    return description(ARGUMENTS, start)
