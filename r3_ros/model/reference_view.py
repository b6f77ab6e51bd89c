"""The reference view of plain DA3, for three or more views."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_reference(class_token: Tensor) -> Tensor:
    """Return the (B,) int64 index of the reference view; the first of one or two views.

    It is the view nearest to the middle of three ranges: mean cosine to the others, length of the
    token, variance of its channels (``saddle_balanced``, the default of Depth Anything 3).

    :param class_token: (B, S, C), see ``Tokens``.
    """
    B, S = class_token.shape[:2]
    if S < 3:
        return torch.zeros(B, dtype=torch.int64, device=class_token.device)
    length = class_token.norm(dim=-1)  # (B, S)
    unit = class_token / length[..., None]
    cosines = unit @ unit.transpose(1, 2)  # (B, S, S)
    others = cosines - torch.eye(S, device=cosines.device)
    measures = torch.stack([others.sum(dim=-1) / (S - 1), length, unit.var(dim=-1)])  # (3, B, S)
    low, high = measures.amin(dim=-1, keepdim=True), measures.amax(dim=-1, keepdim=True)
    spread_out = (measures - low) / (high - low + 1e-8)  # 0..1 over the views
    return (spread_out - 0.5).abs().sum(dim=0).argmin(dim=-1)
