"""The vision transformer: patches to tokens, blocks within and across frames, four taps.

Shapes: B batch, S frames, P = 1 + rows * columns tokens per frame (token 0 is the class token,
later the camera token), C width, D tap width, h heads, d = 64, N cached frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .layers import attend_within, Block, EPSILON, LayerNorm, rotations
from .variants import BackboneConfig, PATCH, TABLE_SIDE


@dataclass(frozen=True)
class Tokens:
    """Frames after the blocks that see one frame alone.

    :ivar tokens: (B, S, P, C) float32, the input of block ``alternate_from``.
    :ivar descriptor: (B, S, C) mean patch token one block earlier: an appearance descriptor.
    :ivar class_token: (B, S, C) one block earlier: chooses plain DA3's reference view.
    :ivar rows: patches in a column of the image; ``columns``: in a row.
    """

    tokens: Tensor
    descriptor: Tensor
    class_token: Tensor
    rows: int
    columns: int


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of one cross-frame block: (B, h, N, P, d) each."""

    keys: Tensor
    values: Tensor

    def followed_by(self, *others: KeyValues) -> KeyValues:
        """Return a copy of the frames of several, one after another."""
        every = (self, *others)
        return KeyValues(
            torch.cat([kv.keys for kv in every], dim=2),
            torch.cat([kv.values for kv in every], dim=2),
        )


@dataclass(frozen=True)
class Taps:
    """The inputs of the heads.

    :ivar features: four times (B, S, P - 1, D) patch features: local half raw, global half normed.
    :ivar camera_tokens: four times (B, S, D), raw.
    :ivar key_values: of these frames, one per cross-frame block.
    """

    features: list[Tensor]
    camera_tokens: list[Tensor]
    key_values: tuple[KeyValues, ...]


