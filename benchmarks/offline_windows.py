#!/usr/bin/env python3
"""What joining windows costs in accuracy and time.

A scripted predictor shows 248 cameras in ten windows of 32, each in a unit of its own. Its
relations are noisy, and some of them are wrong altogether with the confidence of the others.

    python benchmarks/offline_windows.py
"""

from __future__ import annotations

from pathlib import Path
import sys
import time

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.geometry import rigid_part  # noqa: E402
from r3_ros.core.trajectory_file import PoseList  # noqa: E402
from r3_ros.core.unit_scale import DepthGrid  # noqa: E402
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory  # noqa: E402
from r3_ros.offline.windows.window_images import (  # noqa: E402
    ImageWindow,
    OrderByTime,
    WindowImage,
)
from r3_ros.offline.windows.window_placement import place_windows, PredictedWindow  # noqa: E402
from r3_ros.offline.windows.window_relations import relations_of  # noqa: E402
from scripted_windows import (  # noqa: E402
    HEIGHT,
    image_of,
    ScriptedWindows,
    walk,
    WIDTH,
    WindowScript,
)

CAMERAS = 248
UNITS = (1.7, 0.4, 2.9, 0.8, 1.3)
#: Noise of a relation (share of its length, radians), its depth unit, and the share of wrong ones.
CASES = (
    ((0.01, 0.002), 0.0, 0.0),
    ((0.05, 0.01), 0.03, 0.0),
    ((0.05, 0.01), 0.03, 0.1),
)
SEEDS = range(5)


def seen(
    predictor: ScriptedWindows, window: ImageWindow, depth_noise: float, wrong: float
) -> PredictedWindow:
    """Predict a window and spoil the answer."""
    rng = predictor._rng
    prediction = predictor.predict([image.pixels for image in window.images])
    count = len(window.images)
    pairs = np.triu(rng.random((count, count)) < wrong, 1)
    prediction.relative[pairs, :3] += rng.normal(0, 1, (np.count_nonzero(pairs), 3))
    prediction.predicted[pairs.T] = False
    ids = tuple(image.frame_id for image in window.images)
    grids = {
        frame_id: DepthGrid.of(depth * np.float32(np.exp(rng.normal(0, depth_noise))), sure)
        for frame_id, depth, sure in zip(ids, prediction.depth, prediction.confidence, strict=True)
    }
    usable = np.ones(count, dtype=bool)
    return PredictedWindow(ids, window.shared, relations_of(prediction), usable, grids)


def ate_percent(
    noise: tuple[float, float], depth_noise: float, wrong: float, seed: int
) -> tuple[float, float]:
    """Return the position error as a share of the path, and the seconds that placing took."""
    T = walk(CAMERAS)
    config = R3Config()
    predictor = ScriptedWindows(WindowScript(T, UNITS, noise))
    predictor._rng = np.random.default_rng(seed)
    geometry = predictor.geometry(WIDTH, HEIGHT)
    images = (WindowImage(n, n, image_of(n), geometry, None, 0.0) for n in range(CAMERAS))
    order = OrderByTime(images, config.offline.window_frames, config.offline.overlap_frames)
    windows = []
    while (window := order.next_window()) is not None:
        windows.append(seen(predictor, window, depth_noise, wrong))
        order.mark_placed(window.images)
    began = time.perf_counter()
    placement = place_windows(windows, config)
    took = time.perf_counter() - began
    found = np.stack([rigid_part(placement.S_world_frame[n]) for n in range(CAMERAS)])
    stamps = np.arange(CAMERAS) * 10**8
    return evaluate_trajectory(PoseList(stamps, found), PoseList(stamps, T)).ate_percent, took


def main() -> None:
    """Print a table."""
    print('| noise | wrong relations | ATE, median of 5 seeds | worst | placing |')
    print('| --- | --- | --- | --- | --- |')
    for noise, depth_noise, wrong in CASES:
        runs = [ate_percent(noise, depth_noise, wrong, seed) for seed in SEEDS]
        errors, times = np.array(runs).T
        print(
            f'| {100 * noise[0]:g} %, {noise[1]:g} rad, unit {100 * depth_noise:g} % '
            f'| {100 * wrong:g} % | {np.median(errors):.3f} % '
            f'| {errors.max():.3f} % | {np.median(times):.1f} s |',
            flush=True,
        )


if __name__ == '__main__':
    main()
