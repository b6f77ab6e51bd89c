"""``r3 finetune``: continues a training on recordings and videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .train import add_options, prepared


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'finetune',
        help='continue a training on recordings and videos',
        description='Train given weights further on folders with images, groundtruth.txt (TUM, '
        'camera-to-world), camera.yaml and optional depth/. A share of the steps (1 - '
        'data.recorded) uses procedural worlds, against forgetting; the end of each recording is '
        'held out for validation. Videos without truth train the consistency of frames in a '
        'share of the steps (data.unlabelled).',
    )
    parser.add_argument('folders', metavar='DIR', nargs='*', help='recordings with truth')
    parser.add_argument(
        '--video', metavar='PATH', action='append', default=[],
        help='a video, bag or folder of images in order, without truth; may be repeated',
    )  # fmt: skip
    parser.add_argument('--weights', metavar='FILE', required=True, help='initial weights')
    parser.add_argument('--config', metavar='CONFIG', help='settings as YAML, see r3 train --list')
    add_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..learning.training.procedural import ProceduralClips
    from ..learning.training.processes import joined
    from ..learning.training.recordings import RecordedClips, weights_to_tune
    from ..learning.training.trainer import ClipSource, Trainer
    from ..learning.training.videos import MixedClips

    if not args.folders and not args.video:
        raise ConfigError('name folders with images and groundtruth.txt, or --video')
    settings, folder = prepared(args)
    network = weights_to_tune(Path(args.weights), settings.variant)
    folders = [Path(name) for name in args.folders]
    with joined(args.device) as process:
        worlds = ProceduralClips(settings, process.device, process.rank, process.count)
        try:
            source: ClipSource = worlds
            if folders:
                source = RecordedClips(settings, folders, worlds, process.device, process.rank)
            if args.video:
                videos = [Path(name) for name in args.video]
                say = print if process.is_main else lambda text: None
                source = MixedClips(settings, videos, source, process.device, process.rank, say)
            trainer = Trainer(settings, source, process, folder, print, network)
            trainer.run(args.until, args.minutes * 60 if args.minutes else None)
        finally:
            worlds.close()
    return 0
