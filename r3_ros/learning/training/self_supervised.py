"""Losses of clips without ground truth: frames must agree about the points they share.

Source: the self-supervised form of TrajVG. Points that an off-the-shelf tracker followed through
the video replace the pixels of predicted tracks, and the predictions of other frames replace the
ground truth; the row that needs true poses is left out. Always mixed with labelled steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...model.network import Prediction
from . import losses
from .clips import UnlabelledClips
from .objective import HUBER, LossResult
from .training_settings import LossSettings


def evaluate_unlabelled(
    prediction: Prediction, clips: UnlabelledClips, settings: LossSettings
) -> LossResult:
    """Compare what the frames of a clip predict for the same points.

    Every predicted pair (i, j) of frames that both show a point counts. With ``p`` the point map
    at the point's pixel and ``C`` the predicted motion, in units of ``s``, the mean distance of
    the clip's points from their cameras:

    - ``unlabelled_agreement``, TrajVG eq. 6: ``rho(sg[C p_i] - p_j) + rho(C p_i - sg[p_j])``.
      ``C p_i`` is the track: R3 has no track head. Depths and poses learn. ``s`` is not
      detached: the loss does not depend on the unit, so that no unit is preferred.
    - ``unlabelled_pose``, TrajVG eq. 7 and after: ``rho(C sg[p_i] - sg[p_j])``. The anchor j's
      own sample replaces the true point. Poses learn.
    - ``unlabelled_fov``: fields of view, where the camera is calibrated.

    Fields of view of cameras that are not calibrated are detached: narrower rays bring all points
    closer together, which would reduce the loss for no good reason.
    """
    assert prediction.depth is not None
    H, W = clips.images.shape[-2:]
    known = (clips.fov > 0).all(-1)[:, None, None]
    given = clips.fov[:, None].expand_as(prediction.fov)
    fov = torch.where(known, given, prediction.fov.detach())
    points = prediction.depth[..., None] * losses.pixel_rays(fov, H, W)
    mapped = losses.sample_map(points, clips.pixel)
    scale = _mean_distance(mapped, clips.visible)[:, None, None, None]
    source, target = prediction.pairs.predicted.nonzero(as_tuple=True)
    rotation = losses.rotation_of(prediction.pairs.quaternion[:, source, target])
    translation = prediction.pairs.translation[:, source, target]
    weight = (clips.visible[:, source] & clips.visible[:, target]).float()
    own = mapped / scale
    carried = losses.moved(rotation, translation / scale[..., 0], own[:, source])
    held_translation = translation / scale[..., 0].detach()
    parts = {
        'unlabelled_agreement': losses.agreement_loss(carried, own[:, target], weight, HUBER),
        'unlabelled_pose': losses.anchored_pose_loss(
            rotation, held_translation, own[:, source], own[:, target], weight, HUBER
        ),
        'unlabelled_fov': ((prediction.fov - given).abs() * known).mean(),
    }
    total = (
        settings.unlabelled_agreement * parts['unlabelled_agreement']
        + settings.unlabelled_pose * parts['unlabelled_pose']
        + settings.fov * parts['unlabelled_fov']
    )
    detached = {name: value.detach() for name, value in parts.items()}
    return LossResult(total, detached, {}, 'loss_unlabelled')


def _mean_distance(mapped: Tensor, visible: Tensor) -> Tensor:
    """Return (B,) the mean distance of a clip's points from their cameras; 1 without points."""
    count = visible.flatten(1).sum(1)
    total = (torch.linalg.vector_norm(mapped, dim=-1) * visible).flatten(1).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0).clamp(min=1e-6)
