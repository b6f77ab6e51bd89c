#!/usr/bin/env python3
"""Accuracy and speed of `r3 run` on recorded sequences, several runs each.

    python benchmarks/run_sequences.py DATA [--runs 5] [--only redkitchen_7scenes kitti00]

DATA holds one folder for each sequence (rgb/, timestamps.txt, camera.yaml, groundtruth.txt, and
depth/ where there is some). Every run is a process of its own. Prints a Markdown table of medians,
with the range in brackets, and writes all figures to a JSON file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from r3_ros.core.geometry import inverse
from r3_ros.core.trajectory_file import parse_stamp, PoseList, read_tum
from r3_ros.core.truth_file import read_truth
from r3_ros.evaluation.report.run_data import read_table
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory
from r3_ros.offline.run_files import machine, plain, versions

#: Sequences whose path breaks off: the frames before the cut are judged by themselves.
CUTS = {'fox_ngp': 31}
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ('tracked_percent', 'tracked (%)', '.1f'),
    ('poses_percent', 'with a pose (%)', '.1f'),
    ('ate_percent', 'ATE (% of the path)', '.2f'),
    ('ate_final_percent', 'ATE after corrections (%)', '.2f'),
    ('rotation_deg', 'rotation (deg)', '.2f'),
    ('fps', 'frames/s', '.1f'),
    ('step_median_ms', 'step, median (ms)', '.1f'),
    ('step_p95_ms', 'step, p95 (ms)', '.1f'),
)
DEPTH_COLUMNS = (
    ('abs_rel', 'AbsRel', '.3f'),
    ('delta_125', 'within 25 %', '.3f'),
    ('coverage', 'pixels', '.3f'),
    ('depth_pictures', 'pictures', '.0f'),
)


def main() -> int:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--only', nargs='*', default=[], metavar='NAME')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE')
    parser.add_argument('--json', type=Path, default=Path('run_sequences.json'))
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.data.glob('*/timestamps.txt'))
    folders = [folder for folder in folders if not args.only or folder.name in args.only]
    if not folders:
        print(f'no sequences in {args.data}', file=sys.stderr)
        return 2
    figures: dict[str, list[dict[str, float]]] = {}
    for folder in folders:
        figures[folder.name] = [run_once(folder, args.set) for _ in range(args.runs)]
        print(f'{folder.name}: done', file=sys.stderr)
    print_report(figures)
    content = {'machine': machine(), 'versions': versions(), 'settings': args.set, 'runs': figures}
    args.json.write_text(json.dumps(plain(content), indent=2) + '\n')
    return 0


def run_once(folder: Path, settings: Sequence[str]) -> dict[str, float]:
    """Run one sequence in a fresh process and return its figures."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / 'out'
        command = [sys.executable, '-m', 'r3_ros.commands.cli', 'run', str(folder), '-o', str(out)]
        truth_path = folder / 'groundtruth.txt'
        if truth_path.is_file():
            command += ['--groundtruth', str(truth_path)]
        if (folder / 'depth').is_dir():
            command.append('--save-depth')
        for setting in settings:
            command += ['--set', setting]
        environment = os.environ | {'OMP_NUM_THREADS': '1'}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f'{folder.name}: {done.stderr.strip().splitlines()[-1]}')
        figures = collect(out)
        if folder.name in CUTS:
            figures |= judge_cut(out, read_truth(truth_path), CUTS[folder.name])
        return figures


def collect(out: Path) -> dict[str, float]:
    """Return the figures of one run from its files."""
    summary = json.loads((out / 'summary.json').read_text())
    frames, step = summary['frames'], summary['timing_ms']['step']
    figures = {
        'tracked_percent': 100 * summary['tracked_share'],
        'poses_percent': 100 * frames['with_pose'] / frames['processed'],
        'fps': summary['fps'],
        'step_median_ms': step['median'],
        'step_p95_ms': step['p95'],
        'focal_length_estimated': float(summary['camera']['focal_length_estimated']),
        'map_points': summary['map_points'],
    }
    if (out / 'evaluation.json').is_file():
        evaluation = json.loads((out / 'evaluation.json').read_text())
        emitted, final = evaluation['trajectory'], evaluation['trajectory_final']
        figures |= {
            'ate_percent': emitted['ate_percent'],
            'ate_final_percent': final['ate_percent'],
            'rotation_deg': emitted['rotation_mean_deg'],
            'rotation_max_deg': emitted['rotation_max_deg'],
        }
        if evaluation['depth']:
            depth = evaluation['depth']
            figures |= {key: depth[key] for key in ('abs_rel', 'delta_125', 'coverage')}
            figures['depth_pictures'] = depth['pictures']
    return figures


