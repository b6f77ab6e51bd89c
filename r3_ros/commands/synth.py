"""``r3 synth``: renders a procedural sequence with exact poses, depth and intrinsics."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ..core.errors import ConfigError
from .options import positive_int

#: Options with shorter names than their fields.
_FIELDS = {'rate': 'rate_hz', 'format': 'image_format'}


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'synth',
        help='make a synthetic sequence with exact ground truth',
        description='Render a hand-held walk through a procedural world. The folder holds '
        'images, exact depth, camera.yaml, timestamps.txt and groundtruth.txt, and is an input '
        'for r3 run, r3 eval and r3 bag. The same options give the same bytes.',
    )
    parser.add_argument('output', metavar='OUT', help='folder to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier sequence')
    # Named like the fields of SequenceOptions and SensorOptions, which have the defaults.
    for name, kind, metavar, about in (
        ('seed', int, 'N', 'world, path and camera'),
        ('kind', str, 'NAME', 'room, corridor, street, objects or hall'),
        ('frames', positive_int, 'N', None),
        ('width', positive_int, 'PIXELS', None),
        ('height', positive_int, 'PIXELS', None),
        ('rate', float, 'HZ', 'frames per second'),
        ('noise', float, 'LEVELS', 'sensor noise, 8-bit levels'),
        ('motion-blur', float, 'SHARE',
         'share of the time between frames that the shutter is open, 0 to 1'),
        ('exposure', float, 'STOPS', 'variation of the gain'),
        ('vignetting', float, 'SHARE', 'light lost in the corners'),
        ('moving', int, 'N', 'number of moving bodies, with masks'),
        ('depth-every', int, 'N', 'write the depth of every n-th frame; 0 for none'),
    ):  # fmt: skip
        parser.add_argument(f'--{name}', type=kind, metavar=metavar, help=about)
    parser.add_argument('--format', choices=('jpg', 'png'), help='of the images')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from ..learning.synth.dataset import SequenceOptions, write_sequence
    from ..learning.synth.sensor import SensorOptions

    given = {name: value for name, value in vars(args).items() if value is not None}
    given |= {new: given[old] for old, new in _FIELDS.items() if old in given}

    def chosen(options: type) -> dict[str, Any]:
        return {field.name: given[field.name] for field in fields(options) if field.name in given}

    options = SequenceOptions(
        **chosen(SequenceOptions), sensor=SensorOptions(**chosen(SensorOptions))
    )
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('no CUDA device was found: use --device cpu or auto')
    device = 'cuda' if args.device != 'cpu' and torch.cuda.is_available() else 'cpu'
    print(f'building the world: {options.kind}, seed {options.seed}, on {device}', flush=True)
    with tqdm(
        total=options.frames, unit=' frames', desc='rendering', delay=1, disable=None
    ) as bar:

        def on_frames(count: int) -> None:
            if count == 0:  # the world is ready: the rate is that of the frames
                bar.unpause()
            bar.update(count)

        write_sequence(
            options, args.output, overwrite=args.overwrite, device=device, on_frames=on_frames
        )
    print(f'written to {args.output}')
    return 0
