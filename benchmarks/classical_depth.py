"""Dense depth of the classical predictor against a depth camera.

Depth pictures exist for some frames only, so those are made keyframes and all of them swept; the
predictor is otherwise as it comes. Each picture is scaled by the median ratio; the truth is
looked up through the two pinhole models alone, because colour and depth are not registered in
7-Scenes, which puts a floor of about 0.1 under AbsRel at edges.

    python benchmarks/classical_depth.py ../shared/data/redkitchen_7scenes
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from classical_sequences import load_sequence, StreamStandIn
import cv2
import numpy as np
from r3_ros.classical import odometry, upkeep
from r3_ros.datatypes import DepthMap
import yaml


def main() -> int:
    """Run one sequence and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--frames', type=int, default=10**9)
    parser.add_argument('--confidence', type=float, default=1.0, help='pixels above this count')
    args = parser.parse_args()
    calibration = yaml.safe_load((args.folder / 'depth_camera.yaml').read_text())
    K = np.array(calibration['camera_matrix']['data'], np.float64).reshape(3, 3)
    true_ids = {int(path.stem) for path in (args.folder / 'depth').glob('*.png')}
    present = 0
    wants = odometry.Odometry._wants_keyframe

    def wants_or_has_truth(self, slots, pixels):  # noqa: ANN001, ANN202
        return present in true_ids or wants(self, slots, pixels)

    odometry.Odometry._wants_keyframe = wants_or_has_truth
    upkeep.SWEEP_PAUSE = 1
    stream = StreamStandIn()
    rows = []
    for present, frame in enumerate(load_sequence(args.folder).read()):
        if present >= args.frames:
            break
        for depth_map in stream.step(replace(frame, frame_id=present)).depths:
            if depth_map.frame_id in true_ids:
                path = args.folder / 'depth' / f'{depth_map.frame_id:06d}.png'
                rows.append(compare(depth_map, path, K, args.confidence))
    stream.close()
    table = np.array(rows)
    print(
        f'{len(table)} pictures: AbsRel {table[:, 0].mean():.3f}, within 25 % '
        f'{table[:, 1].mean():.3f}, on {100 * table[:, 2].mean():.0f} % of the pixels'
    )
    return 0


def compare(
    depth_map: DepthMap, path: Path, K: np.ndarray, least_confidence: float
) -> tuple[float, float, float]:
    """Return AbsRel, the share within 25 % and the share of pixels that are claimed."""
    measured = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000.0
    # The depth camera measures up to 8 m; it writes 0 or 65535 where it does not know.
    measured[(measured <= 0) | (measured > 8)] = np.nan
    h, w = depth_map.depth.shape
    own = depth_map.intrinsics
    u = np.rint((np.arange(w) - own.cx) / own.fx * K[0, 0] + K[0, 2]).astype(int)
    v = np.rint((np.arange(h) - own.cy) / own.fy * K[1, 1] + K[1, 2]).astype(int)
    rows = np.clip(v, 0, measured.shape[0] - 1)[:, None]
    truth = measured[rows, np.clip(u, 0, measured.shape[1] - 1)[None]]
    claimed = np.isfinite(depth_map.depth) & (depth_map.confidence > least_confidence)
    both = claimed & np.isfinite(truth)
    estimate, truth = depth_map.depth[both], truth[both]
    estimate = estimate * np.median(truth / estimate)
    ratio = np.maximum(estimate / truth, truth / estimate)
    error = np.abs(estimate - truth) / truth
    return float(error.mean()), float((ratio < 1.25).mean()), float(claimed.mean())


if __name__ == '__main__':
    raise SystemExit(main())
