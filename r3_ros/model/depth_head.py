"""Dense prediction: from four taps by a fused pyramid to depth, confidence, rays and sky.

Frames are independent of one another. Shapes: N frames, D tap width, h x w patches,
F features, H x W = 14h x 14w pixels. Sizes of the pyramid: level 1 is 4h x 4w, level 2 2h x 2w,
level 3 h x w, level 4 half of that; the fused map 8h x 8w.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .layers import EPSILON, FREQUENCY_BASE, in_float32, LayerNorm, linear
from .variants import DepthHeadConfig, PATCH

#: Frames in one call of the depth head, whose full-size maps are large.
HEAD_FRAMES = 4
#: Channels of the last hidden layer of every branch.
BRANCH_CHANNELS = 32
#: Strength of the position embedding.
_EMBEDDING_GAIN = 0.1


class DenseDepth(NamedTuple):
    """Output of the dual head; rays are optional.

    :ivar depth: (N, H, W) float32 > 0, along the optical axis, in the network's unit.
    :ivar confidence: (N, H, W) float32 > 1.
    :ivar rays: (N, 8h, 8w, 6) float32, origin and direction; ``ray_confidence``: (N, 8h, 8w) > 1.
    """

    depth: Tensor
    confidence: Tensor
    rays: Tensor | None = None
    ray_confidence: Tensor | None = None


class Points(NamedTuple):
    """Output of the point head.

    :ivar points: (N, H, W, 3) float32, in the world of the first frame and the network's unit.
    :ivar confidence: (N, H, W) float32 > 1.
    """

    points: Tensor
    confidence: Tensor


class MonoDepth(NamedTuple):
    """Output of the metric head: (N, H, W) float32 depth > 0 and sky >= 0."""

    depth: Tensor
    sky: Tensor


@lru_cache(maxsize=32)
def _axis_embedding(
    size: int, extent: float, channels: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return (channels, size) sines, then cosines of pixel positions along one axis."""
    with torch.inference_mode(False):
        edge = extent * (size - 1) / size
        positions = torch.linspace(-edge, edge, size, device=device, dtype=torch.float32)
        steps = torch.arange(channels // 2, device=device, dtype=torch.float32) / (channels // 2)
        angles = FREQUENCY_BASE ** -steps[:, None] * positions
        return (_EMBEDDING_GAIN * torch.cat([angles.sin(), angles.cos()])).to(dtype)


def add_position_embedding(x: Tensor, aspect: float) -> Tensor:
    """Add the position embedding to (N, channels, m_h, m_w) for an image aspect, in place.

    Half of the channels encode the column, half the row.
    """
    channels, m_h, m_w = x.shape[1:]
    diagonal = (aspect**2 + 1) ** 0.5
    half = channels // 2
    u = _axis_embedding(m_w, aspect / diagonal, half, x.device, x.dtype)
    v = _axis_embedding(m_h, 1 / diagonal, half, x.device, x.dtype)
    x[:, :half] += u[:, None, :]
    x[:, half:] += v[:, :, None]
    return x


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with a skip connection, which may carry the rectified input."""

    def __init__(self, features: int, rectified: bool = False) -> None:
        super().__init__()
        self._rectified = rectified
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, F, h, w) to the same shape."""
        rectified = F.relu(x)
        kept = rectified if self._rectified else x
        return kept + self.conv2(F.relu(self.conv1(rectified)))


class Fusion(nn.Module):
    """Adds a level to the coarser ones and resizes the sum to the next level."""

    def __init__(self, features: int, has_side: bool, rectified: bool = False) -> None:
        super().__init__()
        if has_side:
            self.resConfUnit1 = ResidualUnit(features, rectified)
        self.resConfUnit2 = ResidualUnit(features, rectified)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, top: Tensor, side: Tensor | None, size: Sequence[int]) -> Tensor:
        """Map (N, F, h, w) and the same side to (N, F, *size); the coarsest level has no side.

        The 1x1 convolution precedes the upsampling, with which it commutes (bilinear weights sum
        to one), at a quarter of the cost.
        """
        if side is not None:
            top = top + self.resConfUnit1(side)
        return _resized(self.out_conv(self.resConfUnit2(top)), size)


