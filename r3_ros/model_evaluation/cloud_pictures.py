"""Pictures of the maps of several predictors, beside the true surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ..atomic_files import atomic_write
from ..datatypes import Intrinsics
from ..evaluation import TrajectoryErrors
from ..geometry import transform, unproject
from ..maps.cloud import Cloud
from ..report.views import level_scene, perspective, Scene, viewpoints
from .sequences import PosedSequence
from .streams import StreamResult

_SIZE = (560, 420)
_CAPTION_HEIGHT = 26
_TRUE_PICTURES = 24
#: Points of a true picture are on a grid of about so many pixels a side.
_TRUE_GRID = 160
#: Splats are as large as a share of the extent of what is seen.
_SPACING = 0.006
#: Share of half the extent above the highest camera at which a map is cut.
_CUT_ABOVE = 0.05


def draw_clouds(path: Path, sequence: PosedSequence, results: Sequence[StreamResult]) -> bool:
    """Draw the true surfaces and the maps, each turned as its trajectory fits the truth.

    Each is seen from outside, and from where its camera was half-way.

    :returns: False: no predictor has both a map and enough poses; nothing is written.
    """
    scenes = {
        r.predictor: _scene(_aligned(r.cloud, r, r.trajectory), r.trajectory.aligned)
        for r in results
        if len(r.cloud) and r.trajectory is not None
    }
    if not scenes:
        return False
    true_cloud = _true_cloud(sequence, results)
    if len(true_cloud):
        scenes = {'truth': _scene(true_cloud, sequence.truth.T_world_camera), **scenes}
    columns = []
    for name, scene in scenes.items():
        outside, _, inside = viewpoints(scene)
        above = f'{name}, {outside.caption}, cut above the camera'
        panels = [
            _captioned(perspective(_opened(scene), outside, _SIZE), above),
            _captioned(perspective(scene, inside, _SIZE), f'{name}, {inside.caption}'),
        ]
        columns.append(np.concatenate(panels))
    image = np.concatenate(columns, axis=1)
    data = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    with atomic_write(path) as file:
        file.write(data.tobytes())
    return True


def _scene(cloud: Cloud, T_world_camera: np.ndarray) -> Scene:
    scene = level_scene(cloud, T_world_camera, spacing=1.0)
    return replace(scene, spacing=_SPACING * 2 * scene.reach)


def _opened(scene: Scene) -> Scene:
    """Return a scene without what lies above the camera: a ceiling would hide the room."""
    highest = scene.centres[:, 2].max() + _CUT_ABOVE * scene.reach
    return replace(scene, cloud=scene.cloud.take(scene.cloud.points[:, 2] <= highest))


def _aligned(cloud: Cloud, result: StreamResult, errors: TrajectoryErrors) -> Cloud:
    """Return a map moved as its trajectory was to fit the truth."""
    k = int(np.flatnonzero(result.estimate.stamps_ns == errors.stamps_ns[0])[0])
    own, true = result.estimate.T_world_camera[k], errors.aligned[0]
    R = true[:3, :3] @ own[:3, :3].T
    t = true[:3, 3] - errors.scale * R @ own[:3, 3]
    points = (errors.scale * cloud.points @ R.T + t).astype(np.float32)
    return Cloud(points, cloud.colors, cloud.confidence)


def _true_cloud(sequence: PosedSequence, results: Sequence[StreamResult]) -> Cloud:
    """Return surfaces from true depth and poses; empty without, or without a calibration."""
    stamps = sequence.depth_stamps()
    K = next((r.picture for r in results if r.picture is not None), None)
    if not stamps or K is None:
        return Cloud.empty()
    seen = set(results[0].stamps_ns.tolist())
    stamps = [stamp for stamp in stamps if stamp in seen]
    chosen = set(stamps[:: max(1, len(stamps) // _TRUE_PICTURES)])
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
    """Return the points of one picture, which is not distorted, in the world."""
    height, width = depth.shape
    K = K.resized(width, height)
    step = max(1, round(width / _TRUE_GRID))
    points = unproject(depth, K.fx, K.fy, K.cx, K.cy, step).reshape(-1, 3)
    colours = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    kept = points[:, 2] > 0
    cloud = Cloud(points, colours[::step, ::step].reshape(-1, 3), np.ones(len(points), np.float32))
    cloud = cloud.take(kept)
    return Cloud(transform(T, cloud.points), cloud.colors, cloud.confidence)


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """Return a picture with a line of text above it."""
    line = np.full((_CAPTION_HEIGHT, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(line, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([line, picture])
