"""Losses of dense matching and of the pairs solved from it.

Shapes: P pairs of frames i and j, M cells of a frame, Q chosen ones; see ``model/tiny``. The true
place of a cell is known from depth and poses; cells that are hidden there, outside of the image,
without depth or on moving things do not count.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.tiny.matching import cell_centres, FineMatches, OUTSIDE, Similarities
from ...model.tiny.stem import STRIDE

#: A point is visible where the depth seen differs by at most this share.
_SAME_DEPTH = 0.06
_NEAREST_M = 1e-2
#: Pixels within which a match counts as right.
RIGHT_PX = 4.0


class View(NamedTuple):
    """Frames of P pairs.

    :ivar depth: (P, H, W) metres, 0 where unknown; ``moving``: (P, H, W) bool.
    :ivar camera: (P, 4) fx, fy, cx, cy.
    """

    depth: Tensor
    moving: Tensor
    camera: Tensor


class TruePlaces(NamedTuple):
    """Where the cells of frames i are in frames j.

    :ivar pixel: (P, M, 2) x and y.
    :ivar visible: (P, M) bool: seen there, static; ``known``: (P, M) bool: whether that is known,
        by depth in both frames.
    """

    pixel: Tensor
    visible: Tensor
    known: Tensor


def true_places(
    source: View, target: View, rotation: Tensor, translation: Tensor, cells: tuple[int, int]
) -> TruePlaces:
    """Return the true places of cells.

    :param rotation: (P, 3, 3) and ``translation``: (P, 3) of the motion ``X_j = R X_i + t``.
    :param cells: rows and columns.
    """
    H, W = source.depth.shape[1:]
    # A cell's centre lies between pixels: the one to the upper left is followed.
    half = (STRIDE - 1) / 2 % 1
    start = cell_centres(*cells, source.depth.device) - half
    x, y = start.long().unbind(-1)
    z = source.depth[:, y, x]
    f, c = source.camera[:, None, :2], source.camera[:, None, 2:]
    points = torch.cat([(start - c) / f * z[..., None], z[..., None]], dim=-1)
    points = points @ rotation.mT + translation[:, None]
    ahead = points[..., 2].clamp(min=1e-3)
    f, c = target.camera[:, None, :2], target.camera[:, None, 2:]
    pixel = points[..., :2] / ahead[..., None] * f + c + half
    column, row = pixel.nan_to_num().clamp(-1e6, 1e6).round().long().unbind(-1)
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H) & (points[..., 2] > _NEAREST_M)
    pair = torch.arange(len(z), device=z.device)[:, None]
    seen = target.depth[pair, row.clamp(0, H - 1), column.clamp(0, W - 1)]
    same = (seen - ahead).abs() < _SAME_DEPTH * ahead
    known = (z > 0) & (~inside | (seen > 0))
    return TruePlaces(pixel, inside & same & known & ~source.moving[:, y, x], known)


def coarse_loss(similarities: Similarities, true: TruePlaces, columns: int) -> Tensor:
    """Return the cross entropy of matches of i in j over the visible cells.

    The target of a cell are the bilinear weights of the four cells round its true place.

    :param columns: cells in a row.
    """
    values = similarities.values
    size = torch.tensor([columns, values.shape[-1] // columns], device=values.device)
    place = (true.pixel - (STRIDE - 1) / 2) / STRIDE
    place = torch.minimum(place.clamp(min=0), size - 1.001)
    corner = place.floor()
    (ax, ay), (x, y) = (place - corner).unbind(-1), corner.long().unbind(-1)
    first = y * columns + x
    index = torch.stack((first, first + 1, first + columns, first + columns + 1), dim=-1)
    weight = torch.stack(((1 - ax) * (1 - ay), ax * (1 - ay), (1 - ax) * ay, ax * ay), dim=-1)
    logarithm = values.gather(-1, index).log() - similarities.rows.log()[..., None]
    return _mean(-(logarithm * weight).sum(-1), true.visible)


def fine_loss(matches: FineMatches, true_pixel: Tensor, visible: Tensor) -> Tensor:
    """Return the cross entropy of refined matches whose true place is among the candidates.

    :param true_pixel: (P, Q, 2); ``visible``: (P, Q) bool.
    """
    distance = (matches.candidate - true_pixel[:, :, None]).abs()
    weight = (1 - distance / 2).clamp(min=0).prod(-1) * (matches.logit > OUTSIDE)
    entropy = -(matches.logit.log_softmax(-1) * weight).sum(-1)
    return _mean(entropy, visible & (weight.sum(-1) > 0.99))


def match_confidence_loss(logit: Tensor, pixel: Tensor, true: TruePlaces) -> Tensor:
    """Return the cross entropy of "visible, and matched to within 4 pixels"."""
    right = true.visible & ((pixel - true.pixel).norm(dim=-1) < RIGHT_PX)
    entropy = F.binary_cross_entropy_with_logits(logit, right.float(), reduction='none')
    return _mean(entropy, true.known)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values; the others may be infinite."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)
