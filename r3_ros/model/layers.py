"""The layers of the transformer: feed-forward, attention, rotary positions, the block.

The residual stream is float32 whatever the precision of the weights: matrix products and
attention run in the dtype of the linear layers, norms and rotations in float32 (the rule of the
authors' bfloat16 inference). Shapes: N sequences of T tokens, C channels, h heads, d = 64.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .variants import HEAD_CHANNELS

#: Base of the rotary and of the pixel position frequencies.
FREQUENCY_BASE = 100.0
EPSILON_BLOCK = 1e-6
EPSILON = 1e-5

# If two threads run the first vector math of a process at once, its errors may reach 1e-4 (torch
# 2.13 with MKL, in one of five processes, for cos and exp). A call from one thread prevents it.
torch.zeros(1).exp()

#: Attention of projected queries, keys and values, each (N, h, T, d), to (N, h, T, d).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast to a lower precision."""
    if device.type not in ('cpu', 'cuda'):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class Rotation(NamedTuple):
    """Rotary position tables.

    :ivar cos: (T, 2, 1, 16), rows then columns; ``sin``: (T, 2, 2, 16), negative for the first
        channels of pairs. Both (T, 32) if neighbouring channels form a pair.
    """

    cos: Tensor
    sin: Tensor


@lru_cache(maxsize=16)
def rotations(
    rows: int, columns: int, device: torch.device, special: int = 1
) -> tuple[Rotation, Rotation]:
    """Return the tables of blocks within a frame and of blocks across frames, float32.

    The first ``special`` tokens (class or camera, registers) are at (0, 0). Within a frame the
    patch at row r, column c is at (r + 1, c + 1); across frames every patch is at (1, 1), so
    cached keys fit anywhere. Tables are made once per grid and device.
    """
    with torch.inference_mode(False):
        row = torch.arange(1, rows + 1, device=device, dtype=torch.float32)
        column = torch.arange(1, columns + 1, device=device, dtype=torch.float32)
        patches = torch.stack(torch.meshgrid(row, column, indexing='ij'), -1).reshape(-1, 2)
        steps = torch.arange(16, device=device, dtype=torch.float32) / 16
        frequencies = FREQUENCY_BASE**-steps
        origin = torch.zeros(special, 2, device=device)

        def table(positions: Tensor) -> Rotation:  # (rows * columns, 2) -> (P, 2, 16)
            angles = torch.cat([origin, positions])[..., None] * frequencies
            sin = angles.sin()
            return Rotation(angles.cos()[:, :, None], torch.stack([-sin, sin], dim=2))

        return table(patches), table(torch.ones_like(patches))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate (N, h, T, 64) queries or keys by their positions, float32.

    The first 32 channels turn with the row, the last 32 with the column; within each half,
    channel k forms a pair with channel k + 16. Of other tables, channel 2 k with 2 k + 1.
    """
    if rotation.cos.ndim == 2:
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = (a * rotation.cos - b * rotation.sin, b * rotation.cos + a * rotation.sin)
        return torch.stack(turned, dim=-1).flatten(-2)
    pairs = x.unflatten(-1, (2, 2, 16))  # (N, h, T, row or column, a or b, 16)
    return torch.addcmul(pairs * rotation.cos, pairs.flip(-2), rotation.sin).flatten(-3)


class LayerNorm(nn.LayerNorm):
    """A layer norm with float32 computation and result."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return super().forward(x.float())


class LayerScale(nn.Module):
    """A learned gain per channel of what a block adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 0.01))

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        """Return (..., C) float32: x and what is added to it."""
        return torch.addcmul(x, added, self.gamma)


class Residual(nn.Module):
    """What stands in for a :class:`LayerScale` where a network has none."""

    def forward(self, x: Tensor, added: Tensor) -> Tensor:
        """Return the sum (..., C)."""
        return x + added


#: oneDNN's product of matrices, on processors of AMD twice as fast as MKL's, which torch uses.
#: None: this torch has not both.
ONEDNN_LINEAR = (
    getattr(torch.ops.mkldnn, '_linear_pointwise', None)
    if torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    else None
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return :func:`torch.nn.functional.linear`, faster in inference in float32 on a CPU."""
    if (
        ONEDNN_LINEAR is not None
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled('cpu')
    ):
        return ONEDNN_LINEAR(x, weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer with :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width_in) to (..., width_out)."""
        return linear(x, self.weight, self.bias)


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = Linear(width_in, hidden)
        self.fc2 = Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width_in) to (..., width_out)."""
        return self.fc2(F.gelu(self.fc1(x.to(self.fc1.weight.dtype))))


class SwiGlu(nn.Module):
    """The gated feed-forward layer of the giant backbone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = Linear(width, 2 * hidden)
        self.w3 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        gate, value = self.w12(x.to(self.w12.weight.dtype)).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Attention(nn.Module):
    """The projections around an attention chosen by the caller."""

    def __init__(self, width: int, heads: int, normalise: bool) -> None:
        """Build the layers.

        :param normalise: normalise each head's queries and keys before their rotation.
        """
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.q_norm = LayerNorm(HEAD_CHANNELS, eps=EPSILON) if normalise else None
        self.k_norm = LayerNorm(HEAD_CHANNELS, eps=EPSILON) if normalise else None

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Attend) -> Tensor:
        """Map (N, T, C) to (N, T, C)."""
        qkv = self.qkv(x.to(self.qkv.weight.dtype))
        # (N, T, 3C) -> three times (N, h, T, d)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(out.transpose(1, 2).flatten(-2))  # (N, T, C)


def attend_within(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend among the tokens of each sequence."""
    return F.scaled_dot_product_attention(q, k, v)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(
        self,
        width: int,
        heads: int,
        normalise: bool = False,
        swiglu_width: int | None = None,
        epsilon: float = EPSILON_BLOCK,
        layer_scale: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, heads, normalise)
        self.ls1 = LayerScale(width) if layer_scale else Residual()
        self.norm2 = LayerNorm(width, eps=epsilon)
        self.mlp = (
            Mlp(width, 4 * width, width) if swiglu_width is None else SwiGlu(width, swiglu_width)
        )
        self.ls2 = LayerScale(width) if layer_scale else Residual()

    def forward(
        self, x: Tensor, rotation: Rotation | None = None, attend: Attend = attend_within
    ) -> Tensor:
        """Map the residual stream (N, T, C) float32 to the next."""
        x = self.ls1(x, self.attn(self.norm1(x), rotation, attend))
        return self.ls2(x, self.mlp(self.norm2(x)))
