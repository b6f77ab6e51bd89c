"""The convolutional stem of r3-tiny, and the descriptors by which frames are matched.

Cells are the pixels of maps at stride 4: h = H // 4 rows, w = W // 4 columns; cell (r, c) is
centred on the pixel (x, y) = (4c + 1.5, 4r + 1.5). Pixels of maps at stride 2 are centred on
(2c + 0.5, 2r + 0.5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

#: Pixels from one cell to the next.
STRIDE = 4
_HALF, _QUARTER, _EIGHTH = 32, 64, 96
_COARSE, _FINE = 48, 24


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions before which the input is normalised, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(self.norm(x)))))


class StemFeatures(NamedTuple):
    """Maps of N images: ``half`` (N, 32, H // 2, W // 2), ``quarter`` (N, 64, h, w)."""

    half: Tensor
    quarter: Tensor


class Stem(nn.Module):
    """Features at strides 2 and 4; those at stride 4 have context from stride 8."""

    def __init__(self, width: int) -> None:
        """Build the layers.

        :param width: C, channels of the patch tokens.
        """
        super().__init__()
        self.conv_half = nn.Conv2d(3, _HALF, 4, stride=2, padding=1)
        self.block_half = ResidualBlock(_HALF)
        self.conv_quarter = nn.Conv2d(_HALF, _QUARTER, 4, stride=2, padding=1)
        self.blocks_quarter = nn.Sequential(ResidualBlock(_QUARTER), ResidualBlock(_QUARTER))
        self.conv_eighth = nn.Conv2d(_QUARTER, _EIGHTH, 3, stride=2, padding=1)
        self.blocks_eighth = nn.Sequential(ResidualBlock(_EIGHTH), ResidualBlock(_EIGHTH))
        self.up = nn.Conv2d(_EIGHTH, _QUARTER, 1)
        self.patches = nn.Conv2d(_QUARTER, width, 1)

    def forward(self, images: Tensor) -> StemFeatures:
        """Map (N, 3, H, W) normalised images."""
        x = images.contiguous(memory_format=torch.channels_last)
        half = self.block_half(F.relu(self.conv_half(x)))
        quarter = self.blocks_quarter(self.conv_quarter(F.relu(half)))
        eighth = self.up(self.blocks_eighth(self.conv_eighth(F.relu(quarter))))
        return StemFeatures(half, quarter + _resized(eighth, quarter))

    def patch_features(self, features: StemFeatures, rows: int, columns: int) -> Tensor:
        """Return what is added to the patch embedding: (N, rows * columns, C)."""
        # Averages before the convolution, with which they commute: it has fewer pixels then.
        pooled = F.adaptive_avg_pool2d(features.quarter, (rows, columns))
        return self.patches(pooled).flatten(2).transpose(1, 2)


class Descriptors(NamedTuple):
    """Unit descriptors in float32: coarse (..., h, w, 48) and fine (..., H // 2, W // 2, 24)."""

    coarse: Tensor
    fine: Tensor


class DescriptorHead(nn.Module):
    """Descriptors of cells, and finer ones at stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context = nn.Linear(width, _QUARTER)
        self.block = ResidualBlock(_QUARTER)
        self.coarse = nn.Conv2d(_QUARTER, _COARSE, 1)
        self.fine = nn.Conv2d(_HALF, _FINE, 3, padding=1)
        self.fine_up = nn.Conv2d(_QUARTER, _FINE, 1)

    def forward(self, features: StemFeatures, patches: Tensor | None) -> Descriptors:
        """Describe N images.

        :param patches: (N, C, rows, columns) patch tokens, whose context is added; None: without.
        """
        half, quarter = features
        x = quarter
        if patches is not None:
            context = self.context(patches.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = x + _resized(context, x)
        fine = self.fine(F.relu(half)) + _resized(self.fine_up(quarter), half)
        coarse = self.coarse(self.block(x))
        return Descriptors(_unit(coarse), _unit(fine))


def _unit(maps: Tensor) -> Tensor:
    """Return maps (N, d, h, w) as unit vectors (N, h, w, d)."""
    return F.normalize(maps.float().permute(0, 2, 3, 1), dim=-1)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode='bilinear', align_corners=False)
