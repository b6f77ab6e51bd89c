"""The shape of a step, learning rate, moving average and weight decay of a training."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from torch import nn

from .training_settings import image_sizes, OptimiserSettings, Stage, TrainingSettings


@dataclass(frozen=True)
class StepPlan:
    """The shape of a step, common to all its clips.

    :ivar causal: each frame attends to earlier frames only.
    """

    clips: int
    views: int
    width: int
    height: int
    causal: bool


def plan_step(settings: TrainingSettings, step: int) -> StepPlan:
    """Draw the shape of a step; the same on every device."""
    rng = np.random.default_rng((settings.seed, step, 50))
    stage = settings.stage_at(step).settings
    low, high = math.log(2), math.log(settings.data.clip_frames + 1)
    views = min(int(math.exp(rng.uniform(low, high))), settings.data.clip_frames)
    sizes = image_sizes(stage.sizes)
    width, height = sizes[int(rng.integers(len(sizes)))]
    causal = bool(rng.uniform() < settings.optimiser.causal)
    return StepPlan(max(1, stage.frames_per_step // views), views, width, height, causal)


def learning_rate(stage: Stage, settings: OptimiserSettings, step: int) -> float:
    """Return the learning rate of a step of a stage: linear warm-up, then half a cosine."""
    step, highest = step - stage.first, stage.settings.learning_rate
    if step < settings.warm_up:
        return highest * (step + 1) / settings.warm_up
    rest = max(stage.settings.steps - settings.warm_up, 1)
    share = min((step - settings.warm_up) / rest, 1.0)
    low = settings.final_share
    return highest * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


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
