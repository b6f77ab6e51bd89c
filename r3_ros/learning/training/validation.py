"""Errors of a network on clips it was not trained on, and of a guess that uses no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...evaluation.depth_errors import DepthErrors
from ...evaluation.stream_tables import by_confidence
from ...model.network import PairNetwork, Prediction
from . import losses
from .clips import Clips
from .objective import scales_by_steps

#: The direction of steps shorter than this share of the scene scale is not judged.
_LEAST_STEP = 0.005
#: Maps a clip to a prediction.
Predict = Callable[[Clips], Prediction]


@dataclass(frozen=True)
class ValidationErrors:
    """Errors over a set of clips.

    :ivar rotation_deg: median over steps from one frame to the next.
    :ivar direction_deg: median angle between the true step and the predicted one.
    :ivar translation: median error of steps over the mean true step, each side in its own unit.
    :ivar abs_rel: of depth, each image with its own scale; ``delta_125``: share of the pixels
        within a factor of 1.25.
    :ivar depth_quintiles: AbsRel from the least to the most confident fifth of the pixels.
    :ivar rotation_quintiles: degrees over all pairs, by confidence likewise.
    """

    rotation_deg: float
    direction_deg: float
    translation: float
    abs_rel: float = float('nan')
    delta_125: float = float('nan')
    depth_quintiles: tuple[float, ...] = ()
    rotation_quintiles: tuple[float, ...] = ()


def evaluate_network(predict: Predict, clips: Sequence[Clips]) -> ValidationErrors:
    """Compare a network's predictions with the ground truth, clip by clip."""
    steps: list[np.ndarray] = []
    rotations: list[np.ndarray] = []
    depth = DepthErrors()
    for batch in clips:
        prediction = predict(batch)
        R, t = losses.relative_motions(batch.T_world_camera)
        R_hat = losses.rotation_of(prediction.pairs.quaternion)
        own, true = _scales(prediction, batch)
        steps.append(_step_errors(R_hat, prediction.pairs.translation / own, R, t / true))
        _add_depth(depth, prediction, batch)
        at = prediction.pairs.predicted
        angle = _angle(R_hat[:, at], R[:, at]).flatten()
        rotations.append(
            np.stack((prediction.pairs.logit_rotation[:, at].flatten().cpu(), angle.cpu()))
        )
    return ValidationErrors(
        *_medians(steps),
        depth.abs_rel,
        depth.delta_125,
        by_confidence(*depth.pixels),
        by_confidence(*np.concatenate(rotations, axis=1)),
    )


def evaluate_constant_velocity(clips: Sequence[Clips]) -> ValidationErrors:
    """Return the errors of repeating the true previous step, a guess without any image."""
    steps = []
    for batch in clips:
        R, t = losses.relative_motions(batch.T_world_camera)
        truth = batch.depth[..., None] * batch.rays[:, None]
        scale = losses.scene_scale(truth, batch.depth > 0)[:, None, None, None]
        R_hat, t_hat = R.clone(), t.clone()
        for k in range(1, R.shape[1] - 1):
            R_hat[:, k, k + 1], t_hat[:, k, k + 1] = R[:, k - 1, k], t[:, k - 1, k]
        steps.append(_step_errors(R_hat, t_hat / scale, R, t / scale, first=1))
    return ValidationErrors(*_medians(steps))


def network_predictor(network: PairNetwork, causal: bool = True) -> Predict:
    """Return a function that predicts clips with a network."""

    def predict(batch: Clips) -> Prediction:
        with torch.inference_mode():
            described = network.describe(batch.images)
            return network.predict(described, causal=causal, camera=batch.camera)

    return predict


def _scales(prediction: Prediction, batch: Clips) -> tuple[Tensor, Tensor]:
    assert prediction.depth is not None
    _, _, H, W = batch.shape
    valid = batch.depth > 0
    points = prediction.depth[..., None] * losses.pixel_rays(prediction.fov, H, W)
    truth = batch.depth[..., None] * batch.rays[:, None]
    own, true = losses.scene_scale(points, valid), losses.scene_scale(truth, valid)
    motions = losses.relative_motions(batch.T_world_camera)
    own, true = scales_by_steps(prediction, motions, valid, own, true)
    return own[:, None, None, None], true[:, None, None, None]


def _angle(R_hat: Tensor, R: Tensor) -> Tensor:
    """Return degrees between (..., 3, 3) rotations."""
    half_chord = (R_hat - R).square().sum((-1, -2)).sqrt() / (2 * 2**0.5)
    return torch.rad2deg(2 * torch.asin(half_chord.clamp(max=1)))


def _step_errors(R_hat: Tensor, t_hat: Tensor, R: Tensor, t: Tensor, first: int = 0) -> np.ndarray:
    """Return (4, steps): degrees, degrees of direction (NaN without), error and true length."""
    i = torch.arange(first, R.shape[1] - 1)
    rotation = _angle(R_hat[:, i, i + 1], R[:, i, i + 1])
    own, true = t_hat[:, i, i + 1], t[:, i, i + 1]
    length = true.norm(dim=-1)
    cosine = torch.nn.functional.cosine_similarity(own, true, dim=-1, eps=1e-12)
    direction = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    direction[length < _LEAST_STEP] = torch.nan
    rows = (rotation, direction, (own - true).norm(dim=-1), length)
    return torch.stack([row.flatten() for row in rows]).cpu().numpy()


def _medians(steps: Sequence[np.ndarray]) -> tuple[float, float, float]:
    rotation, direction, error, length = np.concatenate(steps, axis=1)
    known = direction[np.isfinite(direction)]
    return (
        float(np.median(rotation)),
        float(np.median(known)) if len(known) else float('nan'),
        float(np.median(error) / max(length.mean(), 1e-9)),
    )


def _add_depth(errors: DepthErrors, prediction: Prediction, batch: Clips) -> None:
    assert prediction.depth is not None and prediction.confidence is not None
    truth = torch.where(batch.depth > 0, batch.depth, torch.nan)
    parts = (prediction.depth, truth, prediction.confidence)
    for depth, true, confidence in zip(*(p.flatten(0, 1).cpu() for p in parts), strict=True):
        errors.add(depth.numpy(), true.numpy(), confidence.numpy())
