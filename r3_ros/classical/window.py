"""The window of a bundle adjustment, and merging its result into the map.

A job works on copies while tracking continues, so frames and landmarks that are younger than the
window follow its newest keyframe when the result is merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..core.geometry import inverse, make_T
from .bundle import adjust, BundleProblem, BundleResult
from .features import coverage
from .landmarks import HeldFrame, Landmarks, LEAST_SOLID, Observations, SparseMap

#: Older keyframes that share most landmarks with the newest, so many each at least; the oldest of
#: them are fixed.
SEEING_THE_SAME = 14
LEAST_SHARED = 15
HOLDING_KEYFRAMES = 7
#: Fixed keyframes, at most, and landmarks that each shares with the free ones at least.
FIXED_KEYFRAMES = 8
FIXED_SHARED = 10
#: Landmarks that determine a keyframe cover at least this share of the image's cells.
LEAST_COVERAGE = 0.15
#: An adjustment ends where a step reduces the loss by less than this share: the next window
#: goes on from there.
LEAST_GAIN = 2e-3
LEAST_FOCAL_GAIN = 1e-4
#: Observations with a larger error than this after an adjustment are removed, in pixels.
REMOVE_PX = 2.5


@dataclass(frozen=True)
class AdjustmentWindow:
    """A copy of part of the map for one adjustment.

    :ivar frame_ids: of the cameras of the problem, free ones first.
    :ivar segment: of all of them.
    :ivar recent_id: the oldest of the newest keyframes; free ones before it are those that saw
        the same landmarks.
    :ivar newest_id: the newest free keyframe.
    :ivar slots: landmark of each point of the problem, with its generation in ``generations``.
    """

    problem: BundleProblem
    frame_ids: list[int]
    segment: int
    recent_id: int
    newest_id: int
    slots: np.ndarray
    generations: np.ndarray
    loop: Loop | None = None


@dataclass(frozen=True)
class Loop:
    """Observations, in a new keyframe, of landmarks that the keyframe ``old_id`` had seen."""

    frame_id: int
    old_id: int
    seen: Observations


@dataclass(frozen=True)
class Motion:
    """A similarity of the world: ``p -> scale * R p + t``."""

    T: np.ndarray
    scale: float = 1.0

    def of_points(self, points: np.ndarray) -> np.ndarray:
        """Return the transformed (N, 3) points."""
        return self.scale * points @ self.T[:3, :3].T + self.T[:3, 3]

    def of_pose(self, T_world_camera: np.ndarray) -> np.ndarray:
        """Return the transformed pose, without the scale in its rotation."""
        R = self.T[:3, :3] @ T_world_camera[:3, :3]
        return make_T(R, self.of_points(T_world_camera[None, :3, 3])[0])


def take_window(
    sparse_map: SparseMap,
    size: int,
    focal_prior: tuple[float, float] | None = None,
    loop: Loop | None = None,
) -> AdjustmentWindow | None:
    """Copy the newest keyframes, older ones of the same place, and fixed ones that saw the same.

    Keyframes that landmarks do not determine are left out.
    """
    landmarks = sparse_map.landmarks
    # A loaded map is not adjusted; its keyframes are fixed.
    own = (f for f in reversed(sparse_map.keyframes()) if not f.saved)
    free = list(islice((f for f in own if _is_determined(f, sparse_map)), size))[::-1]
    if not free:
        return None
    recent_id = free[0].frame_id
    if loop is None:
        free = _seeing_the_same(free, sparse_map) + free
    free_ids = {f.frame_id for f in free}
    wanted = _seen_by(free, landmarks)
    others = [f for f in sparse_map.keyframes_seeing(wanted) if f.frame_id not in free_ids]
    fixed = _sharing_most(others, wanted, FIXED_SHARED, FIXED_KEYFRAMES, sparse_map)
    if not fixed:
        fixed, free = [free[0]], free[1:]
        if not free:
            return None
    return _snapshot([*free, *fixed], len(free), recent_id, sparse_map, wanted, focal_prior, loop)


def _seeing_the_same(newest: list[HeldFrame], sparse_map: SparseMap) -> list[HeldFrame]:
    """Return older keyframes that are adjusted too: the camera has come back to what they saw.

    The oldest that see the same are not among them: fixed, they hold the place and the scale.
    """
    landmarks = sparse_map.landmarks
    wanted = _seen_by(newest, landmarks)
    seeing = sparse_map.keyframes_seeing(wanted)
    older = [f for f in seeing if not f.saved and f.frame_id < newest[0].frame_id]
    chosen = _sharing_most(older, wanted, LEAST_SHARED, SEEING_THE_SAME, sparse_map)
    return sorted(chosen, key=lambda f: f.frame_id)[HOLDING_KEYFRAMES:]


def sharing(keyframe: HeldFrame, sparse_map: SparseMap) -> list[HeldFrame]:
    """Return the other keyframes, not of a saved map, that share landmarks with this one."""
    landmarks = sparse_map.landmarks
    wanted = _seen_by([keyframe], landmarks)
    others = (f for f in sparse_map.keyframes_seeing(wanted) if f is not keyframe and not f.saved)
    return [f for f in others if _shared(f, wanted, landmarks) >= LEAST_SHARED]


def _sharing_most(
    keyframes: list[HeldFrame], wanted: np.ndarray, least: int, count: int, sparse_map: SparseMap
) -> list[HeldFrame]:
    """Return the keyframes that saw most of the wanted landmarks, at least so many each.

    Of those with equally many the newer ones come first.
    """
    landmarks = sparse_map.landmarks
    shared = [_shared(f, wanted, landmarks) for f in keyframes]
    order = sorted(range(len(keyframes)), key=lambda i: (-shared[i], -keyframes[i].frame_id))
    most = (keyframes[i] for i in order if shared[i] >= least)
    return list(islice((f for f in most if f.saved or _is_determined(f, sparse_map)), count))


def _shared(keyframe: HeldFrame, wanted: np.ndarray, landmarks: Landmarks) -> int:
    return int(wanted[keyframe.seen.slots[keyframe.seen.alive(landmarks)]].sum())


def _seen_by(keyframes: list[HeldFrame], landmarks: Landmarks) -> np.ndarray:
    """Return the mask of the slots of landmarks that some keyframes saw."""
    wanted = np.zeros(len(landmarks.used), bool)
    for frame in keyframes:
        wanted[frame.seen.slots[frame.seen.alive(landmarks)]] = True
    return wanted & landmarks.solid


def _is_determined(keyframe: HeldFrame, sparse_map: SparseMap) -> bool:
    """Return whether its landmarks alone determine the pose of a keyframe.

    From a few at the edge of the image an adjustment, which does not know the corners of guessed
    depth, would get a wrong pose.
    """
    _, pixels = keyframe.seen.solid(sparse_map.landmarks)
    spread = coverage(pixels, sparse_map.camera.width, sparse_map.camera.height)
    return len(pixels) >= LEAST_SOLID and spread >= LEAST_COVERAGE


def _snapshot(
    cameras: list[HeldFrame],
    free_count: int,
    recent_id: int,
    sparse_map: SparseMap,
    wanted: np.ndarray,
    focal_prior: tuple[float, float] | None,
    loop: Loop | None,
) -> AdjustmentWindow | None:
    """Copy cameras, points seen at least twice, and observations into a problem."""
    landmarks, camera = sparse_map.landmarks, sparse_map.camera
    camera_index, slots, pixels = [], [], []
    for i, frame in enumerate(cameras):
        use = frame.seen.alive(landmarks)
        use &= wanted[frame.seen.slots]
        slots.append(frame.seen.slots[use])
        pixels.append(frame.seen.pixels[use])
        camera_index.append(np.full(int(use.sum()), i))
    all_slots = np.concatenate(slots)
    counts = np.bincount(all_slots, minlength=len(wanted))
    use = counts[all_slots] >= 2
    if use.sum() < 20:
        return None
    kept_slots, point = np.unique(all_slots[use], return_inverse=True)
    problem = BundleProblem(
        T_camera_world=inverse(np.stack([f.T_world_camera for f in cameras])),
        free_count=free_count,
        points=landmarks.position[kept_slots].copy(),
        camera=np.concatenate(camera_index)[use],
        point=point,
        rays=camera.rays(np.concatenate(pixels)[use]),
        focal=camera.focal,
        focal_prior=focal_prior,
    )
    return AdjustmentWindow(
        problem,
        [f.frame_id for f in cameras],
        sparse_map.segment,
        recent_id,
        max(f.frame_id for f in cameras[:free_count]),
        kept_slots,
        landmarks.generation[kept_slots].copy(),
        loop,
    )


def adjustment_job(
    window: AdjustmentWindow, iterations: int
) -> Callable[[], tuple[AdjustmentWindow, BundleResult]]:
    """Return the adjustment of a window as a job for the background thread."""
    # A focal length converges slowly.
    gain = LEAST_GAIN if window.problem.focal_prior is None else LEAST_FOCAL_GAIN
    return lambda: (window, adjust(window.problem, iterations, gain))


def loop_holds(window: AdjustmentWindow, loop: Loop, result: BundleResult) -> bool:
    """Return whether the observations of a window's loop fit after the adjustment."""
    camera = window.frame_ids.index(loop.frame_id)
    of_loop = np.isin(window.slots[window.problem.point], loop.seen.slots)
    of_loop &= window.problem.camera == camera
    fits = result.error_px[of_loop] < REMOVE_PX
    return len(fits) > 0 and float(fits.mean()) > 0.7


