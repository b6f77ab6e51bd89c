#!/usr/bin/env python3
"""Finding the camera in a saved map, by the classical predictor on recorded sequences.

    python benchmarks/relocalisation.py DATA [--only redkitchen_7scenes kitti00] [--mapped 0.5]
        [--model r3_tiny [--alone]]

DATA holds one folder for each sequence (rgb/, timestamps.txt, camera.yaml, groundtruth.txt). Each
is cut in two. `r3 run` maps the first part, and another process, `r3 run --map`, goes on in that
map with the second. The truth is aligned by the first part alone, so what counts is where the
second is in the map. Then each map is tried with the images of all other sequences, where every
pose would be a false one. --model is `relocalise.model`; with --alone the classical predictor does
not search itself. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import os
from pathlib import Path
import subprocess
import sys
import tempfile

import numpy as np
from r3_ros.core.geometry import inverse, mean_rotation, rotation_angle
from r3_ros.core.trajectory_file import PoseList, read_tum
from r3_ros.core.truth_file import read_truth
from r3_ros.maps.reading import read_map
from r3_ros.offline.run_files import FRAMES, read_table, TRAJECTORY

SEQUENCES = ('redkitchen_7scenes', 'kitti00')
#: A pose is right within this share of the path, and this angle in degrees.
RIGHT_SHARE, RIGHT_DEG = 0.05, 5.0


@dataclass(frozen=True)
class Outcome:
    """What came of a stream in a map.

    :ivar found_after: frames until the first pose; None without one.
    :ivar posed: share of the frames from there on that have a pose.
    :ivar shift: (N,) errors of the centres as a share of the path; ``turn``: (N,) in degrees.
    """

    frames: int
    found_after: int | None
    posed: float
    shift: np.ndarray
    turn: np.ndarray

    @property
    def right(self) -> float:
        """Return the share of the frames since the camera was found that are right."""
        if self.found_after is None:
            return 0.0
        good = (self.shift < RIGHT_SHARE) & (self.turn < RIGHT_DEG)
        return float(good.sum()) / (self.frames - self.found_after + 1)


def part(sequence: Path, target: Path, first: float, last: float, most: int | None = None) -> Path:
    """Make a folder of a stretch of a sequence; ``first`` and ``last`` are shares of it."""
    lines = (sequence / 'timestamps.txt').read_text().splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith('#')]
    lines = lines[int(first * len(lines)) : int(last * len(lines))][:most]
    target.mkdir(parents=True)
    (target / 'timestamps.txt').write_text('\n'.join(lines) + '\n')
    (target / 'rgb').symlink_to((sequence / 'rgb').resolve())
    (target / 'camera.yaml').symlink_to((sequence / 'camera.yaml').resolve())
    return target


def run(images: Path, output: Path, *options: str, searches: bool = True) -> None:
    """Run `r3 run` in a process of its own.

    :param searches: the classical predictor itself looks for places of the map.
    """
    program = 'import sys; from r3_ros.commands.cli import main; '
    if not searches:
        program += 'from r3_ros.classical.odometry import Odometry; '
        program += 'Odometry._search = lambda *_, **__: None; '
    program += 'sys.exit(main())'
    command = [sys.executable, '-c', program, 'run', str(images), '-o', str(output), *options]
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)}:\n{done.stderr}')


def outcome(map_run: Path, run_folder: Path, truth: PoseList | None) -> Outcome:
    """Judge a stream in a map.

    :param truth: None where every pose is a false one.
    """
    table = read_table(run_folder / FRAMES)
    has_pose = np.flatnonzero(np.asarray(table['has_pose']) > 0)
    frames = len(table['has_pose'])
    if not len(has_pose):
        return Outcome(frames, None, 0.0, np.empty(0), np.empty(0))
    first = int(has_pose[0])
    shift, turn = np.empty(0), np.empty(0)
    if truth is not None:
        shift, turn = _errors(map_run, read_tum(run_folder / TRAJECTORY), truth)
    return Outcome(frames, first + 1, len(has_pose) / (frames - first), shift, turn)


def _errors(map_run: Path, found: PoseList, truth: PoseList) -> tuple[np.ndarray, np.ndarray]:
    """Return errors of centres over the whole path, and of rotations in degrees."""
    saved = read_map(map_run / 'map', with_images=False)
    T_map = inverse(saved.facts.T_map_world) @ saved.trajectory.T_map_base
    own, true = _matched(PoseList(saved.trajectory.stamps_ns, T_map), truth)
    turns = true[:, :3, :3] @ np.swapaxes(own[:, :3, :3], 1, 2)
    R = mean_rotation(turns, np.full(len(turns), 1.0 / len(turns)))
    centres, goal = own[:, :3, 3] @ R.T, true[:, :3, 3]
    a, b = centres - centres.mean(axis=0), goal - goal.mean(axis=0)
    scale = (a * b).sum() / (a**2).sum()
    offset = goal.mean(axis=0) - scale * centres.mean(axis=0)
    own, true = _matched(found, truth)
    off = scale * own[:, :3, 3] @ R.T + offset - true[:, :3, 3]
    path = np.linalg.norm(np.diff(truth.T_world_camera[:, :3, 3], axis=0), axis=1).sum()
    turned = np.swapaxes(R @ own[:, :3, :3], 1, 2) @ true[:, :3, :3]
    return np.linalg.norm(off, axis=1) / path, np.degrees(rotation_angle(turned))


def _matched(poses: PoseList, truth: PoseList) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 4, 4) poses that have a true one, and the true ones."""
    _, own, true = np.intersect1d(poses.stamps_ns, truth.stamps_ns, return_indices=True)
    return poses.T_world_camera[own], truth.T_world_camera[true]


