"""The networks of image pairs: one encoder and decoder, CroCo v2 (arXiv 2211.10408), three heads.

The encoder sees one image; the decoder has a stream of tokens for each of the two images, and in
every block each attends to the other. Shapes: N images or pairs, P = h x w patches, E and C
channels of the encoder and of the decoder.
"""

from __future__ import annotations

from collections.abc import Collection
import re

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ...core.resize_geometry import Geometry
from ...input.network_input import r3_geometry
from ..backbone import PatchEmbedding
from ..layers import (
    Attention,
    Block,
    EPSILON_BLOCK,
    LayerNorm,
    Linear,
    Mlp,
    rotate,
    Rotation,
    rotations,
)
from ..multi_view import FrameFeatures
from ..network import normalised
from ..variants import CrocoConfig, HEAD_CHANNELS, PairOutput
from .heads import LinearHead, PairDescriptorHead, PairPointHead, PATCH, PointMap, PoseHead

#: Parameters that stay float32 in every precision: norms and heads, as in the authors' inference.
_FLOAT32 = re.compile(r'norm(\d|_y)?\.|^downstream_head|^pose_head')
#: Mean and deviation of the colours of an image, as taken in training.
_HALF = (0.5, 0.5, 0.5)


class CrossAttention(nn.Module):
    """Attention from the tokens of one image to those of the other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projq, self.projk, self.projv = (Linear(width, width) for _ in range(3))
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, other: Tensor, of_x: Rotation, of_other: Rotation) -> Tensor:
        """Map (N, P, C) to (N, P, C)."""
        dtype = self.projq.weight.dtype
        x, other = x.to(dtype), other.to(dtype)
        q, k, v = (
            project(tokens).unflatten(-1, (-1, HEAD_CHANNELS)).transpose(1, 2)
            for project, tokens in ((self.projq, x), (self.projk, other), (self.projv, other))
        )
        q, k = rotate(q, of_x).to(dtype), rotate(k, of_other).to(dtype)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(-2))


class DecoderBlock(nn.Module):
    """A pre-norm block that attends to the tokens of its own image, then to the other's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=EPSILON_BLOCK)
        self.attn = Attention(width, width // HEAD_CHANNELS, normalise=False)
        self.norm2 = LayerNorm(width, eps=EPSILON_BLOCK)
        self.norm_y = LayerNorm(width, eps=EPSILON_BLOCK)
        self.cross_attn = CrossAttention(width)
        self.norm3 = LayerNorm(width, eps=EPSILON_BLOCK)
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, x: Tensor, other: Tensor, of_x: Rotation, of_other: Rotation) -> Tensor:
        """Map the residual stream (N, P, C) float32 of one image to the next."""
        x = x + self.attn(self.norm1(x), of_x, F.scaled_dot_product_attention)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(other), of_x, of_other)
        return x + self.mlp(self.norm3(x))


