"""Poses and intrinsics from pair outputs, by the authors' rules, and files of nothing else.

Poses are encoded (:mod:`r3_ros.core.pose_encoding`) as world-to-camera. An edge takes camera i's
coordinates to camera j's, so the pose of j is the edge after the pose of i.
"""

from __future__ import annotations

import re

import numpy as np
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import inverse, T_from_quat
from scipy.spatial.transform import Rotation

from .comparison import Output
from .golden import Golden

#: Candidates that the authors' model class keeps.
DEFAULT_TOP = 1000
#: Below this Depth Anything 3's decoder cuts off the tangent of half a field of view; R3's does
#: not.
SMALLEST_TANGENT = 1e-6
#: How near to 0 the last part of a quaternion is where rounding may choose its sign.
_NEAR_ZERO = 1e-4


def pose_outputs(golden: Golden) -> dict[str, Output]:
    """Assemble the poses of a file of pair outputs.

    :raises SourceError: an input is missing or has the wrong shape.
    """
    rel, conf_t, conf_r, mask = _pair_inputs(golden)
    outputs: dict[str, Output] = {}
    composed = golden.arrays.get('composed')
    if composed is not None:
        ours = np.stack([_composed(rel[0, k], rel[k, 0]) for k in range(1, len(rel))])
        outputs['composed'] = Output(with_signs_of(ours, composed))
    for top in {name.split('.')[0] for name in golden.arrays}:
        if not re.fullmatch(r'top[1-9]\d*', top):
            continue
        poses = resolve_poses(rel, conf_t, conf_r, mask, int(top.removeprefix('top')))
        stored = golden.named(top)
        K = stored.get('intrinsics')
        width, height = (1.0, 1.0) if K is None else 2 * K[0, :2, 2]
        arrays = camera_arrays(poses, width, height, stored.get('pose_enc'))
        outputs |= {f'{top}.{name}': Output(array) for name, array in arrays.items()}
    return outputs


def camera_arrays(
    poses: np.ndarray, width: float, height: float, golden: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return what golden files hold of (S, 9) world-to-camera encodings.

    :param golden: the golden encodings, if there are any.
    """
    T_camera_world = decoded(poses)
    return {
        'pose_enc': poses if golden is None else with_signs_of(poses, golden),
        'w2c': T_camera_world[:, :3],
        'c2w': inverse(T_camera_world)[:, :3],
        'intrinsics': intrinsics_of(poses[:, 7:9], width, height),
    }


def decoded(encodings: np.ndarray) -> np.ndarray:
    """Return (..., 4, 4) motions of (..., 9) encodings."""
    return T_from_quat(encodings[..., :3], encodings[..., 3:7])


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


def resolve_poses(
    rel: np.ndarray,
    conf_t: np.ndarray,
    conf_r: np.ndarray,
    mask: np.ndarray,
    top: int | None = None,
) -> np.ndarray:
    """Return (S, 9) poses of frames in order, each from its edges to the frames before it.

    :param rel: (S, S, 9) edges, row to column; the diagonal carries each frame's field of view.
    :param conf_t: (S, S) logits for translation; ``conf_r``: for rotation.
    :param mask: (S, S) bool, edges that exist.
    :param top: edges kept, best translation logit first; None: all, oldest first, as in a stream.
    """
    poses = np.zeros((len(rel), 9))
    poses[0, 6] = 1.0
    poses[0, 7:9] = rel[0, 0, 7:9]
    for j in range(1, len(rel)):
        sources = np.flatnonzero(mask[:j, j])
        if top is not None:
            sources = sources[np.argsort(-conf_t[sources, j], kind='stable')][:top]
        if not len(sources):
            poses[j] = poses[j - 1]
            continue
        candidates = np.stack([_composed(rel[i, j], poses[i]) for i in sources])
        poses[j] = _average(candidates, _softmax(conf_t[sources, j]), _softmax(conf_r[sources, j]))
        if poses[j, 6] < 0:
            poses[j, 3:7] *= -1
    return poses


def _composed(edge: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return the (9,) pose of an edge's target, given its source's; field of view of the edge."""
    rotation = Rotation.from_quat(edge[3:7])
    quat = (rotation * Rotation.from_quat(pose[3:7])).as_quat(canonical=True)
    return np.concatenate([rotation.apply(pose[:3]) + edge[:3], quat, edge[7:9]])


def _average(candidates: np.ndarray, weights_t: np.ndarray, weights_r: np.ndarray) -> np.ndarray:
    """Return the weighted mean (9,) of (N, 9): quaternions with the sign of the first one's."""
    quats = candidates[:, 3:7]
    quat = weights_r @ (quats * np.where(quats @ quats[0] < 0, -1.0, 1.0)[:, None])
    return np.concatenate(
        [
            weights_t @ candidates[:, :3],
            quat / np.linalg.norm(quat),
            weights_t @ candidates[:, 7:9],
        ]
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _pair_inputs(golden: Golden) -> list[np.ndarray]:
    names = ('rel_pose_enc', 'conf_t', 'conf_r', 'mask')
    missing = [name for name in names if name not in golden.arrays]
    if missing:
        raise SourceError(f'it lacks {", ".join(missing)}: without them there are no poses')
    rel, conf_t, conf_r, mask = (golden.arrays[name] for name in names)
    S = len(rel) if rel.ndim else 0
    shapes = [array.shape for array in (rel, conf_t, conf_r, mask)]
    if not S or shapes != [(S, S, 9), (S, S), (S, S), (S, S)]:
        raise SourceError(f'{", ".join(names)} have shapes that do not fit: {shapes}')
    return [array.astype(np.float64) for array in (rel, conf_t, conf_r)] + [mask.astype(bool)]
