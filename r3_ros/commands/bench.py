"""``r3 bench``: measures where the time of a stream goes on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
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

_FRAMES, _QUICK_FRAMES = 300, 100
#: The first frames make buffers and the first map, and have few frames to relate to.
_WARM_UP = 20
#: At the end, whose operations are counted; the counting takes time, so they are not timed.
_COUNTED = 5
#: Of the parameters that decide how many frames a network relates to a new one.
_CONTEXT = ('recent_frames', 'recent_keyframes', 'retrieved_keyframes')


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
        help='also with half and twice the context, and for networks with smaller and larger '
        'images',
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
    from ..offline.benchmark import comparison_lines, read_report, report_lines

    if args.compare:
        print(*comparison_lines(*(read_report(Path(path)) for path in args.compare)), sep='\n')
        return 0
    config = config_from(args)
    cv2.setNumThreads(1)
    recording = _rendered(_QUICK_FRAMES if args.quick else _FRAMES)
    report = _measured(config, recording)
    print(*report_lines(report), *_floor_lines(report['floor']), sep='\n', flush=True)
    if args.sweep:
        report['sweep'] = _swept(config, recording)
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


def _measured(config: R3Config, recording: EncodedRecording) -> dict[str, Any]:
    from ..factory import load_engine
    from ..offline.benchmark import described, measure, TimedStream

    timed, counted = recording.images[:-_COUNTED], recording.images[-_COUNTED:]
    engine = load_engine(config)
    try:
        stream = TimedStream(engine, recording.camera)
        report = described(measure(stream, _shown(timed), _WARM_UP), engine)
        report['floor'] = None
        if config.model.name != 'classical':
            from ..model.compute_floor import compute_floor
            from ..model.r3_predictor import R3Predictor

            assert isinstance(engine.predictor, R3Predictor)
            floor = compute_floor(
                engine.predictor, lambda: len([stream.take(*image) for image in counted])
            )
            network_ms = sum(report['stages_ms'][name]['mean'] for name in ('describe', 'predict'))
            report['floor'] = floor.against(network_ms)
    finally:
        engine.close()
    return report


def _shown(images: Iterable[tuple[int, bytes]]) -> Iterable[tuple[int, bytes]]:
    from tqdm import tqdm

    return tqdm(images, unit=' frames', desc='measuring', delay=1, leave=False)


def _floor_lines(floor: dict[str, float] | None) -> list[str]:
    if floor is None:
        return ['No floor: it follows from the operations of a network, and there is none.']
    return [
        f'describe and predict: mean {floor["measured_ms"]:.1f} ms, '
        f'{floor["ratio"]:.1f} times the floor of {floor["floor_ms"]:.2f} ms',
        f'floor: {floor["flops"] / 1e9:.2f} GFLOP per frame at {floor["flops_per_s"] / 1e9:.0f} '
        f'GFLOP/s ({floor["compute_ms"]:.2f} ms); {floor["weight_bytes"] / 1e6:.1f} MB of weights '
        f'at {floor["bytes_per_s"] / 1e9:.1f} GB/s ({floor["memory_ms"]:.2f} ms)',
    ]


def _swept(config: R3Config, recording: EncodedRecording) -> list[dict[str, Any]]:
    """Measure variants of the configuration and print a row of each."""
    from ..core.parameter_fields import updated

    rows = []
    print(f'\n{"changed":<42}{"median ms":>10}{"frames/s":>10}')
    for name, changes in _variants(config).items():
        report = _measured(updated(config, changes), recording)
        rows.append({'changed': changes, **report})
        print(f'{name:<42}{report["whole_ms"]["median"]:10.1f}{report["fps"]:10.1f}', flush=True)
    return rows


def _variants(config: R3Config) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for name, factor in (('half the context', 0.5), ('the context as it is', 1), ('twice', 2)):
        counts = {f'stream.{key}': getattr(config.stream, key) for key in _CONTEXT}
        changed = {key: max(int(count * factor), 1) for key, count in counts.items()}
        out[f'{name}: {" + ".join(str(n) for n in changed.values())} frames'] = changed
    if config.model.name == 'r3_tiny':
        out |= {f'model.image_size {n}': {'model.image_size': n} for n in (112, 168, 224)}
    return out
