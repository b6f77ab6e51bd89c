"""The map at a new keyframe: old landmarks are found again, new ones added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..core.geometry import inverse, transform
from .features import coverage, find_corners, track
from .landmarks import HeldFrame, Observations, SparseMap
from .pinhole import depth_along_first_ray, homogeneous, parallax_cosine
from .pnp import ransac_pose, refine_pose, reprojection_px
from .window import AdjustmentWindow, Loop

#: A candidate becomes a landmark at this angle between two of its rays, or, behind a narrow lens,
#: at that of so many pixels ...
SOLID_PARALLAX_DEG = 1.0
SOLID_PARALLAX_PX = 9.0
#: ... if its error is below this in every keyframe that saw it, in pixels.
SOLID_PX = 2.0
#: Keyframes whose unseen landmarks are searched for, per new keyframe.
REVISITED_KEYFRAMES = 3
#: A keyframe is one of them if it saw so many of these.
LEAST_REVISITED = 15
#: Patches are compared without warping, so the view may not have turned or grown much.
REVISIT_ANGLE_COS = np.cos(np.deg2rad(25.0))
REVISIT_SCALE = 1.35
#: A landmark found again is this close to its projection, in pixels.
REVISIT_PX = 3.0
#: The camera has returned with drift if less than this share of what was found is in place, ...
LOOP_NEAR_SHARE = 0.5
#: ... so many landmarks and this share of those found agree on another pose, ...
LOOP_LEAST = 40
LOOP_SHARE = 0.6
#: ... and they cover this share of the image's cells.
LOOP_COVERAGE = 0.2
#: Neighbours whose median depth a new corner is given.
NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class _View:
    """Landmarks that a frame should show, and a keyframe that saw them from nearly there.

    :ivar seen: in that keyframe.
    :ivar expected: (N, 2) pixels of the frame.
    """

    old: HeldFrame
    seen: Observations
    expected: np.ndarray

    def track(self, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (N, 2) pixels in an image, and masks: found, and found where expected."""
        pixels, ok = track(self.old.gray, gray, self.seen.pixels, self.expected, levels=2)
        near = ok & (np.linalg.norm(pixels - self.expected, axis=1) < REVISIT_PX)
        return pixels.astype(np.float64), ok, near

    def found(self, pixels: np.ndarray, mask: np.ndarray) -> Observations:
        """Return observations of the landmarks of a mask, in (N, 2) pixels."""
        return Observations(self.seen.slots[mask], self.seen.generations[mask], pixels[mask])


def find_again(
    frame: HeldFrame, sparse_map: SparseMap, tracked: np.ndarray
) -> tuple[Observations, Loop | None]:
    """Search for landmarks that should be in view but are not tracked.

    Each is tracked from a keyframe that saw it to its projection.

    :param tracked: slots that are tracked already.
    :return: those found at their projection, and a group of old landmarks that agree on another
        pose of the keyframe: the camera has returned with drift.
    """
    found, loop = Observations.none(), None
    for view in _views(frame, sparse_map, tracked):
        pixels, ok, near = view.track(frame.gray)
        found.extend(view.found(pixels, near))
        if loop is None and near.sum() < LOOP_NEAR_SHARE * ok.sum():
            loop = _find_loop(frame, view, sparse_map, pixels, ok)
    return found, loop


def search_job(frame: HeldFrame, sparse_map: SparseMap) -> Callable[[], Sought]:
    """Return the search for landmarks that a keyframe does not have, as a job for a thread."""
    views = _views(frame, sparse_map, frame.seen.slots[frame.seen.alive(sparse_map.landmarks)])

    def search() -> Sought:
        found = Observations.none()
        for view in views:
            pixels, _, near = view.track(frame.gray)
            found.extend(view.found(pixels, near))
        return Sought(frame.frame_id, found)

    return search


@dataclass(frozen=True, eq=False)
class Sought:
    """What a keyframe was found to show of landmarks that it did not have."""

    frame_id: int
    seen: Observations


