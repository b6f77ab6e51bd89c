"""Learn eight clips by heart: what a network, its losses and its steps must be able to do.

    scripts/in_environment python benchmarks/overfit.py --output DIR

Trains r3-tiny on eight clips of procedural worlds until pairs are within a degree and two percent
of the mean distance between two frames, on average over all pairs, and prints how long it took.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import time

import numpy as np
from r3_ros.core.parameter_fields import updated
from r3_ros.learning.training import losses
from r3_ros.learning.training.clips import Clips
from r3_ros.learning.training.procedural import draw_clip, StepPlan
from r3_ros.learning.training.processes import joined
from r3_ros.learning.training.trainer import Trainer
from r3_ros.learning.training.training_settings import TrainingSettings
from r3_ros.learning.training.training_worlds import make_training_world, Split
import torch

CLIPS, VIEWS, WIDTH, HEIGHT = 8, 3, 56, 42
GOAL_DEG, GOAL_SHARE = 1.0, 0.02


class Fixed:
    """A source that has the same clips at every step."""

    def __init__(self, clips: Clips, causal: bool) -> None:
        self.clips = clips
        self._plan = StepPlan(CLIPS, VIEWS, WIDTH, HEIGHT, causal)

    def training(self, step: int) -> tuple[StepPlan, Clips]:
        """Return all of them."""
        return self._plan, self.clips

    def validation(self, split: Split, clips: int, views: int) -> list[Clips]:
        """Return none."""
        return []


def errors(trainer: Trainer, clips: Clips) -> tuple[float, float, float]:
    """Return mean degrees, mean translation error over the mean distance, and AbsRel."""
    with torch.inference_mode():
        answer = trainer.network(clips.images, causal=True)
    truth = clips.depth[..., None] * clips.rays[:, None]
    own = answer.depth[..., None] * losses.pixel_rays(answer.fov, HEIGHT, WIDTH)
    valid = clips.depth > 0
    scales = losses.scene_scale(own, valid), losses.scene_scale(truth, valid)
    motions = losses.relative_motions(clips.T_world_camera)
    pairs = losses.pair_losses(answer.pairs, motions, scales, (0.1, 0.1))
    chord = (pairs.rotation_error / 2).clamp(max=1)
    true = motions[1][:, answer.pairs.predicted] / scales[1][:, None, None]
    share = pairs.translation_error.mean() / true.norm(dim=-1).mean()
    ratio = answer.depth / scales[0][:, None, None, None] * scales[1][:, None, None, None]
    abs_rel = (ratio[valid] / clips.depth[valid] - 1).abs().mean()
    return float(torch.rad2deg(2 * chord.asin()).mean()), float(share), float(abs_rel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', required=True, metavar='DIR')
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--every', type=int, default=50)
    parser.add_argument('--rate', type=float, default=1e-3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    args = parser.parse_args()
    settings = updated(
        TrainingSettings(),
        {
            'seed': args.seed,
            'data.effects': 0.0,
            'data.moving': 0.0,
            'data.coarseness': 8.0,
            'data.path_frames': 120,
            'data.sizes': f'{WIDTH}x{HEIGHT}',
            'optimiser.steps': args.steps,
            'optimiser.learning_rate': args.rate,
            'optimiser.warm_up': 20,
            'optimiser.weight_decay': 0.0,
            'report.log_every': args.every,
            'report.save_every': args.steps,
            'report.validate_every': 0,
        },
    )
    with joined(args.device) as process:
        plan = StepPlan(1, VIEWS, WIDTH, HEIGHT, True)
        clips = Clips.joined(
            [
                draw_clip(
                    make_training_world(
                        settings.data, args.seed, Split.TRAINING, k, process.device
                    ),
                    np.random.default_rng((args.seed, k)),
                    plan,
                    settings,
                )
                for k in range(CLIPS)
            ]
        )
        trainer = Trainer(settings, Fixed(clips, causal=True), process, Path(args.output))
        start = time.monotonic()
        while trainer.step < args.steps:
            trainer.run(until=min(trainer.step + args.every, args.steps))
            degrees, share, abs_rel = errors(trainer, clips)
            print(
                f'{time.monotonic() - start:.0f} s, step {trainer.step}: {degrees:.2f} deg, '
                f'{100 * share:.1f} % translation, AbsRel {abs_rel:.3f}',
                flush=True,
            )
            if degrees < GOAL_DEG and share < GOAL_SHARE:
                print('reached')
                break


if __name__ == '__main__':
    main()
