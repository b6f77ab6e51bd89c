#!/usr/bin/env python3
"""Fit a predictor's error model to its errors, and judge it where it was not fitted.

    python benchmarks/calibrate_covariance.py --seed 301 --sequences 24 --data DATA... \
        --output r3_ros/classical/error_model.json [--model classical] [--checkpoint FILE] \
        [--records FOLDER]

Runs synthetic sequences of the robustness grid and recorded ones (folders with groundtruth.txt),
compares every edge from a frame to the next, and every pose, with the truth in the unit of the
stream, and chooses the constants of ``r3_ros/core/error_model.py`` so that 95 of 100 errors are
within the 95 % ellipsoid on each sequence, synthetic and recorded ones together weighing the same.
Every sequence is then judged by constants that were fitted without it. Poses are seen from
the first pose of their segment, in the mean unit of the segment, as in ``robustness.py``.

With --records the runs are kept there and used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import os
from pathlib import Path
import pickle
import sys
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np  # noqa: E402
from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.datatypes import Edge, Estimate  # noqa: E402
from r3_ros.core.error_model import ErrorModel  # noqa: E402
from r3_ros.core.geometry import inverse  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.evaluation.covariance_errors import (  # noqa: E402
    errors_of_poses,
    motion_errors,
    nees,
    share_inside,
)
from r3_ros.factory import load_predictor  # noqa: E402
from r3_ros.offline.stream_run import run_source  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from r3_ros.streaming.pose_resolution import carried_along, EdgeNoise, volumes  # noqa: E402
from robustness import aligned, opened, POSED, recorded, Task  # noqa: E402
from robustness_grid import draw_cells, FRAMES  # noqa: E402
from scipy.optimize import minimize  # noqa: E402
from scipy.stats import chi2  # noqa: E402
from tqdm import tqdm  # noqa: E402

#: Edges of a frame that poses are carried along in a fit: those of the strongest evidence.
_MOST_EDGES = 5
_LEAST_POSES = 20
#: Share of the sequences whose errors are to be covered fully.
_WELL_COVERED = 0.8
#: Weight of the median, beside that of the 95 % quantile.
_MEDIAN_WEIGHT = 0.15
#: Powers beyond this would say more of levels that were never seen than of those that were.
_MOST_POWER = 2.5
_EVALUATIONS = 400
#: A search cannot begin at zero, the default of some constants.
_LEAST_START = 1e-3
#: Parts that the synthetic sequences are judged in, each by a fit to the others.
_FOLDS = 4


@dataclass(frozen=True, eq=False)
class Links:
    """Edges into one frame: rows of their sources, and what the error model is told of them."""

    sources: np.ndarray
    T_edges: np.ndarray
    evidence: np.ndarray
    noise: np.ndarray

    def take(self, rows: np.ndarray) -> Links:
        """Return some of the edges."""
        return Links(self.sources[rows], self.T_edges[rows], self.evidence[rows], self.noise[rows])

    def variances(self, model: ErrorModel) -> np.ndarray:
        """Return the (N, 2) variances of an axis of the edges."""
        return model.variances(self.evidence, self.T_edges, self.noise)


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a run.

    :ivar links: of each frame but the first.
    :ivar pose_errors: (N - 1, 6) of the poses, seen from the first.
    :ivar steps: the edge from each frame to the next, where there is one.
    :ivar step_errors: (S, 6) of the motions along these.
    """

    links: list[Links]
    pose_errors: np.ndarray
    steps: Links
    step_errors: np.ndarray


@dataclass(frozen=True, eq=False)
class Record:
    """The segments of a run."""

    name: str
    recorded: bool
    segments: list[Segment]


def record(task: Task, settings: dict[str, Any]) -> Record:
    """Run a sequence and note its edges and errors."""
    source, truth = opened(task)
    config = updated(R3Config(), settings)
    predictor = load_predictor(config)
    engine, estimates, edges = Engine(predictor, config), [], {}
    predict = predictor.predict

    def noting(frame: Any, *arguments: Any, **options: Any) -> Any:
        prediction = predict(frame, *arguments, **options)
        edges[frame.frame_id] = [e for e in prediction.edges if e.target_id == frame.frame_id]
        return prediction

    predictor.predict = noting  # type: ignore[method-assign]
    try:
        with source:
            run_source(source, engine, on_frame=lambda _, e: estimates.append(e))
        # As the engine sees it: some predictors take it from the first frames.
        noise = EdgeNoise(predictor.confidence_reference, predictor.error_model)
    finally:
        engine.close()
    judged = [e for e in estimates if e.state in POSED and e.stamp_ns in truth]
    judged = [e for e in judged if e.T_world_camera is not None]
    segments = []
    for segment_id in sorted({e.segment_id for e in judged}):
        own = [e for e in judged if e.segment_id == segment_id]
        if len(own) >= _LEAST_POSES:
            segments.append(_segment(own, truth, edges, noise))
    return Record(task.name, task.folder is not None, segments)


