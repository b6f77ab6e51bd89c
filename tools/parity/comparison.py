"""Comparison of one array of ours with the golden one: its kind, subsampling and bounds.

The float32 bounds are on the worst value. In bfloat16 and float16 the root mean square is bounded
too, and more tightly; these bounds are two to three times the errors of our own networks
(docs/parity.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import enum
import itertools
import math
import re

import numpy as np

#: A float32 confidence comes in steps of this above 1; it has no digits beyond them.
_CONFIDENCE_STEP = float(np.finfo(np.float32).eps)


class Measure(enum.Enum):
    """The unit of a difference; the value is the heading of a column."""

    SPREAD = 'spread'  # standard deviations of the golden array
    LOG = 'log'  # abs(log a - log b)
    VECTOR = 'relative'  # length of the difference over that of the golden vector
    LOG_ABOVE_ONE = 'log(c-1)'  # abs(log(a - 1) - log(b - 1))
    ABSOLUTE = 'absolute'
    RELATIVE = 'relative'  # to the golden value
    LEVELS = 'levels'  # of 255


class Quantity(enum.Enum):
    """Arrays with one bound: a column of the table."""

    INPUT = 'input'  # normalised input, tokens
    BACKBONE = 'backbone'  # blocks, features, camera tokens, projected camera feature
    HEAD = 'head'  # pyramid, rays, sky
    DEPTH = 'depth'
    CONFIDENCE = 'conf'
    POINTS = 'points'
    VECTORS = 'vectors'  # point maps and descriptors of image pairs
    PAIRS = 'pairs'  # raw output of the camera head
    POSES = 'poses'
    INTRINSICS = 'K'
    PIXELS = 'pixels'


MEASURES = {
    Quantity.INPUT: Measure.SPREAD,
    Quantity.BACKBONE: Measure.SPREAD,
    Quantity.HEAD: Measure.SPREAD,
    Quantity.DEPTH: Measure.LOG,
    Quantity.CONFIDENCE: Measure.LOG_ABOVE_ONE,
    Quantity.POINTS: Measure.SPREAD,
    Quantity.VECTORS: Measure.VECTOR,
    Quantity.PAIRS: Measure.ABSOLUTE,
    Quantity.POSES: Measure.ABSOLUTE,
    Quantity.INTRINSICS: Measure.RELATIVE,
    Quantity.PIXELS: Measure.LEVELS,
}


@dataclass(frozen=True)
class Bound:
    """The largest difference that passes.

    :ivar worst: of any value; ``rms``: the root of the mean square over an array.
    """

    worst: float
    rms: float = math.inf


_FLOAT32 = {
    Quantity.INPUT: Bound(2e-5),
    Quantity.BACKBONE: Bound(5e-5),
    Quantity.HEAD: Bound(2e-4),
    Quantity.DEPTH: Bound(5e-5),
    Quantity.CONFIDENCE: Bound(3e-4),
    Quantity.POINTS: Bound(5e-5),
    Quantity.VECTORS: Bound(1e-4),
    Quantity.PAIRS: Bound(1e-4),
    Quantity.POSES: Bound(5e-5),
    Quantity.INTRINSICS: Bound(1e-5),
    Quantity.PIXELS: Bound(0),
}
_BFLOAT16 = {
    Quantity.INPUT: Bound(0.05, rms=0.008),
    Quantity.BACKBONE: Bound(0.15, rms=0.03),
    Quantity.HEAD: Bound(0.3, rms=0.06),
    Quantity.DEPTH: Bound(0.15, rms=0.03),
    Quantity.CONFIDENCE: Bound(0.2, rms=0.035),
    Quantity.POINTS: Bound(0.1, rms=0.018),
    Quantity.VECTORS: Bound(0.3, rms=0.08),
    Quantity.PAIRS: Bound(0.15, rms=0.035),
    Quantity.POSES: Bound(0.3, rms=0.08),
    Quantity.INTRINSICS: Bound(0.01, rms=4e-3),
    Quantity.PIXELS: Bound(0),
}
_FLOAT16 = {
    Quantity.INPUT: Bound(6e-3, rms=1.2e-3),
    Quantity.BACKBONE: Bound(0.018, rms=4e-3),
    Quantity.HEAD: Bound(0.04, rms=0.01),
    Quantity.DEPTH: Bound(0.018, rms=4e-3),
    Quantity.CONFIDENCE: Bound(0.025, rms=4.5e-3),
    Quantity.POINTS: Bound(0.01, rms=2e-3),
    Quantity.VECTORS: Bound(0.04, rms=0.01),
    Quantity.PAIRS: Bound(0.012, rms=4.5e-3),
    Quantity.POSES: Bound(0.045, rms=0.012),
    Quantity.INTRINSICS: Bound(1.5e-3, rms=6e-4),
    Quantity.PIXELS: Bound(0),
}
#: By precision of the network's matrix products. Files without a network hold to the first.
EXACT = 'fp32'
BOUNDS = {EXACT: _FLOAT32, 'bf16': _BFLOAT16, 'fp16': _FLOAT16}
#: Of the intrinsics of VGGT and LingBot-Map, which four rounds of a camera head refine.
REFINED_INTRINSICS = {
    EXACT: _FLOAT32[Quantity.INTRINSICS],
    'bf16': Bound(0.03, rms=0.01),
    'fp16': Bound(3e-3, rms=1e-3),
}
#: Of pixels, where Pillow or OpenCV are of another version than those behind the golden files.
PIXELS_OTHER_LIBRARIES = Bound(2)
PILLOW_VERSION, OPENCV_VERSION = '13.0.0', '5.0.0'


@dataclass(frozen=True)
class ArrayKind:
    """The kind of an array.

    :ivar axes: a letter each: ``f`` frames (all of them), ``t`` subsampled by a step of its own,
        ``g`` rows or columns, subsampled together, ``.`` complete.
    """

    quantity: Quantity
    axes: str


@dataclass(frozen=True)
class Output:
    """An array computed by our code.

    :ivar values: without subsampling.
    :ivar counts: bool, of the shape of the values: entries to compare; None: all.
    """

    values: np.ndarray
    counts: np.ndarray | None = None


_PATTERNS = (
    (r'net_input_sample', Quantity.INPUT, 'f.gg'),
    (r'tokens_in', Quantity.INPUT, 'ftt'),
    (r'(block\d+|patches)', Quantity.BACKBONE, 'ftt'),
    (r'feat\d', Quantity.BACKBONE, 'ftt'),
    (r'cam_token\d', Quantity.BACKBONE, 'ft'),
    (r'cam_projected', Quantity.BACKBONE, 'ft'),
    (r'(layer\d_rn|refinenet\d)', Quantity.HEAD, 'ftgg'),
    (r'(depth|raw_depth)', Quantity.DEPTH, 'fgg'),
    (r'(depth|points)_conf', Quantity.CONFIDENCE, 'fgg'),
    (r'points', Quantity.POINTS, 'fgg.'),
    (r'ray', Quantity.HEAD, 'fgg.'),
    (r'(ray_conf|sky)', Quantity.HEAD, 'fgg'),
    (r'(points|descriptors)[12]', Quantity.VECTORS, 'fgg.'),
    (r'(descriptor_)?confidence[12]', Quantity.DEPTH, 'fgg'),
    (r'T_second_first|T_first_second', Quantity.POSES, '...'),
    (r'abs_pose_enc', Quantity.PAIRS, '..'),
    (r'rel_pose_enc(_last)?', Quantity.PAIRS, '...'),
    (r'rel_pose_(conf|conf_t|conf_r|mask)(_last)?', Quantity.PAIRS, '..'),
    (r'reference_view', Quantity.PAIRS, ''),
    (r'(pose_enc|composed)', Quantity.POSES, '..'),
    (r'(w2c|c2w|extrinsics)', Quantity.POSES, '...'),
    (r'intrinsics', Quantity.INTRINSICS, '...'),
    (r'pixels', Quantity.PIXELS, '...'),
)


def kind_of(name: str) -> ArrayKind | None:
    """Return the kind of an array by its name without prefix; None if unknown."""
    for pattern, quantity, axes in _PATTERNS:
        if re.fullmatch(pattern, name):
            return ArrayKind(quantity, axes)
    return None


@dataclass(frozen=True)
class Difference:
    """How far an array of ours is from the golden one, in its measure.

    :ivar worst: of any value; infinite where one of the two alone is no number.
    :ivar rms: root of the mean square.
    :ivar where: index of the worst value in the golden array.
    :ivar steps: subsampling of our array, per axis.
    """

    worst: float
    rms: float
    where: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class ArrayResult:
    """The result of one array.

    :ivar quantity: None for an unknown array.
    :ivar problem: the reason why it could not be compared, or None.
    """

    name: str
    quantity: Quantity | None
    difference: Difference | None = None
    bound: Bound | None = None
    problem: str | None = None

    @property
    def load(self) -> float:
        """The difference as a share of its bound; more than 1 fails."""
        if self.difference is None or self.bound is None:
            return float('inf')
        return max(
            _share(self.difference.worst, self.bound.worst),
            _share(self.difference.rms, self.bound.rms),
        )

    @property
    def passed(self) -> bool:
        """Whether the difference is within its bound."""
        return self.load <= 1


def compare(
    name: str, kind: ArrayKind, golden: np.ndarray, output: Output, bound: Bound
) -> ArrayResult:
    """Compare a golden array with ours, subsampled to the same shape.

    Of several steps that give the shape, those with the smallest difference are taken.
    """
    if golden.dtype.kind not in 'biuf':
        problem = f'it holds {golden.dtype}, numbers are needed'
        return ArrayResult(name, kind.quantity, problem=problem)
    if golden.size == 0 and golden.shape == output.values.shape:
        return ArrayResult(name, kind.quantity, Difference(0.0, 0.0), bound)
    if golden.size == 0:
        return ArrayResult(name, kind.quantity, problem=f'it is empty: {golden.shape}')
    measure = MEASURES[kind.quantity]
    best: Difference | None = None
    for steps in thinning_steps(kind.axes, output.values.shape, golden.shape):
        thinned = tuple(slice(None, None, step) for step in steps)
        counts = None if output.counts is None else output.counts[thinned]
        difference = measured(measure, golden, output.values[thinned], counts, steps)
        if best is None or difference.worst < best.worst:
            best = difference
    if best is None:
        problem = f'its shape is {golden.shape}, which ours, {output.values.shape}, cannot give'
        return ArrayResult(name, kind.quantity, problem=problem)
    return ArrayResult(name, kind.quantity, best, bound)


def thinning_steps(
    axes: str, full: tuple[int, ...], stored: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    """Yield the steps per axis that make an array of one shape from one of another.

    Rows and columns have one step in common, unless none fits both.
    """
    if not len(axes) == len(full) == len(stored):
        return
    ranges = []
    for axis, n, m in zip(axes, full, stored, strict=True):
        lowest, highest = _step_range(n, m)
        if axis not in 'tg':
            highest = min(highest, 1)
        if lowest > highest:
            return
        ranges.append((lowest, highest))
    grid = [i for i, axis in enumerate(axes) if axis == 'g']
    if grid:
        common = max(ranges[i][0] for i in grid), min(ranges[i][1] for i in grid)
        if common[0] <= common[1]:
            for step in _steps(common):
                fixed = [(step, step) if i in grid else r for i, r in enumerate(ranges)]
                yield from itertools.product(*map(_steps, fixed))
            return
    yield from itertools.product(*map(_steps, ranges))


def _step_range(full: int, stored: int) -> tuple[int, float]:
    """Return the least and greatest step with ``ceil(full / step) == stored``."""
    if not 0 < stored <= full:
        return 1, 0
    lowest = -(-full // stored)
    return lowest, math.inf if stored == 1 else -(-full // (stored - 1)) - 1


def _steps(limits: tuple[int, float]) -> list[int]:
    """Return the steps of a range; one of no end leaves a single value, whatever the step."""
    lowest, highest = limits
    return [lowest] if math.isinf(highest) else list(range(lowest, int(highest) + 1))


def measured(
    measure: Measure,
    golden: np.ndarray,
    ours: np.ndarray,
    counts: np.ndarray | None = None,
    steps: tuple[int, ...] = (),
) -> Difference:
    """Return the difference of two arrays of one shape, at the entries that count."""
    a, b = golden.astype(np.float64), ours.astype(np.float64)
    with np.errstate(all='ignore'):
        errors = np.asarray(_errors(measure, a, b))
    # Equal infinities, as of a focal length, agree; a single NaN does not.
    if measure is not Measure.VECTOR:
        errors = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, errors)
    errors = np.where(np.isnan(errors), np.inf, errors)
    counted = errors.size
    if counts is not None:
        errors, counted = np.where(counts, errors, 0.0), int(counts.sum())
    where = np.unravel_index(int(errors.argmax()), errors.shape) if errors.shape else ()
    return Difference(
        worst=float(errors.max()),
        rms=float(np.sqrt((errors**2).sum() / max(1, counted))),
        where=tuple(int(i) for i in where),
        steps=steps,
    )


def _errors(measure: Measure, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if measure is Measure.SPREAD:
        # An array of one value has no spread: its difference is absolute.
        return np.abs(a - b) / (a.std() or 1.0)
    if measure is Measure.VECTOR:
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        length = np.linalg.norm(np.where(np.isfinite(a), a, 0.0), axis=-1)
        return np.linalg.norm(np.where(same, 0.0, a - b), axis=-1) / np.where(
            length > 0, length, 1.0
        )
    if measure is Measure.LOG:
        return np.abs(np.log(a) - np.log(b))
    if measure is Measure.LOG_ABOVE_ONE:
        return _confidence_errors(a, b)
    if measure is Measure.RELATIVE:
        scale = np.abs(a)
        return np.abs(a - b) / np.where(scale > 0, scale, 1.0)
    return np.abs(a - b)


def _confidence_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return abs(log(a - 1) - log(b - 1)), without differences of one float32 step.

    Near 1 a step is a large part of ``a - 1``.
    """
    lower, difference = np.minimum(a, b) - 1, np.abs(a - b)
    beyond = np.maximum(difference - _CONFIDENCE_STEP, 0.0)
    return np.log1p(beyond / np.maximum(lower, _CONFIDENCE_STEP)) + np.where(lower < 0, np.inf, 0)


def _share(value: float, bound: float) -> float:
    if bound == 0:
        return 0.0 if value == 0 else float('inf')
    return value / bound
