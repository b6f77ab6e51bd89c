"""Losses of R3: pure functions of tensors, each with its source.

Shapes: B samples, S frames, H x W pixels. Points are in the frame of their own camera,
optical axes. Every loss is a mean, so weights have the same effect for any number of frames.
Sources:

- depth and points: DUSt3R (arXiv 2312.14132) equations 2 to 4; ReMov3r section 3.2 and equation
  1; the edge loss is the gradient matching of MiDaS (arXiv 1907.01341, equation 11) on logarithms;
- pairs: the description of R3 by its authors (arXiv 2605.26519 and its project page): the same
  confidences weight the loss and later the pose average, in the form of DUSt3R equation 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.camera_head import Pairs

#: Lower bound of a scale, a mean of distances; reached only by samples without depth.
_LEAST_SCALE = 1e-6
#: Keeps the gradient of a norm finite where the error vanishes.
_TINY = 1e-8


def pixel_rays(fov: Tensor, height: int, width: int) -> Tensor:
    """Return the points at depth 1 of every pixel of cameras with centred principal points.

    :param fov: (..., 2) radians, vertical then horizontal, as the network predicts it.
    :returns: (..., H, W, 3).
    """
    half = torch.tan(fov / 2)
    y = (torch.arange(height, device=fov.device, dtype=fov.dtype) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, device=fov.device, dtype=fov.dtype) + 0.5) * (2 / width) - 1
    down = (half[..., :1] * y)[..., :, None].expand(*fov.shape[:-1], height, width)
    right = (half[..., 1:] * x)[..., None, :].expand_as(down)
    return torch.stack((right, down, torch.ones_like(down)), dim=-1)


def scene_scale(points: Tensor, valid: Tensor) -> Tensor:
    """Return the mean distance of a sample's points from their own cameras: (B,).

    DUSt3R equation 3; the distance from the own camera instead of the first one makes it
    independent of poses and of the order of the frames.

    :param points: (B, S, H, W, 3); ``valid``: (B, S, H, W) bool.
    """
    # The gradient of this norm at zero is zero, not undefined.
    distance = torch.linalg.vector_norm(points, dim=-1) * valid
    total, count = distance.flatten(1).sum(1), valid.flatten(1).sum(1)
    return (total / count.clamp(min=1)).clamp(min=_LEAST_SCALE)


def confidence_weighted(error: Tensor, confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """Return the mean of ``C * error - alpha * log C`` over the valid elements.

    DUSt3R equation 4, ReMov3r equation 1. Its minimum over C is at ``C = alpha / error``, so a
    confidence learns the inverse of the expected error. All samples have the same weight,
    however many elements are valid; a sample without valid elements counts as zero.

    :param error: (B, ...) >= 0; ``confidence``: likewise, > 0; ``valid``: likewise, bool.
    """
    # Masked before the product: invalid elements may be infinite.
    loss = torch.where(valid, error, 0.0) * confidence - alpha * confidence.log()
    return _masked_mean(loss, valid)


def edge_loss(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Return the mean error of the differences of log depth between neighbouring pixels.

    Gradient matching of MiDaS, on logarithms, which need no scale. ReMov3r section 5 names the
    lack of such a term as a cause of its artefacts.

    :param predicted: (B, S, H, W) > 0; ``truth``: likewise where valid.
    """
    residual = predicted.log() - torch.where(valid, truth, 1.0).log()
    total = residual.new_zeros(())
    for dim in (2, 3):
        count = residual.shape[dim] - 1
        first, second = residual.narrow(dim, 0, count), residual.narrow(dim, 1, count)
        both = valid.narrow(dim, 0, count) & valid.narrow(dim, 1, count)
        total = total + _masked_mean((second - first).abs(), both)
    return total


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the valid elements of each sample, then over the samples."""
    kept = torch.where(valid, values, 0.0).flatten(1).sum(1)
    return (kept / valid.flatten(1).sum(1).clamp(min=1)).mean()


class PairErrors(NamedTuple):
    """Losses of the pairs, and their unweighted errors for tables.

    :ivar rotation: loss, with its confidence; ``translation`` likewise.
    :ivar rotation_error: (B, pairs) chord ``2 sin(angle / 2)``, radians for small angles.
    :ivar translation_error: (B, pairs) in units of the scene scale.
    """

    rotation: Tensor
    translation: Tensor
    rotation_error: Tensor
    translation_error: Tensor


def relative_motions(T_world_camera: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true values of :class:`~r3_ros.model.camera_head.Pairs`.

    :param T_world_camera: (B, S, 4, 4).
    :returns: rotations (B, S, S, 3, 3) and translations (B, S, S, 3) of ``X_j = R X_i + t``,
        sources i in rows, targets j in columns.
    """
    R, t = T_world_camera[..., :3, :3], T_world_camera[..., :3, 3]
    R_inverse = R.transpose(-1, -2)
    rotation = R_inverse[:, None] @ R[:, :, None]
    translation = R_inverse[:, None] @ (t[:, :, None] - t[:, None])[..., None]
    return rotation, translation[..., 0]


def rotation_of(quaternion: Tensor) -> Tensor:
    """Return (..., 3, 3) rotations of (..., 4) quaternions ``xyzw`` of any length."""
    x, y, z, w = F.normalize(quaternion, dim=-1, eps=_TINY).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def chord(R_hat: Tensor, R: Tensor) -> Tensor:
    """Return ``2 sin(angle / 2)`` of rotations (..., 3, 3): radians for small angles."""
    return ((R_hat - R).square().sum((-1, -2)) / 2 + _TINY**2).sqrt()


def pair_losses(
    pairs: Pairs,
    motions: tuple[Tensor, Tensor],
    scales: tuple[Tensor, Tensor],
    alphas: tuple[float, float],
) -> PairErrors:
    """Return the confidence-weighted errors of all predicted pairs.

    Per ordered pair: ``c_r l_r - alpha_r log c_r + c_t l_t - alpha_t log c_t`` with c the softplus
    of the logits, ``l_r = |R_hat - R| / sqrt 2 = 2 sin(angle / 2)`` and
    ``l_t = |t_hat / s_hat - t / s|``. Pairs without overlap are kept: their confidence learns to
    be low.

    :param motions: of :func:`relative_motions`.
    :param scales: (B,) of the prediction and of the truth.
    :param alphas: of rotation and translation.
    """
    at = pairs.predicted
    R, t = (truth[:, at] for truth in motions)
    own, true = (s[:, None, None] for s in scales)
    rotation_error = chord(rotation_of(pairs.quaternion[:, at]), R)
    offset = pairs.translation[:, at] / own - t / true
    translation_error = (offset.square().sum(-1) + _TINY**2).sqrt()
    return PairErrors(
        softplus_weighted(rotation_error, pairs.logit_rotation[:, at], alphas[0]),
        softplus_weighted(translation_error, pairs.logit_translation[:, at], alphas[1]),
        rotation_error,
        translation_error,
    )


def softplus_weighted(error: Tensor, logit: Tensor, alpha: float) -> Tensor:
    """Return the mean of ``c * error - alpha * log c``, c the softplus of the logit.

    Its minimum is at ``c = alpha / error``.
    """
    if error.numel() == 0:  # a single frame has no pairs
        return logit.sum()
    confidence = F.softplus(logit)
    # log softplus(x) is x itself far below zero, where softplus(x) may round to 0.
    log = torch.where(logit < -20, logit, confidence.clamp(min=1e-12).log())
    return (confidence * error - alpha * log).mean()
