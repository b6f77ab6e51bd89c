r"""Leave out one loss at a time, and see what the network knows less of after as many steps.

    scripts/in_environment python benchmarks/ablation.py --output DIR
    ... --steps 20000 --size 168x126 --coarseness 3 \
        --frames 48 --views 12 --repeats 3 --clips 64                         # on a GPU

Trains r3-tiny from the same first weights on the same clips, with all losses and with one left out
each, and compares the figures on held-out worlds. With all losses it is trained from several first
weights: what differs among those is no effect of a loss. ``ablation.csv`` has every training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
import tempfile
import time

import numpy as np
from r3_ros.core.parameter_fields import updated
from r3_ros.learning.training.clips import Clips
from r3_ros.learning.training.initial_weights import new_network
from r3_ros.learning.training.procedural import ProceduralClips, StepPlan
from r3_ros.learning.training.processes import joined, TrainingProcess
from r3_ros.learning.training.progress import ProgressTable, table_text
from r3_ros.learning.training.trainer import Trainer
from r3_ros.learning.training.training_settings import LossSettings, TrainingSettings
from r3_ros.learning.training.training_worlds import Split
from r3_ros.learning.training.validation import evaluate_network, network_predictor
from r3_ros.model.network import R3Network

#: First weights that all losses are tried with, at least: they tell what is chance.
LEAST_CONTROLS = 3
ALL = 'none'
FIGURES = ('rotation_deg', 'direction_deg', 'translation', 'abs_rel', 'delta_125')
SPLITS = {'seeds': Split.HELD_OUT_SEEDS, 'kinds': Split.HELD_OUT_KINDS}


class Kept:
    """The clips of every step, rendered once for all trainings."""

    def __init__(self, source: ProceduralClips) -> None:
        self._source = source
        self._steps: dict[int, tuple[StepPlan, Clips]] = {}

    def training(self, step: int) -> tuple[StepPlan, Clips]:
        """Return the clips of a step."""
        if step not in self._steps:
            self._steps[step] = self._source.training(step)
        return self._steps[step]

    def validation(self, split: Split, clips: int, views: int) -> list[Clips]:
        """Return clips of a held-out split."""
        return self._source.validation(split, clips, views)


def losses_to_leave_out() -> list[str]:
    """Return the losses of labelled clips."""
    names = [
        f.name for f in fields(LossSettings) if not f.name.startswith(('alpha', 'unlabelled'))
    ]
    return [name for name in names if name != 'own_scale']


def evaluated(network: R3Network, held_out: dict[str, list[Clips]]) -> dict[str, float]:
    """Return the figures on both held-out sets."""
    out = {}
    for name, clips in held_out.items():
        figures = asdict(evaluate_network(network_predictor(network), clips))
        out |= {f'{key}, {name}': figures[key] for key in FIGURES}
    return out


def trained(
    settings: TrainingSettings, left_out: str, seed: int, source: Kept, process: TrainingProcess
) -> R3Network:
    """Train without one loss, from the first weights of a seed."""
    if left_out != ALL:
        settings = updated(settings, {f'loss.{left_out}': 0.0})
    network = new_network(settings.variant, seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings, source, process, Path(folder), lambda text: None, network)
        trainer.run()
    return trainer.average


def summary(rows: Sequence[dict[str, object]]) -> str:
    """Return a table: the mean of each loss left out, and the range among all losses."""
    lines = []
    for left_out in dict.fromkeys(str(row['left out']) for row in rows):
        own = [row for row in rows if row['left out'] == left_out]
        line: dict[str, object] = {'left out': left_out, 'trainings': len(own)}
        for name in (f'{key}, {split}' for split in SPLITS for key in FIGURES):
            values = np.array([row[name] for row in own], float)
            line[name] = f'{values.mean():.3g}'
            if left_out == ALL:
                line[name] = f'{values.min():.3g}-{values.max():.3g}'
        lines.append(line)
    parts = [
        [{k: v for k, v in line.items() if ',' not in k or k.endswith(split)} for line in lines]
        for split in SPLITS
    ]
    return '\n\n'.join(table_text(part) for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', required=True, metavar='DIR')
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--size', default='56x42')
    parser.add_argument('--coarseness', type=float, default=8.0, help='of textures')
    parser.add_argument('--frames', type=int, default=8, help='of a step')
    parser.add_argument('--views', type=int, default=4, help='of a clip, at most')
    parser.add_argument('--clips', type=int, default=16, help='of each held-out set')
    parser.add_argument('--rate', type=float, default=1e-3)
    parser.add_argument('--repeats', type=int, default=1, help='first weights for each loss')
    parser.add_argument('--only', nargs='*', help='losses to leave out; all of them otherwise')
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    args = parser.parse_args()
    settings = updated(
        TrainingSettings(),
        {
            'data.sizes': args.size,
            'data.most_views': args.views,
            'data.frames_per_step': args.frames,
            'data.effects': 0.0,
            'data.coarseness': args.coarseness,
            'data.worlds': 12,
            'data.world_steps': max(args.steps // 2, 50),
            'data.path_frames': 120,
            'optimiser.steps': args.steps,
            'optimiser.warm_up': max(args.steps // 10, 1),
            'optimiser.learning_rate': args.rate,
            'optimiser.ema': 0.99,
            'report.log_every': args.steps,
            'report.save_every': args.steps,
            'report.validate_every': 0,
        },
    )
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    table, rows = ProgressTable(output / 'ablation.csv', -1), []
    runs = [(ALL, k) for k in range(max(LEAST_CONTROLS, args.repeats))]
    left_out = losses_to_leave_out() if args.only is None else args.only
    runs += [(name, k) for k in range(args.repeats) for name in left_out]
    with joined(args.device) as process:
        worlds = ProceduralClips(settings, process.device)
        try:
            held_out = {
                name: worlds.validation(split, args.clips, args.views)
                for name, split in SPLITS.items()
            }
            source = Kept(worlds)
            new = new_network(settings.variant, 0).to(process.device).eval()
            rows.append({'step': 0, 'left out': 'untrained', **evaluated(new, held_out)})
            table.add(rows)
            for name, seed in runs:
                start = time.monotonic()
                network = trained(settings, name, seed, source, process)
                row = {'step': args.steps, 'left out': name, 'first weights': seed}
                row |= evaluated(network, held_out)
                row['seconds'] = round(time.monotonic() - start, 1)
                rows.append(row)
                table.add([row])
                print(f'without {name}, first weights {seed}: {row["seconds"]} s', flush=True)
        finally:
            worlds.close()
    print(summary(rows))


if __name__ == '__main__':
    main()
