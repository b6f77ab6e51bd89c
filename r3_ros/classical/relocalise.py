"""Finding a lost camera again, with a bar that repeated patterns do not pass.

Landmarks of a remembered keyframe are matched by descriptor, a pose is fitted, and then checked
in a second, independent way: every landmark of that keyframe that the pose puts into the picture
is looked for at its place. A wallpaper's next repeat gives tens of consistent matches, but most
of what should be visible from there is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.geometry import inverse, rotation_angle
from .features import coverage, find_corners, follow
from .landmarks import HeldFrame, Landmarks
from .pinhole import Pinhole, project
from .pnp import ransac_pose, refine_pose

#: Corners described in the lost picture, and the sizes at which they are: a keyframe's own are
#: described at the middle one, so the scene may be a quarter nearer or farther.
CORNERS = 800
SIZES = (4.8, 6.0, 7.5)
#: The best match must be this much closer than the best at another place (Lowe's ratio).
MATCH_RATIO = 0.8
#: Matches that a pose needs to be worth a check.
LEAST_MATCHES = 12
#: The bar: landmarks found at their place, their share of those that should be in the picture,
#: and the share of the picture's cells they cover. Places wrong by a repeat of a pattern reach
#: a share of 0.07, right ones under a large change of view 0.1 to 0.3.
LEAST_VERIFIED = 30
LEAST_VERIFIED_SHARE = 0.2
LEAST_VERIFIED_COVERAGE = 0.25
#: Another place with at least this share of the landmarks makes the best one doubtful.
RUNNER_UP = 0.5
#: Places closer than this are one place: radians, and share of the scene depth.
SAME_TURN_RAD = 0.05
SAME_SHIFT = 0.1
#: Landmarks found lie this close to their place, in pixels.
VERIFY_PX = 3.0


@dataclass(frozen=True)
class Place:
    """Where a picture seems to have been taken.

    :ivar slots: (N,) landmarks found at their place, with their ``pixels`` (N, 2).
    :ivar share: of the landmarks that should be in the picture.
    :ivar depth: median depth of the landmarks.
    """

    T_world_camera: np.ndarray
    slots: np.ndarray
    pixels: np.ndarray
    share: float
    coverage: float
    depth: float

    def passes(self, least_share: float) -> bool:
        """Tell whether the place passes the bar."""
        return (
            len(self.slots) >= LEAST_VERIFIED
            and self.share >= least_share
            and self.coverage >= LEAST_VERIFIED_COVERAGE
        )

    def same_as(self, other: Place) -> bool:
        """Tell whether two places are one."""
        apart = inverse(self.T_world_camera) @ other.T_world_camera
        turn = float(rotation_angle(apart[:3, :3]))
        shift = float(np.linalg.norm(apart[:3, 3]))
        return turn < SAME_TURN_RAD and shift < SAME_SHIFT * self.depth


class Relocaliser:
    """Matches lost pictures against keyframes; keeps what it described."""

    def __init__(self) -> None:
        self._sift = cv2.SIFT.create()
        self._known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def forget(self, frame_id: int) -> None:
        """Drop a keyframe's descriptors."""
        self._known.pop(frame_id, None)

    def find(
        self,
        gray: np.ndarray,
        keyframes: Iterable[HeldFrame],
        landmarks: Landmarks,
        camera: Pinhole,
        distance: float,
        least_share: float = LEAST_VERIFIED_SHARE,
    ) -> Place | None:
        """Return where a picture was taken, or None if that is in any doubt.

        :param least_share: of the landmarks that should be in the picture; less is enough where
            the camera cannot be far from a keyframe.
        """
        corners = find_corners(gray, CORNERS, np.empty((0, 2)), distance)
        if len(corners) < LEAST_MATCHES:
            return None
        described = [self._describe(gray, corners, size) for size in SIZES]
        places = []
        for keyframe in keyframes:
            place = self._place(gray, corners, described, keyframe, landmarks, camera)
            if place is not None:
                places.append(place)
        if not places:
            return None
        best = max(places, key=lambda p: len(p.slots))
        for other in places:
            rival = len(other.slots) > RUNNER_UP * len(best.slots)
            if rival and not best.same_as(other):
                return None
        return best if best.passes(least_share) else None

    def _place(
        self,
        gray: np.ndarray,
        corners: np.ndarray,
        described: list[np.ndarray],
        keyframe: HeldFrame,
        landmarks: Landmarks,
        camera: Pinhole,
    ) -> Place | None:
        """Match against one keyframe, fit a pose and check it."""
        slots, pixels, descriptors = self._of_keyframe(keyframe, landmarks)
        if len(slots) < LEAST_MATCHES:
            return None
        rows, columns = _match(descriptors, described)
        if len(rows) < LEAST_MATCHES:
            return None
        points = landmarks.position[slots]
        rays = camera.rays(corners[columns])
        found = ransac_pose(points[rows], rays, camera.focal, iterations=500)
        if found is None or found[1].sum() < LEAST_MATCHES:
            return None
        T, mask = found
        weights = np.ones(int(mask.sum()))
        T = refine_pose(T, points[rows][mask], rays[mask], weights, camera.focal).T_camera_world
        return _verify(T, gray, keyframe, slots, pixels, landmarks, camera)

    def _of_keyframe(
        self, keyframe: HeldFrame, landmarks: Landmarks
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return slots, pixels and descriptors of a keyframe's landmarks that still exist."""
        use = keyframe.seen.alive(landmarks) & landmarks.solid[keyframe.seen.slots]
        slots, pixels = keyframe.seen.slots[use], keyframe.seen.pixels[use]
        known = self._known.get(keyframe.frame_id)
        if known is None or not np.array_equal(known[0], slots):
            descriptors = self._describe(keyframe.gray, pixels.astype(np.float32), SIZES[1])
            known = self._known[keyframe.frame_id] = (slots, pixels, descriptors)
        return known

    def _describe(self, gray: np.ndarray, pixels: np.ndarray, size: float) -> np.ndarray:
        """Return (N, 128) float32 unit SIFT descriptors, upright."""
        if len(pixels) == 0:
            return np.zeros((0, 128), np.float32)
        points = [cv2.KeyPoint(float(x), float(y), size, 0.0) for x, y in pixels]
        kept, descriptors = self._sift.compute(gray, points)
        if len(kept) != len(points):
            raise AssertionError('SIFT dropped points it was told to describe')
        return descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)


