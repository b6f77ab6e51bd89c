"""The camera of the working image: pixels to rays and back, and points from two rays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.datatypes import Intrinsics


@dataclass(frozen=True)
class Pinhole(Intrinsics):
    """Intrinsics of the working image (pixel centres at integers).

    Rays are (N, 2) points on the plane z = 1 of the camera. Errors are measured in working
    pixels: a length on that plane times ``focal``.
    """

    @classmethod
    def of(cls, intrinsics: Intrinsics, width: int, height: int) -> Pinhole:
        """Return the camera of an image resized to ``width`` x ``height``."""
        return cls(**vars(intrinsics.resized(width, height)))

    @property
    def focal(self) -> float:
        return 0.5 * (self.fx + self.fy)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return (N, 2) float64 rays of (N, 2) pixels."""
        pixels = np.asarray(pixels, dtype=np.float64)
        return (pixels - (self.cx, self.cy)) / (self.fx, self.fy)

    def pixels(self, rays: np.ndarray) -> np.ndarray:
        """Return (N, 2) float64 pixels of (N, 2) rays."""
        return rays * (self.fx, self.fy) + (self.cx, self.cy)

    def inside(self, pixels: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Return the mask of pixels in the image, ``margin`` pixels from its border."""
        low, high = margin - 0.5, np.array([self.width, self.height]) - 0.5 - margin
        return np.all((pixels >= low) & (pixels <= high), axis=1)

    def pixels_of_points(
        self, points: np.ndarray, T_camera_world: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels (N, 2) and depths (N,) of points (N, 3); far-off pixels are clipped."""
        rays, depth = project(points @ T_camera_world[:3, :3].T + T_camera_world[:3, 3])
        return self.pixels(np.clip(rays, -1e3, 1e3)), depth

    def with_focal_scaled(self, factor: float) -> Pinhole:
        """Return the camera with both focal lengths multiplied."""
        return replace(self, fx=self.fx * factor, fy=self.fy * factor)


def homogeneous(rays: np.ndarray) -> np.ndarray:
    """Return (N, 3) points on z = 1 of (N, 2) rays."""
    return np.concatenate([rays, np.ones((len(rays), 1))], axis=1)


def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rays (N, 2) and depths (N,) of points (N, 3) in the camera frame.

    Points behind the camera get a ray too, with a depth below zero.
    """
    depth = points[:, 2]
    safe = np.where(np.abs(depth) > 1e-9, depth, 1e-9)
    return points[:, :2] / safe[:, None], depth


def depth_along_first_ray(
    T_second_first: np.ndarray, rays_first: np.ndarray, rays_second: np.ndarray
) -> np.ndarray:
    """Return the (N,) depths in the first camera at which each ray is closest to the second's.

    Zero where the rays are parallel.

    :param T_second_first: (4, 4), or (N, 4, 4) for a first camera of its own per point.
    """
    first, second = homogeneous(rays_first), homogeneous(rays_second)
    turned = np.einsum('...ij,...j->...i', T_second_first[..., :3, :3], first)
    a = np.cross(second, turned)
    b = np.cross(second, np.broadcast_to(T_second_first[..., :3, 3], second.shape))
    norm = (a * a).sum(axis=1)
    return np.where(norm > 1e-16, -(a * b).sum(axis=1) / np.maximum(norm, 1e-16), 0.0)


def parallax_cosine(
    points: np.ndarray, centre_first: np.ndarray, centre_second: np.ndarray
) -> np.ndarray:
    """Return the (N,) cosines of the angles at points between two camera centres."""
    a, b = centre_first - points, centre_second - points
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
