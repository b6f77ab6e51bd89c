"""Figures of the true surfaces and of the maps of several predictors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ..core.datatypes import Intrinsics
from ..core.geometry import unproject
from ..maps.cloud import Cloud
from .figures import new_figure, save_figure
from .map_views import draw_from_half_way, draw_from_outside, level_scene
from .posed_sequences import PosedSequence
from .stream_results import StreamResult

#: Number of images for the true surfaces, and pixels of each side.
_TRUE_IMAGES = 24
_TRUE_GRID = 160
#: Height of the cut above the highest camera, over half the extent.
_CUT_ABOVE = 0.05


def draw_maps(path: Path, sequence: PosedSequence, results: Sequence[StreamResult]) -> None:
    """Draw the true surfaces and the maps, aligned to the truth by their trajectories.

    Views from outside and from the camera half-way. Nothing is written if no predictor has both a
    map and enough poses.
    """
    scenes = {
        r.predictor: level_scene(
            replace(r.cloud, points=r.trajectory.moved(r.cloud.points).astype(np.float32)),
            r.trajectory.aligned,
        )
        for r in results
        if len(r.cloud) and r.trajectory is not None
    }
    if not scenes:
        return
    true_cloud = _true_cloud(sequence, results)
    if len(true_cloud):
        scenes = {'truth': level_scene(true_cloud, sequence.truth.T_world_camera), **scenes}
    figure = new_figure(5.4 * len(scenes), 7.8)
    rows = figure.subplots(2, len(scenes), squeeze=False)
    for (name, scene), outside, inside in zip(scenes.items(), *rows, strict=True):
        # A ceiling would hide the room.
        highest = scene.centres[:, 2].max() + _CUT_ABOVE * scene.reach
        cloud = scene.cloud.take(scene.cloud.points[:, 2] <= highest)
        draw_from_outside(outside, replace(scene, cloud=cloud))
        outside.set_title(f'{name}, from outside, cut above the camera', fontsize=10)
        draw_from_half_way(inside, scene)
        inside.set_title(f'{name}, as the camera saw it half-way', fontsize=10)
    save_figure(figure, path)


def _true_cloud(sequence: PosedSequence, results: Sequence[StreamResult]) -> Cloud:
    """Return surfaces from true depth and poses; empty without depth or calibration."""
    stamps = sequence.depth_stamps()
    K = next((r.undistorted for r in results if r.undistorted is not None), None)
    if not stamps or K is None:
        return Cloud.empty()
    seen = set(results[0].stamps_ns.tolist())
    stamps = [stamp for stamp in stamps if stamp in seen]
    chosen = set(stamps[:: max(1, len(stamps) // _TRUE_IMAGES)])
    poses = dict(
        zip(sequence.truth.stamps_ns.tolist(), sequence.truth.T_world_camera, strict=True)
    )
    parts = []
    with sequence.open() as source:
        for raw in source:
            if raw.stamp_ns in chosen and raw.stamp_ns in poses:
                depth = sequence.depth(raw.stamp_ns)
                parts.append(_points(raw.image, depth, K, poses[raw.stamp_ns]))
    return Cloud.joined(parts)


def _points(image: np.ndarray, depth: np.ndarray, K: Intrinsics, T: np.ndarray) -> Cloud:
    """Return the points of one undistorted image in the world frame."""
    height, width = depth.shape
    K = K.resized(width, height)
    step = max(1, round(width / _TRUE_GRID))
    points = unproject(depth, K.fx, K.fy, K.cx, K.cy, step).reshape(-1, 3)
    colours = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    cloud = Cloud(points, colours[::step, ::step].reshape(-1, 3), np.ones(len(points), np.float32))
    return cloud.take(points[:, 2] > 0).moved(T)
