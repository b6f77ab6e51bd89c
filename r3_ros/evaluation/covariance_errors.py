"""Errors of poses and of steps beside the covariances that were published with them.

Poses are seen from the first one, because their covariances grow from there. Errors are small
motions in the frame of the later camera, in the convention of :class:`Estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import chdtri

from ..core.geometry import inverse
from ..core.trajectory_file import PoseList
from ..offline.run_files import Covariances, FRAMES, read_covariances, read_table
from .trajectory_errors import match_stamps

#: Shares of the errors that ellipsoids are asked to hold.
LEVELS = tuple(float(level) for level in np.linspace(0.05, 0.95, 19).round(2))


def chi_square(level: float, dimensions: int) -> float:
    """Return the NEES that this share of the errors stays below."""
    return float(chdtri(dimensions, 1.0 - level))


def motion_errors(T: np.ndarray, T_true: np.ndarray) -> np.ndarray:
    """Return the (..., 6) small motions from estimated to true ones, (..., 4, 4), one unit."""
    off = inverse(T) @ T_true
    turns = Rotation.from_matrix(off[..., :3, :3].reshape(-1, 3, 3)).as_rotvec()
    return np.concatenate([off[..., :3, 3], turns.reshape(off[..., :3, 3].shape)], axis=-1)


def errors_of_poses(T_world_camera: np.ndarray, T_true: np.ndarray, unit: float) -> np.ndarray:
    """Return the (N, 6) errors of poses as seen from the first, whose row is NaN.

    :param T_world_camera: (N, 4, 4); ``T_true``: (N, 4, 4) in any world.
    :param unit: of the estimate, in that of the truth.
    """
    seen, exact = (inverse(T[0]) @ T for T in (T_world_camera, T_true))
    exact[:, :3, 3] /= unit
    errors = motion_errors(seen, exact)
    errors[0] = np.nan
    return errors


def errors_of_steps(
    T_previous_camera: np.ndarray, frame_ids: np.ndarray, T_true: np.ndarray, unit: float
) -> np.ndarray:
    """Return the (N, 6) errors of steps, NaN where a frame does not follow the one before.

    :param T_previous_camera: (N, 4, 4), NaN where unknown.
    :param frame_ids: (N,) int; a step leads from one number to the next.
    """
    errors = np.full((len(T_true), 6), np.nan)
    follows = np.diff(frame_ids) == 1
    rows = 1 + np.flatnonzero(follows & np.isfinite(T_previous_camera[1:, 0, 0]))
    exact = inverse(T_true[rows - 1]) @ T_true[rows]
    exact[:, :3, 3] /= unit
    errors[rows] = motion_errors(T_previous_camera[rows], exact)
    return errors


def nees(errors: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Return the (N,) normalised estimation errors squared, NaN where something is unknown.

    :param errors: (N, D); ``covariances``: (N, D, D).
    """
    solved = np.linalg.solve(covariances, errors[..., None])[..., 0]
    return (errors * solved).sum(axis=-1)


def share_inside(values: np.ndarray, level: float = 0.95, dimensions: int = 6) -> float:
    """Return the share of (N,) known NEES inside the ellipsoid of a level; NaN without any."""
    known = values[np.isfinite(values)]
    return float(np.mean(known <= chi_square(level, dimensions))) if len(known) else float('nan')


def bounds_95(errors: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Return the (N,) distances to the 95 % ellipsoid in the directions of (N, 3) errors."""
    lengths = np.linalg.norm(errors, axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        return lengths * np.sqrt(chi_square(0.95, 3) / nees(errors, covariances))


@dataclass(frozen=True, eq=False)
class CovarianceErrors:
    """Errors of the tracked frames with a true pose, in the run's unit and radians.

    :ivar stamps_ns: (N,) int64.
    :ivar pose_errors: (N, 6), with ``pose_covariances`` (N, 6, 6); ``step_errors`` likewise.
    """

    stamps_ns: np.ndarray
    pose_errors: np.ndarray
    pose_covariances: np.ndarray
    step_errors: np.ndarray
    step_covariances: np.ndarray

    @property
    def pose_nees(self) -> np.ndarray:
        return nees(self.pose_errors, self.pose_covariances)

    @property
    def step_nees(self) -> np.ndarray:
        return nees(self.step_errors, self.step_covariances)

    def as_json(self) -> dict[str, Any]:
        """Return the share inside ellipsoids, and the NEES over its six degrees of freedom."""
        return {'poses': _coverage(self.pose_nees), 'steps': _coverage(self.step_nees)}


def _coverage(values: np.ndarray) -> dict[str, Any] | None:
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    return {
        'count': len(known),
        'inside_95': share_inside(known),
        'nees_mean': float(known.mean()) / 6,
        'nees_median': float(np.median(known)) / 6,
        'levels': {str(level): share_inside(known, level) for level in LEVELS},
    }


def covariance_errors(
    folder: Path, poses: PoseList, truth: PoseList, unit: float
) -> CovarianceErrors | None:
    """Compare the tracked frames of a run with the truth; None without covariances.

    :param poses: as published, in the run's unit.
    :param unit: of the run, in that of the truth.
    :raises SourceError: a file is missing or damaged.
    """
    saved = read_covariances(folder)
    if saved is None:
        return None
    tracked = saved.stamps_ns[np.asarray(read_table(folder / FRAMES)['tracked']) > 0]
    own, other = match_stamps(poses.stamps_ns, truth.stamps_ns)
    kept = np.isin(poses.stamps_ns[own], tracked)
    own, other = own[kept], other[kept]
    if not len(own):
        return None
    return _compared(saved, poses, own, truth.T_world_camera[other], unit)


def _compared(
    saved: Covariances, poses: PoseList, own: np.ndarray, T_true: np.ndarray, unit: float
) -> CovarianceErrors:
    stamps_ns = poses.stamps_ns[own]
    rows = np.searchsorted(saved.stamps_ns, stamps_ns)
    motions = saved.T_previous_camera[rows]
    return CovarianceErrors(
        stamps_ns=stamps_ns,
        pose_errors=errors_of_poses(poses.T_world_camera[own], T_true, unit),
        pose_covariances=saved.covariance[rows],
        step_errors=errors_of_steps(motions, rows, T_true, unit),
        step_covariances=saved.step_covariance[rows],
    )
