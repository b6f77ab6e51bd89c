"""Landmarks on their way into a saved map and back.

Outside they are in the engine's world and in the pixels of the pictures, here in those of the
working picture. A map that comes back is brought to the camera of the present pictures, which may
have another size or calibration: both are pinholes, so one affine map of the pixels does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.datatypes import Intrinsics, KnownKeyframe, SparseLandmarks
from ..core.geometry import inverse
from .backend import World
from .features import working_picture
from .landmarks import HeldFrame, Sightings
from .pinhole import Pinhole


def landmarks_in(
    world: World, T_world_camera: Mapping[int, np.ndarray], size: tuple[int, int]
) -> SparseLandmarks:
    """Return the triangulated landmarks that these keyframes saw.

    The engine averages what it is told, so its poses may differ a little from those here. Each
    landmark is told from the first keyframe that saw it, and so fits the engine's.

    :param T_world_camera: the keyframes, with their poses as the engine has them.
    :param size: width and height of the pictures.
    """
    landmarks = world.landmarks
    position = np.full((len(landmarks.used), 3), np.nan)
    seen_by, slots, pixels = [], [], []
    for frame in world.frames.keyframes():
        T = T_world_camera.get(frame.frame_id)
        if T is None:
            continue
        use = frame.seen.alive(landmarks) & landmarks.solid[frame.seen.slots]
        own = frame.seen.slots[use]
        first = own[np.isnan(position[own, 0])]
        T_engine_own = T @ inverse(frame.T_world_camera)
        placed = landmarks.position[first] @ T_engine_own[:3, :3].T + T_engine_own[:3, 3]
        position[first] = placed
        seen_by.append(np.full(len(own), frame.frame_id, np.int64))
        slots.append(own)
        pixels.append(frame.seen.pixels[use])
    if not slots:
        nothing = np.empty(0, np.int64)
        return SparseLandmarks(np.empty((0, 3)), np.empty(0), nothing, nothing, np.empty((0, 2)))
    kept, rows = np.unique(np.concatenate(slots), return_inverse=True)
    scale = np.array(size) / (world.camera.width, world.camera.height)
    in_picture = (np.concatenate(pixels) + 0.5) * scale - 0.5
    return SparseLandmarks(
        positions=position[kept],
        relative_sigma=landmarks.relative_sigma[kept].copy(),
        frame_ids=np.concatenate(seen_by),
        landmarks=rows.astype(np.int64),
        pixels=np.clip(in_picture, -0.5, np.array(size) - 0.5),
    )


@dataclass(frozen=True, eq=False)
class KnownPicture:
    """A keyframe of a saved map, until the first picture tells the camera.

    :ivar gray: (h, w) uint8, no larger than anything here works on.
    :ivar intrinsics: of the picture as it was saved.
    """

    frame_id: int
    gray: np.ndarray
    intrinsics: Intrinsics
    T_world_camera: np.ndarray


@dataclass(frozen=True, eq=False)
class KnownMap:
    """A saved map, until the first picture tells the camera."""

    pictures: Sequence[KnownPicture]
    landmarks: SparseLandmarks

    @classmethod
    def of(cls, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks) -> KnownMap:
        """Keep what is needed of the keyframes."""
        pictures = [
            KnownPicture(
                k.frame_id,
                working_picture(k.image),
                k.intrinsics,
                k.T_world_camera,
            )
            for k in keyframes
        ]
        return cls(pictures, landmarks)

    def intrinsics_for(self, width: int, height: int) -> Intrinsics:
        """Return the intrinsics that the newest pictures had, for pictures of another size."""
        return self.pictures[-1].intrinsics.resized(width, height)

    def enter(self, world: World) -> None:
        """Put keyframes and landmarks into an empty world."""
        slots = self._add_landmarks(world)
        known = self.landmarks
        for picture in self.pictures:
            own = np.flatnonzero(known.frame_ids == picture.frame_id)
            A = _to_camera(picture.intrinsics, world.camera)
            pixels = known.pixels[own] @ A[:, :2].T + A[:, 2]
            # Of another camera, which may see less.
            inside = world.camera.inside(pixels)
            seen = slots[known.landmarks[own[inside]]]
            world.landmarks.sightings[seen] += 1
            T = np.array(picture.T_world_camera)
            world.frames.add(
                HeldFrame(
                    picture.frame_id,
                    _warped(picture.gray, picture.intrinsics, A, world.camera),
                    T,
                    Sightings.of(world.landmarks, seen, pixels[inside]),
                    keyframe=True,
                    posed=True,
                    announced=T.copy(),
                    saved=True,
                )
            )

    def _add_landmarks(self, world: World) -> np.ndarray:
        """Return the slots of the landmarks; each counts as first seen where it is first told."""
        known = self.landmarks
        first = np.full(len(known), -1)
        first[known.landmarks[::-1]] = np.arange(len(known.landmarks))[::-1]
        slots = np.full(len(known), -1)
        intrinsics = {p.frame_id: p.intrinsics for p in self.pictures}
        for frame_id, of_picture in intrinsics.items():
            own = np.flatnonzero((first >= 0) & (known.frame_ids[first] == frame_id))
            A = _to_camera(of_picture, world.camera)
            pixels = known.pixels[first[own]] @ A[:, :2].T + A[:, 2]
            slots[own] = world.landmarks.add(known.positions[own], frame_id, pixels)
        placed = slots >= 0
        world.landmarks.solid[slots[placed]] = True
        world.landmarks.relative_sigma[slots[placed]] = known.relative_sigma[placed]
        return slots


def _to_camera(intrinsics: Intrinsics, camera: Pinhole) -> np.ndarray:
    """Return the (2, 3) affine map from pixels of a picture to those of the working picture."""
    fx, fy = camera.fx / intrinsics.fx, camera.fy / intrinsics.fy
    return np.array(
        [
            [fx, 0.0, camera.cx - fx * intrinsics.cx],
            [0.0, fy, camera.cy - fy * intrinsics.cy],
        ]
    )


def _warped(
    gray: np.ndarray, intrinsics: Intrinsics, A: np.ndarray, camera: Pinhole
) -> np.ndarray:
    """Return the (h, w) picture as the working picture's camera would have taken it."""
    size = (camera.width, camera.height)
    shrunk = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    exact = np.array(size) / (intrinsics.width, intrinsics.height)
    resized = np.zeros((2, 3))
    resized[[0, 1], [0, 1]] = exact
    resized[:, 2] = 0.5 * exact - 0.5
    if np.allclose(A, resized, atol=1e-3):
        return shrunk
    # From the shrunk picture, which has no finer detail than the result can show.
    full = np.vstack([A, [0, 0, 1]]) @ np.linalg.inv(np.vstack([resized, [0, 0, 1]]))
    return cv2.warpAffine(shrunk, full[:2], size, flags=cv2.INTER_LINEAR)
