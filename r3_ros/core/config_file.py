"""Parameters read from YAML: plain nested groups, or a ROS parameter file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import ConfigError
from .parameter_fields import updated

_Root = TypeVar('_Root', bound=Any)


def load_config(path: Path | str, base: _Root) -> _Root:
    """Return ``base`` with the parameters of a YAML file.

    In a ROS file every node entry counts (``/**``, ``r3`` or ``/ns/r3``), in the order given.

    :raises ConfigError: unreadable, not YAML, or holding an unknown or bad parameter.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'cannot read the parameter file {path}: {error}') from error
    except yaml.YAMLError as error:
        raise ConfigError(f'{path} is not valid YAML: {error}') from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f'{path} must hold groups of parameters, found {type(content).__name__}')
    try:
        return updated(base, _flat(_ros_parameters(content)))
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def _ros_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """Take the parameters out of their node entries, if the file is written for ROS."""
    nodes = [v for v in content.values() if isinstance(v, dict) and 'ros__parameters' in v]
    if not nodes:
        return dict(content)
    merged: dict[str, Any] = {}
    for node in nodes:
        groups = node['ros__parameters'] or {}
        if not isinstance(groups, dict):
            raise ConfigError(f'ros__parameters must hold parameters, found {groups!r}')
        merged.update(_flat(groups))
    # Belongs to rclpy, not to r3_ros.
    merged.pop('use_sim_time', None)
    return {k: v for k, v in merged.items() if not k.startswith('qos_overrides.')}


def _flat(content: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f'{prefix}{name}.'))
        else:
            flat[f'{prefix}{name}'] = value
    return flat
