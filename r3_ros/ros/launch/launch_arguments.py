"""Arguments and presets of ``launch/stream.launch.py``.

Does not import ``launch``, so it can be tested without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...core.config import R3Config
from ...core.errors import ConfigError
from ...core.parameter_fields import parameters

BOOLEAN = ('true', 'false')
PRESETS = ('indoor', 'outdoor_long', 'low_vram')
#: Argument -> parameter that it sets.
_PARAMETERS = {
    'transport': 'input.transport',
    'model': 'model.name',
    'checkpoint': 'model.checkpoint',
    'map_frame': 'map_frame',
    'odom_frame': 'odom_frame',
    'base_frame': 'base_frame',
    'camera_optical_frame': 'camera_optical_frame',
    'publish_map_to_odom_tf': 'publish_map_to_odom_tf',
    'publish_odom_to_base_tf': 'publish_odom_to_base_tf',
    'scale_source': 'scale.source',
    'scale': 'scale.fixed',
    'frame_policy': 'input.frame_policy',
    'map_directory': 'map.directory',
    'autostart': 'autostart',
}


@dataclass(frozen=True)
class ParameterArgument:
    """An argument that sets a parameter; empty by default, which sets nothing.

    :ivar choices: allowed values; empty: any text.
    """

    name: str
    parameter: str
    kind: type
    description: str
    choices: tuple[str, ...]


def parameter_arguments() -> list[ParameterArgument]:
    """Return the arguments that set parameters, with the help texts of ``config.py``."""
    unset = 'if empty, preset and params_file decide'
    clock = f'take the time from /clock; {unset}'
    arguments = [ParameterArgument('use_sim_time', 'use_sim_time', bool, clock, ('', *BOOLEAN))]
    known = {p.name: p for p in parameters(R3Config())}
    for name, parameter in _PARAMETERS.items():
        kind, meta = known[parameter].kind, known[parameter].meta
        choices = BOOLEAN if kind is bool else meta.choices
        unit = f' [{meta.unit}]' if meta.unit else ''
        text = f'{meta.help}{unit}; sets {parameter}; {unset}'
        allowed = ('', *choices) if choices else ()
        arguments.append(ParameterArgument(name, parameter, kind, text, allowed))
    return arguments


def parameter_texts(given: Mapping[str, str]) -> dict[str, tuple[str, type]]:
    """Return texts and types by parameter, for the given arguments.

    :param given: values by argument; ``frame_prefix`` is put before the map and odometry frames.
    """
    set_here = {}
    for argument in parameter_arguments():
        text = given[argument.name]
        if argument.name in ('map_frame', 'odom_frame') and given['frame_prefix']:
            text = given['frame_prefix'] + (text or argument.name.removesuffix('_frame'))
        if text:
            set_here[argument.parameter] = text, argument.kind
    return set_here


def parameter_files(preset: str, params_file: str, config_folder: Path) -> list[Path]:
    """Return the parameter files of a preset and of the user; the later one overrides.

    :param preset: one of :data:`PRESETS`, or a path.
    :param params_file: a path, or empty.
    :raises ConfigError: one of them does not exist.
    """
    file = config_folder / f'preset_{preset}.yaml' if preset in PRESETS else Path(preset)
    files = [file.expanduser(), *([Path(params_file).expanduser()] if params_file else [])]
    if not files[0].is_file():
        raise ConfigError(
            f"preset '{preset}' is neither one of {', '.join(PRESETS)} nor a file: correct the "
            'argument preset'
        )
    if not files[-1].is_file():
        raise ConfigError(f"there is no file '{params_file}': correct the argument params_file")
    return files
