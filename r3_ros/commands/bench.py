"""``r3 bench``: measures where the time of a stream goes on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
import math
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any, TYPE_CHECKING

from ..core.errors import SourceError
from .options import add_config_options, config_from

if TYPE_CHECKING:
    from ..core.config import R3Config
    from ..offline.benchmark import EncodedRecording
    from ..streaming.engine import Engine

_FRAMES, _QUICK_FRAMES = 300, 100
#: The first frames make buffers and the first map, and have few frames to relate to.
_WARM_UP = 20
#: At the end, whose operations are counted; the counting takes time, so they are not timed.
_COUNTED = 5
#: The parameters of the stream that decide how many frames a network relates to a new one.
_CONTEXT = ('recent_frames', 'recent_keyframes', 'retrieved_keyframes')
#: Of the network's input, in pixels.
_TINY_SIZES = (112, 140, 168)


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'bench',
        help='measure where the time goes on this machine',
        description='Render a recording of 640x480 and time each stage from its JPEG to the pose '
        'and the cloud. For networks also the least time that this machine could take. '
        'docs/performance.md says how to read the table.',
    )
    parser.add_argument(
        '--quick', action='store_true',
        help=f'{_QUICK_FRAMES} frames instead of {_FRAMES}: rarely more than a minute',
    )  # fmt: skip
    parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
    parser.add_argument(
        '--sweep', action='store_true',
        help='also measure with half and twice the context, and r3_tiny with images of several '
        'sizes',
    )  # fmt: skip
    parser.add_argument(
        '--compare', nargs=2, metavar=('A', 'B'), help='measure nothing; compare two JSON files'
    )
    add_config_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    import json

    import cv2

    from ..core.atomic_files import atomic_write
    from ..factory import load_engine
    from ..offline.benchmark import comparison_lines, read_report, report_lines

    if args.compare:
        print(*comparison_lines(*(read_report(Path(path)) for path in args.compare)), sep='\n')
        return 0
    config = config_from(args)
    variants = _sweep(config) if args.sweep else []
    # As r3 run has it.
    cv2.setNumThreads(1)
    # First, since it may fail, and rendering takes long.
    with closing(load_engine(config)) as engine:
        recording = _rendered(_QUICK_FRAMES if args.quick else _FRAMES)
        report = _measured(engine, recording)
    print(*report_lines(report), *_floor_lines(report['floor']), sep='\n', flush=True)
    if variants:
        report['sweep'] = list(_swept(variants, recording))
    if args.json:
        with atomic_write(args.json) as file:
            file.write(f'{json.dumps(report, indent=2)}\n'.encode())
    return 0


def _rendered(frames: int) -> EncodedRecording:
    """Render in another process, whose libraries and memory this one does not inherit."""
    from ..input.open_source import open_source
    from ..offline.benchmark import through_lens

    count = frames + _WARM_UP + _COUNTED
    with tempfile.TemporaryDirectory(prefix='r3_bench_') as folder:
        walk = Path(folder) / 'walk'
        command = [sys.executable, '-m', 'r3_ros.commands.cli', 'synth', str(walk)]
        command += ['--seed', '1', '--frames', str(count), '--depth-every', '0']
        # What it prints on stdout names a folder that is removed; its progress is on stderr.
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SourceError('the recording could not be rendered, see above')
        with open_source(walk) as source:
            return through_lens(source)


def _measured(engine: Engine, recording: EncodedRecording) -> dict[str, Any]:
    from ..offline.benchmark import described, measure, TimedStream

    timed, counted = recording.images[:-_COUNTED], recording.images[-_COUNTED:]
    stream = TimedStream(engine, recording.camera)
    report = described(measure(stream, _shown(timed), _WARM_UP), engine)
    report['floor'] = None
    if engine.config.model.name != 'classical':
        from ..model.compute_floor import compute_floor
        from ..model.network_predictor import NetworkPredictor

        assert isinstance(engine.predictor, NetworkPredictor)
        floor = compute_floor(
            engine.predictor, lambda: len([stream.take(*image) for image in counted])
        )
        network_ms = sum(report['stages_ms'][name]['median'] for name in ('describe', 'predict'))
        report['floor'] = floor.against(network_ms)
    return report


def _shown(images: Iterable[tuple[int, bytes]]) -> Iterable[tuple[int, bytes]]:
    from tqdm import tqdm

    return tqdm(images, unit=' frames', desc='measuring', leave=False, disable=None)


def _floor_lines(floor: dict[str, float] | None) -> list[str]:
    if floor is None:
        return ['No floor: it follows from the operations of a network, and there is none.']
    return [
        f'describe and predict: {floor["measured_ms"]:.1f} ms, '
        f'{floor["ratio"]:.1f} times the floor of {floor["floor_ms"]:.2f} ms',
        f'floor: {floor["flops"] / 1e9:.2f} GFLOP per frame at {floor["flops_per_s"] / 1e9:.0f} '
        f'GFLOP/s ({floor["compute_ms"]:.2f} ms); {floor["weight_bytes"] / 1e6:.1f} MB of weights '
        f'at {floor["bytes_per_s"] / 1e9:.1f} GB/s ({floor["memory_ms"]:.2f} ms)',
    ]


def _sweep(config: R3Config) -> list[tuple[str, R3Config]]:
    """Return variants of the configuration, each with what is changed.

    :raises ConfigError: twice the context is more than the parameters allow.
    """
    from ..core.parameter_fields import updated

    changes: list[dict[str, Any]] = []
    for factor in (0.5, 1.0, 2.0):
        counts = {name: getattr(config.stream, name) for name in _CONTEXT}
        changes.append({f'stream.{k}': math.ceil(factor * n) for k, n in counts.items()})
    if config.model.name == 'r3_tiny':
        changes += [{'model.image_size': size} for size in _TINY_SIZES]
    return [
        (', '.join(f'{k.split(".")[1]} {v}' for k, v in change.items()), updated(config, change))
        for change in changes
    ]


def _swept(
    variants: Iterable[tuple[str, R3Config]], recording: EncodedRecording
) -> Iterator[dict[str, Any]]:
    """Measure each variant and print a row of it."""
    from ..factory import load_engine

    print(f'\n{"changed":<66}{"median ms":>10}{"CPU ms":>8}{"frames/s":>10}')
    for name, config in variants:
        with closing(load_engine(config)) as engine:
            report = _measured(engine, recording)
        times = f'{report["whole_ms"]["median"]:10.1f}{report["cpu_ms_per_frame"]:8.1f}'
        print(f'{name:<66}{times}{report["fps"]:10.1f}', flush=True)
        yield {'changed': name, **report}
