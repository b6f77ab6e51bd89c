"""Dense matches of two frames: every cell's place in the other frame, to a fraction of a pixel.

Shapes: P pairs of frames i and j, M = h * w cells, Q chosen cells. Everything is float32.
"""

from __future__ import annotations

from functools import lru_cache
import math
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..layers import linear
from .stem import STRIDE

#: A match is the expectation over the cells at most this far from the best one.
_COARSE_RADIUS = 2
#: Pixels at stride 2 to each side of a match among which it is refined.
_FINE_RADIUS = 3
#: Farthest from the best of them, pixels in x and y, that take part in the refined match: the
#: expectation over all is drawn towards their middle.
_FINE_PEAK_PX = 2
#: Logit of candidates outside of the image.
OUTSIDE = -1e4
_FIRST_TEMPERATURE = 10.0
#: Exponentials of logits up to this, and their sums, are far from the largest float32.
_MOST_LOG_TEMPERATURE = 4.0
#: Cells; a match that comes back nearer to its start counts as mutual.
_MUTUAL = 0.7
_LONGEST_CYCLE = 8.0
_LEAST_SHARE = 1e-6
#: Similarities that are computed at once.
MOST_SIMILARITIES = 2**20
#: Pairs whose matches are refined at once, and memory that each takes.
PAIRS_AT_ONCE, PAIR_BYTES = 16, 2_600_000


class Similarities(NamedTuple):
    """How similar the cells of i (rows) are to those of j: the two softmaxes share one matrix.

    :ivar values: (P, M, M) exponentials of the logits.
    :ivar rows: (P, M) their sums over j; ``columns``: (P, M) over i.
    """

    values: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def reversed(self) -> Similarities:
        """The same of j to i."""
        return Similarities(self.values.mT, self.columns, self.rows)


class Matches(NamedTuple):
    """Where the cells of one frame are in the other one.

    :ivar pixel: (P, M, 2) x and y in the other frame.
    :ivar logit: (P, M) logits of the confidence that a match exists and is right.
    """

    pixel: Tensor
    logit: Tensor


class FineMatches(NamedTuple):
    """Refined matches, and the candidates they were chosen from.

    :ivar logit: (P, Q, K), ``OUTSIDE`` for candidates outside of the image.
    :ivar candidate: (P, Q, K, 2) their pixels x and y.
    :ivar pixel: (P, Q, 2) the expectation over the best one and its neighbours.
    """

    logit: Tensor
    candidate: Tensor
    pixel: Tensor


class Peaks(NamedTuple):
    """The best matches of M cells: expectations near the best cell, and figures of certainty."""

    place: Tensor  # (P, M, 2) column and row
    share: Tensor  # (P, M) of the best cell
    mass: Tensor  # (P, M) share of the cells round it
    variance: Tensor  # (P, M) there, in square cells
    best: Tensor  # (P, M) index of the best cell