def _segment(
    own: Sequence[Estimate],
    truth: dict[int, np.ndarray],
    edges: dict[int, list[Edge]],
    noise: EdgeNoise,
) -> Segment:
    T = np.stack([e.T_world_camera for e in own])
    exact = np.stack([truth[e.stamp_ns] for e in own])
    exact[:, :3, 3] /= aligned(T, exact).scale
    row = {e.frame_id: n for n, e in enumerate(own)}
    links, steps, step_errors = [], [], []
    for n, estimate in enumerate(own[1:], start=1):
        known = [e for e in edges[estimate.frame_id] if row.get(e.source_id, n) < n]
        found = _links(known, row, noise)
        before = np.flatnonzero(found.sources == n - 1)
        if len(before) and estimate.T_previous_camera is not None:
            steps.append(found.take(before[:1]))
            motion = inverse(exact[n - 1]) @ exact[n]
            step_errors.append(motion_errors(estimate.T_previous_camera, motion))
        order = np.argsort(np.log(found.evidence).sum(axis=1))[:_MOST_EDGES]
        links.append(found.take(order))
    pose_errors = errors_of_poses(T, exact, 1.0)[1:]
    joined = (
        _links([], row, noise)
        if not steps
        else Links(
            *(np.concatenate([getattr(s, f) for s in steps]) for f in Links.__dataclass_fields__)
        )
    )
    return Segment(links, pose_errors, joined, np.array(step_errors).reshape(-1, 6))


def _links(edges: Sequence[Edge], row: dict[int, int], noise: EdgeNoise) -> Links:
    T = np.array([e.T_source_target for e in edges]).reshape(-1, 4, 4)
    return Links(
        np.array([row[e.source_id] for e in edges], dtype=np.int64),
        T,
        noise.evidence_of(edges),
        np.array([e.noise for e in edges]),
    )


def pose_covariances(segment: Segment, model: ErrorModel) -> np.ndarray:
    """Return the (N - 1, 6, 6) covariances of the poses of a segment, as the engine makes them."""
    count = len(segment.links) + 1
    found = np.zeros((count, 7, 7))
    for n, links in enumerate(segment.links, start=1):
        if not len(links.sources):
            found[n] = found[n - 1]
            continue
        variances = links.variances(model)
        carried = carried_along(found[links.sources], links.T_edges, variances, links.noise, model)
        found[n] = carried[np.argmin(volumes(carried))]
    return found[1:, :6, :6]


def step_nees(record: Record, model: ErrorModel) -> np.ndarray:
    """Return (S, 2) squared errors over variances of steps: of translation, of rotation."""
    parts = []
    for segment in record.segments:
        variances = segment.steps.variances(model)
        squares = segment.step_errors.reshape(-1, 2, 3) ** 2
        parts.append(squares.sum(axis=2) / variances)
    return np.concatenate(parts)


def pose_nees(record: Record, model: ErrorModel) -> np.ndarray:
    """Return (N,) squared errors of poses in units of their covariances."""
    parts = []
    for segment in record.segments:
        parts.append(nees(segment.pose_errors, pose_covariances(segment, model)))
    return np.concatenate(parts)


def fit(records: Sequence[Record], model: ErrorModel) -> ErrorModel:
    """Return the model with constants that fit the records: of steps, then of poses.

    :param model: where the search begins.
    """
    for part in (0, 1):
        model = _fitted(
            records,
            lambda x, part=part, model=model: _with_step(model, part, x),
            _step_constants(model, part),
            lambda r, m, part=part: step_nees(r, m)[:, part],
            3,
        )
    known = [*model.drift, model.drift_power, *model.start]
    start = np.log(np.maximum(known, _LEAST_START))
    return _fitted(records, lambda x: _with_drift(model, x), start, pose_nees, 6)


def _step_constants(model: ErrorModel, part: int) -> np.ndarray:
    factors = np.log([model.evidence[part], model.extent[part]])
    return np.array([*factors, model.evidence_power[part], model.extent_power[part]])


def _with_step(model: ErrorModel, part: int, x: np.ndarray) -> ErrorModel:
    def put(values: tuple[float, float], value: float) -> tuple[float, float]:
        return (value, values[1]) if part == 0 else (values[0], value)

    return replace(
        model,
        evidence=put(model.evidence, float(np.exp(x[0]))),
        extent=put(model.extent, float(np.exp(x[1]))),
        evidence_power=put(model.evidence_power, float(np.clip(x[2], 0.0, _MOST_POWER))),
        extent_power=put(model.extent_power, float(np.clip(x[3], 0.0, _MOST_POWER))),
    )


def _with_drift(model: ErrorModel, x: np.ndarray) -> ErrorModel:
    translation, rotation, power, *start = np.exp(x).tolist()
    return replace(
        model,
        drift=(translation, rotation),
        drift_power=min(power, _MOST_POWER),
        start=(start[0], start[1]),
    )


