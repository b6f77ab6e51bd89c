"""Errors of the steps between images, and a baseline without images: constant velocity.

A step is the motion ``T_earlier_later`` between successive images; its rotation and direction
need neither an alignment nor a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.geometry import inverse, make_T, rotation_angle

#: Directions of shorter true steps, as a share of the median length, are ignored.
MIN_STEP_SHARE = 0.2
#: Error of a step without length: that of a random direction on average.
_NO_DIRECTION_DEG = 90.0


def steps_between(T_world_camera: np.ndarray) -> np.ndarray:
    """Return the (N - 1, 4, 4) motions between (N, 4, 4) poses, NaN beside an unknown one."""
    known = np.isfinite(T_world_camera[:, 0, 0])
    filled = np.where(known[:, None, None], T_world_camera, np.eye(4))
    steps = inverse(filled[:-1]) @ filled[1:]
    steps[~(known[:-1] & known[1:])] = np.nan
    return steps


class StepErrors(NamedTuple):
    """Errors of the steps with a known true step, in order.

    :ivar rotation_deg: (P,) NaN without an estimated step.
    :ivar direction_deg: (P,) angle between the translations; also NaN for true steps shorter
        than :data:`MIN_STEP_SHARE` of the median.
    :ivar confidence_rotation: (P,) of the later image, NaN for a baseline;
        ``confidence_translation`` likewise.
    """

    rotation_deg: np.ndarray
    direction_deg: np.ndarray
    confidence_rotation: np.ndarray
    confidence_translation: np.ndarray

    @staticmethod
    def joined(parts: Sequence[StepErrors]) -> StepErrors:
        """Concatenate the errors of several sequences."""
        return StepErrors(*map(np.concatenate, zip(*parts, strict=True)))


def step_errors(
    steps: np.ndarray,
    true_steps: np.ndarray,
    confidence_rotation: np.ndarray | float = np.nan,
    confidence_translation: np.ndarray | float = np.nan,
) -> StepErrors:
    """Compare steps with the true ones.

    :param steps: (P, 4, 4), NaN where there is none; ``true_steps`` likewise, and left out there.
    :param confidence_rotation: (P,); ``confidence_translation`` likewise.
    """
    has_truth = np.isfinite(true_steps[:, 0, 0])
    own, true = steps[has_truth], true_steps[has_truth]
    given = np.isfinite(own[:, 0, 0])
    rotation, direction = np.full(len(own), np.nan), np.full(len(own), np.nan)
    R = np.swapaxes(true[given, :3, :3], 1, 2) @ own[given, :3, :3]
    rotation[given] = np.degrees(rotation_angle(R))
    length = np.linalg.norm(true[:, :3, 3], axis=1)
    directed = given & (length > MIN_STEP_SHARE * np.median(length)) if len(length) else given
    direction[directed] = _angles_deg(own[directed, :3, 3], true[directed, :3, 3])
    confidences = (
        np.broadcast_to(values, len(steps))[has_truth]
        for values in (confidence_rotation, confidence_translation)
    )
    return StepErrors(rotation, direction, *confidences)


def _angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the angles between (N, 3) vectors; 90 degrees for one without length."""
    across, along = np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)
    degrees = np.degrees(np.arctan2(across, along))
    nowhere = np.minimum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)) < 1e-12
    return np.where(nowhere, _NO_DIRECTION_DEG, degrees)


def first_step_repeated(T_true: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
    """Return (N, 4, 4) poses that repeat the first true step, scaled by the time intervals.

    :param T_true: (N, 4, 4), N of at least 2.
    """
    intervals = np.diff(stamps_ns.astype(np.float64))
    first = inverse(T_true[0]) @ T_true[1]
    rotvec = Rotation.from_matrix(first[:3, :3]).as_rotvec()
    poses = [T_true[0]]
    for factor in intervals / intervals[0]:
        R = Rotation.from_rotvec(factor * rotvec).as_matrix()
        poses.append(poses[-1] @ make_T(R, factor * first[:3, 3]))
    return np.stack(poses)
