"""How keys and values are stored: as the network computes them, or in a byte each.

In a byte each: float8 (e4m3) with a scale for each frame and head, and the mean of each channel
over the frame's tokens apart, since what all tokens share is large and would take the digits.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .backbone import KeyValues

#: Largest number of float8_e4m3fn.
_LARGEST = 448.0
#: Keeps the scale of a head whose tokens are all the same from being 0.
_SMALLEST = 1e-12


class Encoding(Protocol):
    """Keys and values of one layer as the tensors that are stored, frames along dimension 2.

    :ivar exact: they are stored as they are.
    """

    exact: bool

    def encode(self, entry: KeyValues) -> list[Tensor]:
        """Return the tensors to store; the first has the shape of the keys."""

    def decode(self, stored: list[Tensor], dtype: torch.dtype) -> KeyValues:
        """Return keys and values in the type of the arithmetic."""


class AsComputed:
    """Nothing is done to them."""

    exact = True

    def encode(self, entry: KeyValues) -> list[Tensor]:
        """Return keys and values."""
        return [entry.keys, entry.values]

    def decode(self, stored: list[Tensor], dtype: torch.dtype) -> KeyValues:
        """Return what was stored, not copied."""
        return KeyValues(*stored)


class Float8:
    """A byte each; no arithmetic in it is asked of the device."""

    exact = False

    def encode(self, entry: KeyValues) -> list[Tensor]:
        """Return codes, scales and means of the keys, and of the values."""
        return [*_encoded(entry.keys), *_encoded(entry.values)]

    def decode(self, stored: list[Tensor], dtype: torch.dtype) -> KeyValues:
        """Return keys and values, near what they were."""
        return KeyValues(_decoded(stored[:3], dtype), _decoded(stored[3:], dtype))


def _encoded(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B, h, N, P, d) float8 codes, (B, h, N, 1, 1) scales and (B, h, N, 1, d) means."""
    # The camera's token is unlike the patches and would only blur their mean.
    mean = x[:, :, :, 1:].mean(dim=3, keepdim=True, dtype=torch.float32)
    centred = x.float() - mean
    scale = centred.abs().amax(dim=(3, 4), keepdim=True).clamp_min(_SMALLEST) / _LARGEST
    # Rounding may carry the largest over the end, where there is no infinity but NaN.
    codes = (centred / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return codes, scale, mean


def _decoded(stored: list[Tensor], dtype: torch.dtype) -> Tensor:
    codes, scale, mean = stored
    return torch.addcmul(mean, codes.float(), scale).to(dtype)
