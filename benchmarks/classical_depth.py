"""Dense depth of the classical predictor against a depth camera.

Depth images exist for some frames only, so those are made keyframes and all of them swept; the
predictor is otherwise as it comes. Each image is scaled by the median ratio, or all by one. With a
depth_camera.yaml the truth is looked up through the two pinhole models alone: colour and depth are
not registered in 7-Scenes, which puts a floor of about 0.1 under AbsRel at edges.

    python benchmarks/classical_depth.py ../shared/data/redkitchen_7scenes [--fill]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from classical_sequences import load_sequence, StreamStandIn
import numpy as np
from r3_ros.classical import backend, odometry
from r3_ros.core.config import ClassicalConfig
from r3_ros.core.datatypes import DepthMap, Intrinsics
from r3_ros.evaluation.depth_errors import DepthErrors, read_depth, truth_at_pixels
import yaml


def main() -> int:
    """Run one sequence and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--frames', type=int, default=10**9)
    parser.add_argument('--fill', action='store_true', help='with classical.fill_depth')
    parser.add_argument('--confidence', type=float, default=0.0, help='pixels above this count')
    args = parser.parse_args()
    own_camera = args.folder / 'depth_camera.yaml'
    K = None
    if own_camera.is_file():
        calibration = yaml.safe_load(own_camera.read_text())
        K = np.array(calibration['camera_matrix']['data'], np.float64).reshape(3, 3)
    true_ids = {int(path.stem) for path in (args.folder / 'depth').glob('*.png')}
    present = 0
    wants = odometry.Odometry._wants_keyframe

    def wants_or_has_truth(self, slots, pixels):  # noqa: ANN001, ANN202
        return present in true_ids or wants(self, slots, pixels)

    odometry.Odometry._wants_keyframe = wants_or_has_truth
    backend.SWEEP_PAUSE = 1
    stream = StreamStandIn(ClassicalConfig(fill_depth=args.fill))
    errors = DepthErrors()
    for present, frame in enumerate(load_sequence(args.folder).read()):
        if present >= args.frames:
            break
        for depth_map in stream.step(replace(frame, frame_id=present)).depths:
            if depth_map.frame_id in true_ids:
                path = args.folder / 'depth' / f'{depth_map.frame_id:06d}.png'
                compare(errors, depth_map, path, K, args.confidence)
    stream.close()
    print(
        f'{len(errors)} of {len(true_ids)} images: AbsRel {errors.abs_rel:.3f} (one scale for all '
        f'{errors.abs_rel_one_scale:.3f}), within 25 % {errors.delta_125:.3f}, '
        f'on {100 * errors.coverage:.0f} % of the pixels with a truth'
    )
    return 0


def compare(
    errors: DepthErrors,
    depth_map: DepthMap,
    path: Path,
    K: np.ndarray | None,
    min_confidence: float,
) -> None:
    """Add a depth map's errors, where it is confident enough."""
    measured = read_depth(path)
    # The depth camera measures up to 8 m; it writes 0 or 65535 where it does not know.
    measured[measured > 8] = 0
    height, width = measured.shape
    camera = None if K is None else Intrinsics.from_K(K, width, height)
    truth = truth_at_pixels(measured, depth_map.intrinsics, camera)
    depth = np.where(depth_map.confidence > min_confidence, depth_map.depth, np.nan)
    errors.add(depth, truth)


if __name__ == '__main__':
    raise SystemExit(main())
