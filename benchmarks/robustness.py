#!/usr/bin/env python3
"""How often and how well a predictor tracks what it has never seen.

    python benchmarks/robustness.py --seed 1 --sequences 48 --output OUT [--model NAME]
                                    [--data FOLDER...] [--set NAME=VALUE...] [--workers 2]

Synthetic sequences of 300 frames, drawn by the seed from the grid of ``robustness_grid.py``, and
every recorded sequence (a folder with rgb/, timestamps.txt, camera.yaml and groundtruth.txt) in
the folders of --data; with --workers or --address several at a time, through Ray. OUT gets
``robustness.json`` (figures of every sequence, of every group and of all), ``robustness.md`` (the
tables that are printed) and ``robustness.png``. --beyond draws sequences that can hardly be
tracked instead: none of their poses should be false.

- *posed*: share of all frames whose pose follows from the images; *claimed*: that is reported as
  tracked with confidence.
- *ATE* and *rotation*: of these, as published, and after all corrections. Segments that were not
  joined are aligned one by one; the path is that of all frames.
- *false poses*: share of all frames reported as tracked with confidence and off by more than 5 %
  of the path or 10 degrees, after an alignment that outliers do not move.
- *coverage*: share of the poses whose 95 % ellipsoid holds the truth, position and rotation in
  the frame of the first pose of the segment; and of the steps from pose to pose.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
import json
import math
import os
from pathlib import Path
import sys
import time
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np  # noqa: E402
from r3_ros.commands.options import add_ray_options, ray_settings  # noqa: E402
from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.datatypes import Estimate, TrackingState  # noqa: E402
from r3_ros.core.geometry import mean_rotation, rotation_angle  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.core.truth_file import read_truth  # noqa: E402
from r3_ros.evaluation.covariance_errors import (  # noqa: E402
    errors_of_poses,
    errors_of_steps,
    nees,
    share_inside,
)
from r3_ros.evaluation.ray_tasks import ray_cluster, run_tasks  # noqa: E402
from r3_ros.factory import load_predictor  # noqa: E402
from r3_ros.input.camera_model import CameraModel  # noqa: E402
from r3_ros.input.open_source import open_source  # noqa: E402
from r3_ros.input.source import RawFrame, Source  # noqa: E402
from r3_ros.offline.run_files import machine, plain, versions  # noqa: E402
from r3_ros.offline.stream_run import run_source, RunResult  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from robustness_grid import BEYOND, Cell, draw_cells, FRAMES, GridSequence, TROUBLES  # noqa: E402

#: A pose is false beyond this share of the path, or this angle.
FALSE_SHARE, FALSE_DEG = 0.05, 10.0
POSED = (TrackingState.TRACKING, TrackingState.LOW_CONFIDENCE)
_LEAST_POSES = 3
#: Groups in which a place may be taken for another one that looks the same.
AMBIGUOUS = ('pure rotation', 'repeated textures')


@dataclass(frozen=True)
class Task:
    """One sequence: a cell of the grid with its seed, or a folder."""

    cell: Cell | None
    seed: int
    folder: Path | None
    frames: int

    @property
    def group(self) -> str:
        return 'recorded' if self.cell is None else self.cell.trouble

    @property
    def name(self) -> str:
        return str(self.cell) if self.folder is None else self.folder.name


class RenderedSource(Source):
    """The images of a grid sequence, rendered before the run so that they cost it no time."""

    def __init__(self, task: Task) -> None:
        assert task.cell is not None
        sequence = GridSequence(task.cell, task.seed, task.frames)
        K = sequence.intrinsics
        super().__init__(task.name, CameraModel(K.width, K.height, K.K), task.frames)
        self._images = list(sequence.images())
        self.stamps_ns = np.round(sequence.path.time_s * 1e9).astype(np.int64)
        self.T_world_camera = sequence.path.T_world_camera

    def _read(self) -> Iterator[RawFrame]:
        for stamp_ns, image in zip(self.stamps_ns, self._images, strict=True):
            yield RawFrame(int(stamp_ns), image)


def judge(task: Task, settings: dict[str, Any]) -> dict[str, Any]:
    """Run one sequence and return its figures."""
    source, known = opened(task)
    config = updated(R3Config(), settings)
    engine = Engine(load_predictor(config), config)
    estimates: list[Estimate] = []
    began = time.process_time()
    try:
        with source:
            result = run_source(source, engine, on_frame=lambda _, e: estimates.append(e))
    finally:
        engine.close()
    cpu_s = time.process_time() - began
    figures = measure(estimates, final_poses(result), known, result)
    figures |= {'name': task.name, 'group': task.group, 'seed': task.seed}
    return figures | {'cpu_ms_per_frame': 1e3 * cpu_s / max(len(estimates), 1)}


def opened(task: Task) -> tuple[Source, dict[int, np.ndarray]]:
    """Return the images of a sequence, and its true poses by stamp."""
    if task.folder is None:
        rendered = RenderedSource(task)
        stamps_ns, truth = rendered.stamps_ns, rendered.T_world_camera
        return rendered, dict(zip(stamps_ns.tolist(), truth, strict=True))
    camera = task.folder / 'camera.yaml'
    source = open_source(task.folder, camera=camera if camera.is_file() else None)
    poses = read_truth(task.folder / 'groundtruth.txt')
    return source, dict(zip(poses.stamps_ns.tolist(), poses.T_world_camera, strict=True))


def final_poses(result: RunResult) -> dict[int, np.ndarray]:
    """Return the corrected poses by stamp."""
    assert result.trajectory is not None
    stamps_ns, poses = result.trajectory.stamps_ns, result.trajectory.T_final
    return {
        int(stamp_ns): T
        for stamp_ns, T in zip(stamps_ns, poses, strict=True)
        if np.isfinite(T).all()
    }


@dataclass(frozen=True, eq=False)
class Judged:
    """The poses of one segment against the truth, after an alignment with scale."""

    errors_m: np.ndarray
    errors_deg: np.ndarray
    scale: float


def measure(
    estimates: Sequence[Estimate],
    final: dict[int, np.ndarray],
    truth: dict[int, np.ndarray],
    result: RunResult,
) -> dict[str, Any]:
    """Return the figures of a run."""
    frames = len(estimates)
    true_path = np.stack([truth[e.stamp_ns] for e in estimates if e.stamp_ns in truth])
    path_m = float(np.linalg.norm(np.diff(true_path[:, :3, 3], axis=0), axis=1).sum())
    posed = [e for e in estimates if e.state in POSED and e.T_world_camera is not None]
    judged = [e for e in posed if e.stamp_ns in truth]
    emitted, false = [], 0
    pose_nees, step_nees = [np.zeros(0)], [np.zeros(0)]
    for segment in sorted({e.segment_id for e in judged}):
        own = [e for e in judged if e.segment_id == segment]
        if len(own) < _LEAST_POSES:
            continue
        exact = np.stack([truth[e.stamp_ns] for e in own])
        published = aligned(np.stack([e.T_world_camera for e in own]), exact)
        emitted.append(published)
        wrong = (published.errors_m > FALSE_SHARE * path_m) | (published.errors_deg > FALSE_DEG)
        false += sum(
            bool(w) and e.state is TrackingState.TRACKING for w, e in zip(wrong, own, strict=True)
        )
        T, unit = np.stack([e.T_world_camera for e in own]), published.scale
        pose_nees.append(nees(errors_of_poses(T, exact, unit), stacked(own, 'covariance', 6)))
        frame_ids = np.array([e.frame_id for e in own])
        motions = stacked(own, 'T_previous_camera', 4)
        off = errors_of_steps(motions, frame_ids, exact, unit)
        step_nees.append(nees(off, stacked(own, 'step_covariance', 6)))
    # In one world after all corrections, joined segments included.
    late = [(final[e.stamp_ns], truth[e.stamp_ns]) for e in judged if e.stamp_ns in final]
    corrected = []
    if len(late) >= _LEAST_POSES:
        corrected = [aligned(*(np.stack(part) for part in zip(*late, strict=True)))]
    steps_ms = [record.step_ms for record in result.records]
    first = next((k for k, e in enumerate(estimates) if e.state in POSED), frames)
    return {
        'frames': frames,
        'posed': len(posed) / frames,
        'claimed': sum(e.state is TrackingState.TRACKING for e in posed) / frames,
        'first_pose': first,
        'segments': len({e.segment_id for e in judged}),
        'path_m': path_m,
        'ate_percent': rms_percent(emitted, path_m),
        'ate_final_percent': rms_percent(corrected, path_m),
        'rotation_deg': mean_of([s.errors_deg for s in emitted]),
        'false_poses': false / frames,
        'coverage_poses': plain(share_inside(np.concatenate(pose_nees))),
        'coverage_steps': plain(share_inside(np.concatenate(step_nees))),
        'step_median_ms': float(np.median(steps_ms)),
        'step_p95_ms': float(np.quantile(steps_ms, 0.95)),
    }


def aligned(T: np.ndarray, truth: np.ndarray) -> Judged:
    """Align (N, 4, 4) poses with the true ones by a similarity that outliers do not move."""
    x, y = T[:, :3, 3], truth[:, :3, 3]
    weights = np.ones(len(x))
    for _ in range(10):
        scale, R, t = similarity(x, y, weights)
        errors = np.linalg.norm(scale * x @ R.T + t - y, axis=1)
        # Weights of the L1 norm away from zero.
        floor = max(float(np.median(errors)), 1e-9)
        weights = 1.0 / np.maximum(errors, floor)
    turns = truth[:, :3, :3] @ np.swapaxes(T[:, :3, :3], 1, 2)
    R_all = mean_rotation(turns, np.ones(len(turns)))
    degrees = np.degrees(rotation_angle(np.swapaxes(turns, 1, 2) @ R_all))
    return Judged(errors, degrees, scale)


def similarity(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return scale, rotation and translation of the weighted fit of y to x (Umeyama 1991)."""
    w = weights / weights.sum()
    centre_x, centre_y = w @ x, w @ y
    dx, dy = x - centre_x, y - centre_y
    U, S, Vt = np.linalg.svd((w[:, None] * dy).T @ dx)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * sign) @ Vt
    spread = float(w @ (dx**2).sum(1))
    scale = float((S * sign).sum() / spread) if spread > 0 else 1.0
    return scale, R, centre_y - scale * R @ centre_x