def _fitted(
    records: Sequence[Record],
    change: Callable[[np.ndarray], ErrorModel],
    start: np.ndarray,
    nees: Callable[[Record, ErrorModel], np.ndarray],
    freedom: int,
) -> ErrorModel:
    simplex = np.vstack([start, start + 0.4 * np.eye(len(start))])
    options = {'maxfev': _EVALUATIONS, 'initial_simplex': simplex, 'xatol': 0.02, 'fatol': 1e-4}
    found = minimize(
        lambda x: _loss(records, change(x), nees, freedom),
        start,
        method='Nelder-Mead',
        options=options,
    )
    return change(found.x)


def _loss(
    records: Sequence[Record],
    model: ErrorModel,
    nees: Callable[[Record, ErrorModel], np.ndarray],
    freedom: int,
) -> float:
    """Return how far the quantiles of normalised errors are from what they should be.

    A quantile loss (Koenker and Bassett 1978) over sequences, of the logarithms: it has its
    minimum where the 95 % ellipsoids hold 95 % of the errors or more on the wanted share of them.
    """
    total = 0.0
    for kind in (False, True):
        own = [r for r in records if r.recorded is kind]
        for r in own:
            z = nees(r, model)
            for q, share, weight in ((0.95, _WELL_COVERED, 1.0), (0.5, 0.5, _MEDIAN_WEIGHT)):
                u = 0.5 * float(np.log(np.quantile(z, q) / chi2.ppf(q, freedom)))
                total += weight * max(share * u, (share - 1.0) * u) / len(own)
    return total


def table(records: Sequence[Record], models: Sequence[ErrorModel]) -> str:
    """Return a table of the records, each judged by its own model."""
    lines = [
        '| sequence | steps: in 95 % | NEES/6, median, mean | poses: in 95 % | NEES/6 |',
        '| --- | --- | --- | --- | --- |',
    ]
    for r, model in zip(records, models, strict=True):
        cells = []
        for z in (step_nees(r, model).sum(axis=1), pose_nees(r, model)):
            inside = 100 * share_inside(z)
            cells.append(f'{inside:.0f} % | {np.median(z) / 6:.2f}, {z.mean() / 6:.2f}')
        lines.append(f'| {r.name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> int:
    """Record, fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=301)
    parser.add_argument('--sequences', type=int, default=24, help='synthetic ones')
    parser.add_argument('--frames', type=int, default=FRAMES, help='of a synthetic one')
    parser.add_argument('--data', nargs='*', type=Path, default=[], metavar='FOLDER')
    parser.add_argument('--model', default='classical')
    parser.add_argument('--checkpoint', default='', metavar='FILE', help='weights of the model')
    parser.add_argument('--records', type=Path, help='folder that keeps the runs')
    parser.add_argument('--judge-only', action='store_true', help='the constants as they are')
    parser.add_argument('--output', type=Path, help='JSON file of the error model')
    args = parser.parse_args()
    settings = {
        'model.name': args.model,
        'model.checkpoint': args.checkpoint,
        'model.depth': False,
        'map.enabled': False,
    }
    tasks = [
        Task(cell, seed, None, args.frames) for cell, seed in draw_cells(args.seed, args.sequences)
    ] + [Task(None, 0, folder, 0) for folder in recorded(args.data)]
    records = [_kept(task, settings, args.records) for task in tqdm(tasks, unit=' sequences')]
    records = [r for r in records if r.segments]
    model: ErrorModel = load_predictor(updated(R3Config(), settings)).error_model
    if args.judge_only:
        print(table(records, [model] * len(records)))
        return 0
    fitted = fit(records, model)
    print(fitted)
    judged, models = [], []
    for fold in tqdm(_folds(records), unit=' folds'):
        elsewhere = fit([r for r in records if r not in fold], fitted)
        judged += fold
        models += [elsewhere] * len(fold)
    print(table(judged, models))
    if args.output is not None:
        fitted.write(args.output, (r.name for r in records))
    return 0


def _folds(records: Sequence[Record]) -> list[list[Record]]:
    """Return the recorded sequences one by one, and the synthetic ones in a few parts."""
    synthetic = [r for r in records if not r.recorded]
    parts = [synthetic[n::_FOLDS] for n in range(min(_FOLDS, len(synthetic)))]
    return [*parts, *([r] for r in records if r.recorded)]


def _kept(task: Task, settings: dict[str, Any], folder: Path | None) -> Record:
    if folder is None:
        return record(task, settings)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{task.name}_{task.seed}.pickle'.replace('/', '_').replace(' ', '_')
    if not path.exists():
        path.write_bytes(pickle.dumps(record(task, settings)))
    found: Record = pickle.loads(path.read_bytes())
    return found


if __name__ == '__main__':
    sys.exit(main())
