"""Learning rate, moving average and weight decay of a training."""

from __future__ import annotations

import math

from torch import nn

from .training_settings import OptimiserSettings


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then half a cosine."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    rest = max(settings.steps - settings.warm_up, 1)
    share = min((step - settings.warm_up) / rest, 1.0)
    low = settings.final_share
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def average_share(settings: OptimiserSettings, step: int) -> float:
    """Return the decay of the moving average in a step; lower at first, to forget the start."""
    return min(settings.ema, (1 + step) / (10 + step))


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return AdamW's groups: matrices decay; biases, norms, gains, tokens and positions do not."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        spared = parameter.ndim < 2 or name.endswith(('_token', 'pos_embed'))
        (free if spared else decayed).append(parameter)
    return [
        {'params': decayed, 'weight_decay': weight_decay},
        {'params': free, 'weight_decay': 0.0},
    ]
