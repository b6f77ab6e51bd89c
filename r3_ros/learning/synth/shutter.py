"""Rolling shutters: image rows are exposed one after the other."""

from __future__ import annotations

from collections.abc import Callable
import math

import torch

from ...core.datatypes import Intrinsics
from .raster import TILE

_MOST_BANDS = 12


def band_rows(height: int) -> int:
    """Return how many rows are exposed together: whole tiles of the renderer."""
    return TILE * math.ceil(height / _MOST_BANDS / TILE)


def rolling(
    expose: Callable[[torch.Tensor, Intrinsics], torch.Tensor],
    intrinsics: Intrinsics,
    time_s: torch.Tensor,
    readout_s: float,
) -> torch.Tensor:
    """Return images whose rows are exposed one after the other, the first row first.

    The time of an image is that of its middle, between the two middle rows if their number is
    even. Rows are exposed in bands (:func:`band_rows`), each with the camera and all bodies where
    they are at the middle of the band: the error is at most the motion in half a band's time.

    :param expose: renders images (B, C, h, W) at times (B,) seconds with the intrinsics of a band.
    :param time_s: (B,) float64 seconds.
    :param readout_s: from the first row to one row after the last.
    """
    bands, step, height = [], band_rows(intrinsics.height), intrinsics.height
    for top in range(0, height, step):
        rows = min(step, height - top)
        middle = (top + (rows - 1) / 2 - (height - 1) / 2) / height * readout_s
        band = intrinsics.cropped(0, top, intrinsics.width, rows)
        bands.append(expose(time_s + middle, band))
    return torch.cat(bands, dim=2)
