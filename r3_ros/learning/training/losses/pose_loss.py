"""Relative poses of pairs with their two confidences, and fields of view.

Source: the R3 authors' description (arXiv 2605.26519 and its project page): pairwise motion is
regressed, each pair has a rotation and a translation confidence, and the same confidences weigh
the loss and later the pose average. The form of the weighting is that of DUSt3R equation 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ....model.camera_head import Pairs

#: Keeps the gradient of a norm finite where the error vanishes.
_TINY = 1e-8


class PairErrors(NamedTuple):
    """Losses of the pairs, and their unweighted errors for tables.

    :ivar rotation: loss, with its confidence; ``translation`` likewise.
    :ivar rotation_error: (B, pairs) chord ``2 sin(angle / 2)``, radians for small angles.
    :ivar translation_error: (B, pairs) in units of the scene's scale.
    """

    rotation: Tensor
    translation: Tensor
    rotation_error: Tensor
    translation_error: Tensor


def relative_motions(T_world_camera: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true answers for :class:`~r3_ros.model.camera_head.Pairs`.

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
    chord = (rotation_of(pairs.quaternion[:, at]) - R).square().sum((-1, -2))
    rotation_error = (chord / 2 + _TINY**2).sqrt()
    offset = pairs.translation[:, at] / own - t / true
    translation_error = (offset.square().sum(-1) + _TINY**2).sqrt()
    return PairErrors(
        _weighted(rotation_error, pairs.logit_rotation[:, at], alphas[0]),
        _weighted(translation_error, pairs.logit_translation[:, at], alphas[1]),
        rotation_error,
        translation_error,
    )


def _weighted(error: Tensor, logit: Tensor, alpha: float) -> Tensor:
    """Mean of ``c * error - alpha * log c``, c the softplus of the logit."""
    if error.numel() == 0:  # a single frame has no pairs
        return logit.sum()
    confidence = F.softplus(logit)
    # log softplus(x) is x itself far below zero, where softplus(x) may round to 0.
    log = torch.where(logit < -20, logit, confidence.clamp(min=1e-12).log())
    return (confidence * error - alpha * log).mean()


def fov_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute error of (B, S, 2) fields of view, radians."""
    return (predicted - truth).abs().mean()
