"""``r3 finetune``: continues a training on recordings and videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from .train import add_options, prepared

#: Clips of procedural worlds that are rendered where no cache is named.
_OWN_CLIPS = 500


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'finetune',
        help='continue a training on recordings and videos',
        description='Train given weights further on folders with images, groundtruth.txt (TUM, '
        'camera-to-world), camera.yaml and optional depth/. A share of the steps (1 - '
        'data.recorded) uses procedural worlds, against forgetting: the cache of a training, or a '
        'small one of its own. The end of each recording is held out for validation. Videos '
        'without truth train the consistency of frames in a share of the steps '
        '(data.unlabelled).',
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
    from ..core.parameter_fields import updated
    from ..learning.training.cached_clips import CachedClips
    from ..learning.training.initial_weights import weights_to_tune
    from ..learning.training.processes import joined
    from ..learning.training.recordings import RecordedClips
    from ..learning.training.trainer import ClipSource, Trainer
    from ..learning.training.videos import MixedClips

    if not args.folders and not args.video:
        raise ConfigError('name folders with images and groundtruth.txt, or --video')
    settings, folder = prepared(args)
    changes: dict[str, Any] = {'matching.steps': 0, 'large.steps': 0}
    if not args.cache:
        changes['data.clips'] = min(settings.data.clips, _OWN_CLIPS)
    settings = updated(settings, changes)
    network = weights_to_tune(Path(args.weights), settings.variant)
    folders = [Path(name) for name in args.folders]
    with joined(args.device) as process:
        say = print if process.is_main else lambda text: None
        cache = Path(args.cache) if args.cache else folder / 'cache'
        here = process.device, process.rank
        worlds = CachedClips(settings, cache, *here, say)
        source: ClipSource = worlds
        if folders:
            source = RecordedClips(settings, folders, worlds, *here)
        if args.video:
            videos = [Path(name) for name in args.video]
            source = MixedClips(settings, videos, source, *here, say)
        trainer = Trainer(settings, source, process, folder, print, network)
        trainer.run(args.until, args.minutes * 60 if args.minutes else None)
    return 0
