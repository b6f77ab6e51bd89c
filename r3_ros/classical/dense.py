"""What a plane sweep of a keyframe needs: neighbours at a useful distance, and a depth range."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ..core.geometry import inverse
from .landmarks import HeldFrame, HeldFrames, Landmarks
from .pinhole import Pinhole
from .sweep import BASELINES, BEST_BASELINE, MOST_VIEWS, sweep, sweep_size, Swept, View

#: Neighbours looking more than this away share too little of the picture.
MOST_TURN_COS = np.cos(np.deg2rad(20.0))
#: Keyframes considered as neighbours, newest first.
CONSIDERED = 20
#: Landmarks needed for a depth range.
LEAST_LANDMARKS = 30
#: How far the planes reach beyond the nearest and farthest landmarks.
NEAR_MARGIN, FAR_MARGIN = 0.7, 1.4


def sweep_job(
    frame: HeldFrame, frames: HeldFrames, landmarks: Landmarks, camera: Pinhole, planes: int
) -> Callable[[], Swept] | None:
    """Return the sweep of a keyframe as a job on copies, or None if nothing suits it."""
    depths = _landmark_depths(frame, landmarks)
    if len(depths) < LEAST_LANDMARKS:
        return None
    nearest, middle, farthest = np.percentile(depths, (2.0, 50.0, 98.0))
    neighbours = _neighbours(frame, frames, float(middle))
    if not neighbours:
        return None
    width, height = sweep_size(camera)
    small_camera = Pinhole.of(camera.intrinsics(width, height), width, height)
    gray = _shrunk(frame.gray, width, height)
    views = [
        View(_shrunk(n.gray, width, height), inverse(n.T_world_camera) @ frame.T_world_camera)
        for n in neighbours
    ]
    near, far = NEAR_MARGIN * float(nearest), FAR_MARGIN * float(farthest)
    frame_id = frame.frame_id
    return lambda: sweep(frame_id, gray, views, small_camera, near, far, planes)


def _landmark_depths(frame: HeldFrame, landmarks: Landmarks) -> np.ndarray:
    """Return the depths of the landmarks the frame saw."""
    use = frame.seen.alive(landmarks) & landmarks.solid[frame.seen.slots]
    T = inverse(frame.T_world_camera)
    depths = landmarks.position[frame.seen.slots[use]] @ T[2, :3] + T[2, 3]
    return depths[depths > 0]


def _neighbours(frame: HeldFrame, frames: HeldFrames, depth: float) -> list[HeldFrame]:
    """Return the keyframes whose baseline suits a scene at this depth best."""
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
