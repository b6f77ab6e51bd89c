"""Launch actions that the launch files share. Imported by launch/ alone: launch is optional.

A launch file declares its arguments (:func:`description`) and says in a function what to start
(:func:`r3_node`, :func:`rviz_node`, :func:`other_node`), with the values that were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import os
from pathlib import Path
import shutil
from typing import Any

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

from ...core.errors import ConfigError
from ..outputs.outputs import TOPICS
from .launch_arguments import Argument, frame_name, node_name, preset_file, STREAM

PACKAGE = 'r3_ros'
#: RViz's configurations speak of a node of this name; others are reached by remapping.
_RVIZ_NODE = '/r3'
#: Topics of RViz's tools, which the node hears below its namespace.
_RVIZ_TOOLS = ('initialpose',)


class Given:
    """The arguments of one start, as text; parameters in their types."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Take the values of a launch context."""
        self._texts = dict(texts)

    def __getitem__(self, name: str) -> str:
        """Return an argument's text.

        :raises KeyError: the launch file does not declare it.
        """
        return self._texts[name]

    def __contains__(self, name: str) -> bool:
        """Tell whether the launch file has an argument of that name."""
        return name in self._texts

    def but(self, **texts: str) -> Given:
        """Return a copy with other or further values."""
        return Given(self._texts | texts)

    def is_true(self, name: str) -> bool:
        """Tell whether an argument is ``true``."""
        return self[name] == 'true'

    @property
    def node(self) -> str:
        """Full name of the node, ``/r3``."""
        return node_name(self['namespace'], self['name'])

    def topic(self, topic: str) -> str:
        """Return the full name of one of the node's topics, ``/r3/depth/image``."""
        if topic not in TOPICS:
            raise KeyError(f'the node publishes no {topic}')
        return f'{self.node}/{topic}'

    def frame(self, parameter: str) -> str:
        """Return the name of the map or odometry frame that the arguments give, or the usual."""
        usual = parameter.removesuffix('_frame')
        return frame_name(self['frame_prefix'], self[parameter], parameter) or usual


def description(
    arguments: Iterable[Argument], start: Callable[[Given], Sequence[Any]]
) -> LaunchDescription:
    """Declare the arguments, and start what the function says for them."""

    def act(context: LaunchContext) -> list[Any]:
        return list(start(Given(context.launch_configurations)))

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    argument.name,
                    default_value=argument.default,
                    description=argument.description,
                    choices=list(argument.allowed) or None,
                )
                for argument in arguments
            ),
            OpaqueFunction(
                function=lambda context: list(start(Given(context.launch_configurations)))
            ),
        ]
    )


def share(*parts: str) -> str:
    """Return a path in the installed share folder."""
    return str(Path(get_package_share_directory(PACKAGE)).joinpath(*parts))


def r3_node(given: Given, image_topic: str = '', **parameters: Any) -> Node:
    """Return the node as the arguments of :data:`STREAM` describe it.

    :param image_topic: where the launch file decides it, the calibration being beside it.
    :param parameters: set before the arguments; ``__`` stands for the dot in a name.
    :raises ConfigError: ``preset`` or ``params_file`` names no file.
    """
    files = [str(preset_file(given['preset'], share('config')))]
    if given['params_file']:
        files.append(_existing_file(given['params_file'], 'params_file'))
    remappings = [('image', image_topic or given['image_topic']), ('odom', given['odom_topic'])]
    if not image_topic and given['camera_info_topic']:
        remappings.append(('camera_info', given['camera_info_topic']))
    return Node(
        package=PACKAGE,
        executable='r3_stream',
        namespace=given['namespace'],
        name=given['name'],
        output='screen',
        respawn='respawn' in given and given.is_true('respawn'),
        respawn_delay=2.0,
        # Later ones win. Unlike the files the last entry names this node, so it comes after all.
        parameters=[
            *files,
            {k.replace('__', '.'): v for k, v in parameters.items()} | _typed(given, STREAM),
        ],
        remappings=remappings,
        ros_arguments=['--log-level', given['log_level']],
    )


def r3_if_asked(given: Given) -> list[Node]:
    """Return the node unless ``start_r3`` is false."""
    return [r3_node(given)] if given.is_true('start_r3') else []


def _typed(given: Given, arguments: Iterable[Argument]) -> dict[str, Any]:
    """Return the parameters that arguments set, in their types; an empty one sets nothing."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if not argument.parameter or argument.name not in given:
            continue
        text = given[argument.name]
        if argument.name in ('map_frame', 'odom_frame'):
            text = frame_name(given['frame_prefix'], text, argument.name)
        if text:
            values[argument.parameter] = ParameterValue(
                TextSubstitution(text=text), value_type=argument.kind
            )
    return values


def rviz_node(given: Given) -> Node:
    """Return RViz on the node's topics, whatever the node is called.

    :raises ConfigError: there is no such configuration.
    """
    require('rviz2', 'shows the map')
    name = given['rviz_config']
    own = share('rviz', name)
    config = own if Path(own).is_file() else _existing_file(name, 'rviz_config')
    remappings = []
    if given.node != _RVIZ_NODE:
        remappings = [(f'{_RVIZ_NODE}/{topic}', given.topic(topic)) for topic in TOPICS]
    if given['namespace']:
        remappings += [
            (f'/{topic}', node_name(given['namespace'], topic)) for topic in _RVIZ_TOOLS
        ]
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=given['namespace'],
        arguments=['-d', config, '-f', given.frame('map_frame')],
        parameters=[_clock(given)],
        remappings=remappings,
    )


def rviz_if_asked(given: Given) -> list[Node]:
    """Return RViz where ``rviz`` is true."""
    return [rviz_node(given)] if given.is_true('rviz') else []


def other_node(
    given: Given,
    package: str,
    executable: str,
    does: str,
    parameters: Sequence[Any] = (),
    remappings: Sequence[tuple[str, str]] = (),
    **options: Any,
) -> Node:
    """Return a node of another package, on the same clock.

    :param does: what it does, for the message where the package is missing.
    :param parameters: files and dictionaries; later ones win.
    :raises ConfigError: the package is not installed.
    """
    require(package, does)
    return Node(
        package=package,
        executable=executable,
        output='screen',
        parameters=[*parameters, _clock(given)],
        remappings=list(remappings),
        **options,
    )


def require(package: str, does: str) -> None:
    """Check that a package is there.

    :raises ConfigError: it is not; says how to get it.
    """
    try:
        get_package_prefix(package)
    except PackageNotFoundError as error:
        distribution = os.environ.get('ROS_DISTRO', '<distribution>')
        debian = f'ros-{distribution}-{package.replace("_", "-")}'
        raise ConfigError(
            f"package '{package}', which {does}, is not installed: sudo apt install {debian}, or "
            'build it in this workspace'
        ) from error


def installed_file(package: str, does: str, *parts: str) -> str:
    """Return the path of a file in another package's share folder.

    :raises ConfigError: the package is not installed.
    """
    require(package, does)
    return str(Path(get_package_share_directory(package)).joinpath(*parts))


def require_command(command: str, does: str) -> None:
    """Check that a command is on the path.

    :raises ConfigError: it is not.
    """
    if shutil.which(command) is None:
        raise ConfigError(f"the command '{command}', which {does}, is not on the path")


def _existing_file(name: str, argument: str) -> str:
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no file '{name}': correct the argument {argument}")
    return str(path)


def _clock(given: Given) -> dict[str, Any]:
    return {'use_sim_time': given.is_true('use_sim_time')}
