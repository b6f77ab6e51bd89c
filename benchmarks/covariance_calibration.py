#!/usr/bin/env python3
"""Whether covariances are as large as errors: normalised errors of edges and poses.

    python benchmarks/covariance_calibration.py DATA/redkitchen_7scenes DATA/kitti00 DATA/fox_ngp

The classical predictor behind the engine, the truth in the unit of the stream (one scale for all,
by a similarity alignment). An error squared over its variance and its three degrees of freedom is
1 at the mean and 0.79 at the median if the covariance is right, and above 2.6 in 5 % of all cases.
Edges are those of tracked frames; their standard deviations are what `covariance.*_scale` sets.
Poses are in the world of the first frame; their errors drift together, so one sequence is one
draw, not hundreds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

import numpy as np
from scipy.spatial.transform import Rotation

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from classical_sequences import evaluated, load_sequence  # noqa: E402
from r3_ros.core.config import CovarianceConfig, R3Config  # noqa: E402
from r3_ros.core.datatypes import Edge, Estimate, TrackingState  # noqa: E402
from r3_ros.core.geometry import inverse, rotation_angle  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.factory import load_predictor  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from r3_ros.streaming.pose_resolution import edge_sigmas  # noqa: E402

#: fox_ngp has a cut there.
CUTS = {'fox_ngp': 31}
_BEYOND_95 = 7.815 / 3.0


def tracked(folder: Path, most: int) -> tuple[list[Estimate], list[Edge], dict[int, np.ndarray]]:
    """Run a sequence; return its tracked estimates, the edges into them, and the truth."""
    sequence = load_sequence(folder)
    count = min(CUTS.get(sequence.name, most), most)
    config = updated(R3Config(), {'map.enabled': False, 'model.depth': False})
    predictor = load_predictor(config)
    engine, edges, estimates = Engine(predictor, config), [], []
    answer = predictor.predict

    def noting(*arguments, **options):
        prediction = answer(*arguments, **options)
        edges.extend(prediction.edges)
        return prediction

    predictor.predict = noting  # type: ignore[method-assign]
    for number, frame in enumerate(sequence.read()):
        if number == count:
            break
        estimates.append(engine.step(frame))
    engine.close()
    good = [
        e for e in estimates if e.state is TrackingState.TRACKING and e.frame_id in sequence.truth
    ]
    return good, edges, sequence.truth


def normalised(errors: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Return errors squared over variance and degrees of freedom; ``errors`` are lengths."""
    ratio: np.ndarray = errors**2 / (3.0 * sigmas**2)
    return ratio


def of_edges(
    edges: list[Edge], truth: dict[int, np.ndarray], unit: float, reference: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised errors of translation and rotation of edges.

    :param unit: metres of a unit of the stream.
    """
    T = np.stack([edge.T_source_target for edge in edges])
    exact = np.stack([inverse(truth[e.source_id]) @ truth[e.target_id] for e in edges])
    ratios = np.array([[e.confidence_translation, e.confidence_rotation] for e in edges])
    lengths, angles = np.linalg.norm(T[:, :3, 3], axis=1), rotation_angle(T[:, :3, :3])
    sigmas = edge_sigmas(lengths, angles, ratios / reference, CovarianceConfig())
    shift = np.linalg.norm(T[:, :3, 3] - exact[:, :3, 3] / unit, axis=1)
    turn = rotation_angle(np.swapaxes(T[:, :3, :3], 1, 2) @ exact[:, :3, :3])
    return normalised(shift, sigmas[:, 0]), normalised(turn, sigmas[:, 1])


def of_poses(
    estimates: list[Estimate], truth: dict[int, np.ndarray], unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised errors of position and orientation of poses."""
    first = estimates[0]
    shifts, turns = [], []
    for e in estimates[1:]:
        assert e.T_world_camera is not None and first.T_world_camera is not None
        exact = inverse(truth[first.frame_id]) @ truth[e.frame_id]
        exact[:3, 3] /= unit
        off = inverse(inverse(first.T_world_camera) @ e.T_world_camera) @ exact
        xi = Rotation.from_matrix(off[:3, :3]).as_rotvec()
        C = e.covariance
        assert C is not None
        shifts.append(off[:3, 3] @ np.linalg.solve(C[:3, :3], off[:3, 3]) / 3.0)
        turns.append(xi @ np.linalg.solve(C[3:, 3:], xi) / 3.0)
    return np.array(shifts), np.array(turns)


def main() -> int:
    """Run, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='+', type=Path)
    parser.add_argument('--frames', type=int, default=10**9, help='only the first so many')
    options = parser.parse_args()
    print('| sequence | of | count | translation: median, mean, beyond 95 % | rotation |')
    print('| --- | --- | --- | --- | --- |')
    for folder in options.folders:
        estimates, edges, truth = tracked(folder, options.frames)
        poses = {e.frame_id: e.T_world_camera for e in estimates}
        unit = evaluated(poses, truth).scale
        known = [e for e in edges if e.target_id in poses and e.source_id in poses]
        reference = load_predictor(R3Config()).confidence_reference
        for name, found in (
            ('edges', of_edges(known, truth, unit, reference)),
            ('poses', of_poses(estimates, truth, unit)),
        ):
            cells = ' | '.join(
                f'{np.median(n):.2f}, {n.mean():.2f}, {100 * np.mean(n > _BEYOND_95):.0f} %'
                for n in found
            )
            print(f'| {folder.resolve().name} | {name} | {len(found[0])} | {cells} |', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
