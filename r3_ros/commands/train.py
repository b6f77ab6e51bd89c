"""``r3 train`` and ``r3 finetune``: train networks on worlds, recordings and videos."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError
from .options import add_set_option, parsed_settings, positive_int

if TYPE_CHECKING:
    from ..learning.training.initial_weights import InitialWeights
    from ..learning.training.training_settings import TrainingSettings
    from ..model.network import PairNetwork

#: Settings of a fine-tuning that the user does not change: short, and close to what was learned.
_FINETUNING: dict[str, Any] = {
    'matching.steps': 0,
    'joint.steps': 1000,
    'joint.learning_rate': 5e-5,
    'large.steps': 0,
    'data.clips': 500,
    'report.validate_every': 250,
    'report.save_every': 250,
    'report.validation_clips': 24,
}
#: Settings of R3 from a trained backbone: larger images, which it knows, and smaller steps.
_FROM_BACKBONE: dict[str, Any] = {
    'joint.learning_rate': 1e-4,
    'joint.sizes': '252x196 252x140 196x252',
    'large.learning_rate': 3e-5,
    'large.sizes': '504x392 504x280 392x504',
}


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
    parser.add_argument(
        '--from', dest='initial', metavar='NAME_OR_FILE',
        help='initial weights: a name of `r3 weights list` or a file; of da3_small, da3_base: R3 '
        'on that backbone, its pairs new (default: random weights of r3-tiny)',
    )  # fmt: skip
    _add_options(parser)
    parser.set_defaults(func=run_train, folders=[], video=[])

    defaults = ', '.join(f'{name} {value}' for name, value in _FINETUNING.items())
    parser = subparsers.add_parser(
        'finetune',
        help='continue a training on recordings and videos',
        description='Train given weights further on folders with images, groundtruth.txt (TUM, '
        'camera-to-world), camera.yaml and optional depth/. A share of the steps (1 - '
        'data.recorded) uses procedural worlds, against forgetting: the cache of a training, or a '
        'small one of its own. The end of each recording is held out for validation. Videos '
        'without truth become recordings first, by the classical predictor: OUTPUT/videos. '
        f'Defaults that differ from `r3 train --list`: {defaults}.',
    )
    parser.add_argument('folders', metavar='DIR', nargs='*', help='recordings with truth')
    parser.add_argument(
        '--video', metavar='PATH', action='append', default=[],
        help='a video, bag or folder of images in order, without truth; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--from', dest='initial', metavar='NAME_OR_FILE', default='r3_tiny',
        help='initial weights: a name of `r3 weights list` or a file (default: r3_tiny)',
    )  # fmt: skip
    parser.add_argument('--config', metavar='CONFIG', help='settings as YAML, see r3 train --list')
    _add_options(parser)
    parser.set_defaults(func=run_finetune, render=False)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--output', '-o', metavar='DIR', help='folder of the training')
    parser.add_argument(
        '--cache', metavar='DIR', help='folder of rendered clips, default: cache in --output'
    )
    parser.add_argument('--resume', action='store_true', help='continue from the state in DIR')
    add_set_option(parser, 'joint.steps=1000')
    parser.add_argument('--until', type=positive_int, metavar='STEP', help='stop after this step')
    parser.add_argument('--minutes', type=float, metavar='M', help='stop after this time')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')


def run_train(args: argparse.Namespace) -> int:
    from ..core.parameter_fields import parameters

    if args.list:
        for parameter in parameters(_settings(args, {})):
            unit = f' {parameter.meta.unit}' if parameter.meta.unit else ''
            print(f'{parameter.name}: {parameter.value}{unit}\n    {parameter.meta.help}')
        return 0
    return _train(args, {})


def run_finetune(args: argparse.Namespace) -> int:
    if not args.folders and not args.video:
        raise ConfigError('name folders with images and groundtruth.txt, or --video')
    return _train(args, _FINETUNING)


def _train(args: argparse.Namespace, defaults: dict[str, Any]) -> int:
    from ..learning.training.cached_clips import CachedClips
    from ..learning.training.processes import joined
    from ..learning.training.recordings import RecordedClips, Recording
    from ..learning.training.trainer import require_state, Trainer, WEIGHTS
    from ..learning.training.video_labels import labelled_videos
    from ..model.weights.checkpoint import LICENCE, ORIGIN

    if not args.output and not (args.render and args.cache):
        raise ConfigError('name a folder for the training with --output')
    output = Path(args.output or '')
    if not args.render:
        require_state(output, args.resume)
    # Before hours of work, everything that can be wrong.
    settings, network, initial = _beginning(args, defaults)
    recordings = [Recording(Path(name)) for name in args.folders]
    say = partial(print, flush=True)
    with joined(args.device) as process:
        here = process.device, process.rank
        report = say if process.is_main else lambda text: None
        worlds = CachedClips(settings, Path(args.cache or output / 'cache'), *here, report)
        if args.render:
            worlds.render()
            return 0
        output.mkdir(parents=True, exist_ok=True)
        videos = [Path(name) for name in args.video]
        if videos:
            recordings += map(Recording, labelled_videos(videos, output / 'videos', report))
        source: CachedClips | RecordedClips = worlds
        if recordings:
            report('\n'.join(recording.summary for recording in recordings))
            source = RecordedClips(settings, recordings, network, worlds, *here)
        provenance = None
        if initial is not None:
            provenance = initial.provenance
            report(f'from {provenance[ORIGIN]}, licence {provenance[LICENCE]}')
            if initial.is_backbone:
                report(f'{settings.variant} on that backbone: the weights of pairs are new')
            if process.is_main:
                initial.write_error_model(output / WEIGHTS)
        trainer = Trainer(settings, source, process, output, say, network, provenance)
        trainer.run(args.until, args.minutes * 60 if args.minutes else None)
        report(
            f'to run with it: r3 run INPUT -o OUT --model {_model_name(settings.variant)} '
            f'--set model.checkpoint={output / WEIGHTS}'
        )
    return 0


def _beginning(
    args: argparse.Namespace, defaults: dict[str, Any]
) -> tuple[TrainingSettings, PairNetwork, InitialWeights | None]:
    """Return the settings, the network to be trained, and the weights that it has from a file."""
    from ..learning.training.initial_weights import new_network, read_initial_weights

    if args.initial is None:
        settings = _settings(args, defaults)
        return settings, new_network(settings.variant, settings.seed), None
    initial = read_initial_weights(args.initial)
    defaults = {**defaults, **(_FROM_BACKBONE if initial.is_backbone else {})}
    settings = _settings(args, {**defaults, 'variant': initial.variant})
    if settings.variant != initial.variant:
        raise ConfigError(
            f"parameter 'variant' is {settings.variant!r}, and {args.initial} are weights for "
            f'{initial.variant}: leave it out'
        )
    return settings, initial.network(settings.seed), initial


def _settings(args: argparse.Namespace, defaults: dict[str, Any]) -> TrainingSettings:
    from ..learning.training.training_settings import load_settings, TrainingSettings

    changes = parsed_settings(args.set, TrainingSettings())
    return load_settings(args.config, changes, defaults)


def _model_name(variant: str) -> str:
    """Return the ``model.name`` under which a network is used."""
    return 'r3_tiny' if variant == 'r3-tiny' else 'r3'
