"""What happens to the map at a keyframe: old landmarks found again, new ones made."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ..geometry import inverse
from .features import find_corners, follow
from .landmarks import HeldFrame, HeldFrames, Landmarks, Sightings
from .pinhole import Pinhole, homogeneous, project
from .pnp import reprojection_px
from .triangulate import depth_along_first_ray, parallax_cosine

#: A candidate becomes a landmark at this angle between two of its rays ...
SOLID_PARALLAX_DEG = 1.0
#: ... if it fits every keyframe that saw it within this, in pixels.
SOLID_PX = 2.0
#: Keyframes in which unseen landmarks are looked up again, per new keyframe.
REVISITED_KEYFRAMES = 3
#: Patches are compared as they are, so the view may not have turned or grown much.
REVISIT_ANGLE_COS = np.cos(np.deg2rad(25.0))
REVISIT_SCALE = 1.35
#: A landmark found again lies this close to where the pose puts it, in pixels.
REVISIT_PX = 3.0
#: Neighbours whose median depth a new corner is given.
NEIGHBOURS = 5


def find_again(
    frame: HeldFrame,
    frames: HeldFrames,
    landmarks: Landmarks,
    camera: Pinhole,
    tracked: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Look up landmarks that should be in view but are not followed.

    Each is searched with the picture of the keyframe that saw it, from where the pose puts it.

    :param tracked: slots that are followed already.
    :return: slots (N,) and their pixels (N, 2) in the new keyframe.
    """
    T_camera_world = inverse(frame.T_world_camera)
    visible = landmarks.solid.copy()
    visible[tracked] = False
    rays, depth = project(
        landmarks.position @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
    )
    expected = camera.pixels(np.clip(rays, -1e3, 1e3))
    visible &= (depth > 0) & camera.inside(expected, 8.0)
    found_slots, found_pixels = [np.zeros(0, np.int64)], [np.zeros((0, 2))]
    for _ in range(REVISITED_KEYFRAMES):
        best = _best_keyframe(frame, frames, landmarks, visible, depth)
        if best is None:
            break
        old, use = best
        slots = old.seen.slots[use]
        pixels, ok = follow(old.gray, frame.gray, old.seen.pixels[use], expected[slots], levels=1)
        error = np.linalg.norm(pixels - expected[slots], axis=1)
        ok &= error < REVISIT_PX
        visible[slots] = False
        found_slots.append(slots[ok])
        found_pixels.append(pixels[ok].astype(np.float64))
    return np.concatenate(found_slots), np.concatenate(found_pixels)


def _best_keyframe(
    frame: HeldFrame,
    frames: HeldFrames,
    landmarks: Landmarks,
    visible: np.ndarray,
    depth: np.ndarray,
) -> tuple[HeldFrame, np.ndarray] | None:
    """Return the keyframe whose picture shows most of the wanted landmarks alike."""
    best, best_count = None, 14
    axis = frame.T_world_camera[:3, 2]
    for old in frames.keyframes():
        if old is frame or axis @ old.T_world_camera[:3, 2] < REVISIT_ANGLE_COS:
            continue
        use = old.seen.alive(landmarks) & visible[old.seen.slots]
        if use.sum() <= best_count:
            continue
        slots = old.seen.slots[use]
        T = inverse(old.T_world_camera)
        depth_then = landmarks.position[slots] @ T[2, :3] + T[2, 3]
        ratio = depth_then / np.maximum(depth[slots], 1e-9)
        alike = (ratio < REVISIT_SCALE) & (ratio > 1.0 / REVISIT_SCALE)
        use[use] = alike
        if alike.sum() > best_count:
            best, best_count = (old, use), int(alike.sum())
    return best


