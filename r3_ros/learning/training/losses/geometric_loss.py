"""Depth and points: scale normalisation and confidence-weighted regression.

Sources: DUSt3R (arXiv 2312.14132) equations 2 to 4; ReMov3r section 3.2 and equation 1; the edge
term is the gradient matching of MiDaS (arXiv 1907.01341, equation 11) on logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: A scale is a mean of distances; one below this is of a scene without depth.
_LEAST_SCALE = 1e-6


def pixel_rays(fov: Tensor, height: int, width: int) -> Tensor:
    """Return the points at depth 1 behind every pixel, by fields of view about the middle.

    :param fov: (..., 2) radians, vertical then horizontal, as the network answers.
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

    DUSt3R equation 3; the distance from the own camera instead of the first one keeps it free of
    poses, and is the same for frames in any order.

    :param points: (B, S, H, W, 3); ``valid``: (B, S, H, W) bool.
    """
    distance = _length(points) * valid
    total, count = distance.flatten(1).sum(1), valid.flatten(1).sum(1)
    return (total / count.clamp(min=1)).clamp(min=_LEAST_SCALE)


def confidence_weighted(error: Tensor, confidence: Tensor, valid: Tensor, alpha: float) -> Tensor:
    """Return the mean of ``C * error - alpha * log C`` over what is valid.

    DUSt3R equation 4, ReMov3r equation 1. Its minimum over C is at ``C = alpha / error``, so a
    confidence learns the inverse of the error to expect. Samples weigh the same, however much of
    them is valid; those with nothing valid count as zero.

    :param error: (B, ...) >= 0; ``confidence``: likewise, > 0; ``valid``: likewise, bool.
    """
    # Masked before the product: what is not valid may be infinite.
    loss = torch.where(valid, error, 0.0) * confidence - alpha * confidence.log()
    return _masked_mean(loss, valid)


def depth_loss(
    predicted: Tensor,
    confidence: Tensor,
    truth: Tensor,
    valid: Tensor,
    scales: tuple[Tensor, Tensor],
    alpha: float,
) -> Tensor:
    """Return the confidence-weighted error of depth, each side divided by its scale.

    ReMov3r equation 1: ``C * |D_hat / s_hat - D / s| - alpha * log C``.

    :param predicted: (B, S, H, W); ``confidence``, ``truth`` and ``valid`` likewise.
    :param scales: (B,) of the prediction and of the truth, see :func:`scene_scale`.
    """
    own, true = (s[:, None, None, None] for s in scales)
    error = (predicted / own - truth / true).abs()
    return confidence_weighted(error, confidence, valid, alpha)


def point_loss(
    predicted: Tensor,
    confidence: Tensor,
    truth: Tensor,
    valid: Tensor,
    scales: tuple[Tensor, Tensor],
    alpha: float,
) -> Tensor:
    """Return the confidence-weighted distance of points, each side divided by its scale.

    DUSt3R equations 2 and 4. With points made of depth and the predicted field of view it
    teaches both.

    :param predicted: (B, S, H, W, 3) like ``truth``; ``confidence``: (B, S, H, W).
    """
    own, true = (s[:, None, None, None, None] for s in scales)
    return confidence_weighted(_length(predicted / own - truth / true), confidence, valid, alpha)


def edge_loss(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Return the mean error of the steps of log depth between neighbouring pixels.

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
    """Mean over what is valid in each sample, then over the samples."""
    kept = torch.where(valid, values, 0.0).flatten(1).sum(1)
    return (kept / valid.flatten(1).sum(1).clamp(min=1)).mean()


def _length(vectors: Tensor) -> Tensor:
    """Return the norms of (..., 3); their gradient at zero is zero, not undefined."""
    return torch.linalg.vector_norm(vectors, dim=-1)
