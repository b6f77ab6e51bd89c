"""The motion of a pair of frames from their matches and depth, by robust least squares.

Shapes: P pairs, Q points of each frame. Images are in normalised coordinates, (x - cx) / fx and
(y - cy) / fy; the depth of both frames is in one unit, best near 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: From the first iteration to the last but two: with exact depth, then with depth of which only
#: the rough size is known. A pixel of a 112 pixels wide image is about 0.012.
_FIRST_NOISE, _FIRST_ITERATIONS = (0.3, 0.015), 10
_LAST_NOISE, _LAST_ITERATIONS = (0.01, 0.005), 5
#: Standard deviation of the logarithm of depth in the last iterations.
_DEPTH_NOISE = 1.2
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
    """

    points: Tensor
    seen: Tensor
    weight: Tensor


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
    for noise, depth_noise, count in (
        (_FIRST_NOISE, 0.0, _FIRST_ITERATIONS),
        (_LAST_NOISE, _DEPTH_NOISE, _LAST_ITERATIONS),
    ):
        for k in range(count):
            share = min(1.0, k / (count - 3))
            s = noise[0] * (noise[1] / noise[0]) ** share
            motions = _improved(motions, source, target, s, depth_noise)
    return motions


def _improved(
    motions: Motions, source: MatchedPoints, target: MatchedPoints, s: float, depth_noise: float
) -> Motions:
    """Take one step of Gauss-Newton, a perturbation of the motion from the left."""
    R, t = motions.rotation, motions.translation
    turned = source.points @ R.mT
    ahead = turned + t[:, None]
    A, offset_i = _projection(ahead, source.seen)
    J_i = torch.cat([A, _times_skew(A, ahead, -1.0)], dim=-1)
    back = target.points @ R
    behind = back - t[:, None] @ R
    A_back, offset_j = _projection(behind, target.seen)
    turned_back = A_back @ R.mT[:, None]
    J_j = torch.cat([-turned_back, _times_skew(turned_back, target.points, 1.0)], dim=-1)
    one = _weighted(A, turned, ahead, J_i, offset_i, source.weight, s, depth_noise)
    other = _weighted(A_back, back, behind, J_j, offset_j, target.weight, s, depth_noise)
    J = torch.cat([J_i, J_j], dim=1).flatten(1, 2)  # (P, 2 * 2Q, 6)
    offset = torch.cat([offset_i, offset_j], dim=1).flatten(1, 2)[..., None]
    WJ = torch.cat([one[0], other[0]], dim=1).flatten(1, 2)
    information = WJ.mT @ J
    total = one[1] + other[1]
    square = (one[2] + other[2]) / total.clamp(min=1e-6)
    identity = torch.eye(6, device=J.device)
    damped = information + _DAMPING * (total[:, None, None] + 1) * identity
    step = -torch.linalg.solve(damped, WJ.mT @ offset)[..., 0]
    step = step / (step.norm(dim=-1, keepdim=True) / _LONGEST_STEP).clamp(min=1)
    turn = _rotation(step[:, 3:])
    return Motions(turn @ R, (turn @ t[..., None])[..., 0] + step[:, :3], square, information)


def _projection(points: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivative (P, Q, 2, 3) of the projection by the point, and the residual."""
    z = points[..., 2:].clamp(min=_NEAREST)
    projected = points[..., :2] / z
    zero = torch.zeros_like(z[..., 0])
    u, v = projected.unbind(-1)
    one = zero + 1
    A = torch.stack([one, zero, -u, zero, one, -v], dim=-1).unflatten(-1, (2, 3))
    return A / z[..., None], projected - seen


def _times_skew(A: Tensor, vectors: Tensor, sign: float) -> Tensor:
    """Return ``sign * A [v]_x`` of (P, Q, 2, 3) and (P, Q, 3): rows are ``a x v``."""
    return sign * torch.linalg.cross(A, vectors[:, :, None].expand_as(A), dim=-1)


def _weighted(
    A: Tensor,
    turned: Tensor,
    points: Tensor,
    J: Tensor,
    offset: Tensor,
    weight: Tensor,
    s: float,
    depth_noise: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``W J`` (P, Q, 2, 6), the trace of all W (P,), and the weighted square residual."""
    g = (A @ turned[..., None])[..., 0]  # (P, Q, 2)
    gg = g.square().sum(-1)
    k = depth_noise**2 / (s**2 + depth_noise**2 * gg)
    square = offset.square().sum(-1) - k * (g * offset).sum(-1).square()
    w = weight / (1 + square / s**2) * (points[..., 2] > _NEAREST)
    gJ = (g[..., None] * J).sum(-2, keepdim=True)
    WJ = w[..., None, None] * (J - k[..., None, None] * g[..., None] * gJ)
    return WJ, (w * (2 - k * gg)).sum(-1), (w * square).sum(-1)


def _rotation(vector: Tensor) -> Tensor:
    """Return the rotation matrices (P, 3, 3) of rotation vectors (P, 3)."""
    square = vector.square().sum(-1)[:, None, None]
    angle = (square + 1e-12).sqrt()
    identity = torch.eye(3, device=vector.device)
    K = torch.linalg.cross(vector[:, None], identity[None], dim=-1).mT
    return identity + torch.sin(angle) / angle * K + (1 - torch.cos(angle)) / angle**2 * (K @ K)
