"""Poses and intrinsics from pair outputs, by the authors' rules, and files of nothing else."""

from __future__ import annotations

import re

import numpy as np

from ..errors import SourceError
from ..geometry import inverse
from ..pose_encoding import decode_pose
from ..streaming.official import (
    compose_encodings,
    GreedyOptions,
    resolve_greedy,
    resolve_online,
)
from .arrays import Answer, Answers
from .golden import Golden

#: Candidates that the authors' model class keeps.
DEFAULT_TOP = 1000
#: Below this Depth Anything 3's decoder cuts off the tangent of half a field of view; R3's does
#: not.
SMALLEST_TANGENT = 1e-6

_INPUTS = ('rel_pose_enc', 'conf_t', 'conf_r', 'mask')
#: How near to 0 the last part of a quaternion is where rounding may choose its sign.
_NEAR_ZERO = 1e-4


def pose_answers(golden: Golden) -> Answers:
    """Assemble the poses of a file of pair outputs.

    :raises SourceError: an input is missing or has the wrong shape.
    """
    rel, conf_t, conf_r, mask = _pair_inputs(golden)
    values: dict[str, Answer | str] = {}
    composed = [compose_encodings(rel[0, k], rel[k, 0]) for k in range(1, len(rel))]
    if composed:
        values['composed'] = Answer(np.stack(composed))
    for top in sorted({name.split('.')[0] for name in golden.arrays if '.' in name}):
        if not re.fullmatch(r'top[1-9]\d*', top):
            continue
        options = GreedyOptions(topn=int(top.removeprefix('top')))
        poses = resolve_greedy(rel, conf_t, conf_r, mask, options)
        stored = golden.named(top)
        size = _picture_size(stored.get('intrinsics'))
        for name, value in camera_arrays(poses, *size, stored.get('pose_enc')).items():
            values[f'{top}.{name}'] = Answer(value)
    if 'composed' in golden.arrays and 'composed' in values:
        ours = np.stack(composed)
        values['composed'] = Answer(with_signs_of(ours, golden.arrays['composed']))
    return Answers(values, frozenset(_INPUTS))


def camera_arrays(
    poses: np.ndarray, width: float, height: float, golden: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return what golden files tell of (S, 9) world-to-camera encodings.

    :param golden: the golden encodings, if there are any.
    """
    T_camera_world = decode_pose(poses)
    return {
        'pose_enc': poses if golden is None else with_signs_of(poses, golden),
        'w2c': T_camera_world[:, :3],
        'c2w': inverse(T_camera_world)[:, :3],
        'intrinsics': intrinsics_of(poses[:, 7:9], width, height),
    }


def intrinsics_of(
    fov: np.ndarray, width: float, height: float, smallest_tangent: float = 0.0
) -> np.ndarray:
    """Return (S, 3, 3) intrinsics as the authors write them: the principal point at (W/2, H/2)."""
    tangents = np.maximum(np.tan(fov / 2), smallest_tangent)
    K = np.zeros((len(fov), 3, 3))
    with np.errstate(divide='ignore'):
        K[:, 0, 0] = width / 2 / tangents[:, 1]
        K[:, 1, 1] = height / 2 / tangents[:, 0]
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    return K


def with_signs_of(poses: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """Return encodings with the golden quaternions' signs, where rounding chose between the two.

    Both sides keep the last part of a quaternion positive; near 0 that decides nothing.
    """
    if poses.shape != golden.shape:
        return poses
    quats, others = poses[:, 3:7], golden[:, 3:7]
    flips = (np.abs(quats[:, 3]) < _NEAR_ZERO) & ((quats * others).sum(axis=1) < 0)
    signed = poses.copy()
    signed[flips, 3:7] *= -1
    return signed


def resolve_stream(
    rel: np.ndarray, conf_t: np.ndarray, conf_r: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Return (S, 9) poses of frames that came one by one, by the authors' streaming rule."""
    poses = np.zeros((len(rel), 9))
    poses[0, 6] = 1.0
    poses[0, 7:9] = rel[0, 0, 7:9]
    for j in range(1, len(rel)):
        poses[j] = resolve_online(
            rel[:j, j], poses[:j], conf_t[:j, j], conf_r[:j, j], mask[:j, j], DEFAULT_TOP
        )
        if poses[j, 6] < 0:
            poses[j, 3:7] *= -1
    return poses


def _pair_inputs(golden: Golden) -> list[np.ndarray]:
    missing = [name for name in _INPUTS if name not in golden.arrays]
    if missing:
        raise SourceError(f'it lacks {", ".join(missing)}: without them there are no poses')
    rel, conf_t, conf_r, mask = (golden.arrays[name] for name in _INPUTS)
    S = len(rel) if rel.ndim else 0
    shapes = [array.shape for array in (rel, conf_t, conf_r, mask)]
    if not S or shapes != [(S, S, 9), (S, S), (S, S), (S, S)]:
        raise SourceError(f'{", ".join(_INPUTS)} have shapes that do not fit: {shapes}')
    return [array.astype(np.float64) for array in (rel, conf_t, conf_r)] + [mask.astype(bool)]


def _picture_size(intrinsics: np.ndarray | None) -> tuple[float, float]:
    """Return width and height of the pictures of golden intrinsics; any will do without them."""
    if intrinsics is None or intrinsics.ndim != 3 or intrinsics.shape[1:] != (3, 3):
        return 1.0, 1.0
    return 2 * float(intrinsics[0, 0, 2]), 2 * float(intrinsics[0, 1, 2])
