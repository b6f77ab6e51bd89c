"""The reference view of plain DA3, for three or more views without known cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import ModelError

STRATEGIES = ('saddle_balanced', 'saddle_sim_range', 'first', 'middle')


def choose_reference(class_token: Tensor, strategy: str) -> Tensor:
    """Return the (B,) int64 index of the reference view; the first of one or two views.

    ``saddle_balanced`` takes the view nearest to the middle of three ranges: mean cosine to the
    others, length of the token, variance of its channels. ``saddle_sim_range`` takes the view
    whose cosines to the others have the largest range.

    :param class_token: (B, S, C), see ``Tokens``.
    :raises ModelError: unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ModelError(
            f"unknown reference view strategy '{strategy}', known: {', '.join(STRATEGIES)}"
        )
    B, S = class_token.shape[:2]
    if S < 3 or strategy == 'first':
        return torch.zeros(B, dtype=torch.int64, device=class_token.device)
    if strategy == 'middle':
        return torch.full((B,), S // 2, dtype=torch.int64, device=class_token.device)
    length = class_token.norm(dim=-1)  # (B, S)
    unit = class_token / length[..., None]
    cosines = unit @ unit.transpose(1, 2)  # (B, S, S)
    others = cosines - torch.eye(S, device=cosines.device)
    if strategy == 'saddle_sim_range':
        return (others.amax(dim=-1) - others.amin(dim=-1)).argmax(dim=-1)
    measures = torch.stack([others.sum(dim=-1) / (S - 1), length, unit.var(dim=-1)])  # (3, B, S)
    return (_spread_out(measures) - 0.5).abs().sum(dim=0).argmin(dim=-1)


def _spread_out(measure: Tensor) -> Tensor:
    """Scale (..., S) to 0..1 over the views."""
    low, high = measure.amin(dim=-1, keepdim=True), measure.amax(dim=-1, keepdim=True)
    return (measure - low) / (high - low + 1e-8)