def _views(frame: HeldFrame, sparse_map: SparseMap, tracked: np.ndarray) -> list[_View]:
    """Return the landmarks that should be in view but are not tracked, by keyframe."""
    landmarks, camera = sparse_map.landmarks, sparse_map.camera
    visible = landmarks.solid & (landmarks.segment == frame.segment)
    visible[tracked] = False
    T_camera_world = inverse(frame.T_world_camera)
    expected, depth = camera.pixels_of_points(landmarks.position, T_camera_world)
    visible &= (depth > 0) & camera.inside(expected, 8.0)
    candidates = _seen_from_nearby(frame, sparse_map, visible, depth)
    views: list[_View] = []
    while candidates and len(views) < REVISITED_KEYFRAMES:
        left = [visible[seen.slots] for _, seen in candidates]
        best = int(np.argmax([mask.sum() for mask in left]))
        if left[best].sum() < LEAST_REVISITED:
            break
        old, seen = candidates[best]
        seen.keep(left[best])
        visible[seen.slots] = False
        views.append(_View(old, seen, expected[seen.slots]))
    return views


def _seen_from_nearby(
    frame: HeldFrame, sparse_map: SparseMap, visible: np.ndarray, depth: np.ndarray
) -> list[tuple[HeldFrame, Observations]]:
    """Return the keyframes with a view like that of a frame, and what they saw of landmarks.

    :param visible: (N,) which landmarks; ``depth``: (N,) in the frame.
    """
    landmarks = sparse_map.landmarks
    axis = frame.T_world_camera[:3, 2]
    found = []
    for old in sparse_map.keyframes_seeing(visible):
        if old is frame or axis @ old.T_world_camera[:3, 2] < REVISIT_ANGLE_COS:
            continue
        use = old.seen.alive(landmarks) & visible[old.seen.slots]
        if use.sum() < LEAST_REVISITED:
            continue
        slots = old.seen.slots[use]
        T = inverse(old.T_world_camera)
        depth_then = landmarks.position[slots] @ T[2, :3] + T[2, 3]
        ratio = depth_then / np.maximum(depth[slots], 1e-9)
        alike = (ratio < REVISIT_SCALE) & (ratio > 1.0 / REVISIT_SCALE)
        if alike.sum() >= LEAST_REVISITED:
            pixels = old.seen.pixels[use][alike]
            found.append((old, Observations.of(landmarks, slots[alike], pixels)))
    return found


def _find_loop(
    frame: HeldFrame, view: _View, sparse_map: SparseMap, pixels: np.ndarray, ok: np.ndarray
) -> Loop | None:
    """Return observations of old landmarks that certainly agree on one pose."""
    camera, old = sparse_map.camera, view.old
    if ok.sum() < LOOP_LEAST:
        return None
    points, rays = sparse_map.landmarks.position[view.seen.slots], camera.rays(pixels)
    found = ransac_pose(points[ok], rays[ok], camera.focal)
    if found is None or found[1].sum() < max(LOOP_LEAST, LOOP_SHARE * ok.sum()):
        return None
    T, mask = found
    refined = refine_pose(T, points[ok][mask], rays[ok][mask], camera.focal)
    expected, _ = camera.pixels_of_points(points, inverse(inverse(refined)))
    pixels, ok = track(old.gray, frame.gray, view.seen.pixels, expected, levels=1)
    ok &= np.linalg.norm(pixels - expected, axis=1) < 0.7 * REVISIT_PX
    spread = coverage(pixels[ok], camera.width, camera.height)
    if ok.sum() < LOOP_LEAST or spread < LOOP_COVERAGE:
        return None
    return Loop(frame.frame_id, old.frame_id, view.found(pixels.astype(np.float64), ok))


