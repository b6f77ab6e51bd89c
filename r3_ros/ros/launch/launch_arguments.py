"""The arguments of the launch files, each once. launching.py makes launch actions of them.

Nothing of ``launch`` is imported here, so that what the arguments say can be checked where it is
not installed. Names, defaults and choices of parameters come from ``config.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.config import parameters
from ...core.errors import ConfigError

BOOLEAN = ('true', 'false')
PRESETS = ('indoor', 'outdoor_long', 'low_vram')


@dataclass(frozen=True)
class Argument:
    """One argument of a launch file.

    :ivar default: None if it has to be given. Empty for those that set a parameter, so that what
        the preset and ``params_file`` say holds unless somebody asks for something else.
    :ivar choices: all that is allowed; empty: any text.
    :ivar parameter: dotted name of the parameter it sets, empty if it sets none.
    :ivar kind: type of that parameter.
    """

    name: str
    description: str
    default: str | None = ''
    choices: tuple[str, ...] = ()
    parameter: str = ''
    kind: type = str

    @property
    def allowed(self) -> tuple[str, ...]:
        """The choices, with the empty one where it is the default."""
        if self.choices and self.default == '':
            return ('', *self.choices)
        return self.choices


def _of(name: str, parameter: str = '') -> Argument:
    """Return an argument that sets a parameter, explained as in ``config.py``."""
    known = {p.name: p for p in parameters()}[parameter or name]
    choices = BOOLEAN if known.kind is bool else known.meta.choices
    default = str(known.default).lower() if known.kind is bool else str(known.default)
    unset = f'if empty, the files decide, and without them it is {default or "empty"}'
    unit = f' [{known.meta.unit}]' if known.meta.unit else ''
    return Argument(
        name,
        f'{known.meta.help}{unit}; sets {known.name}; {unset}',
        choices=tuple(choices),
        parameter=known.name,
        kind=known.kind,
    )


NAMING = (
    Argument('namespace', 'namespace of the node'),
    Argument('name', 'name of the node; its topics are below it', 'r3'),
)
CLOCK = (
    Argument(
        'use_sim_time',
        'take the time from /clock; if empty, the files decide, and without them it is false',
        choices=BOOLEAN,
        parameter='use_sim_time',
        kind=bool,
    ),
)
RVIZ = (
    Argument('rviz', 'start RViz too', 'false', BOOLEAN),
    Argument('rviz_config', 'configuration of RViz: a file of rviz/, or a path', 'stream.rviz'),
)
#: Of every launch file that starts the node.
STREAM = (
    Argument('image_topic', 'topic of the pictures', '/camera/image_raw'),
    Argument('camera_info_topic', 'topic of the calibration; empty: beside image_topic'),
    Argument('odom_topic', "topic of the robot's odometry, for scale_source odometry", 'odom'),
    _of('transport', 'input.transport'),
    _of('model', 'model.name'),
    _of('checkpoint', 'model.checkpoint'),
    Argument(
        'preset',
        f'parameters for a kind of place or machine: {", ".join(PRESETS)}, or a parameter file; '
        'params_file comes after it',
        'indoor',
    ),
    Argument('params_file', 'parameter file, after the preset and before the other arguments'),
    *NAMING,
    _of('map_frame'),
    _of('odom_frame'),
    _of('base_frame'),
    Argument(
        'frame_prefix',
        'put before the names of the map and odometry frames, for several cameras in one graph: '
        'left/ makes left/map and left/odom',
    ),
    _of('publish_map_to_odom_tf'),
    _of('publish_odom_to_base_tf'),
    _of('scale_source', 'scale.source'),
    _of('scale', 'scale.fixed'),
    _of('frame_policy', 'input.frame_policy'),
    *CLOCK,
    *RVIZ,
    _of('autostart'),
    Argument('respawn', 'start the node again when it ends', 'false', BOOLEAN),
    Argument(
        'log_level', 'log level of the node', 'info', ('debug', 'info', 'warn', 'error', 'fatal')
    ),
)
#: Of the launch files that connect the node with another package.
START_R3 = Argument(
    'start_r3', 'start the node; false where it runs already, under namespace and name', 'true',
    BOOLEAN,
)  # fmt: skip


def with_defaults(arguments: Iterable[Argument], **defaults: str) -> tuple[Argument, ...]:
    """Return the arguments with other defaults, for a launch file that is for something.

    :raises KeyError: there is no such argument.
    """
    arguments = tuple(arguments)
    unknown = defaults.keys() - {a.name for a in arguments}
    if unknown:
        raise KeyError(f'no such arguments: {sorted(unknown)}')
    return tuple(
        replace(a, default=defaults[a.name], choices=a.allowed) if a.name in defaults else a
        for a in arguments
    )


def without(arguments: Iterable[Argument], *names: str) -> tuple[Argument, ...]:
    """Return the arguments but some."""
    return tuple(a for a in arguments if a.name not in names)


def preset_file(preset: str, config_folder: Path | str) -> Path:
    """Return the parameter file of a preset.

    :param preset: one of :data:`PRESETS`, or a path.
    :raises ConfigError: neither.
    """
    if preset in PRESETS:
        return Path(config_folder) / f'preset_{preset}.yaml'
    path = Path(preset).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"preset '{preset}' is neither one of {', '.join(PRESETS)} nor a file: correct the "
            'argument preset'
        )
    return path


def frame_name(prefix: str, given: str, parameter: str) -> str:
    """Return the name of the map or odometry frame that a node is given, empty for none.

    :param given: the argument of that name, empty if there was none.
    :param parameter: ``map_frame`` or ``odom_frame``.
    """
    if not prefix:
        return given
    known = {p.name: p for p in parameters()}
    return prefix + (given or str(known[parameter].default))


def node_name(namespace: str, name: str) -> str:
    """Return the full name of a node: ``/left/r3``."""
    return '/'.join(['', *(part for part in (*namespace.split('/'), name) if part)])
