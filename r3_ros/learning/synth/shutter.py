"""Rolling shutters: rows of a picture that are exposed one after the other."""

from __future__ import annotations

from collections.abc import Callable
import math

import torch

from ...core.datatypes import Intrinsics
from .raster import TILE

#: A picture is exposed in so many bands at most.
_MOST_BANDS = 12


def band_rows(height: int) -> int:
    """Return how many rows are exposed together: whole tiles, which the renderer works on."""
    return TILE * math.ceil(height / _MOST_BANDS / TILE)


def row_time_s(row: float, height: int, readout_s: float) -> float:
    """Return when a row is exposed, in seconds after the middle of the picture."""
    return (row - (height - 1) / 2) / height * readout_s


def rolling(
    expose: Callable[[torch.Tensor, Intrinsics], torch.Tensor],
    intrinsics: Intrinsics,
    time_s: torch.Tensor,
    readout_s: float,
) -> torch.Tensor:
    """Return pictures whose rows were exposed one after the other, the first row first.

    A picture's time is that of its middle, between the two middle rows if their number is even.
    Rows are exposed in bands (:func:`band_rows`), each from where the camera and all bodies are
    when its own middle is: off by what moves in half the time of a band, at most.

    :param expose: gives pictures (B, C, h, W) of times (B,) seconds through a camera: a band of
        the whole one.
    :param time_s: (B,) float64 seconds.
    :param readout_s: from the first row to one row after the last.
    """
    bands, step = [], band_rows(intrinsics.height)
    for top in range(0, intrinsics.height, step):
        rows = min(step, intrinsics.height - top)
        middle = row_time_s(top + (rows - 1) / 2, intrinsics.height, readout_s)
        band = intrinsics.cropped(0, top, intrinsics.width, rows)
        bands.append(expose(time_s + middle, band))
    return torch.cat(bands, dim=2)