def _match(
    landmarks: np.ndarray, corners_by_size: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of landmarks and of the corners that are mutually their best match."""
    likeness = np.max([landmarks @ corners.T for corners in corners_by_size], axis=0)
    best = likeness.argmax(axis=1)
    rows = np.arange(len(landmarks))
    top = likeness[rows, best]
    mutual = likeness.argmax(axis=0)[best] == rows
    rest = likeness.copy()
    rest[rows, best] = -1.0
    # Unit vectors: squared distance is 2 - 2 cos.
    closer = (2.0 - 2.0 * top) < MATCH_RATIO**2 * (2.0 - 2.0 * rest.max(axis=1))
    use = mutual & closer
    return rows[use], best[use]


def _verify(
    T_camera_world: np.ndarray,
    gray: np.ndarray,
    keyframe: HeldFrame,
    slots: np.ndarray,
    pixels: np.ndarray,
    landmarks: Landmarks,
    camera: Pinhole,
) -> Place | None:
    """Look for all of a keyframe's landmarks where the pose puts them, and refine the pose."""
    for _ in range(2):
        in_camera = landmarks.position[slots] @ T_camera_world[:3, :3].T + T_camera_world[:3, 3]
        rays, depth = project(in_camera)
        expected = camera.pixels(np.clip(rays, -1e3, 1e3))
        visible = np.flatnonzero((depth > 0) & camera.inside(expected, 4.0))
        if len(visible) < LEAST_MATCHES:
            return None
        ends, ok = follow(keyframe.gray, gray, pixels[visible], expected[visible], levels=1)
        ok &= np.linalg.norm(ends - expected[visible], axis=1) < VERIFY_PX
        if ok.sum() < LEAST_MATCHES:
            return None
        chosen, ends = visible[ok], ends[ok].astype(np.float64)
        T_camera_world = refine_pose(
            T_camera_world,
            landmarks.position[slots[chosen]],
            camera.rays(ends),
            np.ones(len(chosen)),
            camera.focal,
        ).T_camera_world
    return Place(
        inverse(T_camera_world),
        slots[chosen],
        ends,
        len(chosen) / len(visible),
        coverage(ends, camera.width, camera.height),
        float(np.median(depth[chosen])),
    )
