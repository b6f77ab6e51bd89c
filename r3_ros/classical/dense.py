"""The neighbours and the depth range for a plane sweep of a keyframe."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ..core.geometry import inverse
from .landmarks import HeldFrame, HeldFrames, SparseMap
from .pinhole import Pinhole
from .sweep import BASELINES, BEST_BASELINE, MOST_VIEWS, NeighbourView, sweep, sweep_size, Swept

#: Neighbours turned by more than this overlap too little.
MOST_TURN_COS = np.cos(np.deg2rad(20.0))
#: Keyframes considered as neighbours, newest first.
CONSIDERED = 20
#: Landmarks needed for a depth range.
LEAST_LANDMARKS = 30
#: How far the planes reach beyond the nearest and farthest landmarks.
NEAR_MARGIN, FAR_MARGIN = 0.7, 1.4


def sweep_job(frame: HeldFrame, sparse_map: SparseMap, planes: int) -> Callable[[], Swept] | None:
    """Return the sweep of a keyframe as a job on copies, or None without suitable neighbours."""
    camera = sparse_map.camera
    slots, _ = frame.seen.solid(sparse_map.landmarks)
    T = inverse(frame.T_world_camera)
    depths = sparse_map.landmarks.position[slots] @ T[2, :3] + T[2, 3]
    depths = depths[depths > 0]
    if len(depths) < LEAST_LANDMARKS:
        return None
    nearest, middle, farthest = np.percentile(depths, (2.0, 50.0, 98.0))
    neighbours = _neighbours(frame, sparse_map.frames, float(middle))
    if not neighbours:
        return None
    width, height = sweep_size(camera)
    small_camera = Pinhole.of(camera.resized(width, height), width, height)
    gray = _shrunk(frame.gray, width, height)
    views = [
        NeighbourView(
            _shrunk(n.gray, width, height), inverse(n.T_world_camera) @ frame.T_world_camera
        )
        for n in neighbours
    ]
    near, far = NEAR_MARGIN * float(nearest), FAR_MARGIN * float(farthest)
    frame_id = frame.frame_id
    return lambda: sweep(frame_id, gray, views, small_camera, near, far, planes)


def _neighbours(frame: HeldFrame, frames: HeldFrames, depth: float) -> list[HeldFrame]:
    """Return the keyframes with the best baselines for a scene at this depth."""
    suited = []
    for other in frames.keyframes()[-CONSIDERED:]:
        if other is frame:
            continue
        baseline = float(
            np.linalg.norm(other.T_world_camera[:3, 3] - frame.T_world_camera[:3, 3]) / depth
        )
        turn = float(other.T_world_camera[:3, 2] @ frame.T_world_camera[:3, 2])
        if BASELINES[0] < baseline < BASELINES[1] and turn > MOST_TURN_COS:
            suited.append((abs(np.log(baseline / BEST_BASELINE)), other.frame_id, other))
    suited.sort(key=lambda entry: entry[:2])
    return [other for _, _, other in suited[:MOST_VIEWS]]


def _shrunk(gray: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
