"""``r3 bench``: measures where the time of a stream goes on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError
from .bench_against import comparisons, HEADING, Reference, reference
from .bench_recording import FRAMES, QUICK_FRAMES, rendered
from .options import add_config_options, config_from

if TYPE_CHECKING:
    from ..core.config import R3Config
    from ..model.network_predictor import NetworkPredictor
    from ..offline.benchmark import EncodedRecording, TimedStream
    from ..streaming.engine import Engine

#: The first frames make buffers and the first map, and have few frames to relate to.
_WARM_UP = 20
#: At the end, whose parts of the prediction are timed; then those whose operations are counted.
#: Both disturb the time of a frame, which is not counted.
_TAKEN_APART, _COUNTED = 10, 5
#: The parameters of the stream that decide how many frames a network relates to a new one.
_CONTEXT = ('recent_frames', 'recent_keyframes', 'retrieved_keyframes')
#: Of the network's input, in pixels.
_TINY_SIZES, _SIZES = (112, 140, 168), (252, 378, 504)


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'bench',
        help='measure where the time goes on this machine',
        description='Render a recording of 640x480 and time each stage from its JPEG to the pose '
        'and the cloud. For networks also the parts of a prediction, and the least time that this '
        'machine could take. docs/performance.md says how to read the table.',
    )
    parser.add_argument(
        '--quick', action='store_true',
        help=f'{QUICK_FRAMES} frames instead of {FRAMES}: rarely more than a minute',
    )  # fmt: skip
    parser.add_argument('--json', metavar='FILE', help='also write the figures to this file')
    parser.add_argument('--plot', metavar='FILE', help='also draw the stages, as PNG')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--sweep', action='store_true',
        help='then measure again with half and twice the context, other sizes of images and other '
        'precisions, and the other models whose weights are here',
    )  # fmt: skip
    what.add_argument(
        '--against', metavar='OTHER', type=reference,
        help='instead time the code of others on the same input, in turns: official=PATH (a clone '
        "of the authors' R3), torch (the same network without a cache), faiss (the search of "
        'keyframes), orbslam3=PATH (a built ORB-SLAM3)',
    )  # fmt: skip
    what.add_argument(
        '--roofline', action='store_true',
        help='measure nothing; print the most frames per second that devices could process',
    )  # fmt: skip
    what.add_argument(
        '--compare', nargs=2, metavar=('A', 'B'), help='measure nothing; compare two JSON files'
    )
    add_config_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    import cv2

    from ..factory import load_engine
    from ..offline.benchmark import comparison_lines, parts_lines, read_report, report_lines

    stages_wanted = not (args.compare or args.roofline or args.against)
    if args.plot and not stages_wanted:
        raise ConfigError('--plot draws stages: give it without --against, --compare, --roofline')
    if args.json and (args.compare or args.roofline):
        raise ConfigError('--json writes what was measured: not with --compare or --roofline')
    if args.compare:
        print(*comparison_lines(*(read_report(Path(path)) for path in args.compare)), sep='\n')
        return 0
    if args.roofline:
        from ..model.roofline import roofline_lines

        print(*roofline_lines(), sep='\n')
        return 0
    config = config_from(args)
    # As r3 run has it.
    cv2.setNumThreads(1)
    if args.against:
        _save(_compared(args.against, config, args.quick), args.json)
        return 0
    # First, since it may fail, and rendering takes long.
    with closing(load_engine(config)) as engine:
        variants = _sweep(config) if args.sweep else []
        count = QUICK_FRAMES if args.quick else FRAMES
        recording = rendered(count + _WARM_UP + _TAKEN_APART + _COUNTED)
        report = measured(engine, recording)
    print(*report_lines(report), *parts_lines(report), *_floor_lines(report['floor']), sep='\n')
    if args.plot:
        from ..evaluation.bench_figure import draw_stages
        from ..evaluation.figures import save_figure

        save_figure(draw_stages(report), Path(args.plot))
    if variants:
        report['sweep'] = list(_swept(variants, recording))
    _save(report, args.json)
    return 0


def _save(report: Mapping[str, Any], file_name: str | None) -> None:
    import json

    from ..core.atomic_files import atomic_write

    if file_name:
        with atomic_write(file_name) as file:
            file.write(f'{json.dumps(report, indent=2)}\n'.encode())


def _compared(other: Reference, config: R3Config, quick: bool) -> dict[str, Any]:
    """Compare and print; return what is printed."""
    from ..offline.run_files import machine, versions

    rows: list[dict[str, Any]] = []
    for comparison in comparisons(other, config, quick):
        if not rows:
            print(HEADING)
        print(comparison.line(), flush=True)
        rows.append(asdict(comparison))
    about = {'machine': machine(), 'versions': versions()}
    return {'against': other.name, 'comparisons': rows, **about}


def measured(engine: Engine, recording: EncodedRecording) -> dict[str, Any]:
    """Return the report of a recording.

    :param recording: with frames beside those that are counted, see :func:`run`.
    """
    from ..offline.benchmark import described, measure, TimedStream

    first = len(recording.images) - _TAKEN_APART - _COUNTED
    stream = TimedStream(engine, recording.camera)
    timed, others = recording.images[:first], recording.images[first:]
    report = described(measure(stream, _shown(timed), _WARM_UP), engine)
    report['predict_parts_ms'] = report['floor'] = None
    if engine.config.model.name != 'classical':
        from ..model.compute_floor import compute_floor
        from ..model.network_predictor import NetworkPredictor

        assert isinstance(engine.predictor, NetworkPredictor)
        report['predict_parts_ms'] = _parts(engine.predictor, stream, others[:_TAKEN_APART])
        counted = others[_TAKEN_APART:]
        floor = compute_floor(
            engine.predictor, lambda: len([stream.take(*image) for image in counted])
        )
        network_ms = sum(report['stages_ms'][name]['median'] for name in ('describe', 'predict'))
        report['floor'] = floor.against(network_ms)
    return report


def _parts(
    predictor: NetworkPredictor[Any], stream: TimedStream, images: Iterable[tuple[int, bytes]]
) -> dict[str, float]:
    """Return the median milliseconds of the parts of a prediction, which add up to it."""
    import numpy as np
    import torch

    from ..model.part_times import part_times

    rows: list[dict[str, float]] = []
    device = torch.device(predictor.info.device)
    with predictor.operation_by_operation(), part_times(predictor.network, device) as spent:
        for image in images:
            spent.clear()
            whole = stream.take(*image)[0]['predict']
            rows.append({**spent, 'rest': whole - sum(spent.values())})
    return {name: float(np.median([row.get(name, 0.0) for row in rows])) for name in rows[-1]}


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
        f'and {floor["context_bytes"] / 1e6:.1f} MB of context at '
        f'{floor["bytes_per_s"] / 1e9:.1f} GB/s ({floor["memory_ms"]:.2f} ms)',
    ]


def _sweep(config: R3Config) -> list[tuple[str, R3Config]]:
    """Return variants of the configuration, each with what is changed.

    :raises ConfigError: twice the context is more than the parameters allow.
    """
    from ..core.config import ModelConfig
    from ..core.parameter_fields import updated

    changes: list[dict[str, Any]] = []
    for factor in (0.5, 1.0, 2.0):
        counts = {name: getattr(config.stream, name) for name in _CONTEXT}
        changes.append({f'stream.{k}': math.ceil(factor * n) for k, n in counts.items()})
    changes += [{'model.image_size': size} for size in _sizes(config.model.name)]
    changes += [{'model.precision': precision} for precision in _precisions(config)]
    variants = [
        (', '.join(f'{k.split(".")[1]} {v}' for k, v in change.items()), updated(config, change))
        for change in changes
    ]
    # What was set for one model may not fit another.
    others = {name: replace(ModelConfig(), name=name) for name in _other_models(config)}
    return variants + [(name, replace(config, model=model)) for name, model in others.items()]


def _sizes(model: str) -> tuple[int, ...]:
    from ..core.config import PAIR_NAMES

    if model == 'r3_tiny':
        return _TINY_SIZES
    return () if model in ('classical', *PAIR_NAMES) else _SIZES


def _precisions(config: R3Config) -> tuple[str, ...]:
    if config.model.name == 'classical':
        return ()
    import torch

    on_gpu = config.model.device != 'cpu' and torch.cuda.is_available()
    return ('fp32', 'bf16', 'fp16') if on_gpu else ('fp32', 'bf16')


def _other_models(config: R3Config) -> list[str]:
    """Return the models that could be run here as well."""
    from importlib.util import find_spec

    from ..core.config import MODEL_NAMES
    from ..model.weights.catalogue import find_weights, model_weights

    def has_weights(name: str) -> bool:
        return any(find_weights(weights) for weights in model_weights(name))

    return [
        name
        for name in MODEL_NAMES
        if name != config.model.name
        and (name == 'classical' or (find_spec('torch') and has_weights(name)))
    ]


def _swept(
    variants: Iterable[tuple[str, R3Config]], recording: EncodedRecording
) -> Iterator[dict[str, Any]]:
    """Measure each variant and print a row of it."""
    from ..factory import load_engine

    print(f'\n{"changed":<66}{"median ms":>10}{"CPU ms":>8}{"frames/s":>10}')
    for name, config in variants:
        with closing(load_engine(config)) as engine:
            report = measured(engine, recording)
        times = f'{report["whole_ms"]["median"]:10.1f}{report["cpu_ms_per_frame"]:8.1f}'
        print(f'{name:<66}{times}{report["fps"]:10.1f}', flush=True)
        yield {'changed': name, **report}
