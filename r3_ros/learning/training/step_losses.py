"""The losses of a step, as one module: what several processes share the gradients of."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...model.network import PairNetwork
from ...model.tiny.tiny_network import TinyNetwork
from .clips import Clips
from .objective import evaluate, LossResult
from .processes import TrainingProcess
from .tiny_objective import evaluate_tiny, TinyStep
from .training_settings import TrainingSettings

#: Steps from one in which the pairs of r3-tiny are solved, for their confidences, to the next.
_SOLVED_EVERY = 3


class StepLosses(nn.Module):
    """Runs a network on the clips of a step and compares it with the truth.

    :param dtype: of matrix products in the network; float32: no autocast.
    """

    def __init__(
        self,
        network: PairNetwork,
        settings: TrainingSettings,
        process: TrainingProcess,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.network = network
        self._settings = settings
        self._rank = process.rank
        enabled = dtype != torch.float32
        self._autocast = torch.autocast(process.device.type, dtype, enabled=enabled)

    def forward(self, clips: Clips, causal: bool, step: int) -> LossResult:
        """Return the losses of a step; what they draw depends on the seed, step and rank."""
        loss = self._settings.loss
        if isinstance(self.network, TinyNetwork):
            rng = np.random.default_rng((self._settings.seed, step, self._rank, 55))
            alone = self._settings.stage_at(step).name == 'matching'
            solves = step % _SOLVED_EVERY == _SOLVED_EVERY - 1
            plan = TinyStep(causal, alone, solves, rng)
            return evaluate_tiny(self.network, clips, loss, plan, self._autocast)
        with self._autocast:
            prediction = self.network(clips.images, causal=causal)
        return evaluate(prediction, clips, loss)