def merge(window: AdjustmentWindow, result: BundleResult, sparse_map: SparseMap) -> Motion:
    """Write an adjustment into the map.

    :return: the motion of the world around the newest keyframe of the window, which the present
        pose has to follow too.
    """
    n_free = window.problem.free_count
    old = inverse(window.problem.T_camera_world[:n_free])
    new = inverse(result.T_camera_world[:n_free])
    corrections = {
        frame_id: _correction(window, result, i, old[i], new[i])
        for i, frame_id in enumerate(window.frame_ids[:n_free])
    }
    newest = corrections[window.newest_id]
    oldest_free = min(window.frame_ids[:n_free])
    motion = Motion(np.eye(4))
    for frame in sparse_map.frames.values():
        if frame.segment != window.segment or frame.frame_id < oldest_free:
            continue
        if frame.frame_id > window.newest_id:
            motion = newest
        elif frame.frame_id in corrections:
            motion = corrections[frame.frame_id]
        elif frame.keyframe and frame.frame_id < window.recent_id:
            motion = Motion(np.eye(4))
        # All other frames follow the last keyframe before them.
        frame.T_world_camera = motion.of_pose(frame.T_world_camera)
    _merge_points(window, result, sparse_map, newest)
    return newest


def _correction(
    window: AdjustmentWindow, result: BundleResult, camera: int, old: np.ndarray, new: np.ndarray
) -> Motion:
    """Return how the world around one keyframe moved: its pose, and the scale of its points."""
    points = window.problem.point[window.problem.camera == camera]
    before = np.linalg.norm(window.problem.points[points] - old[:3, 3], axis=1)
    after = np.linalg.norm(result.points[points] - new[:3, 3], axis=1)
    scale = float(np.median(after / np.maximum(before, 1e-9))) if len(points) else 1.0
    # Not the transpose: rounding in a pose would triple with each adjustment of its keyframe.
    R = new[:3, :3] @ np.linalg.inv(old[:3, :3])
    return Motion(make_T(R, new[:3, 3] - scale * R @ old[:3, 3]), scale)


