"""Relocalisation, robust against repeated patterns.

Landmarks of a keyframe are matched by descriptor and a pose is fitted. Then the pose is verified
independently: all landmarks of the keyframe are searched for at their projections. A shift by one
repeat of a pattern gives tens of consistent matches, but few of the landmarks are found there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from ..core.geometry import inverse, rotation_angle
from .features import coverage, find_corners, track
from .landmarks import HeldFrame, Landmarks, SparseMap
from .pnp import makes_pose, ransac_pose, refine_pose

#: Corners described in the lost image, and their sizes: a keyframe's are described at a size in
#: the middle, so the scene may be a quarter nearer or farther.
CORNERS = 500
SIZES = (5.2, 6.8)
KEYFRAME_SIZE = 6.0
#: Largest distance ratio of best to second-best match (Lowe's ratio).
MATCH_RATIO = 0.8
#: Least matches of a pose.
LEAST_MATCHES = 12
#: Share of the landmarks that should be in the image which has to be verified. Poses wrong by a
#: repeat of a pattern reach 0.07, right ones under a large change of view 0.1 to 0.3.
LEAST_VERIFIED_SHARE = 0.2
#: Away from the last pose so many landmarks are needed, in this share of the cells.
LEAST_VERIFIED = 30
LEAST_VERIFIED_COVERAGE = 0.25
#: Another pose with more than this share of the landmarks makes the best one ambiguous.
RUNNER_UP = 0.5
#: Largest difference of equal poses: radians, and share of the scene depth.
SAME_TURN_RAD = 0.05
SAME_SHIFT = 0.1
#: Largest distance of a verified landmark from its projection, in pixels.
VERIFY_PX = 3.0


@dataclass(frozen=True)
class PoseCandidate:
    """A possible pose of an image.

    :ivar slots: (N,) verified landmarks, with their ``pixels`` (N, 2).
    :ivar segment: in whose world the pose is.
    :ivar share: of the landmarks that should be in the image.
    :ivar depth: (N,) of the landmarks.
    """

    T_world_camera: np.ndarray
    segment: int
    slots: np.ndarray
    pixels: np.ndarray
    share: float
    depth: np.ndarray

    def same_as(self, other: PoseCandidate) -> bool:
        """Return whether two poses agree."""
        apart = inverse(self.T_world_camera) @ other.T_world_camera
        turn = float(rotation_angle(apart[:3, :3]))
        shift = float(np.linalg.norm(apart[:3, 3]))
        return turn < SAME_TURN_RAD and shift < SAME_SHIFT * float(np.median(self.depth))


class Relocaliser:
    """Matches lost images against keyframes, whose descriptors it caches."""

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
        sparse_map: SparseMap,
        distance: float,
        least_share: float = LEAST_VERIFIED_SHARE,
    ) -> PoseCandidate | None:
        """Return the pose of an image, or None if it is uncertain.

        :param distance: of corners, in pixels.
        :param least_share: of the landmarks that should be in the image; less is enough if the
            camera cannot be far from a keyframe.
        """
        corners = find_corners(gray, CORNERS, np.empty((0, 2)), distance)
        if len(corners) < LEAST_MATCHES:
            return None
        several = np.tile(corners, (len(SIZES), 1))
        sizes = np.repeat(SIZES, len(corners))
        described = np.split(self._describe(gray, several, sizes), len(SIZES))
        tried = [self._candidate(gray, corners, described, k, sparse_map) for k in keyframes]
        candidates = [candidate for candidate in tried if candidate is not None]
        if not candidates:
            return None
        best = max(candidates, key=lambda c: len(c.slots))
        for other in candidates:
            rival = len(other.slots) > RUNNER_UP * len(best.slots)
            if rival and (best.segment != other.segment or not best.same_as(other)):
                return None
        size = sparse_map.camera.width, sparse_map.camera.height
        if best.share < least_share or not makes_pose(best.pixels, *size):
            return None
        spread = coverage(best.pixels, *size) >= LEAST_VERIFIED_COVERAGE
        sure = len(best.slots) >= LEAST_VERIFIED and spread
        return best if sure or least_share < LEAST_VERIFIED_SHARE else None

    def _candidate(
        self,
        gray: np.ndarray,
        corners: np.ndarray,
        described: list[np.ndarray],
        keyframe: HeldFrame,
        sparse_map: SparseMap,
    ) -> PoseCandidate | None:
        landmarks, camera = sparse_map.landmarks, sparse_map.camera
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
        T = refine_pose(T, points[rows][mask], rays[mask], camera.focal)
        return _verify(T, gray, keyframe, slots, pixels, sparse_map)

    def _of_keyframe(
        self, keyframe: HeldFrame, landmarks: Landmarks
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        slots, pixels = keyframe.seen.solid(landmarks)
        known = self._known.get(keyframe.frame_id)
        if known is None or not np.array_equal(known[0], slots):
            sizes = np.full(len(pixels), KEYFRAME_SIZE)
            descriptors = self._describe(keyframe.gray, pixels, sizes)
            known = self._known[keyframe.frame_id] = (slots, pixels, descriptors)
        return known

    def _describe(self, gray: np.ndarray, pixels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return (N, 128) float32 unit SIFT descriptors, upright."""
        if len(pixels) == 0:
            return np.zeros((0, 128), np.float32)
        points = [
            cv2.KeyPoint(float(x), float(y), float(size), 0.0)
            for (x, y), size in zip(pixels, sizes, strict=True)
        ]
        kept, descriptors = self._sift.compute(gray, points)
        if len(kept) != len(points):
            raise AssertionError('SIFT dropped points')
        return descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)


def _match(
    landmarks: np.ndarray, corners_by_size: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of landmarks and of the corners that are mutually their best match."""
    similarity = np.maximum.reduce([landmarks @ corners.T for corners in corners_by_size])
    best = similarity.argmax(axis=1)
    rows = np.arange(len(landmarks))
    top = similarity[rows, best]
    mutual = similarity.argmax(axis=0)[best] == rows
    rest = similarity.copy()
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
    sparse_map: SparseMap,
) -> PoseCandidate | None:
    """Search for a keyframe's landmarks at their projections, and refine the pose."""
    camera, points = sparse_map.camera, sparse_map.landmarks.position[slots]
    for _ in range(2):
        expected, depth = camera.pixels_of_points(points, T_camera_world)
        visible = np.flatnonzero((depth > 0) & camera.inside(expected, 4.0))
        if len(visible) < LEAST_MATCHES:
            return None
        ends, ok = track(keyframe.gray, gray, pixels[visible], expected[visible], levels=1)
        ok &= np.linalg.norm(ends - expected[visible], axis=1) < VERIFY_PX
        if ok.sum() < LEAST_MATCHES:
            return None
        chosen, ends = visible[ok], ends[ok].astype(np.float64)
        rays = camera.rays(ends)
        T_camera_world = refine_pose(T_camera_world, points[chosen], rays, camera.focal)
    return PoseCandidate(
        inverse(T_camera_world),
        keyframe.segment,
        slots[chosen],
        ends,
        len(chosen) / len(visible),
        depth[chosen],
    )
