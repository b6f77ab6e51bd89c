"""``r3 train``: trains a small R3 on procedural worlds."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .options import add_set_option, parsed_settings, positive_int


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'train',
        help='train a small R3 on procedural worlds',
        description='Render clips of procedural worlds into a cache, once, and train a network '
        'on them, in stages. The folder receives the state (for --resume), the weights (for '
        'model.checkpoint), tables of progress and validation, and images. Several devices: '
        'torchrun --nproc-per-node N -m r3_ros.commands.cli train ...',
    )
    parser.add_argument('config', metavar='CONFIG', nargs='?', help='settings as YAML')
    parser.add_argument('--list', action='store_true', help='print every setting and stop')
    parser.add_argument(
        '--render', action='store_true',
        help='only render what the cache lacks; several processes may do so at once',
    )  # fmt: skip
    parser.add_argument('--weights', metavar='FILE', help='initial weights, default: random ones')
    add_options(parser)
    parser.set_defaults(func=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every training."""
    parser.add_argument('--output', '-o', metavar='DIR', help='folder of the training')
    parser.add_argument(
        '--cache', metavar='DIR', help='folder of rendered clips, default: cache in --output'
    )
    parser.add_argument('--resume', action='store_true', help='continue from the state in DIR')
    add_set_option(parser, 'optimiser.steps=1000')
    parser.add_argument('--until', type=positive_int, metavar='STEP', help='stop after this step')
    parser.add_argument('--minutes', type=float, metavar='M', help='stop after this time')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')


def run(args: argparse.Namespace) -> int:
    from ..core.parameter_fields import parameters
    from ..learning.training.cached_clips import CachedClips
    from ..learning.training.initial_weights import weights_to_tune
    from ..learning.training.processes import joined
    from ..learning.training.trainer import Trainer

    if args.list:
        for parameter in parameters(_settings(args)):
            unit = f' {parameter.meta.unit}' if parameter.meta.unit else ''
            print(f'{parameter.name}: {parameter.value}{unit}\n    {parameter.meta.help}')
        return 0
    if args.render and args.cache:
        settings, folder = _settings(args), Path()
    else:
        settings, folder = prepared(args)
    say = partial(print, flush=True)
    with joined(args.device) as process:
        cache = Path(args.cache) if args.cache else folder / 'cache'
        source = CachedClips(settings, cache, process.device, process.rank, say)
        if args.render:
            source.render()
            return 0
        network = weights_to_tune(Path(args.weights), settings.variant) if args.weights else None
        trainer = Trainer(settings, source, process, folder, say, network)
        trainer.run(args.until, args.minutes * 60 if args.minutes else None)
    return 0


def prepared(args: argparse.Namespace) -> tuple[Any, Path]:
    """Return the settings and the folder, which is created.

    :raises ConfigError: a setting is wrong, or no folder was named.
    :raises CheckpointError: the folder holds a training without --resume, or none with it.
    """
    from ..learning.training.trainer import require_state

    settings = _settings(args)
    if not args.output:
        raise ConfigError('name a folder for the training with --output')
    folder = Path(args.output)
    require_state(folder, args.resume)
    folder.mkdir(parents=True, exist_ok=True)
    return settings, folder


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