def _merge_points(
    window: AdjustmentWindow, result: BundleResult, sparse_map: SparseMap, newest: Motion
) -> None:
    """Write the points back, transform the younger ones, remove observations that do not fit."""
    landmarks = sparse_map.landmarks
    alive = landmarks.generation[window.slots] == window.generations
    in_window = np.zeros(len(landmarks.used), bool)
    in_window[window.slots[alive]] = True
    landmarks.position[window.slots[alive]] = result.points[alive]
    landmarks.relative_sigma[window.slots[alive]] = result.relative_sigma[alive]
    younger = landmarks.used & ~in_window & (landmarks.first_frame >= window.newest_id)
    younger |= landmarks.used & ~landmarks.solid
    younger &= landmarks.segment == window.segment
    landmarks.position[younger] = newest.of_points(landmarks.position[younger])

    bad = result.error_px > REMOVE_PX
    for i in np.unique(window.problem.camera[bad]):
        frame = sparse_map.frames.get(window.frame_ids[i])
        if frame is None:
            continue
        of_frame = bad & (window.problem.camera == i)
        keep = ~np.isin(frame.seen.slots, window.slots[window.problem.point[of_frame]])
        landmarks.observation_count[frame.seen.slots[~keep & frame.seen.alive(landmarks)]] -= 1
        frame.seen.keep(keep)
    touched = window.slots[alive]
    landmarks.remove(touched[landmarks.observation_count[touched] < 2])
