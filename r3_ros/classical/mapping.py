"""What happens to the map at a keyframe: old landmarks found again, new ones made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..core.geometry import inverse
from .features import coverage, find_corners, follow
from .landmarks import HeldFrame, HeldFrames, Landmarks, Sightings
from .pinhole import homogeneous, Pinhole, project
from .pnp import ransac_pose, refine_pose, reprojection_px
from .triangulate import depth_along_first_ray, parallax_cosine
from .window import Loop

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
#: The camera has come back with drift if less than this share of what was found lies in place, ...
LOOP_NEAR_SHARE = 0.5
#: ... so many landmarks and such a share of those found agree on another pose, ...
LOOP_LEAST = 40
LOOP_SHARE = 0.6
#: ... and they fill this share of the picture's cells.
LOOP_COVERAGE = 0.2
#: Neighbours whose median depth a new corner is given.
NEIGHBOURS = 5


@dataclass(frozen=True)
class Found:
    """Landmarks found again in a new keyframe.

    :ivar slots: (N,) of those that lie where the pose puts them, and their ``pixels``.
    :ivar loop: sightings of old landmarks that all agree on another pose of the new keyframe:
        the camera came back, and drift shows. None if there is no such group.
    :ivar loop_id: the keyframe that saw them.
    """

    slots: np.ndarray
    pixels: np.ndarray
    loop: Sightings | None = None
    loop_id: int = -1


def find_again(
    frame: HeldFrame,
    frames: HeldFrames,
    landmarks: Landmarks,
    camera: Pinhole,
    tracked: np.ndarray,
) -> Found:
    """Look up landmarks that should be in view but are not followed.

    Each is searched with the picture of the keyframe that saw it, from where the pose puts it.

    :param tracked: slots that are followed already.
    """
    visible = landmarks.solid.copy()
    visible[tracked] = False
    expected, depth = _project(landmarks.position, frame.T_world_camera, camera)
    visible &= (depth > 0) & camera.inside(expected, 8.0)
    found_slots, found_pixels = [np.zeros(0, np.int64)], [np.zeros((0, 2))]
    loop, loop_id = None, -1
    for _ in range(REVISITED_KEYFRAMES):
        best = _best_keyframe(frame, frames, landmarks, visible, depth)
        if best is None:
            break
        old, use = best
        slots, then = old.seen.slots[use], old.seen.pixels[use]
        pixels, ok = follow(old.gray, frame.gray, then, expected[slots], levels=2)
        near = ok & (np.linalg.norm(pixels - expected[slots], axis=1) < REVISIT_PX)
        visible[slots] = False
        found_slots.append(slots[near])
        found_pixels.append(pixels[near].astype(np.float64))
        if loop is None and near.sum() < LOOP_NEAR_SHARE * ok.sum():
            loop = _find_loop(frame, old, landmarks, camera, slots, then, pixels, ok)
            loop_id = old.frame_id
    return Found(np.concatenate(found_slots), np.concatenate(found_pixels), loop, loop_id)


def _project(
    points: np.ndarray, T_world_camera: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and depths of points in the world; wild pixels are cut off."""
    T = inverse(T_world_camera)
    rays, depth = project(points @ T[:3, :3].T + T[:3, 3])
    return camera.pixels(np.clip(rays, -1e3, 1e3)), depth


def _find_loop(
    frame: HeldFrame,
    old: HeldFrame,
    landmarks: Landmarks,
    camera: Pinhole,
    slots: np.ndarray,
    then: np.ndarray,
    pixels: np.ndarray,
    ok: np.ndarray,
) -> Sightings | None:
    """Return sightings of old landmarks that agree on one pose, if it is beyond doubt."""
    if ok.sum() < LOOP_LEAST:
        return None
    points, rays = landmarks.position[slots], camera.rays(pixels)
    found = ransac_pose(points[ok], rays[ok], camera.focal)
    if found is None or found[1].sum() < max(LOOP_LEAST, LOOP_SHARE * ok.sum()):
        return None
    T, mask = found
    weights = np.ones(int(mask.sum()))
    refined = refine_pose(T, points[ok][mask], rays[ok][mask], weights, camera.focal)
    T_world_camera = inverse(refined.T_camera_world)
    expected, _ = _project(points, T_world_camera, camera)
    pixels, ok = follow(old.gray, frame.gray, then, expected, levels=1)
    ok &= np.linalg.norm(pixels - expected, axis=1) < 0.7 * REVISIT_PX
    spread = coverage(pixels[ok], camera.width, camera.height)
    if ok.sum() < LOOP_LEAST or spread < LOOP_COVERAGE:
        return None
    return Sightings.of(landmarks, slots[ok], pixels[ok])


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
    slots, world, cosine = slots[good], world[good], cosine[good]
    good = _fits_everywhere(slots, world, frames, landmarks, camera)
    slots, world, cosine = slots[good], world[good], cosine[good]
    landmarks.position[slots] = world
    landmarks.solid[slots] = True
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    # Two rays, a pixel of noise each.
    landmarks.relative_sigma[slots] = np.sqrt(2.0) / (camera.focal * angle)
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


def note_sightings(
    frame: HeldFrame, landmarks: Landmarks, slots: np.ndarray, pixels: np.ndarray
) -> None:
    """Write down what a keyframe saw."""
    frame.seen.extend(Sightings.of(landmarks, slots, pixels))
    landmarks.sightings[slots] += 1


def drop_dead_candidates(landmarks: Landmarks, followed: np.ndarray) -> None:
    """Free the candidates that are no longer followed: nothing can make landmarks of them."""
    dead = landmarks.used & ~landmarks.solid
    dead[followed] = False
    landmarks.remove(np.flatnonzero(dead))


def strike_sightings(frames: HeldFrames, landmarks: Landmarks, loop: Loop) -> None:
    """Take back the sightings of a loop that turned out wrong."""
    frame = frames.get(loop.frame_id)
    if frame is None:
        return
    struck = np.isin(frame.seen.slots, loop.seen.slots)
    landmarks.sightings[frame.seen.slots[struck & frame.seen.alive(landmarks)]] -= 1
    frame.seen.keep(~struck)
