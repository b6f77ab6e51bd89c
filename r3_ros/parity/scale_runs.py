"""Scales between segments, and what is made of the frames that two segments share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import re

import numpy as np

from ..errors import R3Error, SourceError
from ..streaming.official.bridge import fuse_depth, fuse_pose
from ..streaming.official.scale import (
    chosen_scale,
    huber_scale,
    median_scale,
    metric_scale,
    pose_scale,
    ransac_scale,
)
from .arrays import Answer, Answers, ArrayKind
from .golden import Golden
from .input_shapes import check_shapes
from .pose_rule_runs import signed_as
from .tolerances import Quantity

_DEPTHS = {'old': 'nhw', 'new': 'nhw', 'old_conf': 'nhw', 'new_conf': 'nhw'}
#: A case's true scale, which nothing is compared with.
_TRUTH = 'true'
#: The case whose first frame is fused.
_FUSED_CASE = 'noisy'
_CHOICE = {'pose': 'n', 'depth': 'n', 'depth_is_none': 'n'}
_DISTANCES = {'old': 'n9', 'new': 'n9', 'conf': 'n'}
_METRES = {'pred': 'bnhw', 'metric': 'bnhw', 'conf': 'bnhw'}
_BRIDGE = {
    'ref': 'n9',
    'old_rel': 'n9',
    'new_rel': 'n9',
    'old_score': 'n',
    'new_score': 'n',
    'scale': 'n',
}
_DEPTH_SCALE = 'depth_scale'

_Stored = dict[str, np.ndarray]
_Found = Iterator[tuple[str, Answer]]


def scale_answers(golden: Golden) -> Answers:
    """Compute every scale and fusion of a file."""
    values: dict[str, Answer | str] = {}
    inputs: set[str] = set()
    for prefix in sorted({name.split('.')[0] for name in golden.arrays}):
        stored = golden.named(prefix)
        needed, compute = _RULES.get(prefix, (_DEPTHS, _estimates))
        if prefix == 'bridge' and {'depth', 'conf'} & stored.keys():
            stored |= {
                f'{_FUSED_CASE}.{name}': array for name, array in golden.named(_FUSED_CASE).items()
            }
        taken = {*needed, _TRUTH, _DEPTH_SCALE} & golden.named(prefix).keys()
        inputs |= {f'{prefix}.{name}' for name in taken}
        try:
            check_shapes(stored, needed)
            answers: dict[str, Answer | str] = dict(compute(stored))
        except R3Error as error:
            answers = {name: str(error) for name in golden.named(prefix) if name not in taken}
        values |= {f'{prefix}.{name}': answer for name, answer in answers.items()}
    return Answers(values, frozenset(inputs))


def _estimates(stored: _Stored) -> _Found:
    old, new, old_confidence, new_confidence = (list(stored[name]) for name in _DEPTHS)
    confidences = old_confidence, new_confidence
    for name, estimate in {
        'weighted_median': lambda: median_scale(old, new, *confidences),
        'weighted_median_noconf': lambda: median_scale(old, new),
        'huber': lambda: huber_scale(old, new),
        'huber_conf': lambda: huber_scale(old, new, *confidences),
    }.items():
        if name in stored:
            yield name, _repeated(estimate(), stored[name], Quantity.SCALE)
    for name, confidence in {'ransac': new_confidence, 'ransac_noconf': None}.items():
        if name in stored:
            # Draws of other seeds: they agree no better with one another than with theirs.
            drawn = [
                ransac_scale(old, new, confidence, np.random.default_rng(seed))
                for seed in range(stored[name].size)
            ]
            values = np.reshape(drawn, stored[name].shape)
            yield name, Answer(values, kind=_kind(values, Quantity.DRAWN))


def _choices(stored: _Stored) -> _Found:
    by_depth = [
        None if missing else float(depth)
        for depth, missing in zip(stored['depth'], stored['depth_is_none'], strict=True)
    ]
    chosen = [
        chosen_scale(float(by_pose), depth)
        for by_pose, depth in zip(stored['pose'], by_depth, strict=True)
    ]
    yield 'out', Answer(np.array(chosen), kind=ArrayKind(Quantity.SCALE, '.'))


def _distances(stored: _Stored) -> _Found:
    arrays = (stored[name].astype(np.float64) for name in _DISTANCES)
    yield 'out', _repeated(pose_scale(*arrays), stored.get('out'), Quantity.SCALE)


def _metres(stored: _Stored) -> _Found:
    metric, depth = (stored[name] for name in ('metric', 'pred'))
    for name, array in stored.items():
        match = re.fullmatch(r'out_(noconf|min(\d+(?:\.\d+)?))', name)
        if match is None:
            continue
        confidence = None if match[1] == 'noconf' else stored['conf']
        scale = metric_scale(metric, depth, confidence, float(match[2] or 0))
        value = float('nan') if scale is None else scale
        yield name, _repeated(value, array, Quantity.SCALE)


def _fusions(stored: _Stored) -> _Found:
    columns = [stored[name].astype(np.float64) for name in _BRIDGE]
    poses = np.stack([fuse_pose(*row) for row in zip(*columns, strict=True)])
    if 'out' in stored:
        yield 'out', _fused_poses(poses, stored['out'])
    if not {'depth', 'conf'} & stored.keys():
        return
    views = [stored.get(f'{_FUSED_CASE}.{name}') for name in _DEPTHS]
    scale = stored.get(_DEPTH_SCALE)
    if scale is None or scale.size != 1 or any(view is None for view in views):
        raise SourceError(f'depths to fuse need {_DEPTH_SCALE} and the case {_FUSED_CASE}')
    old, new, *confidences = (view[0].astype(np.float64) for view in views if view is not None)
    depth, confidence = fuse_depth(old, new, confidences[0], confidences[1], float(scale))
    yield 'depth', Answer(depth, kind=ArrayKind(Quantity.DEPTH, '..'))
    yield 'conf', Answer(confidence, kind=ArrayKind(Quantity.DEPTH, '..'))


def _fused_poses(ours: np.ndarray, golden: np.ndarray) -> Answer:
    """Return fused poses; where neither side has a score, none is a pose in either."""
    kind = ArrayKind(Quantity.POSES, '..')
    if golden.shape != ours.shape:
        return Answer(ours, kind=kind)
    none = np.isnan(ours).all(axis=1) & np.isnan(golden).any(axis=1)
    signed = signed_as(ours, golden)
    signed[none] = golden[none]
    return Answer(signed, kind=kind)


def _repeated(value: float, golden: np.ndarray | None, quantity: Quantity) -> Answer:
    """Return a scale as often as the file holds it."""
    shape = () if golden is None else golden.shape
    values = np.full(shape, value)
    return Answer(values, kind=_kind(values, quantity))


def _kind(values: np.ndarray, quantity: Quantity) -> ArrayKind:
    return ArrayKind(quantity, '.' * values.ndim)


_RULES: dict[str, tuple[dict[str, str], Callable[[_Stored], _Found]]] = {
    'resolve': (_CHOICE, _choices),
    'posescale': (_DISTANCES, _distances),
    'metric': (_METRES, _metres),
    'bridge': (_BRIDGE, _fusions),
}