def stacked(own: Sequence[Estimate], name: str, size: int) -> np.ndarray:
    """Return a (N, size, size) attribute of estimates, NaN where it is None."""
    values = (getattr(e, name) for e in own)
    return np.stack([np.full((size, size), np.nan) if v is None else v for v in values])


def rms_percent(segments: Sequence[Judged], path_m: float) -> float | None:
    """Return the root mean square position error in percent of the path."""
    if not segments or path_m <= 0:
        return None
    errors = np.concatenate([s.errors_m for s in segments])
    return 100 * float(np.sqrt(np.mean(errors**2))) / path_m


def mean_of(parts: Sequence[np.ndarray]) -> float | None:
    """Return the mean of all values; None without any."""
    return float(np.concatenate(parts).mean()) if parts else None


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of several sequences: medians, and the worst tenth."""

    def values(key: str) -> list[float]:
        return [row[key] for row in rows if row[key] is not None]

    def quantile(key: str, q: float) -> float | None:
        found = values(key)
        return float(np.quantile(found, q)) if found else None

    covered = values('coverage_poses') + values('coverage_steps')
    return {
        'sequences': len(rows),
        'posed_median': quantile('posed', 0.5),
        'posed_p10': quantile('posed', 0.1),
        'claimed_median': quantile('claimed', 0.5),
        'ate_median_percent': quantile('ate_percent', 0.5),
        'ate_p90_percent': quantile('ate_percent', 0.9),
        'ate_final_median_percent': quantile('ate_final_percent', 0.5),
        'rotation_median_deg': quantile('rotation_deg', 0.5),
        'false_poses': float(np.mean([row['false_poses'] for row in rows])),
        'first_pose_median': quantile('first_pose', 0.5),
        'coverage_95': float(np.mean(covered)) if covered else None,
        'coverage_poses': quantile('coverage_poses', 0.5),
        'coverage_steps': quantile('coverage_steps', 0.5),
        'step_median_ms': quantile('step_median_ms', 0.5),
        'step_p95_ms': quantile('step_p95_ms', 0.5),
    }


def main() -> int:
    """Run all sequences and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--sequences', type=int, default=48, help='synthetic ones')
    parser.add_argument('--frames', type=int, default=FRAMES, help='of a synthetic one')
    parser.add_argument('--only', nargs='*', default=[], metavar='TROUBLE')
    parser.add_argument('--beyond', action='store_true', help='what can hardly be tracked instead')
    parser.add_argument('--data', nargs='*', type=Path, default=[], metavar='FOLDER')
    parser.add_argument('--model', default='classical')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE')
    parser.add_argument('--output', type=Path, required=True)
    add_ray_options(parser)
    args = parser.parse_args()
    settings: dict[str, Any] = {'model.name': args.model}
    for text in args.set:
        name, _, value = text.partition('=')
        settings[name] = json.loads(value)
    troubles = BEYOND if args.beyond else TROUBLES
    tasks = [
        Task(cell, seed, None, args.frames)
        for cell, seed in draw_cells(args.seed, args.sequences, troubles)
        if not args.only or cell.trouble in args.only
    ] + [Task(None, 0, folder, 0) for folder in recorded(args.data)]
    args.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    ray, run = ray_settings(args), partial(judge, settings=settings)
    with ray_cluster(ray), closing(run_tasks(run, tasks, ray, 'sequences', line)) as results:
        for row in results:
            rows.append(row)
            write(args.output, args, rows, complete=False)
    rows.sort(key=lambda row: (list(order()).index(row['group']), row['name'], row['seed']))
    write(args.output, args, rows, complete=True)
    print((args.output / 'robustness.md').read_text())
    return 0


