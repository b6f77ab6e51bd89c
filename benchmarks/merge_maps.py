#!/usr/bin/env python3
"""How well two maps of one place become one: parts of a recording, mapped apart and merged.

The first and the last part overlap; each is a session of its own, with its own world and unit. The
whole recording in one run is what can be had at best. Maps of other places must be refused.

    python benchmarks/merge_maps.py DATA/redkitchen_7scenes [--overlap 0.2] [--other DATA/...]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from pathlib import Path
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# As the command has it, before NumPy is loaded: with more threads sums are rounded otherwise.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

from r3_ros.commands.cli import main as r3  # noqa: E402
from r3_ros.core.trajectory_file import PoseList, read_tum  # noqa: E402
from r3_ros.core.truth_file import read_truth  # noqa: E402
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory  # noqa: E402


def write_part(source: Path, stamps: list[str], folder: Path) -> Path:
    """Write a sequence folder of some of the frames, by links."""
    (folder / 'rgb').mkdir(parents=True)
    for line in stamps:
        image = line.split()[1]
        (folder / image).symlink_to((source / image).resolve())
    (folder / 'timestamps.txt').write_text('\n'.join(stamps))
    (folder / 'camera.yaml').write_text((source / 'camera.yaml').read_text())
    return folder


def quietly(*words: object) -> None:
    """Run ``r3`` and stop if it fails."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = r3([str(word) for word in words])
    if status:
        sys.exit(f'r3 {" ".join(map(str, words))} failed with status {status}')


def row(name: str, trajectory: Path, truth: PoseList) -> str:
    """Return a line of the table."""
    errors = evaluate_trajectory(read_tum(trajectory), truth)
    return (
        f'| {name} | {errors.matched} | {errors.ate_rmse_m:.3f} | {errors.ate_percent:.2f} | '
        f'{errors.rotation_mean_deg:.1f} |'
    )


def is_refused(first: Path, other: Path, target: Path) -> bool:
    """Return whether a map of another place is refused, and say with which words."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = r3(['map', 'merge', str(first), str(other), '-o', str(target)])
    print(f'  status {status}: {" ".join(said.getvalue().split())[:200]}')
    return status != 0 and not target.exists()


def main() -> int:
    """Map the parts and the whole, merge, print the table, and try maps of other places."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('sequence', type=Path)
    parser.add_argument('--overlap', type=float, default=0.2, help='share of the frames in both')
    parser.add_argument('--other', type=Path, nargs='*', default=[], help='of other places')
    args = parser.parse_args()
    lines = (args.sequence / 'timestamps.txt').read_text().splitlines()
    stamps = [line for line in lines if line.strip() and not line.startswith('#')]
    length = round(len(stamps) * (1.0 + args.overlap) / 2.0)
    truth = read_truth(args.sequence / 'groundtruth.txt')
    parts = {'first part': stamps[:length], 'last part': stamps[-length:], 'whole': stamps}
    with tempfile.TemporaryDirectory() as name_of_folder:
        temporary = Path(name_of_folder)
        maps = {}
        for n, (name, some) in enumerate(parts.items()):
            folder = write_part(args.sequence, some, temporary / f'part{n}')
            maps[name] = temporary / f'out{n}' / 'map'
            quietly('run', folder, '-o', maps[name].parent)
        merged = temporary / 'merged'
        begun = time.perf_counter()
        pair = [str(maps[name]) for name in ('first part', 'last part')]
        if r3(['map', 'merge', *pair, '-o', str(merged)]):
            return 1
        took_s = time.perf_counter() - begun
        print(f'\nmerged in {took_s:.0f} s; {len(stamps)} frames, {length} in each part\n')
        print(
            '| map | poses | ATE (m) | ATE (%) | rotation (deg) |\n| --- | --- | --- | --- | --- |'
        )
        for name, folder in {**maps, 'merged': merged}.items():
            print(row(name, folder / 'trajectory.tum', truth))
        refused = True
        for other in args.other:
            print(f'\nwith a map of {other.name} instead:')
            out = temporary / other.name
            quietly('run', other, '-o', out)
            refused &= is_refused(maps['first part'], out / 'map', temporary / 'wrong')
    return 0 if refused else 1


if __name__ == '__main__':
    sys.exit(main())