def main() -> int:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('--only', nargs='+', default=SEQUENCES)
    parser.add_argument('--others', type=int, default=200, help='frames of other sequences')
    parser.add_argument('--mapped', type=float, default=0.5, help='share that is mapped')
    parser.add_argument('--model', default='', help='relocalise.model')
    parser.add_argument('--alone', action='store_true', help='only that model searches')
    args = parser.parse_args()
    print('| map of | images of | found after | with a pose since | right since '
          '| error, median, of the path | rotation, median |')  # fmt: skip
    print('| --- | --- | --- | --- | --- | --- | --- |')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sequence in args.only:
            images = part(args.data / sequence, folder / f'{sequence}_1', 0.0, args.mapped)
            run(images, folder / f'{sequence}_map')
        for mapped in args.only:
            for shown in args.only:
                same = mapped == shown
                most = None if same else args.others
                images = part(
                    args.data / shown,
                    folder / f'{mapped}_{shown}',
                    args.mapped if same else 0.0,
                    1.0,
                    most,
                )
                output, saved = folder / f'{mapped}_{shown}_run', folder / f'{mapped}_map'
                options = ['--map', str(saved / 'map'), '--set', 'relocalise.timeout=3600']
                options += ['--set', f'relocalise.model={args.model}']
                run(images, output, *options, searches=not args.alone)
                truth = read_truth(args.data / shown / 'groundtruth.txt') if same else None
                print(_row(mapped, shown, outcome(saved, output, truth)), flush=True)
    return 0


def _row(mapped: str, shown: str, result: Outcome) -> str:
    cells = [mapped, shown]
    if result.found_after is None:
        cells += [f'never, {result.frames} frames', '', '', '', '']
    else:
        cells += [f'{result.found_after} frames', f'{100 * result.posed:.1f} %']
        if len(result.shift):
            cells += [
                f'{100 * result.right:.1f} %',
                f'{100 * np.median(result.shift):.2f} %',
                f'{np.median(result.turn):.2f} degrees',
            ]
        else:
            cells += ['FALSE', '', '']
    return '| ' + ' | '.join(cells) + ' |'


if __name__ == '__main__':
    sys.exit(main())
