"""Conversion of landmarks to a saved map and back.

Saved landmarks are in the engine's world and in pixels of the frames, here in pixels of the
working image. A loaded map is converted to the present camera, which may have another size or
calibration: both are pinholes, so this is an affine map of the pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.datatypes import Intrinsics, KnownKeyframe, SparseLandmarks
from ..core.geometry import inverse, transform
from .features import working_image
from .landmarks import Observations, SparseMap
from .pinhole import Pinhole


def landmarks_in(
    sparse_map: SparseMap, S_world_camera: Mapping[int, np.ndarray], size: tuple[int, int]
) -> SparseLandmarks:
    """Return the triangulated landmarks that these keyframes saw.

    The engine averages edges, so its poses may differ a little from those here, and by a scale in
    a segment that was joined. A landmark keeps its position relative to the first keyframe that
    saw it.

    :param S_world_camera: (4, 4) the engine's similarities of the keyframes.
    :param size: width and height of the frames.
    """
    landmarks, camera = sparse_map.landmarks, sparse_map.camera
    position = np.full((len(landmarks.used), 3), np.nan)
    seen_by, slots, pixels = [], [], []
    for frame_id, frame in sparse_map.frames.items():
        S = S_world_camera.get(frame_id)
        if S is None or not frame.keyframe:
            continue
        own, own_pixels = frame.seen.solid(landmarks)
        first = own[np.isnan(position[own, 0])]
        S_engine_own = S @ inverse(frame.T_world_camera)
        position[first] = transform(S_engine_own, landmarks.position[first])
        seen_by.append(np.full(len(own), frame_id, np.int64))
        slots.append(own)
        pixels.append(own_pixels)
    if not slots:
        nothing = np.empty(0, np.int64)
        return SparseLandmarks(np.empty((0, 3)), np.empty(0), nothing, nothing, np.empty((0, 2)))
    kept, rows = np.unique(np.concatenate(slots), return_inverse=True)
    scale = np.array(size) / (camera.width, camera.height)
    in_image = (np.concatenate(pixels) + 0.5) * scale - 0.5
    return SparseLandmarks(
        positions=position[kept],
        relative_sigma=landmarks.relative_sigma[kept].copy(),
        frame_ids=np.concatenate(seen_by),
        landmarks=rows.astype(np.int64),
        pixels=np.clip(in_image, -0.5, np.array(size) - 0.5),
    )


@dataclass(frozen=True, eq=False)
class KnownMap:
    """A saved map before the camera is known.

    :ivar keyframes: with (h, w) uint8 working images.
    """

    keyframes: Sequence[KnownKeyframe]
    landmarks: SparseLandmarks

    @classmethod
    def of(cls, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks) -> KnownMap:
        """Return the map with the working images of its keyframes."""
        return cls([replace(k, image=working_image(k.image)) for k in keyframes], landmarks)

    def enter(self, sparse_map: SparseMap) -> None:
        """Add keyframes and landmarks to an empty map."""
        known, camera, landmarks = self.landmarks, sparse_map.camera, sparse_map.landmarks
        # The first observation of a landmark counts as the oldest.
        first = np.full(len(known), -1)
        first[known.landmarks[::-1]] = np.arange(len(known.landmarks))[::-1]
        slots = np.full(len(known), -1)
        for keyframe in self.keyframes:
            A = _to_camera(keyframe.intrinsics, camera)
            gray = _warped(keyframe.image, keyframe.intrinsics, A, camera)
            frame = sparse_map.hold(keyframe.frame_id, gray, keyframe.T_world_camera)
            frame.keyframe = frame.saved = True
            frame.reported = frame.T_world_camera.copy()
            pixels = known.pixels @ A[:, :2].T + A[:, 2]
            of_frame = known.frame_ids == keyframe.frame_id
            new = np.flatnonzero((first >= 0) & of_frame[first])
            slots[new] = landmarks.add(known.positions[new], frame, pixels[first[new]])
            landmarks.solid[slots[new]] = True
            landmarks.relative_sigma[slots[new]] = known.relative_sigma[new]
            # The present camera may see less.
            own = np.flatnonzero(of_frame & camera.inside(pixels))
            seen = slots[known.landmarks[own]]
            landmarks.observation_count[seen] += 1
            frame.seen = Observations.of(landmarks, seen, pixels[own])


def _to_camera(intrinsics: Intrinsics, camera: Pinhole) -> np.ndarray:
    """Return the (2, 3) affine map from pixels of an image to those of the working image."""
    fx, fy = camera.fx / intrinsics.fx, camera.fy / intrinsics.fy
    tx, ty = camera.cx - fx * intrinsics.cx, camera.cy - fy * intrinsics.cy
    return np.array([[fx, 0.0, tx], [0.0, fy, ty]])


def _warped(
    gray: np.ndarray, intrinsics: Intrinsics, A: np.ndarray, camera: Pinhole
) -> np.ndarray:
    """Return the (h, w) working image as seen by the present camera."""
    size = (camera.width, camera.height)
    shrunk = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    exact = np.array(size) / (intrinsics.width, intrinsics.height)
    resized = np.zeros((2, 3))
    resized[[0, 1], [0, 1]] = exact
    resized[:, 2] = 0.5 * exact - 0.5
    if np.allclose(A, resized, atol=1e-3):
        return shrunk
    # From the shrunk image, to avoid aliasing.
    full = np.vstack([A, [0, 0, 1]]) @ np.linalg.inv(np.vstack([resized, [0, 0, 1]]))
    return cv2.warpAffine(shrunk, full[:2], size, flags=cv2.INTER_LINEAR)
