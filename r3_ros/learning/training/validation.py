"""How good a network is on clips it has not seen, beside guesses that know nothing of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...model.network import Prediction, R3Network
from . import losses
from .clips import Clips
from .objective import scales_by_steps

#: Steps shorter than this share of the scene's scale have no direction to speak of.
_LEAST_STEP = 0.005
QUINTILES = 5
#: What maps a clip to an answer.
Predict = Callable[[Clips], Prediction]


@dataclass(frozen=True)
class Figures:
    """Errors over a set of clips.

    :ivar rotation_deg: median over steps from one frame to the next.
    :ivar direction_deg: median angle between the true step and the predicted one.
    :ivar translation: median error of steps over the mean true step, each side in its own unit.
    :ivar abs_rel: of depth, a scale per picture; ``delta_125`` the share within a factor of 1.25.
    :ivar depth_quintiles: AbsRel from the least to the most confident fifth of the pixels.
    :ivar rotation_quintiles: degrees over all pairs, by confidence alike.
    """

    rotation_deg: float
    direction_deg: float
    translation: float
    abs_rel: float = float('nan')
    delta_125: float = float('nan')
    depth_quintiles: tuple[float, ...] = ()
    rotation_quintiles: tuple[float, ...] = ()


def evaluate_network(predict: Predict, clips: Sequence[Clips]) -> Figures:
    """Compare a network's answers with the truth, clip by clip."""
    steps: list[np.ndarray] = []
    depth: list[np.ndarray] = []
    depth_by_confidence: list[np.ndarray] = []
    rotations: list[np.ndarray] = []
    for batch in clips:
        answer = predict(batch)
        R, t = losses.relative_motions(batch.T_world_camera)
        R_hat = losses.rotation_of(answer.pairs.quaternion)
        own, true = _scales(answer, batch)
        steps.append(_step_errors(R_hat, answer.pairs.translation / own, R, t / true))
        depth.append(_depth_errors(answer, batch))
        depth_by_confidence.append(_relative_errors_by_confidence(answer, batch))
        at = answer.pairs.predicted
        angle = _angle(R_hat[:, at], R[:, at]).flatten()
        rotations.append(
            np.stack((answer.pairs.logit_rotation[:, at].flatten().cpu(), angle.cpu()))
        )
    rotation, direction, translation = _medians(steps)
    abs_rel, delta = _mean_errors(np.concatenate(depth))
    return Figures(
        rotation,
        direction,
        translation,
        abs_rel,
        delta,
        _quintiles(np.concatenate(depth_by_confidence, axis=1)),
        _quintiles(np.concatenate(rotations, axis=1)),
    )


def evaluate_constant_velocity(clips: Sequence[Clips]) -> Figures:
    """Return the errors of repeating the true step before: what needs no picture at all."""
    steps = []
    for batch in clips:
        R, t = losses.relative_motions(batch.T_world_camera)
        scale = _true_scale(batch)
        R_hat, t_hat = R.clone(), t.clone()
        for k in range(1, R.shape[1] - 1):
            R_hat[:, k, k + 1], t_hat[:, k, k + 1] = R[:, k - 1, k], t[:, k - 1, k]
        steps.append(_step_errors(R_hat, t_hat / scale, R, t / scale, first=1))
    return Figures(*_medians(steps))


def network_predictor(network: R3Network, causal: bool = True) -> Predict:
    """Return what asks a network for its answer to a clip."""

    def predict(batch: Clips) -> Prediction:
        with torch.inference_mode():
            return network(batch.images, causal=causal)

    return predict


def _scales(answer: Prediction, batch: Clips) -> tuple[Tensor, Tensor]:
    assert answer.depth is not None
    _, _, H, W = batch.shape
    valid = batch.depth > 0
    points = answer.depth[..., None] * losses.pixel_rays(answer.fov, H, W)
    truth = batch.depth[..., None] * batch.rays[:, None]
    own, true = losses.scene_scale(points, valid), losses.scene_scale(truth, valid)
    motions = losses.relative_motions(batch.T_world_camera)
    own, true = scales_by_steps(answer, motions, valid, own, true)
    return own[:, None, None, None], true[:, None, None, None]


def _true_scale(batch: Clips) -> Tensor:
    truth = batch.depth[..., None] * batch.rays[:, None]
    return losses.scene_scale(truth, batch.depth > 0)[:, None, None, None]


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


def _depth_errors(answer: Prediction, batch: Clips) -> np.ndarray:
    """Return (pictures, 2): AbsRel and the share within 1.25, each scaled by its median."""
    rows = []
    for ratio, _ in _ratios(answer, batch):
        within = torch.maximum(ratio, 1 / ratio) < 1.25
        rows.append((float((ratio - 1).abs().mean()), float(within.float().mean())))
    return np.array(rows).reshape(-1, 2)


def _mean_errors(rows: np.ndarray) -> tuple[float, float]:
    """Return the means of both columns; NaN where no picture has a true depth."""
    return (float(rows[:, 0].mean()), float(rows[:, 1].mean())) if len(rows) else (np.nan, np.nan)


def _relative_errors_by_confidence(answer: Prediction, batch: Clips) -> np.ndarray:
    """Return (2, pixels): confidence and relative error of every 17th pixel with a truth."""
    parts = [torch.stack((c, (ratio - 1).abs()))[:, ::17] for ratio, c in _ratios(answer, batch)]
    return torch.cat(parts, dim=1).cpu().numpy() if parts else np.zeros((2, 0))


def _ratios(answer: Prediction, batch: Clips) -> list[tuple[Tensor, Tensor]]:
    """Return ratios of depth to the truth, median 1, and confidences, picture by picture."""
    assert answer.depth is not None and answer.confidence is not None
    out = []
    for own, confidence, truth in zip(
        answer.depth.flatten(0, 1),
        answer.confidence.flatten(0, 1),
        batch.depth.flatten(0, 1),
        strict=True,
    ):
        known = truth > 0
        if known.sum() >= 100:
            ratio = own[known] / truth[known]
            out.append((ratio / ratio.median(), confidence[known]))
    return out


def _quintiles(pairs: np.ndarray) -> tuple[float, ...]:
    """Return the mean of the second row in five parts, from the least first row to the most."""
    if pairs.shape[1] < QUINTILES:
        return ()
    ordered = pairs[1, np.argsort(pairs[0], kind='stable')]
    return tuple(float(part.mean()) for part in np.array_split(ordered, QUINTILES))