def triangulate_candidates(frame: HeldFrame, sparse_map: SparseMap) -> None:
    """Make landmarks of the candidates that the new keyframe sees under enough parallax."""
    frames, landmarks, camera = sparse_map.frames, sparse_map.landmarks, sparse_map.camera
    alive = frame.seen.alive(landmarks)
    slots, pixels = frame.seen.slots[alive], frame.seen.pixels[alive]
    use = ~landmarks.solid[slots] & (landmarks.first_frame[slots] != frame.frame_id)
    use &= np.array([int(i) in frames for i in landmarks.first_frame[slots]], bool)
    slots, pixels = slots[use], pixels[use]
    if len(slots) == 0:
        return
    first_ids, which = np.unique(landmarks.first_frame[slots], return_inverse=True)
    T_first = np.stack([frames[int(i)].T_world_camera for i in first_ids])
    T_frame_first = (inverse(frame.T_world_camera) @ T_first)[which]
    rays_first = camera.rays(landmarks.first_pixel[slots])
    depth = depth_along_first_ray(T_frame_first, rays_first, camera.rays(pixels))
    in_first = homogeneous(rays_first) * depth[:, None]
    world = np.einsum('nij,nj->ni', T_first[which][:, :3, :3], in_first) + T_first[which][:, :3, 3]
    cosine = parallax_cosine(world, T_first[which][:, :3, 3], frame.T_world_camera[:3, 3])
    least_angle = min(np.deg2rad(SOLID_PARALLAX_DEG), SOLID_PARALLAX_PX / camera.focal)
    good = (depth > 0) & (cosine < np.cos(least_angle))
    slots, world, cosine = slots[good], world[good], cosine[good]
    good = _fits_everywhere(slots, world, sparse_map)
    slots, world, cosine = slots[good], world[good], cosine[good]
    landmarks.position[slots] = world
    landmarks.solid[slots] = True
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    # Two rays, a pixel of noise each.
    landmarks.relative_sigma[slots] = np.sqrt(2.0) / (camera.focal * angle)


def _fits_everywhere(slots: np.ndarray, world: np.ndarray, sparse_map: SparseMap) -> np.ndarray:
    """Return the mask of points that fit every keyframe that saw them."""
    landmarks, camera = sparse_map.landmarks, sparse_map.camera
    row_of_slot = np.full(len(landmarks.used), -1)
    row_of_slot[slots] = np.arange(len(slots))
    good = np.ones(len(slots), bool)
    for old in sparse_map.keyframes_seeing(slots):
        index = row_of_slot[old.seen.slots]
        use = (index >= 0) & old.seen.alive(landmarks)
        if use.any():
            T = inverse(old.T_world_camera)
            rays = camera.rays(old.seen.pixels[use])
            error = reprojection_px(T, world[index[use]], rays, camera.focal)
            good[index[use][error > SOLID_PX]] = False
    return good