def triangulate_candidates(
    frame: HeldFrame, frames: HeldFrames, landmarks: Landmarks, camera: Pinhole
) -> int:
    """Make landmarks of the candidates that the new keyframe sees under enough parallax.

    :return: how many became solid.
    """
    slots = frame.seen.slots[frame.seen.alive(landmarks)]
    pixels = frame.seen.pixels[frame.seen.alive(landmarks)]
    use = ~landmarks.solid[slots] & (landmarks.first_frame[slots] != frame.frame_id)
    use &= np.array([int(i) in frames for i in landmarks.first_frame[slots]], bool)
    slots, pixels = slots[use], pixels[use]
    if len(slots) == 0:
        return 0
    first_ids, which = np.unique(landmarks.first_frame[slots], return_inverse=True)
    T_first = np.stack([frames[int(i)].T_world_camera for i in first_ids])
    T_frame_first = (inverse(frame.T_world_camera) @ T_first)[which]
    rays_first = camera.rays(landmarks.first_pixel[slots])
    depth = depth_along_first_ray(T_frame_first, rays_first, camera.rays(pixels))
    in_first = homogeneous(rays_first) * depth[:, None]
    world = np.einsum('nij,nj->ni', T_first[which][:, :3, :3], in_first) + T_first[which][:, :3, 3]
    cosine = parallax_cosine(world, T_first[which][:, :3, 3], frame.T_world_camera[:3, 3])
    good = (depth > 0) & (cosine < np.cos(np.deg2rad(SOLID_PARALLAX_DEG)))
    # A candidate keeps the better depth even while the angle is too small to trust it.
    slots, world = slots[good], world[good]
    good = _fits_everywhere(slots, world, frames, landmarks, camera)
    slots, world = slots[good], world[good]
    landmarks.position[slots] = world
    landmarks.solid[slots] = True
    angle = np.arccos(np.clip(cosine[depth > 0].min(initial=1.0), -1.0, 1.0))
    landmarks.relative_sigma[slots] = 1.0 / (camera.focal * max(angle, 1e-3))
    return len(slots)


def _fits_everywhere(
    slots: np.ndarray,
    world: np.ndarray,
    frames: HeldFrames,
    landmarks: Landmarks,
    camera: Pinhole,
) -> np.ndarray:
    """Return the mask of points that agree with every keyframe that saw them."""
    place = np.full(len(landmarks.used), -1)
    place[slots] = np.arange(len(slots))
    good = np.ones(len(slots), bool)
    for old in frames.keyframes():
        index = place[old.seen.slots]
        use = (index >= 0) & old.seen.alive(landmarks)
        if use.any():
            error = reprojection_px(
                inverse(old.T_world_camera),
                world[index[use]],
                camera.rays(old.seen.pixels[use]),
                camera.focal,
            )
            good[index[use][error > SOLID_PX]] = False
    return good


def add_candidates(
    frame: HeldFrame,
    landmarks: Landmarks,
    camera: Pinhole,
    pixels: np.ndarray,
    count: int,
    distance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Begin to follow new corners where there are none.

    :param pixels: (M, 2) where corners are followed now.
    :param count: how many to follow in all.
    :return: slots and pixels of the new candidates.
    """
    corners = find_corners(frame.gray, count - len(pixels), pixels, distance)
    if len(corners) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 2))
    corners = corners.astype(np.float64)
    depth = guess_depth(frame, landmarks, camera, corners)
    in_camera = homogeneous(camera.rays(corners)) * depth[:, None]
    T = frame.T_world_camera
    world = in_camera @ T[:3, :3].T + T[:3, 3]
    slots = landmarks.add(world, frame.frame_id, corners)
    return slots, corners


def guess_depth(
    frame: HeldFrame, landmarks: Landmarks, camera: Pinhole, pixels: np.ndarray
) -> np.ndarray:
    """Return the (N,) median depths of the nearest landmarks in the picture."""
    use = frame.seen.alive(landmarks) & landmarks.solid[frame.seen.slots]
    T = inverse(frame.T_world_camera)
    known = landmarks.position[frame.seen.slots[use]] @ T[2, :3] + T[2, 3]
    places = frame.seen.pixels[use][known > 0]
    known = known[known > 0]
    if len(known) == 0:
        return np.ones(len(pixels))
    count = min(NEIGHBOURS, len(known))
    _, index = cKDTree(places).query(pixels, k=count)
    return np.median(known[index.reshape(len(pixels), count)], axis=1)


def note_sightings(frame: HeldFrame, landmarks: Landmarks, slots: np.ndarray, pixels: np.ndarray):
    """Write down what a keyframe saw."""
    frame.seen.extend(Sightings.of(landmarks, slots, pixels))
    landmarks.sightings[slots] += 1


def drop_dead_candidates(landmarks: Landmarks, followed: np.ndarray) -> None:
    """Free the candidates that are no longer followed: nothing can make landmarks of them."""
    dead = landmarks.used & ~landmarks.solid
    dead[followed] = False
    landmarks.remove(np.flatnonzero(dead))
