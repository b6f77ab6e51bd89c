"""Check that a training in two pieces ends with the bits of one in a piece.

    scripts/in_environment python benchmarks/resume.py --output DIR --steps 200

Trains r3-tiny on small clips of procedural worlds, once straight and once with a pause half-way in
which everything is made anew from the file, and compares all weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from r3_ros.core.parameter_fields import updated
from r3_ros.learning.training.cached_clips import CachedClips
from r3_ros.learning.training.processes import joined
from r3_ros.learning.training.trainer import Trainer
from r3_ros.learning.training.training_settings import TrainingSettings
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', required=True, metavar='DIR')
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    args = parser.parse_args()
    settings = updated(
        TrainingSettings(),
        {
            'data.kinds': 'corridor',
            'data.clips': 100,
            'data.clip_frames': 3,
            'data.path_frames': 60,
            'data.coarseness': 14.0,
            'matching.steps': args.steps // 4,
            'matching.sizes': '42x28',
            'joint.steps': args.steps - args.steps // 4,
            'joint.frames_per_step': 3,
            'joint.sizes': '42x28',
            'large.steps': 0,
            'report.validate_every': 0,
            'report.save_every': args.steps,
        },
    )
    with joined(args.device) as process:

        def trained(name: str, until: int) -> dict[str, torch.Tensor]:
            source = CachedClips(settings, Path(args.output) / 'cache', process.device)
            trainer = Trainer(settings, source, process, Path(args.output) / name)
            trainer.run(until=until)
            return {k: p.detach().cpu() for k, p in trainer.network.named_parameters()}

        straight = trained('straight', args.steps)
        trained('pieces', args.steps // 2)
        pieces = trained('pieces', args.steps)
    differ = [name for name in straight if not torch.equal(straight[name], pieces[name])]
    worst = max(float((straight[name] - pieces[name]).abs().max()) for name in straight)
    print(f'{len(differ)} of {len(straight)} tensors differ, by {worst:g} at most')
    raise SystemExit(1 if differ and process.device.type == 'cpu' else 0)


if __name__ == '__main__':
    main()
