"""How well one pass over several views agrees with the poses held of them, and with itself.

N context frames with known poses and a new one. Motions are compared pair by pair: frames that
drift has moved apart still agree with their own neighbours, and nothing agrees with a wrong pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.datatypes import Intrinsics
from ..core.geometry import inverse, rotation_angle, transform, unproject

#: Every so many pixels of a depth map are compared.
STRIDE = 8
#: Tolerances of the motion between two frames, at which half of the confidence is left: shares of
#: its length and of its angle, but at least this share of the depth of the scene, and radians.
_SHARE = 0.1
_DEPTH_SHARE = 0.01
_LEAST_RAD = 0.02
#: A motion counts as one from this many times those least tolerances.
_MOTION = 3.0
#: Relative difference of depth up to which two frames see the same point.
_SAME_DEPTH = 0.1
#: Least share of a frame's points that must lie in another's image to be compared.
_LEAST_INSIDE = 0.1


@dataclass(frozen=True, eq=False)
class PassAgreement:
    """How well the motions between context frames agree with those held.

    :ivar errors: (N,) of each frame's motion to the two frames that it agrees with best, the
        larger one, over the tolerance; infinite with fewer than two others.
    :ivar evidence: standard deviations of an axis of translation, in map units, and rotation in
        radians, by the motions that agree; None if none do.
    :ivar moved: whether one that agrees is a motion at all: any network agrees with itself, on
        images that are nearly the same, that the camera stands still.
    """

    errors: np.ndarray
    evidence: tuple[float, float] | None
    moved: bool

    @property
    def factors(self) -> np.ndarray:
        """(N,) factors on the confidence, 0 to 1."""
        factors: np.ndarray = 1.0 / (1.0 + self.errors**2)
        return factors


def agreement(
    T_held: np.ndarray, T_seen: np.ndarray, units: np.ndarray, scene_depth: float
) -> PassAgreement:
    """Compare the motions between N context frames.

    :param T_held: (N, 4, 4) ``T_world_camera`` as held, in map units.
    :param T_seen: (N, 4, 4) by the pass, in its own unit and world.
    :param units: (N,) length of the pass's unit at each frame, in map units.
    :param scene_depth: usual depth of the scene in map units.
    """
    held = inverse(T_held)[:, None] @ T_held
    seen = inverse(T_seen)[:, None] @ T_seen
    # Where the map's scale has drifted between two frames, neither unit holds for both.
    lengths = np.sqrt(units[:, None] * units)[..., None]
    shift = np.linalg.norm(held[..., :3, 3] - lengths * seen[..., :3, 3], axis=2)
    turn = rotation_angle(np.swapaxes(held[..., :3, :3], 2, 3) @ seen[..., :3, :3])
    length, angle = np.linalg.norm(held[..., :3, 3], axis=2), rotation_angle(held[..., :3, :3])
    least = _DEPTH_SHARE * scene_depth
    errors = np.maximum(
        shift / np.maximum(_SHARE * length, least), turn / np.maximum(_SHARE * angle, _LEAST_RAD)
    )
    np.fill_diagonal(errors, np.inf)
    agreeing = errors <= 1.0
    evidence = None
    if agreeing.any():
        # Medians of lengths of normal vectors are 1.54 standard deviations of an axis.
        sigmas = np.median(shift[agreeing]) / 1.54, np.median(turn[agreeing]) / 1.54
        evidence = float(sigmas[0]), float(sigmas[1])
    # Two, since one motion may fit by chance: a network repeats its mistakes on the same images.
    second = np.sort(errors, axis=1)[:, 1] if len(errors) > 1 else errors[:, 0]
    motions = (length >= _MOTION * least) | (angle >= _MOTION * _LEAST_RAD)
    return PassAgreement(second, evidence, bool((agreeing & motions).any()))


def overlap_factors(
    T: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, frame: int
) -> np.ndarray:
    """Return (S,) how well the surfaces of a frame and of others fit: factors, 0 to 1.

    By the share of the frame's points in the other's image that lie where it sees a surface: 0 up
    to a half, which may be chance, and where too few points lie in the image.

    :param T: (S, 4, 4) camera to world.
    :param depth: (S, h, w) in the same unit at every :data:`STRIDE`-th pixel, NaN where unknown.
    :param intrinsics: of the images.
    :param frame: row of the frame.
    """
    K = intrinsics.K / STRIDE
    (fx, _, cx), (_, fy, cy), _ = K
    height, width = depth.shape[1:]
    points = unproject(depth[frame].astype(np.float64), fx, fy, cx, cy).reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    shares = np.zeros(len(depth))
    for n, T_n_frame in enumerate(inverse(T) @ T[frame]):
        x, y, z = transform(T_n_frame, points).T
        with np.errstate(divide='ignore', invalid='ignore'):
            u, v = np.rint([fx * x / z + cx, fy * y / z + cy])
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        if inside.sum() > _LEAST_INSIDE * len(points):
            there = depth[n][v[inside].astype(int), u[inside].astype(int)]
            shares[n] = np.mean(np.abs(z[inside] - there) < _SAME_DEPTH * there)
    factors: np.ndarray = np.maximum(2.0 * shares - 1.0, 0.0)
    return factors