class CrocoNetwork(nn.Module):
    """Encoder and decoder; with the names of the published files.

    :ivar image_size: long side of an image in pixels as trained, where ``model.image_size`` is 0.
    """

    def __init__(self, config: CrocoConfig, two_decoders: bool) -> None:
        """Build the layers.

        :param two_decoders: the second image has a decoder of its own.
        """
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        E, C = config.encoder_width, config.decoder_width
        self.patch_embed = PatchEmbedding(E, PATCH)
        self.enc_blocks = nn.ModuleList(
            Block(E, E // HEAD_CHANNELS, layer_scale=False) for _ in range(config.encoder_depth)
        )
        self.enc_norm = LayerNorm(E, eps=EPSILON_BLOCK)
        self.decoder_embed = Linear(E, C)
        self.dec_blocks = nn.ModuleList(DecoderBlock(C) for _ in range(config.decoder_depth))
        self.dec_blocks2: nn.ModuleList | None = None
        if two_decoders:
            self.dec_blocks2 = nn.ModuleList(DecoderBlock(C) for _ in range(config.decoder_depth))
        self.dec_norm = LayerNorm(C, eps=EPSILON_BLOCK)

    def geometry(self, width: int, height: int, image_size: int) -> Geometry:
        """Return the geometry of the authors' rule, but keep square images."""
        return r3_geometry(width, height, image_size, square_ok=True, patch=PATCH)

    @staticmethod
    def keeps_float32(name: str) -> bool:
        """Return whether a parameter stays float32 in every precision."""
        return _FLOAT32.search(name) is not None

    def encode(self, images: Tensor) -> FrameFeatures:
        """Encode images, each by itself, to (N, P, E) float32 tokens; their mean describes one.

        :param images: (N, 3, H, W) RGB, sides multiples of 16.
        :raises FrameError: wrong shape or type.
        """
        normal = normalised(images, dimensions=4, patch=PATCH, mean=_HALF, std=_HALF)
        x = self.patch_embed(normal).float()
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        rotation = _rotation(rows, columns, x.device)
        for block in self.enc_blocks:
            x = block(x, rotation)
        tokens = self.enc_norm(x)
        return FrameFeatures((tokens,), tokens.mean(dim=1), rows, columns)

    def decode(
        self, first: FrameFeatures, second: FrameFeatures, kept: Collection[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Relate N first images to N second ones.

        :param kept: stages to return: 0 is the input, i the output of block i; the last is normed.
        :returns: (N, P, ...) tokens of the stages of the first images, and of the second.
        """
        of_first = _rotation(first.rows, first.columns, first.device)
        of_second = _rotation(second.rows, second.columns, second.device)
        (x,), (y,) = first.tensors, second.tensors
        stages: tuple[list[Tensor], list[Tensor]] = ([], [])
        if 0 in kept:
            stages[0].append(x)
            stages[1].append(y)
        dtype = self.decoder_embed.weight.dtype
        x, y = self.decoder_embed(x.to(dtype)).float(), self.decoder_embed(y.to(dtype)).float()
        last = len(self.dec_blocks)
        both = zip(self.dec_blocks, self.dec_blocks2 or self.dec_blocks, strict=True)
        for i, (block, block2) in enumerate(both, start=1):
            x, y = block(x, y, of_first, of_second), block2(y, x, of_second, of_first)
            if i in kept:
                stages[0].append(self.dec_norm(x) if i == last else x)
                stages[1].append(self.dec_norm(y) if i == last else y)
        return stages


class PointNetwork(CrocoNetwork):
    """DUSt3R and MASt3R: a point map of each image, both in the first camera."""

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__(config, two_decoders=True)
        head = {
            PairOutput.POINTS: PairPointHead,
            PairOutput.LINEAR_POINTS: LinearHead,
            PairOutput.DESCRIPTORS: PairDescriptorHead,
        }[config.output]
        self.downstream_head1, self.downstream_head2 = head(config), head(config)

    def forward(self, first: FrameFeatures, second: FrameFeatures) -> tuple[PointMap, PointMap]:
        """Return the point maps of N pairs, the points of both images in the first camera."""
        of_first, of_second = self.decode(first, second, self.config.taps)
        return (
            self.downstream_head1(of_first, first.rows, first.columns),
            self.downstream_head2(of_second, second.rows, second.columns),
        )


class PoseNetwork(CrocoNetwork):
    """Reloc3r: the relative pose of two images, its translation of arbitrary length."""

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__(config, two_decoders=False)
        self.pose_head = PoseHead(config)

    def forward(self, first: FrameFeatures, second: FrameFeatures) -> tuple[Tensor, Tensor]:
        """Return (N, 4, 4) float32 ``T_second_first`` and ``T_first_second``.

        The two are predicted by themselves: their product differs from the identity by the error.
        """
        (of_first,), (of_second,) = self.decode(first, second, [self.config.decoder_depth])
        return self.pose_head(of_first), self.pose_head(of_second)


def _rotation(rows: int, columns: int, device: torch.device) -> Rotation:
    """Return the rotary table of the patches.

    It begins at (1, 1), the authors' at (0, 0): attention depends on differences alone.
    """
    within, _ = rotations(rows, columns, device)
    return Rotation(within.cos[1:], within.sin[1:])
