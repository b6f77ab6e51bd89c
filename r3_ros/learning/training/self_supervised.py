"""What an answer to clips without truth can be asked: that it agrees with itself.

Source: TrajVG's self-supervised form. Points that an off-the-shelf tracker followed through the
pictures take the place of predicted tracks' pixels, and what other frames say of them the place
of the truth; the row that needs true poses is left out. Always mixed with labelled steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...model.network import Prediction
from . import losses
from .clips import UnlabelledClips
from .objective import Answer, HUBER
from .training_settings import LossSettings


def evaluate_unlabelled(
    prediction: Prediction, clips: UnlabelledClips, settings: LossSettings
) -> Answer:
    """Compare what the frames of a clip say of the same points.

    Every predicted pair (i, j) of frames that both see a point counts. With ``p`` the point map
    at the point's pixel and ``C`` the predicted motion, in units of ``s``, the mean distance of
    the clip's points from their cameras:

    - ``unlabelled_agreement``, TrajVG eq. 6: ``rho(sg[C p_i] - p_j) + rho(C p_i - sg[p_j])``.
      ``C p_i`` is the track: R3 has no head for tracks. Depths and poses learn. ``s`` is not
      held: a change of unit changes nothing, so that no unit is preferred.
    - ``unlabelled_pose``, TrajVG eq. 7 and after: ``rho(C sg[p_i] - sg[p_j])``. The anchor j's
      own sample replaces the true point. Poses learn.
    - ``unlabelled_fov``: fields of view, where the camera was calibrated.

    Else fields of view are held: between narrower rays all points are nearer to one another,
    which is no reason to answer them.
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
    parts = {
        'unlabelled_agreement': losses.agreement_loss(carried, own[:, target], weight, HUBER),
        'unlabelled_pose': losses.anchored_pose_loss(
            rotation,
            translation / scale[..., 0].detach(),
            own[:, source],
            own[:, target],
            weight,
            HUBER,
        ),
        'unlabelled_fov': ((prediction.fov - given).abs() * known).mean(),
    }
    total = (
        settings.unlabelled_agreement * parts['unlabelled_agreement']
        + settings.unlabelled_pose * parts['unlabelled_pose']
        + settings.fov * parts['unlabelled_fov']
    )
    told = {name: value.detach() for name, value in parts.items()}
    return Answer(total, told, {}, 'loss_unlabelled')


def _mean_distance(mapped: Tensor, visible: Tensor) -> Tensor:
    """Return (B,) the mean distance of a clip's points from their cameras; 1 without points."""
    count = visible.flatten(1).sum(1)
    total = (torch.linalg.vector_norm(mapped, dim=-1) * visible).flatten(1).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0).clamp(min=1e-6)