def recorded(folders: Sequence[Path]) -> list[Path]:
    """Return the sequences with a true trajectory in folders, which may be sequences."""
    found = {
        path.parent
        for folder in folders
        for pattern in ('groundtruth.txt', '*/groundtruth.txt')
        for path in folder.glob(pattern)
    }
    return sorted(found)


def order() -> tuple[str, ...]:
    """Return the groups in the order of the tables."""
    return (*TROUBLES, *BEYOND, 'recorded')


def line(row: dict[str, Any]) -> str:
    """Return the figures of a sequence in a line."""
    ate = 'no ATE' if row['ate_percent'] is None else f'ATE {row["ate_percent"]:.2f} %'
    return (
        f'{row["name"]} ({row["seed"]}): posed {100 * row["posed"]:.0f} %, claimed '
        f'{100 * row["claimed"]:.0f} %, {ate}, false {100 * row["false_poses"]:.1f} %, '
        f'{row["step_median_ms"]:.0f} ms'
    )


def write(
    output: Path, args: argparse.Namespace, rows: Sequence[dict[str, Any]], complete: bool
) -> None:
    """Write the files of what has been judged so far."""
    groups = {g: [r for r in rows if r['group'] == g] for g in order()}
    groups = {g: found for g, found in groups.items() if found}
    synthetic = [r for r in rows if r['group'] != 'recorded']
    content = {
        'complete': complete,
        'seed': args.seed,
        'model': args.model,
        'settings': args.set,
        'machine': machine(),
        'versions': versions(),
        'summary': summary(synthetic or rows),
        'groups': {g: summary(found) for g, found in groups.items()},
        'sequences': list(rows),
    }
    text = json.dumps(content, indent=2, default=float) + '\n'
    (output / 'robustness.json').write_text(text)
    if complete:
        (output / 'robustness.md').write_text(tables(content))
        plot(content, output / 'robustness.png')


