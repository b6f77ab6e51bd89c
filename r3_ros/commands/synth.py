"""``r3 synth``: renders a procedural sequence with exact poses, depth and intrinsics."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.errors import ConfigError
from .options import positive_int


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
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='world, path and camera')
    parser.add_argument(
        '--kind', default='room', metavar='NAME', help='room, corridor, street, objects or hall'
    )
    parser.add_argument('--frames', type=positive_int, default=400, metavar='N')
    parser.add_argument('--width', type=positive_int, default=640, metavar='PIXELS')
    parser.add_argument('--height', type=positive_int, default=480, metavar='PIXELS')
    parser.add_argument('--rate', type=float, default=15.0, metavar='HZ', help='frames per second')
    parser.add_argument(
        '--noise', type=float, default=1.5, metavar='LEVELS', help='sensor noise, 8-bit levels'
    )
    parser.add_argument(
        '--motion-blur', type=float, default=0.0, metavar='SHARE',
        help='share of the time between frames that the shutter is open, 0 to 1',
    )  # fmt: skip
    parser.add_argument(
        '--exposure', type=float, default=0.0, metavar='STOPS', help='variation of the gain'
    )
    parser.add_argument(
        '--vignetting', type=float, default=0.0, metavar='SHARE', help='light lost in the corners'
    )
    parser.add_argument(
        '--moving', type=int, default=0, metavar='N', help='number of moving bodies, with masks'
    )
    parser.add_argument(
        '--depth-every', type=int, default=5, metavar='N',
        help='write the depth of every n-th frame; 0 for none',
    )  # fmt: skip
    parser.add_argument('--format', choices=('jpg', 'png'), default='jpg', help='of the images')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..learning.synth import SensorOptions, SequenceOptions, write_sequence

    options = SequenceOptions(
        seed=args.seed,
        kind=args.kind,
        frames=args.frames,
        width=args.width,
        height=args.height,
        rate_hz=args.rate,
        moving=args.moving,
        depth_every=args.depth_every,
        image_format=args.format,
        sensor=SensorOptions(
            noise=args.noise,
            motion_blur=args.motion_blur,
            exposure=args.exposure,
            vignetting=args.vignetting,
        ),
    )
    device = _device(args.device)
    print(f'building the world: {options.kind}, seed {options.seed}, on {device}', flush=True)
    bar: Any = None

    def on_frames(count: int) -> None:
        # Created after the world is built, so that its rate is that of the frames.
        nonlocal bar
        if bar is None:
            bar = tqdm(total=options.frames, unit=' frames', desc='rendering', smoothing=0.05)
        bar.update(count)

    try:
        write_sequence(
            options, args.output, overwrite=args.overwrite, device=device, on_frames=on_frames
        )
    finally:
        if bar is not None:
            bar.close()
    print(f'written to {args.output}')
    return 0


def _device(name: str) -> str:
    """Return the torch device to use.

    :raises ConfigError: there is no CUDA device.
    """
    import torch

    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if name == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('no CUDA device was found: use --device cpu or auto')
    return name
