"""``r3 train``: train a small R3 on procedural worlds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .options import parsed_settings, positive_int


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'train',
        help='train a small R3 on procedural worlds',
        description='Render clips of procedural worlds and train a network on them. The folder '
        'receives the state (to go on from), the weights (for model.checkpoint), tables of '
        'progress and validation, and curves.png. Several devices: torchrun --nproc-per-node N '
        '-m r3_ros.commands.cli train ...',
    )
    parser.add_argument('config', metavar='CONFIG', nargs='?', help='settings as YAML')
    parser.add_argument('--list', action='store_true', help='print every setting and stop')
    add_options(parser)
    parser.set_defaults(func=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`prepared` reads, and what every training takes."""
    parser.add_argument('--output', '-o', metavar='DIR', help='folder of the training')
    parser.add_argument('--resume', action='store_true', help='go on from the state in DIR')
    parser.add_argument(
        '--set', metavar='NAME=VALUE', action='append', default=[],
        help='change one setting, for example optimiser.steps=1000; may be repeated',
    )  # fmt: skip
    parser.add_argument('--until', type=positive_int, metavar='STEP', help='stop after this step')
    parser.add_argument('--minutes', type=float, metavar='M', help='stop after this time')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')


def run(args: argparse.Namespace) -> int:
    """Train."""
    from ..learning.training.procedural import ProceduralClips
    from ..learning.training.processes import joined
    from ..learning.training.trainer import Trainer

    if args.list:
        print(_listed(_settings(args)))
        return 0
    settings, folder = prepared(args)
    with joined(args.device) as place:
        source = ProceduralClips(settings, place.device, place.rank, place.count)
        try:
            trainer = Trainer(settings, source, place, folder, say=_say)
            trainer.run(args.until, args.minutes * 60 if args.minutes else None)
        finally:
            source.close()
    return 0


def prepared(args: argparse.Namespace) -> tuple[Any, Path]:
    """Return the settings and the folder, which is made.

    :raises ConfigError: a setting is wrong, or no folder was named.
    :raises CheckpointError: the folder holds a training and --resume is missing, or reversed.
    """
    from ..learning.training.trainer import require_state

    settings = _settings(args)
    if not args.output:
        raise ConfigError('name a folder for the training with --output')
    folder = Path(args.output)
    require_state(folder, args.resume)
    folder.mkdir(parents=True, exist_ok=True)
    return settings, folder


def _say(text: str) -> None:
    print(text, flush=True)


def _settings(args: argparse.Namespace) -> Any:
    """Return the settings of the file, changed by --set.

    :raises ConfigError: naming what is wrong.
    """
    from ..core.parameter_fields import updated
    from ..learning.training.training_settings import load_settings, TrainingSettings

    changes = parsed_settings(args.set, TrainingSettings())
    if args.config:
        return load_settings(args.config, changes)
    return updated(TrainingSettings(), changes)


def _listed(settings: Any) -> str:
    """Return every setting with its value, in words."""
    from ..core.parameter_fields import parameters

    lines = []
    for parameter in parameters(settings):
        unit = f' {parameter.meta.unit}' if parameter.meta.unit else ''
        lines.append(f'{parameter.name}: {parameter.value}{unit}\n    {parameter.meta.help}')
    return '\n'.join(lines)
