"""How far poses are from an edge, and how that changes as the poses move.

Everything is on arrays of E edges. Quaternions are ``xyzw``; those of the poses are unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Where the smooth L1 loss turns from square to straight, in units of length.
_BEND = 0.1
_CONJUGATE = np.array([-1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class EdgeErrors:
    """Losses of edges, and what their gradients are made of.

    :ivar t: (E,) loss of the translation; ``r``: of the rotation, ``1 - abs(cos(angle / 2))``.
    :ivar square: (E,) squared length of the difference of the translations.
    """

    t: np.ndarray
    r: np.ndarray
    square: np.ndarray
    difference: np.ndarray
    t_slope: np.ndarray
    edge_quats: np.ndarray
    cosines: np.ndarray
    source: np.ndarray
    target: np.ndarray


def edge_losses(
    poses: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
    edges: np.ndarray,
    geman_mcclure: float,
) -> EdgeErrors:
    """Return the losses of edges under (N, 7) poses.

    :param edges: (E, 7); ``geman_mcclure``: see
        :class:`~r3_ros.streaming.official.pose_graph.GraphOptions`.
    """
    source, target = poses[sources], poses[targets]
    centre = rotate(source[:, 3:] * _CONJUGATE, source[:, :3])
    difference = target[:, :3] - rotate(target[:, 3:], centre) - edges[:, :3]
    square = (difference**2).sum(axis=1)
    if geman_mcclure > 0:
        limit = square + geman_mcclure**2
        loss = square / limit
        slope = difference * (2 * geman_mcclure**2 / limit**2)[:, None]
    else:
        size = np.abs(difference)
        within = size < _BEND
        loss = np.where(within, difference**2 / (2 * _BEND), size - _BEND / 2).mean(axis=1)
        slope = np.where(within, difference / _BEND, np.sign(difference)) / 3
    quats = edges[:, 3:] / np.linalg.norm(edges[:, 3:], axis=1, keepdims=True)
    cosines = (multiply(quats, source[:, 3:]) * target[:, 3:]).sum(axis=1)
    return EdgeErrors(
        t=loss,
        r=1 - np.abs(cosines),
        square=square,
        difference=difference,
        t_slope=slope,
        edge_quats=quats,
        cosines=cosines,
        source=source,
        target=target,
    )


def edge_loss_gradients(
    errors: EdgeErrors,
    sources: np.ndarray,
    targets: np.ndarray,
    by_t: np.ndarray,
    by_r: np.ndarray,
    by_square: np.ndarray,
    count: int,
) -> np.ndarray:
    """Return the (N, 7) gradient by the poses of a sum whose derivatives by the losses are given.

    :param by_t: (E,) derivative by the loss of the translation; ``by_r``, ``by_square`` likewise.
    :param count: N.
    """
    q_source, q_target = errors.source[:, 3:], errors.target[:, 3:]
    pull = by_t[:, None] * errors.t_slope + 2 * by_square[:, None] * errors.difference
    turn = -by_r * np.sign(errors.cosines)
    centre = rotate(q_source * _CONJUGATE, errors.source[:, :3])
    pull_in_source = rotate(q_target * _CONJUGATE, pull)
    of_target = np.zeros((len(pull), 7))
    of_target[:, :3] = pull
    of_target[:, 3:] = -_by_quat(q_target, centre, pull)
    of_target[:, 3:] += turn[:, None] * multiply(errors.edge_quats, q_source)
    of_source = np.zeros((len(pull), 7))
    of_source[:, :3] = -rotate(q_source, pull_in_source)
    by_conjugate = -_by_quat(q_source * _CONJUGATE, errors.source[:, :3], pull_in_source)
    of_source[:, 3:] = by_conjugate * _CONJUGATE
    of_source[:, 3:] += turn[:, None] * multiply(errors.edge_quats * _CONJUGATE, q_target)
    gradient = np.zeros((count, 7))
    np.add.at(gradient, targets, of_target)
    np.add.at(gradient, sources, of_source)
    return gradient


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (..., 4) products of quaternions: first b, then a."""
    ax, ay, az, aw = np.moveaxis(a, -1, 0)
    bx, by, bz, bw = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        axis=-1,
    )


def rotate(quats: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return (..., 3) vectors turned by unit quaternions."""
    axis, w = quats[..., :3], quats[..., 3:]
    across = np.cross(axis, vectors)
    return vectors + 2 * (w * across + np.cross(axis, across))


def _by_quat(quats: np.ndarray, vectors: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Return the derivatives of ``pull . rotate(q, v)`` by the parts of q, (..., 4)."""
    axis, w = quats[..., :3], quats[..., 3:]
    pull_vector = (pull * vectors).sum(axis=-1, keepdims=True)
    pull_axis = (pull * axis).sum(axis=-1, keepdims=True)
    vector_axis = (vectors * axis).sum(axis=-1, keepdims=True)
    by_axis = 2 * w * np.cross(vectors, pull)
    by_axis = by_axis + 2 * (pull * vector_axis + vectors * pull_axis - 2 * axis * pull_vector)
    by_w = 2 * (pull * np.cross(axis, vectors)).sum(axis=-1, keepdims=True)
    return np.concatenate([by_axis, by_w], axis=-1)
