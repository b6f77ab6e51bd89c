r"""Leave out one loss at a time, and see what the network knows less of after as many steps.

    scripts/in_environment python benchmarks/ablation.py --output DIR
    ... --steps 20000 --size 168x126 --coarseness 3 \
        --frames 48 --repeats 3 --clips 20000 --held-out 64                   # on a GPU

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
from r3_ros.learning.training.cached_clips import CachedClips
from r3_ros.learning.training.clips import Clips
from r3_ros.learning.training.initial_weights import new_network
from r3_ros.learning.training.processes import joined, TrainingProcess
from r3_ros.learning.training.progress import ProgressTable, table_text
from r3_ros.learning.training.trainer import Trainer
from r3_ros.learning.training.training_settings import LossSettings, TrainingSettings
from r3_ros.learning.training.training_worlds import Split
from r3_ros.learning.training.validation import evaluate_network, network_predictor
from r3_ros.model.network import PairNetwork

#: First weights that all losses are tried with, at least: they tell what is chance.
LEAST_CONTROLS = 3
ALL = 'none'
FIGURES = ('rotation_deg', 'direction_deg', 'translation', 'abs_rel', 'delta_125')
SPLITS = {'seeds': Split.HELD_OUT_SEEDS, 'kinds': Split.HELD_OUT_KINDS}


def losses_to_leave_out() -> list[str]:
    """Return the losses of r3-tiny."""
    names = [f.name for f in fields(LossSettings) if not f.name.startswith(('alpha', 'own'))]
    return [name for name in names if name not in ('rotation', 'translation')]


def evaluated(network: PairNetwork, held_out: dict[str, list[Clips]]) -> dict[str, float]:
    """Return the figures on both held-out sets."""
    out = {}
    for name, clips in held_out.items():
        figures = asdict(evaluate_network(network_predictor(network), clips))
        out |= {f'{key}, {name}': figures[key] for key in FIGURES}
    return out


def trained(
    settings: TrainingSettings,
    left_out: str,
    seed: int,
    source: CachedClips,
    process: TrainingProcess,
) -> PairNetwork:
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
    parser.add_argument('--clips', type=int, default=500, help='to learn from')
    parser.add_argument('--held-out', type=int, default=16, help='clips of each held-out set')
    parser.add_argument('--rate', type=float, default=1e-3)
    parser.add_argument('--repeats', type=int, default=1, help='first weights for each loss')
    parser.add_argument('--only', nargs='*', help='losses to leave out; all of them otherwise')
    parser.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    args = parser.parse_args()
    settings = updated(
        TrainingSettings(),
        {
            'data.clips': args.clips,
            'data.effects': 0.0,
            'data.coarseness': args.coarseness,
            'data.path_frames': 120,
            'matching.steps': 0,
            'joint.steps': args.steps,
            'joint.learning_rate': args.rate,
            'joint.frames_per_step': args.frames,
            'joint.sizes': args.size,
            'large.steps': 0,
            'optimiser.warm_up': max(args.steps // 10, 1),
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
        source = CachedClips(settings, output / 'cache', process.device, log_line=print)
        held_out = {name: source.of_split(split, args.held_out) for name, split in SPLITS.items()}
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
    print(summary(rows))


if __name__ == '__main__':
    main()
