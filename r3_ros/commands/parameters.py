"""``r3 parameters``: every parameter, with its default, range and meaning.

Also writes ``config/r3_stream.yaml`` and ``docs/parameters.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import textwrap
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.parameter_fields import Parameter

_WIDTH = 96


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'parameters',
        help='list all parameters',
        description='List every parameter with its default, range and meaning.',
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--yaml', action='store_true', help='as a ROS parameter file (the default)')
    form.add_argument('--markdown', action='store_true', help='as a page (docs/parameters.md)')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    print(as_markdown() if args.markdown else as_yaml(), end='')
    return 0


def as_yaml() -> str:
    """Return a ROS parameter file with every default and its meaning."""
    lines = [
        '# Every parameter of r3_stream with its default. Written by: r3 parameters --yaml',
        '# "live" may change while the node is configured: ros2 param set /r3 points.stride 4',
        '/**:',
        '  ros__parameters:',
    ]
    group: list[str] = []
    for parameter in _parameters():
        *path, leaf = parameter.name.split('.')
        if path != group:
            group = path
            lines.append('')
            lines += [f'{_indent(depth)}{name}:' for depth, name in enumerate(path)]
        indent = _indent(len(path))
        comment = f'{parameter.meta.help} ({_facts(parameter)})'
        lines += textwrap.wrap(
            comment, _WIDTH, initial_indent=f'{indent}# ', subsequent_indent=f'{indent}# '
        )
        lines.append(f'{indent}{leaf}: {_yaml_value(parameter.default)}')
    return '\n'.join(lines) + '\n'


def as_markdown() -> str:
    """Return the parameter page."""
    lines = [
        '# Parameters',
        '',
        'Written by `r3 parameters --markdown` from `r3_ros/core/config.py`, the one place where '
        'a default lives.',
        '',
        'In ROS and in YAML a parameter has the name below. The node reads '
        '[`config/r3_stream.yaml`](../config/r3_stream.yaml) through `--params-file`; '
        '`r3 run` takes the same file with `--config`, and `--set name=value`.',
        '',
        'Parameters marked *live* may change while the node runs; the others are fixed once it '
        'is configured. A value that is not allowed is rejected with the reason.',
    ]
    group: str | None = None
    for parameter in _parameters():
        head = parameter.name.rpartition('.')[0]
        if head != group:
            group = head
            title = f'`{head}`' if head else 'Node'
            lines += ['', f'## {title}', '', '| name | default | allowed | | meaning |']
            lines.append('| --- | --- | --- | --- | --- |')
        default = _yaml_value(parameter.default)
        live = 'live' if parameter.meta.live else ''
        lines.append(
            f'| `{parameter.name}` | `{default}` | {parameter.allowed} | {live} '
            f'| {parameter.meta.help} |'
        )
    return '\n'.join(lines) + '\n'


def _parameters() -> Iterator[Parameter]:
    from ..core.config import R3Config
    from ..core.parameter_fields import parameters

    return parameters(R3Config())


def _indent(depth: int) -> str:
    return '  ' * (depth + 2)


def _facts(parameter: Parameter) -> str:
    return parameter.allowed + (', live' if parameter.meta.live else '')


def _yaml_value(value: Any) -> str:
    """Return a value so that ROS reads its type: floats with a point, texts in quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition('e')
        # ROS reads 1e-06 as text.
        return f'{mantissa}.0e{exponent}' if e and '.' not in mantissa else text
    return f"'{value}'" if isinstance(value, str) else str(value)