def judge_cut(out: Path, truth: PoseList, first_frames: int) -> dict[str, float]:
    """Judge the frames before the cut, and by the same alignment the sure ones behind it."""
    estimate = read_tum(out / 'trajectory.tum')
    head = truth.stamps_ns[:first_frames]
    before = subset(estimate, np.isin(estimate.stamps_ns, head))
    errors = evaluate_trajectory(before, truth)
    table = read_table(out / 'frames.csv')
    sure = {
        parse_stamp(stamp)
        for stamp, state in zip(table['stamp'], table['state'], strict=True)
        if state == 'tracking'
    }
    path = float(np.linalg.norm(np.diff(truth.T_world_camera[:, :3, 3], axis=0), axis=1).sum())
    anchor = before.T_world_camera[before.stamps_ns == errors.stamps_ns[0]][0]
    worst, count = 0.0, 0
    for stamp_ns, T in zip(estimate.stamps_ns, estimate.T_world_camera, strict=True):
        index = np.searchsorted(truth.stamps_ns, stamp_ns)
        if stamp_ns in sure and stamp_ns > head[-1] and truth.stamps_ns[index] == stamp_ns:
            from_anchor = inverse(anchor) @ T
            from_anchor[:3, 3] *= errors.scale
            centre = (errors.aligned[0] @ from_anchor)[:3, 3]
            worst = max(worst, float(np.linalg.norm(centre - truth.T_world_camera[index, :3, 3])))
            count += 1
    return {
        'before_cut_ate_percent': errors.ate_percent,
        'after_cut_sure_poses': count,
        'after_cut_worst_percent': 100 * worst / path,
    }


def subset(poses: PoseList, mask: np.ndarray) -> PoseList:
    """Return some of the poses."""
    return PoseList(poses.stamps_ns[mask], poses.T_world_camera[mask])


def print_report(figures: dict[str, list[dict[str, float]]]) -> None:
    """Print the tables and what only some sequences have."""
    about = machine()
    print(f'\n{about["cpu"]}, {about["cores"]} cores\n')
    print_table(figures, COLUMNS, lambda runs: True)
    print()
    print_table(figures, DEPTH_COLUMNS, lambda runs: 'abs_rel' in runs[0])
    for name, runs in figures.items():
        for key in ('before_cut_ate_percent', 'after_cut_sure_poses', 'after_cut_worst_percent'):
            if key in runs[0]:
                print(f'\n{name}: {key.replace("_", " ")} {spread(runs, key, ".2f")}')
        if any(run['focal_length_estimated'] for run in runs):
            print(f'\n{name}: not calibrated, focal length estimated')


def print_table(
    figures: dict[str, list[dict[str, float]]],
    columns: Sequence[tuple[str, str, str]],
    belongs: Callable[[list[dict[str, float]]], bool],
) -> None:
    """Print a Markdown table with a row for each sequence that belongs in it."""
    print('| sequence | ' + ' | '.join(title for _, title, _ in columns) + ' |')
    print('| --- |' + ' --- |' * len(columns))
    for name, runs in figures.items():
        if belongs(runs):
            cells = [spread(runs, key, places) for key, _, places in columns]
            print(f'| {name} | ' + ' | '.join(cells) + ' |')


def spread(runs: list[dict[str, float]], key: str, places: str) -> str:
    """Return the median of the runs, and their range if they differ."""
    values = [run[key] for run in runs if run.get(key) is not None]
    if not values:
        return ''
    middle = format(statistics.median(values), places)
    low, high = format(min(values), places), format(max(values), places)
    return middle if low == high else f'{middle} ({low} to {high})'


if __name__ == '__main__':
    sys.exit(main())
