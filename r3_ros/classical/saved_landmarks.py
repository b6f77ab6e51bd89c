"""Landmarks on their way into a saved map, in the engine's world and the pictures' pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..datatypes import SparseLandmarks
from ..geometry import inverse
from .upkeep import World


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