class Matcher(nn.Module):
    """Matches descriptors; learns two temperatures and the confidence of a match."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(_FIRST_TEMPERATURE)))
        self.log_fine_temperature = nn.Parameter(torch.tensor(math.log(_FIRST_TEMPERATURE)))
        self.confidence = nn.Sequential(nn.Linear(7, 32), nn.GELU(), nn.Linear(32, 1))

    def similarities(self, source: Tensor, target: Tensor) -> Similarities:
        """Compare the coarse descriptors (P, h, w, d) of i and j."""
        gain = torch.exp(self.log_temperature.clamp(max=_MOST_LOG_TEMPERATURE)) / math.log(2)
        rows, columns = gain * source.flatten(1, 2), target.flatten(1, 2)
        # exp2, since torch's exp takes four times as long.
        if torch.is_grad_enabled() or rows.device.type != 'cpu':
            values = (rows @ columns.mT).exp2_()
        else:
            values = rows.new_empty(*rows.shape[:2], columns.shape[1])
            for product, row, column in zip(values, rows, columns, strict=True):
                torch.exp2(linear(row, column), out=product)
        return Similarities(values, values.sum(2), values.sum(1))

    def peaks(self, coarse: Tensor, source: Tensor, target: Tensor) -> tuple[Peaks, Peaks]:
        """Compare pairs, a few at a time: their similarities fit into a CPU's cache.

        :param coarse: (F, h, w, d) descriptors of frames.
        :param source: (P,) indices of frames i; ``target``: of frames j.
        :returns: the peaks of i in j, and of j in i.
        """
        at_once = max(1, MOST_SIMILARITIES // coarse[0, ..., 0].numel() ** 2)
        parts = [
            peaks(self.similarities(coarse[i], coarse[j]), coarse.shape[2])
            for i, j in zip(source.split(at_once), target.split(at_once), strict=True)
        ]
        there, back = (
            Peaks(*(torch.cat(part) for part in zip(*side, strict=True)))
            for side in zip(*parts, strict=True)
        )
        return there, back

    def match(self, there: Peaks, back: Peaks, columns: int) -> tuple[Matches, Matches]:
        """Return the matches of i in j and of j in i; only the confidences have gradients.

        :param there: of the cells of i in j; ``back``: of those of j in i.
        :param columns: cells in a row.
        """
        return self._matches(there, back, columns), self._matches(back, there, columns)

    def _matches(self, there: Peaks, back: Peaks, columns: int) -> Matches:
        index = torch.arange(there.best.shape[1], device=there.best.device)
        start = torch.stack((index % columns, index // columns), dim=-1)
        returned = back.place.gather(1, there.best[..., None].expand(-1, -1, 2))
        cycle = (returned - start).norm(dim=-1)
        features = (
            there.share.clamp(min=_LEAST_SHARE).log(),
            there.mass.clamp(min=_LEAST_SHARE).log(),
            there.variance,
            back.share.gather(1, there.best).clamp(min=_LEAST_SHARE).log(),
            cycle.clamp(max=_LONGEST_CYCLE),
            torch.log1p(cycle),
            (cycle < _MUTUAL).float(),
        )
        logit = self.confidence(torch.stack(features, dim=-1))[..., 0]
        return Matches(pixels_of_cells(there.place), logit)

    def refine(
        self, fine: Tensor, source: Tensor, target: Tensor, cells: Tensor, pixel: Tensor
    ) -> FineMatches:
        """Refine matches of cells of frames i in frames j.

        :param fine: (F, H // 2, W // 2, d) fine descriptors of frames.
        :param source: (P,) indices of frames i; ``target``: of frames j.
        :param cells: (P, Q) indices of cells of i; ``pixel``: (P, Q, 2) their matches in j.
        """
        height, width = fine.shape[1:3]
        table = fine.flatten(0, 2)
        first = (source * height * width)[:, None, None]
        query = F.embedding(first + _fine_pixels(cells, width), table).mean(2, keepdim=True)
        centre = ((pixel - 0.5) / 2).round().long()
        columns, rows, inside = _window(centre, _FINE_RADIUS, height, width)
        first = (target * height * width)[:, None, None]
        index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        keys = F.embedding(first + index, table)
        product = (query @ keys.mT)[..., 0, :]
        logit = torch.exp(self.log_fine_temperature) * product
        logit = logit.masked_fill(~inside, OUTSIDE)
        candidate = torch.stack((columns, rows), dim=-1) * 2 + 0.5
        best = _gathered(candidate, logit.argmax(-1, keepdim=True))
        far = (candidate - best).abs().amax(-1) > _FINE_PEAK_PX
        share = logit.masked_fill(far, OUTSIDE).softmax(-1)
        return FineMatches(logit, candidate, (share[..., None] * candidate).sum(dim=2))


def _gathered(candidate: Tensor, index: Tensor) -> Tensor:
    """Return (P, Q, 1, 2) of (P, Q, K, 2) at (P, Q, 1)."""
    return candidate.gather(2, index[..., None].expand(-1, -1, -1, 2))


def _fine_pixels(cells: Tensor, width: int) -> Tensor:
    """Return the indices (..., 4) of the pixels at stride 2 of cells, in maps of this width."""
    first = cells // (width // 2) * 2 * width + cells % (width // 2) * 2
    return first[..., None] + torch.tensor([0, 1, width, width + 1], device=cells.device)


@torch.no_grad()
def peaks(similarities: Similarities, columns: int) -> tuple[Peaks, Peaks]:
    """Return the best matches of the cells of i in j, and of those of j in i.

    :param columns: cells in a row.
    """
    values = similarities.values
    P, M, _ = values.shape
    # torch vectorises maxima over a map with their places, in this order of the memory, but not
    # max(-1), which takes three times as long.
    highest, row = _highest(values.view(P * M, -1, columns).mT[:, :, None])
    highest, column = highest.max(-1)
    best = row.gather(-1, column[:, None])[:, 0] * columns + column
    there = _peaks(similarities, highest.view(P, M), best.view(P, M), columns)
    maps = values.view(P, -1, columns, M).permute(0, 3, 1, 2)
    return there, _peaks(similarities.reversed, *_highest(maps), columns)


def _highest(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest value of each map (N, C, H, W) and its index, (N, C) both."""
    highest, index = F.max_pool2d(maps, maps.shape[-2:], return_indices=True)
    return highest[..., 0, 0], index[..., 0, 0]


def _peaks(similarities: Similarities, highest: Tensor, best: Tensor, columns: int) -> Peaks:
    """Summarise the distributions of the cells of i over those of j.

    :param highest: (P, M) similarity of the best cell of j; ``best``: (P, M) its index.
    """
    index, inside, offsets = _neighbours(best.shape[1] // columns, columns, best.device)
    near = similarities.values.gather(-1, index[best]) * inside[best]
    mass = near.sum(-1)
    x, y, square = (near @ offsets / mass[..., None]).unbind(-1)
    place = torch.stack((best % columns + x, best // columns + y), dim=-1)
    sums = similarities.rows
    return Peaks(place, highest / sums, mass / sums, square - x**2 - y**2, best)


@lru_cache(maxsize=8)
def _neighbours(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells near each cell: (M, K) indices, and 1 or outside of the image 0.

    :returns: and (K, 3) how far they are: columns, rows, and the square of the distance.
    """
    with torch.inference_mode(False):
        cell = torch.arange(rows * columns, device=device)
        centre = torch.stack((cell % columns, cell // columns), dim=-1)
        x, y, inside = _window(centre, _COARSE_RADIUS, rows, columns)
        index = y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)
        far = torch.stack((x[0], y[0]), dim=-1)
        offsets = torch.cat([far, far.square().sum(-1, keepdim=True)], dim=-1)
        return index, inside.float(), offsets.float()


def _window(centre: Tensor, radius: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return columns, rows (..., K) of the squares round (..., 2), and which are in the map."""
    offset = torch.arange(-radius, radius + 1, device=centre.device)
    x = centre[..., :1] + offset.repeat(len(offset))
    y = centre[..., 1:] + offset.repeat_interleave(len(offset))
    return x, y, (x >= 0) & (x < width) & (y >= 0) & (y < height)


def pixels_of_cells(place: Tensor) -> Tensor:
    """Map columns and rows (..., 2) of cells to pixels x and y."""
    return place * STRIDE + (STRIDE - 1) / 2


@lru_cache(maxsize=8)
def cell_centres(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return (M, 2) pixels x and y of all cells."""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing='ij'
        )
        return pixels_of_cells(torch.stack((x, y), dim=-1).reshape(-1, 2).float())


def chosen_cells(logit: Tensor, count: int) -> Tensor:
    """Choose cells in proportion to their confidence, without replacement: (P, Q) indices.

    The most confident ones would lie together. The random numbers are the same in every call.

    :param logit: (P, M) of :class:`Matches`.
    """
    noise = _gumbel(logit.shape[1], logit.device)
    return (F.logsigmoid(logit) + noise).topk(min(count, logit.shape[1]), dim=-1).indices


@lru_cache(maxsize=8)
def _gumbel(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
        return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7))).to(device)
