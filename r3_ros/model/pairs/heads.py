"""The heads of the networks of image pairs; all in float32.

Shapes: N images, P = h x w patches, H x W = 16h x 16w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..depth_head import branch_end, Pyramid
from ..layers import in_float32, Linear, linear, Mlp
from ..variants import CrocoConfig, DepthHeadConfig

#: Side of a patch in pixels.
PATCH = 16
#: Channels of a descriptor.
DESCRIPTOR_CHANNELS = 24
_PYRAMID = DepthHeadConfig(features=256, channels=(96, 192, 384, 768), rays=False)
#: Channels of a pixel: x y z and the logit of the confidence.
_POINT_CHANNELS = 4
#: Channels of Reloc3r's head: four for each pixel of a patch.
_POSE_CHANNELS = 4 * PATCH**2


class PointMap(NamedTuple):
    """Points of N images, of every pixel.

    :ivar points: (N, H, W, 3) float32, in the first camera of the pair.
    :ivar confidence: (N, H, W) float32 > 1.
    :ivar descriptors: (N, H, W, 24) float32 unit vectors; None: the network has none.
    :ivar descriptor_confidence: (N, H, W) float32 > 0; None likewise.
    """

    points: Tensor
    confidence: Tensor
    descriptors: Tensor | None = None
    descriptor_confidence: Tensor | None = None


class _PointPyramid(Pyramid):
    """The pyramid from four stages of the decoder to four channels of every pixel."""

    patch = PATCH
    crops_coarsest = True

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__(_PYRAMID, [config.encoder_width, *[config.decoder_width] * 3])
        half = _PYRAMID.features // 2
        self.output_conv2 = branch_end(half, _POINT_CHANNELS, hidden=half)

    def forward(self, stages: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """Map (N, P, ...) stages to (N, 4, H, W)."""
        fused = self._fused(self._levels(stages, rows, columns))
        values: Tensor = self.output_conv2(self._full_size(fused, rows, columns))
        return values


class PairPointHead(nn.Module):
    """Points by the pyramid."""

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__()
        self.dpt = _PointPyramid(config)

    def forward(self, stages: Sequence[Tensor], rows: int, columns: int) -> PointMap:
        """Map (N, P, ...) stages of the decoder to points."""
        with in_float32(stages[0].device):
            return _point_map(self.dpt(stages, rows, columns))


class LinearHead(nn.Module):
    """Points of a patch from its token."""

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__()
        self.proj = Linear(config.decoder_width, _POINT_CHANNELS * PATCH**2)

    def forward(self, stages: Sequence[Tensor], rows: int, columns: int) -> PointMap:
        """Map (N, P, ...) stages of the decoder to points; only the last one counts."""
        with in_float32(stages[-1].device):
            return _point_map(_pixels(self.proj(stages[-1]), rows, columns))


class PairDescriptorHead(PairPointHead):
    """Points by the pyramid, and descriptors of a patch from its token."""

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__(config)
        width = config.encoder_width + config.decoder_width
        self.head_local_features = Mlp(width, 4 * width, (DESCRIPTOR_CHANNELS + 1) * PATCH**2)

    def forward(self, stages: Sequence[Tensor], rows: int, columns: int) -> PointMap:
        """Map (N, P, ...) stages of the decoder to points and descriptors."""
        point_map = super().forward(stages, rows, columns)
        with in_float32(stages[0].device):
            tokens = self.head_local_features(torch.cat([stages[0], stages[-1]], dim=-1))
            values = _pixels(tokens, rows, columns)
            descriptors = F.normalize(values[:, :DESCRIPTOR_CHANNELS], dim=1).permute(0, 2, 3, 1)
            return point_map._replace(
                descriptors=descriptors, descriptor_confidence=values[:, -1].exp()
            )


class _ResidualConv(nn.Module):
    """Three layers at each patch, with a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (
            nn.Conv2d(channels, channels, 1) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, P, channels) to the same shape."""
        y = x
        for layer in (self.res_conv1, self.res_conv2, self.res_conv3):
            # A product of tokens, which is faster than the convolution of a map.
            y = F.relu(linear(y, layer.weight.flatten(1), layer.bias))
        return x + y


class PoseHead(nn.Module):
    """The pose of an image relative to the other one, from the mean over its tokens."""

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__()
        n = _POSE_CHANNELS
        self.proj = Linear(config.decoder_width, n)
        self.res_conv = nn.ModuleList(_ResidualConv(n) for _ in range(2))
        self.more_mlps = nn.Sequential(Linear(n, n), nn.ReLU(), Linear(n, n), nn.ReLU())
        self.fc_t, self.fc_rot = Linear(n, 3), Linear(n, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, P, C) to (N, 4, 4), the other camera's coordinates of this one's points."""
        with in_float32(tokens.device):
            x = self.proj(tokens)
            for block in self.res_conv:
                x = block(x)
            x = self.more_mlps(x.mean(dim=1))
            T = torch.eye(4, device=x.device).repeat(len(x), 1, 1)
            T[:, :3, :3] = nearest_rotation(
                F.normalize(self.fc_rot(x).unflatten(-1, (3, 3)), dim=-1)
            )
            T[:, :3, 3] = self.fc_t(x)
            return T


def nearest_rotation(m: Tensor) -> Tensor:
    """Return the (N, 3, 3) rotations nearest to matrices (Levinson et al., arXiv 2006.14616).

    NaN where a matrix is not finite, of which torch gives no decomposition.
    """
    finite = m.isfinite().flatten(1).all(dim=1)[:, None, None]
    u, _, vh = torch.linalg.svd(torch.where(finite, m, torch.zeros_like(m)))
    handed = torch.ones_like(m[:, 0])
    handed[:, 2] = torch.linalg.det(u @ vh)
    return torch.where(finite, (u * handed[:, None]) @ vh, torch.nan)


def _pixels(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Spread (N, P, channels * 16 * 16) over the pixels: (N, channels, H, W)."""
    maps = tokens.transpose(1, 2).unflatten(2, (rows, columns))
    return F.pixel_shuffle(maps, PATCH)


def _point_map(values: Tensor) -> PointMap:
    """Turn (N, 4, H, W) into points and confidence: the distance is exponential."""
    points = values[:, :3].permute(0, 2, 3, 1)
    distance = points.norm(dim=-1, keepdim=True)
    points = points / distance.clamp_min(1e-8) * distance.expm1()
    return PointMap(points, 1 + values[:, 3].exp())