class _AcrossFrames:
    """Attention of S frames over cached ones and one another; keeps their keys and values.

    Keys carry no frame position, so the order of the frames does not affect the result.

    :param cached: of the cached frames.
    :param extended: the same memory with one more frame at the end, for those of a single frame:
        nothing is copied but these.
    """

    def __init__(
        self, frames: int, causal: bool, cached: KeyValues | None, extended: KeyValues | None
    ) -> None:
        self._frames = frames
        self._causal = causal
        self._cached = cached
        self._extended = extended
        self.own: KeyValues | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map queries, keys and values (B*S, h, P, d) to (B*S, h, P, d)."""
        S = self._frames
        # (B*S, h, P, d) -> (B, h, S, P, d)
        q, k, v = (x.unflatten(0, (-1, S)).transpose(1, 2) for x in (q, k, v))
        if self._extended is not None:
            seen = self._extended
            self.own = KeyValues(seen.keys[:, :, -S:].copy_(k), seen.values[:, :, -S:].copy_(v))
        else:
            # Values are a view of all three projections, which must not stay in the cache.
            seen = self.own = KeyValues(k, v.contiguous())
            if self._cached is not None:
                seen = self._cached.followed_by(self.own)
        before = seen.keys.shape[2] - S
        if self._causal and S > 1:
            # One frame at a time over a growing prefix: no mask of (S P)^2 entries.
            out = torch.stack(
                [_attend(q[:, :, s : s + 1], seen, before + s + 1) for s in range(S)], dim=2
            ).flatten(2, 3)
        else:
            out = _attend(q, seen, before + S)
        return out.unflatten(2, (S, -1)).transpose(1, 2).flatten(0, 1)


def _attend(q: Tensor, seen: KeyValues, count: int) -> Tensor:
    """Attend (B, h, M, P, d) queries over the first frames seen; returns (B, h, M*P, d)."""
    keys = seen.keys[:, :, :count].flatten(2, 3)
    values = seen.values[:, :, :count].flatten(2, 3)
    return F.scaled_dot_product_attention(q.flatten(2, 3), keys, values)


class PatchEmbedding(nn.Module):
    """A convolution from pixels to tokens."""

    def __init__(self, width: int, patch: int = PATCH) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) normalised images to (N, rows * columns, C), row by row."""
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """The transformer in two steps: each frame alone, then with the frames it attends to."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        C = config.width
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, C))
        if config.alternate_from is not None:
            # Entry 0: the reference frame; entry 1: every other.
            self.camera_token = nn.Parameter(torch.zeros(1, 2, C))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TABLE_SIDE**2, C))
        self.patch_embed = PatchEmbedding(C)
        self.blocks = nn.ModuleList(
            Block(
                C,
                config.heads,
                normalise=config.alternate_from is not None and i >= config.alternate_from,
                swiglu_width=config.swiglu_width,
            )
            for i in range(config.depth)
        )
        self.norm = LayerNorm(C, eps=EPSILON)
        self._resized: tuple[object, Tensor] | None = None

    def embed(self, images: Tensor, added: Tensor | None = None) -> Tensor:
        """Map (N, 3, H, W) normalised images to (N, P, C) float32 tokens with positions.

        :param added: (N, P - 1, C) further features of the patches.
        """
        patches = self.patch_embed(images).float()
        if added is not None:
            patches = patches + added
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self._positions(images.shape[-2] // PATCH, images.shape[-1] // PATCH)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return the (1, P, C) position table of a grid, resized from the trained square."""
        if rows == columns == TABLE_SIDE:
            return self.pos_embed
        table = self.pos_embed
        if torch.is_grad_enabled() or table.is_inference():
            return self._resized_positions(rows, columns)  # gradients, or no version counter
        # A stream has one size: cached until the weights change.
        made_for = (rows, columns, table.device, table.data_ptr(), table._version)
        kept = self._resized  # read once: another thread may run another size
        if kept is None or kept[0] != made_for:
            kept = self._resized = (made_for, self._resized_positions(rows, columns))
        return kept[1]

    def _resized_positions(self, rows: int, columns: int) -> Tensor:
        table = self.pos_embed[:, 1:].unflatten(1, (TABLE_SIDE, TABLE_SIDE)).permute(0, 3, 1, 2)
        # As in training: the factors with the 0.1, not the size, determine the sample positions.
        scale = ((rows + 0.1) / TABLE_SIDE, (columns + 0.1) / TABLE_SIDE)
        resized = F.interpolate(table, scale_factor=scale, mode='bicubic', align_corners=False)
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)

    def describe(self, images: Tensor, added: Tensor | None = None) -> Tokens:
        """Run the blocks before ``alternate_from``, which see one frame alone.

        :param images: (B, S, 3, H, W) normalised, sides multiples of 14.
        :param added: see :meth:`embed`; N = B * S.
        """
        B, S = images.shape[:2]
        rows, columns = images.shape[-2] // PATCH, images.shape[-1] // PATCH
        x = self.embed(images.flatten(0, 1), added)
        last = self.config.alternate_from or self.config.depth
        before_last = x
        for block in self.blocks[:last]:
            before_last = x
            x = block(x)
        split = before_last.unflatten(0, (B, S))
        return Tokens(
            tokens=x.unflatten(0, (B, S)),
            descriptor=split[:, :, 1:].mean(dim=2),
            class_token=split[:, :, 0],
            rows=rows,
            columns=columns,
        )

    def relate(
        self,
        described: Tokens,
        camera_tokens: Tensor,
        causal: bool,
        cached: Sequence[KeyValues] = (),
        extended: Sequence[KeyValues] = (),
    ) -> Taps:
        """Run the other blocks, which alternate between one frame and all frames.

        :param camera_tokens: (B, S, C), replace the class token of each frame.
        :param causal: a frame sees the cached ones, itself and those before it; else all.
        :param cached: one for each cross-frame block; empty: no cached frames.
        :param extended: likewise, the same memory with one more frame, into which the keys and
            values of a single frame are written; empty: the cached ones are copied.
        """
        first = self.config.alternate_from
        assert first is not None, 'all blocks of this backbone see one frame alone'
        x = described.tokens
        B, S = x.shape[:2]
        x = torch.cat([camera_tokens[:, :, None].to(x.dtype), x[:, :, 1:]], dim=2).flatten(0, 1)
        local = x
        within, across = rotations(described.rows, described.columns, x.device)
        features: list[Tensor] = []
        tokens: list[Tensor] = []
        key_values: list[KeyValues] = []
        for i in range(first, self.config.depth):
            if self.config.is_cross_frame(i):
                n = len(key_values)
                attend = _AcrossFrames(
                    S, causal, cached[n] if cached else None, extended[n] if extended else None
                )
                x = self.blocks[i](x, across, attend)
                assert attend.own is not None
                key_values.append(attend.own)
            else:
                x = local = self.blocks[i](x, within)
            if i in self.config.taps:
                a, b = local.unflatten(0, (B, S)), x.unflatten(0, (B, S))
                features.append(torch.cat([a[:, :, 1:], self.norm(b[:, :, 1:])], dim=-1))
                tokens.append(torch.cat([a[:, :, 0], b[:, :, 0]], dim=-1))
        return Taps(features, tokens, tuple(key_values))

    def features_alone(self, images: Tensor) -> list[Tensor]:
        """Return the four taps (N, P - 1, C), normed, of a backbone without cross-frame blocks.

        :param images: (N, 3, H, W) normalised.
        """
        x = self.embed(images)
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x, None, attend_within)
            if i in self.config.taps:
                features.append(self.norm(x[:, 1:]))
        return features