class ChannelNorm(LayerNorm):
    """A layer norm over the channels of a map, in the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).to(x.dtype)


class TokenConv(nn.Conv2d):
    """A 1x1 convolution as a matrix product of tokens.

    Without a copy its maps, and all that follow, have the channels of a pixel side by side, which
    oneDNN needs anyway.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, h*w, D) to (N, channels, h*w)."""
        weight = self.weight.flatten(1)
        return linear(tokens.to(weight.dtype), weight, self.bias).transpose(1, 2)


class LogitConv(nn.Conv2d):
    """The last 1x1 convolution of a branch, in float32, since exponentials follow."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 32, h, w) to (N, logits, h, w) float32."""
        with in_float32(x.device):
            return super().forward(x.float())


def branch_end(features: int, logits: int, hidden: int = BRANCH_CHANNELS) -> nn.Sequential:
    """Return the last layers of a branch."""
    first = nn.Conv2d(features, hidden, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), LogitConv(hidden, logits, 1))


class Pyramid(nn.Module):
    """The layers of all heads: projected levels, their fusion, the map at full resolution."""

    #: Whether maps get a position embedding.
    embeds_positions = False
    #: Side of a patch in pixels.
    patch = PATCH
    #: Whether the coarsest level, which has half the rows and columns rounded up, is doubled and
    #: cropped to the next level; else it is resized to it.
    crops_coarsest = False

    def __init__(self, config: DepthHeadConfig, widths: Sequence[int]) -> None:
        """Build the layers.

        :param widths: of the four taps.
        """
        super().__init__()
        F_ = config.features
        c1, c2, _, c4 = config.channels
        self.norm: LayerNorm | None = None
        self.projects = nn.ModuleList(
            TokenConv(width, c, 1) for width, c in zip(widths, config.channels, strict=True)
        )
        up4, up2 = nn.ConvTranspose2d(c1, c1, 4, stride=4), nn.ConvTranspose2d(c2, c2, 2, stride=2)
        down2 = nn.Conv2d(c4, c4, 3, stride=2, padding=1)
        self.resize_layers = nn.ModuleList([up4, up2, nn.Identity(), down2])
        for k, channels in enumerate(config.channels, start=1):
            setattr(self, f'layer{k}_rn', nn.Conv2d(channels, F_, 3, padding=1, bias=False))
        self._add_fusions(config, '')
        self.output_conv1 = nn.Conv2d(F_, F_ // 2, 3, padding=1)

    def _add_fusions(self, config: DepthHeadConfig, suffix: str) -> None:
        for k in range(1, 5):
            # That of the fourth is unused, but in the published files of the networks of pairs.
            has_side = k < 4 or self.crops_coarsest
            fusion = Fusion(config.features, has_side, rectified=config.rectified_skips)
            setattr(self, f'refinenet{k}{suffix}', fusion)

    def _levels(self, features: Sequence[Tensor], rows: int, columns: int) -> list[Tensor]:
        """Map four taps (N, h*w, D) to four levels of F channels."""
        levels = []
        for k, tap in enumerate(features):
            tokens = tap if self.norm is None else self.norm(tap)
            x = self.projects[k](tokens).unflatten(2, (rows, columns))
            if self.embeds_positions:
                x = add_position_embedding(x, columns / rows)
            levels.append(getattr(self, f'layer{k + 1}_rn')(self.resize_layers[k](x)))
        return levels

    def _fused(self, levels: Sequence[Tensor], suffix: str = '') -> Tensor:
        """Fuse the levels, coarsest first, to (N, F, 8h, 8w)."""
        sizes = [[2 * n for n in levels[0].shape[2:]], *(level.shape[2:] for level in levels[:3])]
        if self.crops_coarsest:
            doubled = [2 * n for n in levels[3].shape[2:]]
            fused = getattr(self, f'refinenet4{suffix}')(levels[3], None, doubled)
            fused = fused[..., : sizes[3][0], : sizes[3][1]]
        else:
            fused = getattr(self, f'refinenet4{suffix}')(levels[3], None, sizes[3])
        for k in (3, 2, 1):
            fused = getattr(self, f'refinenet{k}{suffix}')(fused, levels[k - 1], sizes[k - 1])
        return fused

    def _full_size(self, fused: Tensor, rows: int, columns: int) -> Tensor:
        """Map (N, F, 8h, 8w) to (N, F/2, H, W)."""
        x = _resized(self.output_conv1(fused), (rows * self.patch, columns * self.patch))
        return add_position_embedding(x, columns / rows) if self.embeds_positions else x


class DualHead(Pyramid):
    """The head of R3 and any-view DA3: depth with confidence, and optionally rays."""

    embeds_positions = True

    def __init__(self, config: DepthHeadConfig, width: int) -> None:
        super().__init__(config, [width] * 4)
        F_ = config.features
        self.norm = LayerNorm(width, eps=EPSILON)
        self.output_conv2 = branch_end(F_ // 2, 2)
        if not config.rays:
            return
        self._add_fusions(config, '_aux')
        widths = [(F_, F_ // 2), (F_ // 2, F_)]
        # Levels 0 to 2 are in every released file but unused.
        self.output_conv1_aux = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(*widths[i % 2], 3, padding=1) for i in range(5)))
            for _ in range(4)
        )
        shared = ChannelNorm(BRANCH_CHANNELS, eps=EPSILON)
        self.output_conv2_aux = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    [
                        ('0', nn.Conv2d(F_ // 2, BRANCH_CHANNELS, 3, padding=1)),
                        ('2', shared),
                        ('4', nn.ReLU()),
                        ('5', LogitConv(BRANCH_CHANNELS, 7, 1)),
                    ]
                )
            )
            for _ in range(4)
        )

    def forward(
        self, features: Sequence[Tensor], rows: int, columns: int, rays: bool = False
    ) -> DenseDepth:
        """Predict from four taps (N, h*w, D) of a grid of h = rows by w = columns patches."""
        levels = self._levels(features, rows, columns)
        logits = self.output_conv2(self._full_size(self._fused(levels), rows, columns))
        dense = DenseDepth(logits[:, 0].exp(), 1 + logits[:, 1].exp())
        if not rays:
            return dense
        x = self.output_conv1_aux[3](self._fused(levels, '_aux'))
        aux = self.output_conv2_aux[3](add_position_embedding(x, columns / rows))
        return dense._replace(
            rays=aux[:, :6].permute(0, 2, 3, 1), ray_confidence=1 + aux[:, 6].exp()
        )


