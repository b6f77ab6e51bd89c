"""Options that several subcommands share, and how they become a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError

if TYPE_CHECKING:
    from ..core.config import R3Config


def positive_int(text: str) -> int:
    """Read a whole number of at least 1; for ``type=`` of an option."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a whole number, got {text!r}') from None
    if value <= 0:
        raise argparse.ArgumentTypeError('must be at least 1')
    return value


def size_text(size_bytes: float) -> str:
    """Return a size for people: 1.42 GB, 137 MB, 12.0 kB."""
    for unit in ('B', 'kB', 'MB'):
        if size_bytes < 999.5:
            return f'{size_bytes:.3g} {unit}'
        size_bytes /= 1000
    return f'{size_bytes:.3g} GB'


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`config_from` reads."""
    parser.add_argument('--model', metavar='NAME', help='predictor (default: classical)')
    parser.add_argument('--config', metavar='FILE', help='parameters as YAML (plain or ROS)')
    parser.add_argument(
        '--set',
        metavar='NAME=VALUE',
        action='append',
        default=[],
        help='set one parameter, for example map.voxel_size=0.05; may be repeated',
    )


def config_from(args: argparse.Namespace) -> R3Config:
    """Return the parameters: defaults, then --config, then --set, then --model.

    :raises ConfigError: naming what is wrong.
    """
    from ..core.config import R3Config
    from ..core.config_file import load_config
    from ..core.parameter_fields import updated

    config = load_config(args.config, R3Config()) if args.config else R3Config()
    changes = parsed_settings(args.set, R3Config())
    if args.model:
        changes['model.name'] = args.model
    return updated(config, changes)


def parsed_settings(settings: Sequence[str], root: Any) -> dict[str, Any]:
    """Read ``name=value`` texts, each value in the type of its parameter.

    Names and values are not checked here, but where they are applied.

    :param root: that the parameters belong to.
    :raises ConfigError: a text of another form.
    """
    import yaml

    from ..core.parameter_fields import parameters

    kinds = {parameter.name: parameter.kind for parameter in parameters(root)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition('=')
        if not equals:
            raise ConfigError(f'--set takes NAME=VALUE, got {setting!r}')
        value: Any = text
        if kinds.get(name) is float:
            # YAML 1.1 takes 1e-3 for a word.
            try:
                value = float(text)
            except ValueError:
                pass
        elif kinds.get(name) is not str:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                pass  # a text, which the check of the type refuses
        changes[name] = value
    return changes
