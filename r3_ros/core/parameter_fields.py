"""Dataclass fields as parameters, with unit, range and help; and reading them from YAML.

A *root* is a frozen dataclass whose fields are parameters or groups of them, and that has a
``validate`` method. A parameter's name is its dotted path (``keyframe.max_keyframes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
import difflib
from functools import partial
import math
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import ConfigError


@dataclass(frozen=True)
class Meta:
    """What is known of a parameter beyond its type and default."""

    help: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False


def param(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    unit: str = '',
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """Return the dataclass field of a parameter."""
    meta = Meta(help, unit, low, high, choices, live)
    return field(default=default, metadata={'r3': meta})


#: The same of a parameter that may change while running.
live = partial(param, live=True)


def group(make: Callable[[], Any]) -> Any:
    """Return the dataclass field of a group of parameters; ``make`` returns its defaults."""
    return field(default_factory=make)


@dataclass(frozen=True)
class Parameter:
    """One parameter with its place in the tree."""

    name: str
    kind: type
    default: Any
    value: Any
    meta: Meta

    @property
    def allowed(self) -> str:
        if self.meta.choices:
            return 'one of ' + ', '.join(choice or "''" for choice in self.meta.choices)
        if self.meta.low is None:
            return {bool: 'true or false', str: 'any text'}.get(self.kind, 'any number')
        unit = f' {self.meta.unit}' if self.meta.unit else ''
        return f'{self.meta.low:g} to {self.meta.high:g}{unit}'

    def check(self, value: Any) -> Any:
        """Return the value in its exact type.

        :raises ConfigError: wrong type, not finite, outside the range or not among the choices.
        """
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            raise ConfigError(
                f"parameter '{self.name}' must be of type {self.kind.__name__}, "
                f'got {value!r} ({type(value).__name__})'
            )
        low, high, choices = self.meta.low, self.meta.high, self.meta.choices
        allowed = value in choices if choices else True
        if low is not None and high is not None and isinstance(value, int | float):
            allowed = math.isfinite(value) and low <= value <= high
        if not allowed:
            raise ConfigError(f"parameter '{self.name}' is {value!r}, allowed: {self.allowed}")
        return value


def parameters(root: Any, prefix: str = '') -> Iterator[Parameter]:
    """Yield all parameters of a root in order, with their values.

    :param prefix: of the names, for a group.
    """
    for item in fields(root):
        value = getattr(root, item.name)
        if is_dataclass(value):
            yield from parameters(value, f'{prefix}{item.name}.')
        else:
            kind, meta = type(item.default), item.metadata['r3']
            yield Parameter(prefix + item.name, kind, item.default, value, meta)


def flattened(root: Any) -> dict[str, Any]:
    """Return the values of all parameters by dotted name."""
    return {parameter.name: parameter.value for parameter in parameters(root)}


_Root = TypeVar('_Root', bound=Any)


def updated(root: _Root, changes: Mapping[str, Any]) -> _Root:
    """Return a validated copy with some parameters (dotted names) changed.

    :raises ConfigError: unknown name, wrong type or value, or a contradiction.
    """
    known = {parameter.name: parameter for parameter in parameters(root)}
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"unknown parameter '{name}': {unknown_advice(name, known)}")
        root = _replace_path(root, name.split('.'), known[name].check(value))
    root.validate()
    return root


def unknown_advice(name: str, known: Iterable[str]) -> str:
    """Return what to do about a name that is not among the ``known`` ones."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else '`r3 parameters` lists all'


def _replace_path(parent: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replace_path(getattr(parent, path[0]), path[1:], value)
    return replace(parent, **{path[0]: value})


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