#: Key, title, factor, format.
_COLUMNS = (
    ('posed_median', 'posed (%)', 100, '.1f'),
    ('posed_p10', 'worst tenth', 100, '.1f'),
    ('claimed_median', 'claimed (%)', 100, '.0f'),
    ('ate_median_percent', 'ATE (%)', 1, '.2f'),
    ('ate_p90_percent', 'worst tenth', 1, '.2f'),
    ('ate_final_median_percent', 'corrected (%)', 1, '.2f'),
    ('rotation_median_deg', 'rotation (deg)', 1, '.2f'),
    ('false_poses', 'false (%)', 100, '.2f'),
    ('first_pose_median', 'first pose', 1, '.0f'),
    ('coverage_poses', 'in 95 %, poses', 100, '.0f'),
    ('coverage_steps', 'steps', 100, '.0f'),
    ('step_median_ms', 'ms', 1, '.0f'),
    ('step_p95_ms', 'p95', 1, '.0f'),
)
_OWN_COLUMNS = (
    ('posed', 'posed (%)', 100, '.1f'),
    ('claimed', 'claimed (%)', 100, '.0f'),
    ('ate_percent', 'ATE (%)', 1, '.2f'),
    ('ate_final_percent', 'corrected (%)', 1, '.2f'),
    ('rotation_deg', 'rotation (deg)', 1, '.2f'),
    ('false_poses', 'false (%)', 100, '.2f'),
    ('first_pose', 'first pose', 1, '.0f'),
    ('segments', 'segments', 1, '.0f'),
    ('coverage_poses', 'in 95 %, poses', 100, '.0f'),
    ('coverage_steps', 'steps', 100, '.0f'),
    ('step_median_ms', 'ms', 1, '.0f'),
    ('step_p95_ms', 'p95', 1, '.0f'),
)


