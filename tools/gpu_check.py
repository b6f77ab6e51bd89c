"""``tools/gpu_check.sh``: what R3 does on a GPU, in one table and one JSON file.

Weights are made up: times and memory do not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
import json
from pathlib import Path
import subprocess
import sys
import time
from typing import Any
import warnings

import cv2
import numpy as np
import psutil
from r3_ros.commands.bench_against import Comparison, near, official_turns
from r3_ros.core.atomic_files import atomic_write
from r3_ros.core.config import ModelConfig, R3Config
from r3_ros.core.datatypes import Frame, Intrinsics, ModelInfo
from r3_ros.core.errors import DeviceMemoryError, ModelError
from r3_ros.core.parameter_fields import updated
from r3_ros.input.camera_model import CameraModel
from r3_ros.model.building import made_up_network
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.compute_floor import compute_floor
from r3_ros.model.loading import choose_precision, DTYPES
from r3_ros.model.network import R3Network
from r3_ros.model.r3_predictor import R3Predictor
from r3_ros.model.variants import VARIANTS
from r3_ros.offline.benchmark import measure, TimedStream
from r3_ros.offline.run_files import machine
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.keyframes.retrieval import (
    array_module,
    Query,
    RetrievalIndex,
    RetrievalWeights,
)
from r3_ros.streaming.keyframes.view_overlap import CameraView
import torch

#: Of the whole run; a check does not begin when less than its share is left.
LIMIT_S = 470.0
#: The large network sees it as 504x280.
SOURCE_SIZE = 640, 360
CAMERA = Intrinsics(525.0, 525.0, 319.5, 179.5, *SOURCE_SIZE)
PERIOD_NS = 66_666_667
#: Different images; the stream repeats them forwards and backwards.
IMAGES = 40
#: Bounds of the difference from float32 on the CPU, in log depth and translation.
BOUNDS = {'fp32': 5e-3, 'bf16': 0.3, 'fp16': 0.05}
#: Waits and copies of a step: the descriptor, by which the context is chosen, and the answer.
WAITS = 2
#: Growth of memory and time over a long run that counts as flat.
FLAT = 0.02, 1.15


class LeftOut(Exception):
    """The check cannot run here; the text says why."""


@dataclass(frozen=True)
class Scale:
    """What is run: all of it on a GPU, little of it in the dry run."""

    variant: str
    image_size: int
    contexts: tuple[int, ...]
    timed: int
    long_run: int
    banks: tuple[int, ...]


ON_GPU = Scale('r3-large', 504, (16, 32, 100), 60, 2000, (256, 2000, 10000))
DRY = Scale('r3-small', 154, (3, 6), 3, 20, (256,))


@dataclass(frozen=True)
class Setup:
    """The arguments, and the device they lead to."""

    device: torch.device
    scale: Scale
    official: Path | None
    parity: Path | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == 'cuda'

    @property
    def precision(self) -> str:
        return choose_precision('auto', self.device)

    def require_gpu(self) -> None:
        """Leave the check out without a GPU."""
        if not self.on_gpu:
            raise LeftOut('needs a GPU')


# What is run


@cache
def network(variant: str, precision: str, device: torch.device) -> R3Network:
    """Return the one network of a variant with made-up weights."""
    made = made_up_network(VARIANTS[variant], DTYPES[precision], device)
    assert isinstance(made, R3Network)
    return made


def predictor(
    setup: Setup, precision: str = '', device: torch.device | None = None, **options: Any
) -> R3Predictor:
    """Return a predictor; options are those of the configuration of the model."""
    precision, device = precision or setup.precision, device or setup.device
    made = network(setup.scale.variant, precision, device)
    config = ModelConfig(name='r3', image_size=setup.scale.image_size, **options)
    return R3Predictor(
        made,
        ModelInfo('r3', str(device), precision),
        config,
        CacheBudget(cache_bytes(device), 8 << 30),
        device,
    )


def cache_bytes(device: torch.device) -> int:
    """Return the size of the cache: 4 GiB, or half of what is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else 8 << 30
    return min(4 << 30, free // 2)


@cache
def images() -> list[np.ndarray]:
    """Return images of a textured plane that moves."""
    width, height = SOURCE_SIZE
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (height // 8, width // 4, 3)).astype(np.uint8)
    plane = cv2.resize(coarse, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(plane[:, 8 * n : 8 * n + width]) for n in range(IMAGES)]


def frame(number: int) -> Frame:
    """Return a frame of the stream."""
    place = number % (2 * IMAGES - 2)
    image = images()[min(place, 2 * IMAGES - 2 - place)]
    return Frame(image, (number + 1) * PERIOD_NS, CAMERA, number)


def step(stream: R3Predictor, number: int, context: Sequence[int]) -> Any:
    """Describe and predict a frame."""
    stream.describe(frame(number))
    return stream.predict(frame(number), context)


def rolling(stream: R3Predictor, first: int, count: int, context: int) -> Iterator[float]:
    """Yield the milliseconds of steps against the last frames, and forget older ones."""
    for number in range(first, first + count):
        began = time.perf_counter()
        step(stream, number, range(max(0, number - context), number))
        yield 1e3 * (time.perf_counter() - began)
        stream.forget([number - context])


def engine_of(setup: Setup, stream: R3Predictor, context: int) -> Engine:
    """Return an engine that relates a frame to about so many others."""
    recent = min(context - 1, 64)  # beside the first frame
    changes = {
        'model.name': 'r3',
        'loop.enabled': False,
        # Whatever the made-up weights say, each frame is tracked and becomes a keyframe.
        'tracking.lost_ratio': 0.0,
        'tracking.low_confidence_ratio': 0.0,
        'keyframe.overlap_threshold': 0.0,
        'keyframe.novelty_threshold': 0.0,
        'keyframe.max_interval': 1,
        'stream.recent_frames': recent,
        'stream.recent_keyframes': 1,
        'stream.retrieved_keyframes': context - 1 - recent,
        'keyframe.max_keyframes': 200,
    }
    config = updated(R3Config(), changes)
    try:
        array_module(setup.device.type)
    except ModelError:
        return Engine(stream, config, 'cpu')
    return Engine(stream, config, setup.device.type)


# The checks: each returns whether it passed, and figures


def parity(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Compare with results of the official code, in each precision."""
    if setup.parity is None:
        raise LeftOut('no folder of golden files: give --parity FOLDER')
    from .parity.golden import golden_files, is_covered
    from .parity.runner import Runner

    only = 'r3-' if setup.on_gpu else 'r3-small-eps2'
    figures: dict[str, Any] = {}
    for precision in DTYPES if setup.on_gpu else ('fp32',):
        runner = Runner(setup.parity, precision, setup.device.type)
        results = [runner.run(p) for p in golden_files(setup.parity, only) if is_covered(p)]
        failed = [f'{r.name} {r.problem or ""}'.strip() for r in results if not r.passed]
        figures[precision] = f'{len(results) - len(failed)} of {len(results)} files'
        if failed:
            figures[f'{precision} failed'] = failed
    return not any('failed' in name for name in figures), figures


def same_as_cpu(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Compare a stream of a small network with float32 on the CPU, with and without graphs."""
    # TF32 has the precision of bfloat16.
    torch.backends.cudnn.allow_tf32 = False
    try:
        return _same_as_cpu(setup, replace(setup, scale=DRY))
    finally:
        torch.backends.cudnn.allow_tf32 = True


def _same_as_cpu(setup: Setup, small: Setup) -> tuple[bool, dict[str, Any]]:
    expected = _answers(predictor(small, 'fp32', torch.device('cpu')))
    figures: dict[str, Any] = {}
    passed = True
    for precision in DTYPES if setup.on_gpu else ('fp32', 'bf16'):
        for graphs in (False, True) if setup.on_gpu else (False,):
            found = _answers(predictor(small, precision, cuda_graphs=graphs))
            depth, motion = (
                max(float(np.abs(a - b).max()) for a, b in zip(x, y, strict=True))
                for x, y in zip(found, expected, strict=True)
            )
            passed &= max(depth, motion) < BOUNDS[precision]
            name = f'{precision}{", graphs" if graphs else ""}'
            figures[name] = f'log depth {depth:.1e}, translation {motion:.1e}'
    return passed, figures


def _answers(stream: R3Predictor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    depths, motions = [], []
    for number in range(6):
        answer = step(stream, number, range(max(0, number - 3), number))
        depths.append(np.log(answer.depths[0].depth))
        motions += [edge.T_source_target[:3, 3] for edge in answer.edges]
    stream.close()
    return depths, motions


def waits(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Count waits, copies and launches of a step."""
    setup.require_gpu()
    from torch.profiler import profile, ProfilerActivity

    context = setup.scale.contexts[0]
    figures: dict[str, Any] = {}
    passed = True
    for graphs in (False, True):
        stream = predictor(setup, cuda_graphs=graphs)
        list(rolling(stream, 0, context + 3, context))
        torch.cuda.set_sync_debug_mode('warn')
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                list(rolling(stream, context + 3, 1, context))
        finally:
            torch.cuda.set_sync_debug_mode('default')
        synchronising = [w for w in caught if 'synchroniz' in str(w.message)]
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            list(rolling(stream, context + 4, 1, context))
        names = [event.name for event in profiled.events()]
        counts = {
            'waits': len(synchronising),
            'copies in': sum('Memcpy HtoD' in name for name in names),
            'copies out': sum('Memcpy DtoH' in name for name in names),
            'launches': sum(
                name.startswith(('cudaLaunch', 'cuLaunch', 'cudaGraphLaunch')) for name in names
            ),
        }
        passed &= (counts['waits'], counts['copies in'], counts['copies out']) == (WAITS, 1, WAITS)
        label = 'graphs' if graphs else 'operations'
        figures |= {f'{label}: {name}': count for name, count in counts.items()}
        if len(synchronising) != WAITS:
            figures[f'{label}: where'] = sorted({f'{w.filename}:{w.lineno}' for w in caught})
        stream.close()
    return passed, figures


def retrieval(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Compare the search of keyframes with CuPy and NumPy, and time both."""
    figures: dict[str, Any] = {}
    passed = True
    devices = ['cpu', 'cuda'] if setup.on_gpu else ['cpu']
    for count in setup.scale.banks:
        found = {device: _searched(count, device) for device in devices}
        for device, (_, _, milliseconds) in found.items():
            figures[f'{count} keyframes, {device}: ms'] = round(milliseconds, 3)
        slots, scores, _ = found['cpu']
        if on_device := found.get('cuda'):
            same = np.mean(
                [np.array_equal(a, b) for a, b in zip(slots, on_device[0], strict=True)]
            )
            worst = max(np.abs(a - b).max() for a, b in zip(scores, on_device[1], strict=True))
            figures[f'{count} keyframes: same'] = f'{100 * same:.0f} %, scores {worst:.0e}'
            passed &= bool(worst < 1e-3)
    return passed, figures


def _searched(count: int, device: str) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Return slots and scores found by 20 searches, and the milliseconds of one."""
    try:
        index = RetrievalIndex(count, 1024, device)
    except ModelError as error:
        raise LeftOut(str(error)) from error
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count + 20, 1024)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = rng.uniform(-5, 5, (count, 3))
    for slot in range(count):
        index.put(slot, vectors[slot], CameraView(poses[slot], (-0.6, 0.6, -0.4, 0.4), 1.0))
    slots, scores, seconds = [], [], []
    for n, vector in enumerate(vectors[count:]):
        view = CameraView(poses[n], (-0.6, 0.6, -0.4, 0.4), 1.0)
        query = Query(vector, RetrievalWeights(1.0, 1.0, 0.2), view, count)
        began = time.perf_counter()
        result = index.retrieve(query, 16)
        seconds.append(time.perf_counter() - began)
        slots.append(result.slots)
        scores.append(result.scores)
    return slots, scores, 1e3 * float(np.median(seconds))


def bench(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Time a stream from JPEG to cloud as `r3 bench` does, with several sizes of context."""
    figures: dict[str, Any] = {}
    encoded = [cv2.imencode('.jpg', image[..., ::-1])[1].tobytes() for image in images()]
    camera = CameraModel(*SOURCE_SIZE, CAMERA.K)
    for context in setup.scale.contexts:
        for graphs in (False, True) if setup.on_gpu else (False,):
            stream = predictor(setup, cuda_graphs=graphs)
            engine = engine_of(setup, stream, context)
            timed, warm_up = setup.scale.timed, context + 4
            recording = [
                ((n + 1) * PERIOD_NS, encoded[n % IMAGES]) for n in range(warm_up + timed + 2)
            ]
            source = TimedStream(engine, camera)
            report = measure(source, recording[:-2], warm_up)
            label = f'context {context}{", graphs" if graphs else ""}'
            network_ms = sum(
                report['stages_ms'][name]['median'] for name in ('describe', 'predict')
            )
            figures[f'{label}: describe and predict, ms'] = round(network_ms, 2)
            figures[f'{label}: whole, ms (p95)'] = (
                f'{report["whole_ms"]["median"]:.2f} ({report["whole_ms"]["p95"]:.2f})'
            )
            related: list[int] = []
            count = partial(_process, source, recording[-2:], related)
            floor = compute_floor(stream, count).against(network_ms)
            figures[f'{label}: floor, ms'] = round(floor['floor_ms'], 3)
            figures[f'{label}: frames related'] = related[-1]
            engine.close()
    return True, figures


def _process(
    source: TimedStream, recording: Sequence[tuple[int, bytes]], related: list[int]
) -> int:
    """Process images and return their number; append how many frames each was related to."""
    related += [len(source.take(*image)[1].context_ids) for image in recording]
    return len(recording)


def official(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Time the authors' loop beside ours, with as many frames in both caches."""
    if setup.official is None:
        raise LeftOut('no official code: give --official FOLDER')
    contexts = setup.scale.contexts
    made = network(setup.scale.variant, setup.precision, setup.device)
    try:
        turns, _ = zip(
            *official_turns(
                setup.official, made, setup.precision, max(contexts) + 3, setup.scale.image_size
            ),
            strict=True,
        )
    except ModelError as error:
        raise LeftOut(str(error)) from error
    figures: dict[str, Any] = {}
    for context in contexts:
        steps = Comparison.of('', near(turns, context))
        figures[f'context {context}: official, ours, ms'] = (
            f'{steps.theirs_ms:.2f}, {steps.ours_ms:.2f} ({steps.ratio:.2f})'
        )
    return True, figures


def long_run(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Stream many frames: neither memory nor time may grow."""
    count = setup.scale.long_run
    stream = predictor(setup, cuda_graphs=setup.on_gpu)
    engine, process = engine_of(setup, stream, setup.scale.contexts[0]), psutil.Process()
    seconds, resident, reserved = np.zeros((3, count))
    for number in range(count):
        began = time.perf_counter()
        engine.step(frame(number))
        seconds[number] = time.perf_counter() - began
        resident[number] = process.memory_info().rss
        reserved[number] = torch.cuda.memory_reserved() if setup.on_gpu else 0
    engine.close()
    middle, end = slice(count // 4, count // 2), slice(3 * count // 4, None)
    time_ratio = float(np.median(seconds[end]) / np.median(seconds[middle]))
    growth = {
        'host': float(np.median(resident[end]) / np.median(resident[middle]) - 1),
        'device': float(reserved[end].max() / max(reserved[middle].max(), 1) - 1)
        if setup.on_gpu
        else 0.0,
    }
    figures = {
        'frames': count,
        'step, ms (p95)': f'{1e3 * np.median(seconds[end]):.2f} '
        f'({1e3 * np.percentile(seconds[end], 95):.2f})',
        'last over second quarter: time': round(time_ratio, 3),
        **{f'growth of {place} memory': f'{100 * g:.2f} %' for place, g in growth.items()},
        'device memory, MiB': round(float(reserved.max()) / 2**20),
    }
    flat = growth['device'] <= FLAT[0] and time_ratio <= FLAT[1]
    # A dry run is too short to judge by.
    return flat or not setup.on_gpu, figures


@contextmanager
def _device_share(share: float) -> Iterator[None]:
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def out_of_memory(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Let the device run out of memory: the engine shrinks and goes on."""
    setup.require_gpu()
    context, total = setup.scale.contexts[0], torch.cuda.get_device_properties(0).total_memory
    stream = predictor(setup)
    engine = engine_of(setup, stream, context)
    torch.cuda.empty_cache()
    shrunk = 0
    # Room for the weights, and for less than the cache is allowed to take.
    allowed = torch.cuda.memory_reserved() + 0.75 * cache_bytes(setup.device)
    with _device_share(allowed / total):
        for number in range(3 * context):
            while True:
                try:
                    engine.step(frame(number))
                    break
                except DeviceMemoryError:
                    shrunk += 1
                    if shrunk > 6:
                        return False, {'shrunk': shrunk, 'frames': number}
                    engine.shrink()
    frames = engine.session.frame_count
    engine.close()
    return shrunk > 0 and frames == 3 * context, {'shrunk': shrunk, 'frames': frames}


def suite(setup: Setup) -> tuple[bool, dict[str, Any]]:
    """Run the tests that are marked `gpu`."""
    command = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '-p', 'no:cacheprovider']
    command += ['--continue-on-collection-errors']
    marked = [str(p) for p in Path('test').rglob('test_*.py') if 'mark.gpu' in p.read_text()]
    done = subprocess.run(
        [*command, *marked], capture_output=True, text=True, timeout=150, check=False
    )
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ['nothing']
    figures: dict[str, Any] = {'tests': lines[-1]}
    # A file is an error if it needs a library that is not there.
    for what in ('FAILED', 'ERROR'):
        if named := [line for line in lines if line.startswith(what)]:
            figures[what.lower()] = named
    return 'failed' not in figures and 'passed' in lines[-1] or not setup.on_gpu, figures


#: With the seconds that each may take on a GPU.
CHECKS: tuple[tuple[Callable[[Setup], tuple[bool, dict[str, Any]]], float], ...] = (
    (same_as_cpu, 30),
    (waits, 30),
    (bench, 60),
    (parity, 60),
    (retrieval, 15),
    (out_of_memory, 20),
    (long_run, 60),
    (suite, 60),
    (official, 60),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, write the files, and return 1 if one has failed."""
    args = _parser().parse_args(argv)
    gpu = torch.cuda.is_available() and not args.cpu
    if not gpu:
        why = 'as asked for' if args.cpu else 'no GPU'
        print(f'{why}: dry run on the CPU with a small network')
    setup = Setup(
        torch.device('cuda', 0) if gpu else torch.device('cpu'),
        ON_GPU if gpu else DRY,
        args.official and args.official.resolve(),
        args.parity if args.parity.is_dir() else None,
    )
    began = time.perf_counter()
    report: dict[str, Any] = {
        'device': torch.cuda.get_device_name(0) if gpu else 'cpu',
        'network': setup.scale.variant,
        'precision': setup.precision,
        'torch': torch.__version__,
        'machine': machine(),
        'checks': {},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for check, needed in CHECKS:
        if args.only and check.__name__ not in args.only:
            continue
        left = LIMIT_S - (time.perf_counter() - began)
        report['checks'][check.__name__] = result = _run(check, setup, left, needed)
        print(f'{check.__name__}: {result["result"]}, {result["seconds"]:.0f} s', flush=True)
        with atomic_write(args.out / 'gpu_check.json') as file:
            file.write(f'{json.dumps(report, indent=2)}\n'.encode())
        with atomic_write(args.out / 'gpu_check.md') as file:
            file.write(table(report).encode())
    print(f'\n{table(report)}')
    return int(any(c['result'].startswith('failed') for c in report['checks'].values()))


def _run(
    check: Callable[[Setup], tuple[bool, dict[str, Any]]], setup: Setup, left: float, needed: float
) -> dict[str, Any]:
    began = time.perf_counter()
    figures: dict[str, Any] = {}
    if setup.on_gpu and left < needed:
        return {'result': f'left out: {left:.0f} s are left', 'seconds': 0.0, 'figures': {}}
    try:
        passed, figures = check(setup)
        result = 'passed' if passed else 'failed'
    except LeftOut as reason:
        result = f'left out: {reason}'
    except Exception as error:  # the other checks are run all the same
        result = f'failed: {type(error).__name__}: {" ".join(str(error).split())[:300]}'
    finally:
        network.cache_clear()
        if setup.on_gpu:
            torch.cuda.empty_cache()
    return {'result': result, 'seconds': time.perf_counter() - began, 'figures': figures}


def table(report: dict[str, Any]) -> str:
    """Return a report as a Markdown table."""
    lines = [
        f'{report["device"]}, {report["network"]} in {report["precision"]}, torch '
        f'{report["torch"]}',
        '',
        '| check | result | |',
        '| --- | --- | --- |',
    ]
    for name, check in report['checks'].items():
        lines.append(f'| **{name}** | {check["result"]} | {check["seconds"]:.0f} s |')
        lines += [f'| | {figure} | {value} |' for figure, value in check['figures'].items()]
    return '\n'.join(lines) + '\n'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='tools/gpu_check.sh', description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('gpu_check'), help='folder of the files')
    parser.add_argument('--official', type=Path, help='folder of the official code of R3')
    parser.add_argument(
        '--parity', type=Path, default=Path('../shared/parity'), help='folder of golden files'
    )
    parser.add_argument('--cpu', action='store_true', help='dry run with a small network')
    names = [check.__name__ for check, _ in CHECKS]
    parser.add_argument('--only', nargs='+', choices=names, metavar='NAME', help=', '.join(names))
    return parser


if __name__ == '__main__':
    sys.exit(main())
