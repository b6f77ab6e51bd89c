"""A source of made-up clips for tests of the steps of a training, and a script for torchrun.

As a script: ``torchrun --nproc-per-node 2 training_source.py DIR`` trains two steps, each process
on clips of its own, and writes the weights it ends with to ``DIR/rank<k>.safetensors``.
"""

from pathlib import Path
import sys

import networks
from r3_ros.core.parameter_fields import updated
from r3_ros.learning.training.clips import Clips
from r3_ros.learning.training.losses import pixel_rays
from r3_ros.learning.training.processes import joined
from r3_ros.learning.training.schedule import StepPlan
from r3_ros.learning.training.trainer import Trainer
from r3_ros.learning.training.training_settings import TrainingSettings
from r3_ros.model.building import build_network
from safetensors.torch import save_file
import torch

SIZE = (28, 42)  # height, width

SETTINGS = updated(
    TrainingSettings(),
    {
        'matching.steps': 0,
        'joint.steps': 20,
        'joint.learning_rate': 2e-3,
        'large.steps': 0,
        'optimiser.warm_up': 4,
        'report.log_every': 5,
        'report.save_every': 10,
        'report.validate_every': 10,
        'report.validation_clips': 1,
    },
)


def made_up(seed, views=3):
    """Return one clip of noise before slanted planes, whose motions are small and true."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.rand(*shape, generator=generator)

    T = torch.eye(4).repeat(1, views, 1, 1)
    T[0, 1:, :3, 3] = 0.2 * noise(views - 1, 3)
    fov = 0.8 + 0.4 * noise(1, 2)
    return Clips(
        images=(noise(1, views, 3, *SIZE) * 255).to(torch.uint8),
        depth=1 + noise(1, views, 1, 1) + torch.linspace(0, 1, SIZE[1]).expand(1, views, *SIZE),
        rays=pixel_rays(fov, *SIZE),
        T_world_camera=T,
        fov=fov,
        moving=torch.zeros(1, views, *SIZE, dtype=torch.bool),
    )


class MadeUp:
    """Two clips a step, or one for each of two processes."""

    def __init__(self, ranks=(0, 1)):
        self._ranks = ranks

    def training(self, step):
        clips = Clips.joined([made_up(10 * step + rank) for rank in self._ranks])
        return StepPlan(len(self._ranks), 3, SIZE[1], SIZE[0], step % 2 == 0), clips

    def validation(self, clips):
        return {'held out': [made_up(1000 + k) for k in range(clips)]}


def small_network(seed=0):
    """Return a network that learns in no time."""
    return networks.fill(build_network(networks.CONFIGS['r3']), seed).train()


def main():
    folder = Path(sys.argv[1])
    with joined('cpu') as process:
        source = MadeUp((process.rank,))
        trainer = Trainer(SETTINGS, source, process, folder, network=small_network())
        trainer.run(until=2)
        weights = {name: p.detach() for name, p in trainer.network.named_parameters()}
        save_file(weights, folder / f'rank{process.rank}.safetensors')


if __name__ == '__main__':
    main()