def tables(content: dict[str, Any]) -> str:
    """Return Markdown tables of groups and of sequences."""
    about = content['machine']
    groups = content['groups'] | {'all synthetic': content['summary']}
    head = f'{content["model"]}, seed {content["seed"]}; {about["cpu"]}, {about["cores"]} cores\n'
    named = {f'{g} ({found["sequences"]})': found for g, found in groups.items()}
    own = {f'{row["name"]} ({row["seed"]})': row for row in content['sequences']}
    return '\n'.join((head, table('group', named, _COLUMNS), table('sequence', own, _OWN_COLUMNS)))


def table(title: str, rows: dict[str, dict[str, Any]], columns: Sequence[tuple]) -> str:
    """Return a Markdown table."""
    lines = [f'| {title} | ' + ' | '.join(c[1] for c in columns) + ' |']
    lines.append('| --- |' + ' --- |' * len(columns))
    for name, row in rows.items():
        cells = [
            '' if row[key] is None else format(factor * row[key], places)
            for key, _, factor, places in columns
        ]
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def plot(content: dict[str, Any], path: Path) -> None:
    """Draw share of posed frames, error and coverage of every sequence, by group."""
    from matplotlib.figure import Figure

    groups = [g for g in order() if g in content['groups']]
    panels = (
        ('posed', 'frames with a pose', 'linear'),
        ('ate_percent', 'ATE, % of the path', 'log'),
        ('coverage_poses', 'poses within their 95 % ellipsoid', 'linear'),
    )
    figure = Figure(figsize=(12, 0.32 * len(groups) + 1.6), layout='constrained')
    for axes, (key, title, scale) in zip(
        figure.subplots(1, len(panels), sharey=True), panels, strict=True
    ):
        for number, group in enumerate(groups):
            values = [
                r[key] for r in content['sequences']
                if r['group'] == group and r[key] is not None and math.isfinite(r[key])
            ]  # fmt: skip
            if values:
                axes.plot(values, [number] * len(values), 'o', color='tab:blue', alpha=0.5)
                axes.plot(np.median(values), number, '|', color='black', markersize=16)
        axes.set_xscale(scale)
        axes.set_title(title, fontsize=10)
        axes.grid(axis='x', alpha=0.3)
        if key == 'coverage_poses':
            axes.axvline(0.95, color='tab:green', linewidth=1)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    sys.exit(main())
