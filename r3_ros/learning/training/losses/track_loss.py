"""Tracks, point maps and poses that have to agree, without chasing one another.

Source: TrajVG equations 6 and 7 and the text after them. R3 has no head for tracks: a track's
predicted point in frame t is what its anchor frame's point map has at the query, carried to t by
the predicted relative pose, so it stands for points that do not move.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_map(values: Tensor, pixel: Tensor) -> Tensor:
    """Look maps up between pixels, bilinearly; beyond the border its nearest pixel counts.

    :param values: (B, S, H, W, C); ``pixel``: (B, S, N, 2) x and y, centres at integers.
    :returns: (B, S, N, C).
    """
    B, S, H, W = values.shape[:4]
    size = torch.tensor([W, H], device=values.device, dtype=values.dtype)
    grid = (2 * pixel.to(values.dtype) + 1) / size - 1
    sampled = F.grid_sample(
        values.flatten(0, 1).permute(0, 3, 1, 2),
        grid.flatten(0, 1)[:, :, None],
        mode='bilinear',
        padding_mode='border',
        align_corners=False,
    )  # (B * S, C, N, 1)
    return sampled[..., 0].transpose(1, 2).unflatten(0, (B, S))


def moved(rotation: Tensor, translation: Tensor, points: Tensor) -> Tensor:
    """Return (B, S, N, 3) points moved by one motion per frame.

    :param rotation: (B, S, 3, 3); ``translation``: (B, S, 3).
    """
    return points @ rotation.transpose(-1, -2) + translation[:, :, None]


def static_tracks(world: Tensor, visible: Tensor, anchor: int, threshold: Tensor) -> Tensor:
    """Say which tracks stand still: (B, N) bool.

    The median over the frames that see it, for robustness, of the way from where the point is in
    the anchor's frame; ``m`` of TrajVG's equation 7.

    :param world: (B, S, N, 3) where the points truly are; ``visible``: (B, S, N) bool.
    :param threshold: (B,) in the unit of the points.
    """
    way = torch.linalg.vector_norm(world - world[:, anchor : anchor + 1], dim=-1)
    median = torch.where(visible, way, torch.nan).nanmedian(dim=1).values
    return median < threshold[:, None]  # NaN, seen by nobody, is not less


def agreement_loss(track: Tensor, mapped: Tensor, weight: Tensor, delta: float) -> Tensor:
    """Return how far tracks and point maps are apart, each pulled towards a fixed other.

    TrajVG equation 6: ``sum w (rho(sg[p_track] - p_map) + rho(p_track - sg[p_map]))``, divided by
    the sum of the weights. The first term moves the point map, the second the tracks.

    :param track: (B, S, N, 3), all in units of the scene's scale; ``mapped`` likewise.
    :param weight: (B, S, N); ``delta``: where the Huber function turns linear.
    """
    both = _huber(track.detach() - mapped, delta) + _huber(track - mapped.detach(), delta)
    return _weighted_mean(both, weight)


def anchored_pose_loss(
    rotation: Tensor,
    translation: Tensor,
    mapped: Tensor,
    target: Tensor,
    weight: Tensor,
    delta: float,
) -> Tensor:
    """Return how far poses carry points from where they are in the anchor's frame.

    TrajVG after equation 7: ``sum w m rho(C_{t->x} Hom(sg[p_map]) - p^(x))``. Points are held, so
    poses alone learn; ``weight`` includes ``m``, 1 for tracks that stand still. Without truth the
    target is the anchor's own point, held (its self-supervised form).

    :param rotation: (B, S, 3, 3) from frame t to the anchor; ``translation``: (B, S, 3).
    :param mapped: (B, S, N, 3) point maps at the tracks; ``target``: (B, 1 or S, N, 3).
    """
    carried = moved(rotation, translation, mapped.detach())
    return _weighted_mean(_huber(carried - target.detach(), delta), weight)


def anchored_point_loss(
    rotation: Tensor,
    translation: Tensor,
    mapped: Tensor,
    target: Tensor,
    weight: Tensor,
    delta: float,
) -> Tensor:
    """Return the same distance with the poses held: points alone learn.

    TrajVG after equation 7: ``sum w rho(sg[C_{t->x}] Hom(p_map) - p^(x))``. Needs true targets.
    """
    carried = moved(rotation.detach(), translation.detach(), mapped)
    return _weighted_mean(_huber(carried - target.detach(), delta), weight)


def _huber(offset: Tensor, delta: float) -> Tensor:
    """Huber's function of the lengths of (..., 3): quadratic up to delta, then linear."""
    square = offset.square().sum(-1)
    length = square.clamp(min=delta * delta).sqrt()
    return torch.where(square <= delta * delta, 0.5 * square, delta * (length - 0.5 * delta))


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
