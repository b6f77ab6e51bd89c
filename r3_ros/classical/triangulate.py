"""Points from rays of two cameras."""

from __future__ import annotations

import numpy as np

from .pinhole import homogeneous


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
