"""The motion of a pair of frames from their matches and depth, by robust least squares.

Shapes: P pairs, Q points of each frame. Images are in normalised coordinates, (x - cx) / fx and
(y - cy) / fy; the depth of both frames is in one unit, best near 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: From the first iteration to the last but two: with exact depth, then with depth as uncertain as
#: it is said to be. A pixel of a 112 pixels wide image is about 0.012.
_FIRST_NOISE, _FIRST_ITERATIONS = (0.3, 0.015), 10
_LAST_NOISE, _LAST_ITERATIONS = (0.01, 0.005), 5
_DAMPING = 1e-4
#: Longest step of an iteration, radians and units of depth together.
_LONGEST_STEP = 0.7
#: Points must be at least so far in front of a camera.
_NEAREST = 0.05


class MatchedPoints(NamedTuple):
    """Points of one frame, seen in the other one.

    :ivar points: (P, Q, 3) in the frame's own camera.
    :ivar seen: (P, Q, 2) normalised coordinates of their matches in the other frame.
    :ivar weight: (P, Q), 0 to 1.
    :ivar depth_noise: (P, Q) standard deviations of the logarithm of their depth. The depth is not
        corrected, so a value twice too large does less harm than one that is right.
    """

    points: Tensor
    seen: Tensor
    weight: Tensor
    depth_noise: Tensor


class Motions(NamedTuple):
    """Motions ``X_j = R X_i + t`` and what the solution says of its certainty.

    :ivar rotation: (P, 3, 3); ``translation``: (P, 3).
    :ivar square: (P,) weighted mean square residual.
    :ivar information: (P, 6, 6) normal matrix of (translation, rotation), per unit noise.
    """

    rotation: Tensor
    translation: Tensor
    square: Tensor
    information: Tensor


def solve_motions(source: MatchedPoints, target: MatchedPoints) -> Motions:
    """Solve for the motions from frames i to frames j, starting with none.

    Gauss-Newton on the reprojections in both directions with a robust weight
    ``1 / (1 + e)``, e the square residual over the noise. Depth D of a point, known to a share
    sigma_d, moves its projection along g, the derivative by log D: with match noise s the inverse
    covariance of a residual is ``(I - k g g^T) / s^2``, ``k = sigma_d^2 / (s^2 + sigma_d^2 g^2)``.

    :param source: points of i seen in j; ``target``: points of j seen in i.
    """
    P = len(source.points)
    R = torch.eye(3, device=source.points.device).expand(P, 3, 3)
    motions = Motions(R, R.new_zeros(P, 3), R.new_zeros(P), R.new_zeros(P, 6, 6))
    seen = torch.cat([source.seen, target.seen], dim=1)
    weight = torch.cat([source.weight, target.weight], dim=1)
    of_depth = torch.cat([source.depth_noise, target.depth_noise], dim=1)
    for noise, depth_noise, count in (
        (_FIRST_NOISE, torch.zeros_like(of_depth), _FIRST_ITERATIONS),
        (_LAST_NOISE, of_depth, _LAST_ITERATIONS),
    ):
        for k in range(count):
            share = min(1.0, k / (count - 3))
            s = noise[0] * (noise[1] / noise[0]) ** share
            points = _projected(motions, source.points, target.points, seen)
            motions = _improved(motions, points, weight, s, depth_noise)
    return motions


class _Projected(NamedTuple):
    """Points of i in j and after them those of j in i, (P, 2Q, ...).

    A perturbation (translation, rotation) of the motion from the left changes the projections by
    ``A [I, -[about]x]``; a change of the points' log depth by ``A along``.

    :ivar A: (..., 2, 3); ``about``, ``along``: (..., 3); ``offset``: (..., 2) residuals.
    :ivar ahead: (...,) whether the point is in front of the camera that sees it.
    """

    A: Tensor
    about: Tensor
    along: Tensor
    offset: Tensor
    ahead: Tensor


def _projected(motions: Motions, source: Tensor, target: Tensor, seen: Tensor) -> _Projected:
    """Project the points (P, Q, 3) of both frames into the other one."""
    R, t = motions.rotation, motions.translation[:, None]
    turned = source @ R.mT
    moved = turned + t
    points = torch.cat([moved, (target - t) @ R], dim=1)
    z = points[..., 2:].clamp(min=_NEAREST)
    projected = points[..., :2] / z
    A = torch.zeros(*z.shape[:2], 2, 3, device=z.device)
    A[..., 0, 0] = A[..., 1, 1] = 1
    A[..., 2] = -projected
    A /= z[..., None]
    # X_i = R^T (X_j - t): a perturbation moves the points of j the other way, seen from there.
    Q = source.shape[1]
    A[:, Q:] = -(A[:, Q:].flatten(1, 2) @ R.mT).unflatten(1, (-1, 2))
    about, along = (torch.cat([own, target], dim=1) for own in (moved, turned))
    return _Projected(A, about, along, projected - seen, points[..., 2] > _NEAREST)


def _improved(
    motions: Motions, points: _Projected, weight: Tensor, s: float, depth_noise: Tensor
) -> Motions:
    """Take one step of Gauss-Newton, a perturbation of the motion from the left."""
    A, offset = points.A, points.offset
    turning = torch.linalg.cross(points.about[:, :, None].expand_as(A), A, dim=-1)
    J = torch.cat([A, turning], dim=-1)  # (P, 2Q, 2, 6)
    g = (A @ points.along[..., None])[..., 0]
    gg = g.square().sum(-1)
    k = depth_noise**2 / (s**2 + depth_noise**2 * gg)
    square = offset.square().sum(-1) - k * (g * offset).sum(-1).square()
    w = weight / (1 + square / s**2) * points.ahead
    gJ = g[:, :, None] @ J
    WJ = (w[..., None, None] * (J - (k[..., None] * g)[..., None] * gJ)).flatten(1, 2)
    information = WJ.mT @ J.flatten(1, 2)
    total = (w * (2 - k * gg)).sum(1)
    mean_square = (w * square).sum(1) / total.clamp(min=1e-6)
    identity = torch.eye(6, device=J.device)
    damped = information + _DAMPING * (total[:, None, None] + 1) * identity
    step = -torch.linalg.solve(damped, WJ.mT @ offset.flatten(1, 2)[..., None])[..., 0]
    step = step / (step.norm(dim=-1, keepdim=True) / _LONGEST_STEP).clamp(min=1)
    R, t = motions.rotation, motions.translation
    turn = _rotation(step[:, 3:])
    moved = (turn @ t[..., None])[..., 0] + step[:, :3]
    return Motions(turn @ R, moved, mean_square, information)


def _rotation(vector: Tensor) -> Tensor:
    """Return the rotation matrices (P, 3, 3) of rotation vectors (P, 3)."""
    square = vector.square().sum(-1)[:, None, None]
    angle = (square + 1e-12).sqrt()
    identity = torch.eye(3, device=vector.device)
    K = torch.linalg.cross(vector[:, None], identity[None], dim=-1).mT
    return identity + torch.sin(angle) / angle * K + (1 - torch.cos(angle)) / angle**2 * (K @ K)