def add_candidates(
    frame: HeldFrame, sparse_map: SparseMap, pixels: np.ndarray, count: int, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Add new corners where there are none.

    :param pixels: (M, 2) corners that are tracked now.
    :param count: corners to track in total.
    :return: slots and pixels of the new candidates.
    """
    corners = find_corners(frame.gray, count - len(pixels), pixels, distance)
    if len(corners) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 2))
    corners = corners.astype(np.float64)
    slots = sparse_map.landmarks.add(np.zeros((len(corners), 3)), frame, corners)
    set_depth(frame, sparse_map, slots, corners, guess_depth(frame, sparse_map, corners))
    return slots, corners


def guess_depth(frame: HeldFrame, sparse_map: SparseMap, pixels: np.ndarray) -> np.ndarray:
    """Return the (N,) median depths of the nearest landmarks in the image."""
    slots, places = frame.seen.solid(sparse_map.landmarks)
    T = inverse(frame.T_world_camera)
    known = sparse_map.landmarks.position[slots] @ T[2, :3] + T[2, 3]
    places = places[known > 0]
    known = known[known > 0]
    if len(known) == 0:
        return np.ones(len(pixels))
    count = min(NEIGHBOURS, len(known))
    _, index = cKDTree(places).query(pixels, k=count)
    return np.median(known[index.reshape(len(pixels), count)], axis=1)


def add_observations(
    frame: HeldFrame, sparse_map: SparseMap, slots: np.ndarray, pixels: np.ndarray
) -> None:
    """Add observations to a keyframe."""
    frame.seen.extend(Observations.of(sparse_map.landmarks, slots, pixels))
    sparse_map.landmarks.observation_count[slots] += 1


def add_found(frame: HeldFrame, sparse_map: SparseMap, found: Observations) -> None:
    """Add observations of landmarks that still exist and that a keyframe did not have."""
    found.keep(found.alive(sparse_map.landmarks))
    found.keep(~np.isin(found.slots, frame.seen.slots))
    add_observations(frame, sparse_map, found.slots, found.pixels)


def remove_loop_observations(sparse_map: SparseMap, loop: Loop) -> None:
    """Remove the observations of a wrong loop."""
    frame, landmarks = sparse_map.frames.get(loop.frame_id), sparse_map.landmarks
    if frame is None:
        return
    wrong = np.isin(frame.seen.slots, loop.seen.slots)
    landmarks.observation_count[frame.seen.slots[wrong & frame.seen.alive(landmarks)]] -= 1
    frame.seen.keep(~wrong)


def set_depth(
    key: HeldFrame, sparse_map: SparseMap, slots: np.ndarray, pixels: np.ndarray, depth: np.ndarray
) -> None:
    """Place landmarks at (N,) depths in a keyframe that saw them in (N, 2) pixels."""
    in_camera = homogeneous(sparse_map.camera.rays(pixels)) * depth[:, None]
    sparse_map.landmarks.position[slots] = transform(key.T_world_camera, in_camera)


def begin_anew(
    key: HeldFrame, sparse_map: SparseMap, slots: np.ndarray, pixels: np.ndarray, depth: np.ndarray
) -> np.ndarray:
    """Replace landmarks by candidates that a keyframe sees first, and return their slots.

    Landmarks of a saved map stay, but are not tracked on.

    :param pixels: (N, 2) of the landmarks in the keyframe; ``depth``: (N,) there.
    """
    landmarks = sparse_map.landmarks
    firsts = [sparse_map.frames.get(int(i)) for i in landmarks.first_frame[slots]]
    landmarks.remove(slots[[first is None or not first.saved for first in firsts]])
    key.seen.keep(key.seen.alive(landmarks))
    new = landmarks.add(np.zeros((len(slots), 3)), key, pixels)
    set_depth(key, sparse_map, new, pixels, depth)
    add_observations(key, sparse_map, new, pixels)
    return new


def drop_dead_candidates(sparse_map: SparseMap, tracked: np.ndarray) -> None:
    """Remove the candidates that are no longer tracked: they cannot be triangulated."""
    dead = sparse_map.landmarks.used & ~sparse_map.landmarks.solid
    dead[tracked] = False
    sparse_map.landmarks.remove(np.flatnonzero(dead))


def refocus(sparse_map: SparseMap, window: AdjustmentWindow, factor: float) -> None:
    """Take over the focal length of an adjustment.

    Landmarks that took no part stay in the pixel where their first keyframe saw them.
    """
    landmarks = sparse_map.landmarks
    sparse_map.camera = sparse_map.camera.with_focal_scaled(factor)
    moved = landmarks.used & (landmarks.segment == window.segment)
    alive = landmarks.generation[window.slots] == window.generations
    moved[window.slots[alive]] = False
    for first_id in np.unique(landmarks.first_frame[moved]):
        frame = sparse_map.frames.get(int(first_id))
        if frame is not None:
            own = moved & (landmarks.first_frame == first_id)
            in_camera = transform(inverse(frame.T_world_camera), landmarks.position[own])
            in_camera[:, :2] /= factor
            landmarks.position[own] = transform(frame.T_world_camera, in_camera)
