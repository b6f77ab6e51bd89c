"""The training objective: the weighted sum of all losses of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.network import Prediction
from . import losses
from .clips import Clips
from .training_settings import LossSettings


@dataclass(frozen=True)
class LossResult:
    """The losses and errors of one step.

    :ivar total: the loss to be differentiated.
    :ivar parts: the losses before weighting, detached scalars by name.
    :ivar errors: mean errors for tables, detached: ``rotation_deg``, ``translation`` (share of
        the scene scale), ``abs_rel``.
    """

    total: Tensor
    parts: dict[str, Tensor]
    errors: dict[str, Tensor]


def evaluate(prediction: Prediction, clips: Clips, settings: LossSettings) -> LossResult:
    """Compare a prediction with the ground truth."""
    assert prediction.depth is not None and prediction.confidence is not None
    _, _, H, W = clips.shape
    valid = clips.depth > 0
    truth = clips.depth[..., None] * clips.rays[:, None]
    points = prediction.depth[..., None] * losses.pixel_rays(prediction.fov, H, W)
    true_scale = losses.scene_scale(truth, valid)
    own_scale = losses.scene_scale(points, valid)
    motions = losses.relative_motions(clips.T_world_camera)
    if not bool(valid.flatten(1).any(1).all()):
        own_scale, true_scale = scales_by_steps(prediction, motions, valid, own_scale, true_scale)
    scales = (own_scale, true_scale)
    depth, errors = depth_parts(
        prediction.depth, prediction.confidence, prediction.fov, points, clips, scales, settings
    )
    pair_alphas = (settings.alpha_rotation, settings.alpha_translation)
    pairs = losses.pair_losses(prediction.pairs, motions, scales, pair_alphas)
    parts = {
        **depth,
        'rotation': pairs.rotation,
        'translation': pairs.translation,
    }
    total = torch.stack([getattr(settings, name) * value for name, value in parts.items()]).sum()
    errors = {
        'rotation_deg': torch.rad2deg(pairs.rotation_error.detach().mean()),
        'translation': pairs.translation_error.detach().mean(),
        **errors,
    }
    return LossResult(total, {name: value.detach() for name, value in parts.items()}, errors)


def depth_parts(
    depth: Tensor,
    confidence: Tensor,
    fov: Tensor,
    points: Tensor,
    clips: Clips,
    scales: tuple[Tensor, Tensor],
    settings: LossSettings,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the losses of depth and fields of view, and the errors of depth.

    Depth and points are divided by the scale of their side: ReMov3r equation 1, DUSt3R equation 2.
    The points are made of the predicted field of view, so their loss supervises it, too.

    :param depth: (B, S, H, W) like ``confidence``; ``points``: (B, S, H, W, 3) made of it.
    :param scales: (B,) of the prediction and of the truth.
    """
    valid = clips.depth > 0
    truth = clips.depth[..., None] * clips.rays[:, None]
    own, true = (s[:, None, None, None] for s in scales)
    of_depth = (depth / own - clips.depth / true).abs()
    of_points = torch.linalg.vector_norm(points / own[..., None] - truth / true[..., None], dim=-1)
    alpha = settings.alpha_depth
    parts = {
        'depth': losses.confidence_weighted(of_depth, confidence, valid, alpha),
        'points': losses.confidence_weighted(of_points, confidence, valid, alpha),
        'edges': losses.edge_loss(depth, clips.depth, valid),
        'fov': (fov - clips.fov[:, None].expand_as(fov)).abs().mean(),  # radians
    }
    with torch.no_grad():
        relative = (depth / own) / (clips.depth / true).clamp(min=1e-6)
        abs_rel = ((relative - 1).abs() * valid).sum() / valid.sum().clamp(min=1)
    return parts, {'abs_rel': abs_rel}


def scales_by_steps(
    prediction: Prediction,
    motions: tuple[Tensor, Tensor],
    valid: Tensor,
    own_scale: Tensor,
    true_scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Replace the scales of clips without true depth by the mean distance between frames."""
    known = valid.flatten(1).any(1)
    at = prediction.pairs.predicted
    own = prediction.pairs.translation[:, at].norm(dim=-1).mean(1).clamp(min=1e-3)
    true = motions[1][:, at].norm(dim=-1).mean(1).clamp(min=1e-3)
    return torch.where(known, own_scale, own), torch.where(known, true_scale, true)
