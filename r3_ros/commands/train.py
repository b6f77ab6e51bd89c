"""``r3 train`` and ``r3 finetune``: train networks on worlds, recordings and videos."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .options import add_set_option, parsed_settings, positive_int

#: Clips of procedural worlds that a fine-tuning renders if no cache is named.
_OWN_CLIPS = 500


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
    _add_options(parser)
    parser.set_defaults(func=run_train, folders=[], video=[])

    parser = subparsers.add_parser(
        'finetune',
        help='continue a training on recordings and videos',
        description='Train given weights further on folders with images, groundtruth.txt (TUM, '
        'camera-to-world), camera.yaml and optional depth/. A share of the steps (1 - '
        'data.recorded) uses procedural worlds, against forgetting: the cache of a training, or a '
        'small one of its own. The end of each recording is held out for validation. Videos '
        'without truth become recordings first, by the classical predictor: OUTPUT/videos.',
    )
    parser.add_argument('folders', metavar='DIR', nargs='*', help='recordings with truth')
    parser.add_argument(
        '--video', metavar='PATH', action='append', default=[],
        help='a video, bag or folder of images in order, without truth; may be repeated',
    )  # fmt: skip
    parser.add_argument('--weights', metavar='FILE', required=True, help='initial weights')
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
        for parameter in parameters(_settings(args)):
            unit = f' {parameter.meta.unit}' if parameter.meta.unit else ''
            print(f'{parameter.name}: {parameter.value}{unit}\n    {parameter.meta.help}')
        return 0
    return _train(args, _settings(args))


def run_finetune(args: argparse.Namespace) -> int:
    from ..core.parameter_fields import updated

    if not args.folders and not args.video:
        raise ConfigError('name folders with images and groundtruth.txt, or --video')
    settings = _settings(args)
    changes: dict[str, Any] = {'matching.steps': 0, 'large.steps': 0}
    if not args.cache:
        changes['data.clips'] = min(settings.data.clips, _OWN_CLIPS)
    return _train(args, updated(settings, changes))


def _train(args: argparse.Namespace, settings: Any) -> int:
    from ..learning.training.cached_clips import CachedClips
    from ..learning.training.initial_weights import weights_to_tune
    from ..learning.training.processes import joined
    from ..learning.training.recordings import RecordedClips
    from ..learning.training.trainer import require_state, Trainer
    from ..learning.training.video_labels import labelled_videos

    if not args.output and not (args.render and args.cache):
        raise ConfigError('name a folder for the training with --output')
    output = Path(args.output or '')
    if not args.render:
        require_state(output, args.resume)
        output.mkdir(parents=True, exist_ok=True)
    network = weights_to_tune(Path(args.weights), settings.variant) if args.weights else None
    folders, videos = ([Path(name) for name in names] for names in (args.folders, args.video))
    say = partial(print, flush=True)
    with joined(args.device) as process:
        here = process.device, process.rank
        report = say if process.is_main else lambda text: None
        worlds = CachedClips(settings, Path(args.cache or output / 'cache'), *here, report)
        if args.render:
            worlds.render()
            return 0
        if videos:
            folders += labelled_videos(videos, output / 'videos', report)
        source = RecordedClips(settings, folders, worlds, *here) if folders else worlds
        trainer = Trainer(settings, source, process, output, say, network)
        trainer.run(args.until, args.minutes * 60 if args.minutes else None)
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from ..core.parameter_fields import updated
    from ..learning.training.training_settings import load_settings, TrainingSettings

    changes = parsed_settings(args.set, TrainingSettings())
    if args.config:
        return load_settings(args.config, changes)
    return updated(TrainingSettings(), changes)