class PointHead(Pyramid):
    """The second dense head of VGGT: a point of the world for every pixel."""

    embeds_positions = True

    def __init__(self, config: DepthHeadConfig, width: int) -> None:
        super().__init__(config, [width] * 4)
        self.norm = LayerNorm(width, eps=EPSILON)
        self.output_conv2 = branch_end(config.features // 2, 4)

    def forward(self, features: Sequence[Tensor], rows: int, columns: int) -> Points:
        """Predict from four taps (N, h*w, D)."""
        fused = self._fused(self._levels(features, rows, columns))
        logits = self.output_conv2(self._full_size(fused, rows, columns))
        coordinates = logits[:, :3].permute(0, 2, 3, 1)
        # Both signs, fine near zero and coarse far away.
        points = coordinates.sign() * coordinates.abs().expm1()
        return Points(points, 1 + logits[:, 3].exp())


class MetricHead(Pyramid):
    """The head of the metric network: depth for a focal length of 300 pixels, and sky."""

    def __init__(self, config: DepthHeadConfig, width: int) -> None:
        super().__init__(config, [width] * 4)
        self.output_conv2 = branch_end(config.features // 2, 1)
        self.sky_output_conv2 = branch_end(config.features // 2, 1)

    def forward(self, features: Sequence[Tensor], rows: int, columns: int) -> MonoDepth:
        """Predict from four taps (N, h*w, C)."""
        x = self._full_size(self._fused(self._levels(features, rows, columns)), rows, columns)
        return MonoDepth(self.output_conv2(x)[:, 0].exp(), F.relu(self.sky_output_conv2(x)[:, 0]))
