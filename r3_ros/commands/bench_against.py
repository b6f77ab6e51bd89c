"""``r3 bench --against``: our code and that of others on the same input, in turns in one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
import re
from statistics import median
import subprocess
import time
from typing import Any, NamedTuple, TYPE_CHECKING

from ..core.config import PUBLISHED_IMAGE
from ..core.errors import ConfigError, SourceError
from .bench_recording import FRAMES, QUICK_FRAMES, rendered_folder

if TYPE_CHECKING:
    import torch

    from ..core.config import R3Config
    from ..core.datatypes import DepthMap, Frame
    from ..input.camera_model import CameraModel
    from ..model.network import R3Network

#: What others are compared with, and what their path is.
_PATHS = {
    'official': 'the folder of a clone of https://github.com/KevinXu02/R3',
    'orbslam3': 'the folder of a built ORB-SLAM3',
    'torch': '',
    'faiss': '',
}
#: The published size: the large network sees it as 504x280.
_OFFICIAL_SOURCE = 640, 360
#: Frames in the caches of both, on a CPU: with --quick and without.
_OFFICIAL_CONTEXTS = 4, 8
#: Steps around a context whose median is taken: two before it, two after it.
_NEAR = 2
_BANKS = 500, 2000, 10_000
_DESCRIPTOR = 1024
_MIB = 2**20


class Reference(NamedTuple):
    """What to compare with; the path is empty where none is needed."""

    name: str
    path: str


def reference(text: str) -> Reference:
    """Read NAME or NAME=PATH; for ``type=`` of an option."""
    name, _, path = text.partition('=')
    if name not in _PATHS:
        raise argparse.ArgumentTypeError(
            f'must be official=PATH, orbslam3=PATH, torch or faiss, got {text!r}'
        )
    if bool(path) != bool(_PATHS[name]):
        wanted = f'{name}=PATH: {_PATHS[name]}' if _PATHS[name] else f'{name}, without a path'
        raise argparse.ArgumentTypeError(f'must be {wanted}')
    return Reference(name, path)


@dataclass(frozen=True)
class Turn:
    """One round: milliseconds of ours and of theirs, by the clock and of CPU time."""

    ours_ms: float
    theirs_ms: float
    ours_cpu_ms: float
    theirs_cpu_ms: float


@dataclass(frozen=True)
class Comparison:
    """Medians over rounds, and of the ratios of each round.

    :ivar cpu_ratio: None where CPU time was not measured.
    """

    what: str
    rounds: int
    ours_ms: float
    theirs_ms: float
    ratio: float
    cpu_ratio: float | None

    @classmethod
    def of(cls, what: str, turns: Sequence[Turn]) -> Comparison:
        """Return the medians of some rounds."""
        return cls(
            what,
            len(turns),
            median(turn.ours_ms for turn in turns),
            median(turn.theirs_ms for turn in turns),
            median(turn.ours_ms / turn.theirs_ms for turn in turns),
            median(turn.ours_cpu_ms / turn.theirs_cpu_ms for turn in turns),
        )

    def line(self) -> str:
        """Return a row under :data:`HEADING`."""
        cpu = '-' if self.cpu_ratio is None else f'{self.cpu_ratio:.2f}'
        times = f'{self.ours_ms:11.2f}{self.theirs_ms:11.2f}'
        return f'{self.what:<48}{times}{self.ratio:8.2f}{cpu:>8}'


HEADING = f'{"medians":<48}{"ours, ms":>11}{"theirs, ms":>11}{"ratio":>8}{"of CPU":>8}'


def comparisons(other: Reference, config: R3Config, quick: bool) -> Iterator[Comparison]:
    """Yield comparisons as they are measured.

    :raises R3Error: the other code is not there, or cannot be run.
    """
    if other.name == 'official':
        yield from _official(Path(other.path).expanduser(), config, quick)
    elif other.name == 'orbslam3':
        yield _orbslam3(Path(other.path).expanduser(), config, quick)
    elif other.name == 'torch':
        yield _whole_pass(config, 5 if quick else 15)
    else:
        yield from _faiss(config, 100 if quick else 500)


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """Return a result, and the milliseconds until then, by the clock and of CPU time."""
    began, cpu_began = time.perf_counter(), time.process_time()
    result = work(*arguments)
    return result, 1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu_began)


def in_turns(
    ours: Callable[[int], Any], theirs: Callable[[int], Any], numbers: range
) -> list[Turn]:
    """Time both for each number; who is first changes every time."""
    turns = []
    for number in numbers:
        order = (ours, theirs) if number % 2 else (theirs, ours)
        times = {work: timed(work, number)[1:] for work in order}
        (a, cpu_a), (b, cpu_b) = times[ours], times[theirs]
        turns.append(Turn(a, b, cpu_a, cpu_b))
    return turns


def _noise(number: int, width: int, height: int) -> Frame:
    """Return a frame of random pixels: the time of a network does not depend on them."""
    import numpy as np

    from ..core.datatypes import Frame

    random = np.random.default_rng(number)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(image, number * 66_666_667, None, number)


# The authors' code of R3


def _official(checkout: Path, config: R3Config, quick: bool) -> Iterator[Comparison]:
    from ..model.building import made_up_network
    from ..model.loading import choose_device, choose_precision, DTYPES
    from ..model.network import R3Network
    from ..model.variants import VARIANTS

    device = choose_device(config.model.device)
    precision = choose_precision(config.model.precision, device)
    context = _OFFICIAL_CONTEXTS[not quick]
    for variant in ('r3-base', 'r3-large'):
        network = made_up_network(VARIANTS[variant], DTYPES[precision], device)
        assert isinstance(network, R3Network)
        turns, differences = zip(
            *official_turns(checkout, network, precision, context + _NEAR + 1), strict=True
        )
        what = f'{variant}, {context} frames cached (depths: {max(differences):.0e})'
        yield Comparison.of(what, near(turns, context))


def near(turns: Sequence[Turn], context: int) -> Sequence[Turn]:
    """Return the steps with about so many frames in the cache: step n has n of them."""
    return turns[context - _NEAR : context + _NEAR + 1]


def official_turns(
    checkout: Path,
    network: R3Network,
    precision: str,
    count: int,
    image_size: int = PUBLISHED_IMAGE,
) -> Iterator[tuple[Turn, float]]:
    """Yield the steps of a stream by both codes, with the same weights and all frames cached.

    :param network: of the precision.
    :returns: times, and the largest difference of the logarithms of depth.
    :raises ModelError: the authors' code cannot be run.
    """
    import numpy as np

    from ..core.config import ModelConfig
    from ..core.datatypes import ModelInfo
    from ..model.cache.frame_memory import CacheBudget
    from ..model.official_r3 import OfficialR3
    from ..model.r3_predictor import R3Predictor

    official = OfficialR3(checkout, network)
    device = network.backbone.cls_token.device
    predictor = R3Predictor(
        network,
        ModelInfo('r3', str(device), precision),
        ModelConfig(name='r3', image_size=image_size),
        CacheBudget((count + 1) * 64 * _MIB, 1024 * _MIB),
        device,
    )

    def ours(frame: Frame) -> DepthMap:
        predictor.describe(frame)
        return predictor.predict(frame, range(frame.frame_id)).depths[0]

    with closing(predictor):
        for number in range(count):
            found, a, cpu_a = timed(ours, _noise(number, *_OFFICIAL_SOURCE))
            expected, b, cpu_b = timed(official.step, found.image)
            difference = float(np.abs(np.log(found.depth) - np.log(expected)).max())
            yield Turn(a, b, cpu_a, cpu_b), difference


# The same network without a cache


def _whole_pass(config: R3Config, rounds: int) -> Comparison:
    """Compare steps of a stream with passes over the new frame and its whole context."""
    from ..factory import load_predictor

    stream = config.stream
    context = stream.recent_frames + stream.recent_keyframes + stream.retrieved_keyframes
    # First, since torch may be missing.
    with closing(load_predictor(config)) as predictor:
        import torch

        from ..model.multi_view import MultiViewNetwork
        from ..model.network import PairNetwork
        from ..model.network_predictor import NetworkPredictor
        from ..model.r3_predictor import geometry_rule

        network = predictor.network if isinstance(predictor, NetworkPredictor) else None
        if not isinstance(network, PairNetwork | MultiViewNetwork):
            raise ConfigError(
                '--against torch needs a network that relates many frames in one pass, '
                f"model.name is '{config.model.name}': add --model r3_tiny or another one"
            )
        assert isinstance(predictor, NetworkPredictor)
        if isinstance(network, MultiViewNetwork):
            context = min(context, config.model.context_frames)
        frames = [_noise(number, 640, 480) for number in range(context + rounds)]
        geometry = geometry_rule(network, predictor.image_size)(640, 480)
        device = torch.device(predictor.info.device)
        pixels = [torch.from_numpy(geometry.apply(frame.image).copy()) for frame in frames]

        def step(number: int) -> Any:
            predictor.describe(frames[number])
            answer = predictor.predict(frames[number], range(max(0, number - context), number))
            predictor.forget([number - context])
            return answer

        @torch.inference_mode()
        def whole_pass(number: int) -> Any:
            clip = torch.stack(pixels[number - context : number + 1]).permute(0, 3, 1, 2)
            return _related(network, clip.to(device)).cpu()

        for number in range(context):
            step(number)
        whole_pass(context)
        turns = in_turns(step, whole_pass, range(context, context + rounds))
        return Comparison.of(f'{predictor.info.name}, {context} context frames', turns)


def _related(network: Any, clip: torch.Tensor) -> torch.Tensor:
    """Return the depth of all frames (S, 3, H, W) from one pass."""
    from ..model.network import PairNetwork

    if isinstance(network, PairNetwork):
        depth = network(clip[None], causal=True).depth
    else:
        depth = network.relate(network.encode(clip)).depth
    return depth


# Search of keyframes


def _faiss(config: R3Config, rounds: int) -> Iterator[Comparison]:
    """Compare the search of keyframes with a flat index of inner products, on the host."""
    import faiss
    import numpy as np

    from ..streaming.keyframes.retrieval import Query, RetrievalIndex, RetrievalWeights
    from ..streaming.keyframes.view_overlap import CameraView

    faiss.omp_set_num_threads(1)  # as NumPy's products, see commands/cli.py
    stream = config.stream
    k = max(stream.retrieved_keyframes, 1)
    every_term = RetrievalWeights(
        stream.retrieval_similarity, stream.retrieval_overlap, stream.retrieval_confidence
    )
    random = np.random.default_rng(0)
    largest = max(_BANKS)
    descriptors = random.normal(size=(largest + rounds, _DESCRIPTOR)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    places = np.tile(np.eye(4), (largest + 1, 1, 1))
    places[:, :3, 3] = random.uniform(-5.0, 5.0, (largest + 1, 3))
    views = [CameraView(T, (-0.6, 0.6, -0.4, 0.4), 1.0) for T in places]
    asked = descriptors[largest:]
    similar = [Query(descriptor) for descriptor in asked]
    scored = [Query(descriptor, every_term, views[-1], largest) for descriptor in asked]

    def compared(count: int, what: str, queries: Sequence[Query]) -> Comparison:
        ours, theirs = RetrievalIndex(count, _DESCRIPTOR), faiss.IndexFlatIP(_DESCRIPTOR)
        for slot in range(count):
            ours.put(slot, descriptors[slot], views[slot])
        theirs.add(descriptors[:count])
        turns = in_turns(
            lambda n: ours.retrieve(queries[n], k),
            lambda n: theirs.search(asked[n : n + 1], k),
            range(rounds),
        )
        return Comparison.of(f'{count} keyframes, {what}', turns)

    for count in _BANKS:
        yield compared(count, 'similarity alone', similar)
        yield compared(count, 'every term', scored)


# ORB-SLAM3


def _orbslam3(folder: Path, config: R3Config, quick: bool) -> Comparison:
    """Compare the time to track a frame, of one run after another."""
    from ..factory import load_engine
    from ..input.open_source import open_source
    from ..offline.stream_run import Undistorter

    program, vocabulary = (
        folder.resolve() / part
        for part in ('Examples/Monocular/mono_tum', 'Vocabulary/ORBvoc.txt')
    )
    for file in (program, vocabulary):
        if not file.is_file():
            raise SourceError(
                f'there is no {file}: build ORB-SLAM3 as its README says (build.sh also unpacks '
                'the vocabulary)'
            )
    with closing(load_engine(config)) as engine:
        with rendered_folder(QUICK_FRAMES if quick else FRAMES) as walk:
            theirs_ms = _tracking_ms(program, vocabulary, walk)
            with open_source(walk) as source:
                assert source.camera is not None
                undistorter = Undistorter(source.camera)
                frames = [undistorter.frame(raw) for raw in source]
        milliseconds = [timed(engine.step, frame)[1] for frame in frames]
        ours_ms = median(milliseconds)
    what = f'{engine.predictor.info.name}, step of the engine; ORB-SLAM3, tracking'
    return Comparison(what, len(frames), ours_ms, theirs_ms, ours_ms / theirs_ms, None)


def _tracking_ms(program: Path, vocabulary: Path, walk: Path) -> float:
    """Run its example for sequences of TUM RGB-D; return the median that it prints.

    :raises SourceError: it fails.
    """
    from ..input.folder_source import FolderSource
    from ..input.open_source import open_source

    with open_source(walk) as source:
        camera = source.camera
        assert camera is not None and isinstance(source, FolderSource)
        # As in that data set: three lines of comments, then seconds and paths.
        listed = [f'{ns / 1e9:.6f} {Path(path).relative_to(walk)}' for ns, path in source.entries]
        (walk / 'rgb.txt').write_text('\n'.join(['#', '#', '#', *listed]) + '\n')
        period_ns = source.entries[1][0] - source.entries[0][0]
        (walk / 'settings.yaml').write_text(_settings(camera, round(1e9 / period_ns)))
    command = [str(program), str(vocabulary), str(walk / 'settings.yaml'), str(walk)]
    done = subprocess.run(command, cwd=walk, capture_output=True, text=True, check=False)
    found = re.search(r'median tracking time: ([\d.e+-]+)', done.stdout)
    if done.returncode or not found:
        lines = (done.stderr.strip() or done.stdout.strip() or 'it says nothing').splitlines()
        raise SourceError(
            f'{program} failed with status {done.returncode}: {lines[-1]}; it opens a window, so '
            'without a display run r3 under xvfb-run'
        )
    return 1e3 * float(found[1])


def _settings(camera: CameraModel, rate_hz: int) -> str:
    """Return settings of ORB-SLAM3 for an undistorted camera; those of its examples otherwise."""
    K = camera.K
    values: Mapping[str, object] = {
        'File.version': '"1.0"',
        'Camera.type': '"PinHole"',
        **{'Camera1.fx': K[0, 0], 'Camera1.fy': K[1, 1], 'Camera1.cx': K[0, 2]},
        **{'Camera1.cy': K[1, 2], 'Camera.width': camera.width, 'Camera.height': camera.height},
        **{'Camera.fps': rate_hz, 'Camera.RGB': 0},  # as OpenCV reads files
        **{'ORBextractor.nFeatures': 1000, 'ORBextractor.scaleFactor': 1.2},
        **{'ORBextractor.nLevels': 8, 'ORBextractor.iniThFAST': 20, 'ORBextractor.minThFAST': 7},
        **{f'Viewer.{name}': 1.0 for name in ('KeyFrameLineWidth', 'GraphLineWidth', 'PointSize')},
        **{f'Viewer.{name}': 1.0 for name in ('KeyFrameSize', 'CameraSize', 'CameraLineWidth')},
        **{'Viewer.ViewpointX': 0.0, 'Viewer.ViewpointY': -1.0, 'Viewer.ViewpointZ': -2.0},
        'Viewer.ViewpointF': 500.0,
    }
    return '\n'.join(['%YAML:1.0', *(f'{name}: {value}' for name, value in values.items())]) + '\n'
