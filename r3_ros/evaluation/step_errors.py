"""Errors of steps and depth, errors by confidence, and guesses that need no picture.

A step is the motion from one picture to the next, ``T_earlier_later``, in the earlier camera: its
rotation and its direction need neither an alignment nor a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ..geometry import inverse, make_T, rotation_angle
from .depth_errors import LEAST_PIXELS, picture_errors

#: True steps shorter than this share of the median one have no direction to speak of.
LEAST_STEP = 0.2
QUINTILES = 5
#: Of the pixels with a true depth one in so many is kept, for what is computed over all pictures.
_PIXEL_STRIDE = 17
#: A step without length points nowhere: as wrong as a guess is on average.
_NO_DIRECTION_DEG = 90.0


def steps_between(T_world_camera: np.ndarray) -> np.ndarray:
    """Return the (N - 1, 4, 4) motions between (N, 4, 4) poses, NaN beside an unknown one."""
    known = np.isfinite(T_world_camera[:, 0, 0])
    filled = np.where(known[:, None, None], T_world_camera, np.eye(4))
    steps = inverse(filled[:-1]) @ filled[1:]
    steps[~(known[:-1] & known[1:])] = np.nan
    return steps


@dataclass(frozen=True, eq=False)
class StepErrors:
    """Errors of the steps that have a true one, in order.

    :ivar rotation_deg: (P,) NaN where the predictor gave no step.
    :ivar direction_deg: (P,) angle between the translations; NaN as well where the true one is
        shorter than :data:`LEAST_STEP` of the median true one.
    :ivar confidence_rotation: (P,) what the predictor said of the later picture, NaN for a guess;
        ``confidence_translation`` likewise.
    """

    rotation_deg: np.ndarray
    direction_deg: np.ndarray
    confidence_rotation: np.ndarray
    confidence_translation: np.ndarray

    @staticmethod
    def joined(parts: Sequence[StepErrors]) -> StepErrors:
        """Return the errors of several sequences in one."""
        names = ('rotation_deg', 'direction_deg', 'confidence_rotation', 'confidence_translation')
        return StepErrors(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def step_errors(
    steps: np.ndarray,
    true_steps: np.ndarray,
    confidence_rotation: np.ndarray | None = None,
    confidence_translation: np.ndarray | None = None,
) -> StepErrors:
    """Compare steps with the true ones.

    :param steps: (P, 4, 4), NaN where there is none; ``true_steps`` likewise, and left out there.
    :param confidence_rotation: (P,); ``confidence_translation`` likewise.
    """
    unknown = np.full(len(steps), np.nan)
    has_truth = np.isfinite(true_steps[:, 0, 0])
    own, true = steps[has_truth], true_steps[has_truth]
    given = np.isfinite(own[:, 0, 0])
    rotation, direction = np.full(len(own), np.nan), np.full(len(own), np.nan)
    R = np.swapaxes(true[given, :3, :3], 1, 2) @ own[given, :3, :3]
    rotation[given] = np.degrees(rotation_angle(R))
    length = np.linalg.norm(true[:, :3, 3], axis=1)
    directed = given & (length > LEAST_STEP * np.median(length)) if len(length) else given
    direction[directed] = _angles_deg(own[directed, :3, 3], true[directed, :3, 3])
    return StepErrors(
        rotation,
        direction,
        (unknown if confidence_rotation is None else confidence_rotation)[has_truth],
        (unknown if confidence_translation is None else confidence_translation)[has_truth],
    )


def _angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the angles between (N, 3) vectors; 90 degrees for one without length."""
    across, along = np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1)
    degrees = np.degrees(np.arctan2(across, along))
    nowhere = np.minimum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)) < 1e-12
    return np.where(nowhere, _NO_DIRECTION_DEG, degrees)


def stretched(step: np.ndarray, factor: float) -> np.ndarray:
    """Return a (4, 4) step whose rotation vector and translation are ``factor`` times as long."""
    turn = Rotation.from_matrix(step[:3, :3]).as_rotvec()
    return make_T(Rotation.from_rotvec(factor * turn).as_matrix(), factor * step[:3, 3])


def first_step_repeated(T_true: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
    """Guess a trajectory: the first true step again and again, as long as the time it has.

    That is all that needs to be known beforehand, and no picture.

    :param T_true: (N, 4, 4), N of at least 2.
    """
    intervals = np.diff(stamps_ns.astype(np.float64))
    first = inverse(T_true[0]) @ T_true[1]
    poses = [T_true[0]]
    for interval in intervals:
        poses.append(poses[-1] @ stretched(first, interval / intervals[0]))
    return np.stack(poses)


def previous_step_repeated(T_true: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
    """Guess each step from the TRUE one before it: an oracle, which no camera has.

    :returns: (N - 1, 4, 4); NaN for the first, which has none before it.
    """
    intervals = np.diff(stamps_ns.astype(np.float64))
    steps = steps_between(T_true)
    guesses = np.full_like(steps, np.nan)
    for k in range(1, len(steps)):
        guesses[k] = stretched(steps[k - 1], intervals[k] / intervals[k - 1])
    return guesses


class DepthErrorsSoFar:
    """Errors of the depth of pictures, as they come."""

    def __init__(self) -> None:
        """Start with none."""
        self._pictures: list[tuple[float, float, float]] = []
        self._ratio: list[np.ndarray] = []
        self._error: list[np.ndarray] = []
        self._confidence: list[np.ndarray] = []

    def add(self, depth: np.ndarray, confidence: np.ndarray, truth: np.ndarray) -> None:
        """Compare one picture.

        :param depth: (h, w), at any scale; NaN or 0 where unknown.
        :param truth: (h, w), NaN where there is none.
        """
        errors = picture_errors(depth, truth)
        if errors is None:
            return
        self._pictures.append(errors)
        both = np.isfinite(truth) & np.isfinite(depth) & (depth > 0)
        if both.sum() < LEAST_PIXELS:
            return
        ratio = depth[both].astype(np.float64) / truth[both]
        self._error.append(np.abs(ratio / np.median(ratio) - 1.0)[::_PIXEL_STRIDE])
        self._ratio.append(ratio[::_PIXEL_STRIDE])
        self._confidence.append(confidence[both][::_PIXEL_STRIDE].astype(np.float64))

    def result(self) -> DepthErrors:
        """Return what was added."""
        return DepthErrors(
            np.array(self._pictures).reshape(-1, 3),
            _joined(self._ratio),
            _joined(self._error),
            _joined(self._confidence),
        )


@dataclass(frozen=True, eq=False)
class DepthErrors:
    """Errors of the depth of one stream.

    :ivar pictures: (F, 3): AbsRel and the share within 1.25, a scale for each picture, and the
        share of the pixels with a truth that have an estimate.
    :ivar ratio: (M,) estimate over truth, of some of the pixels.
    :ivar error: (M,) their relative error, a scale for each picture; ``confidence``: (M,) what
        the predictor said of them.
    """

    pictures: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    confidence: np.ndarray

    @property
    def abs_rel_one_scale(self) -> float:
        """Return AbsRel with one scale for the whole stream."""
        if not len(self.ratio):
            return float('nan')
        return float(np.abs(self.ratio / np.median(self.ratio) - 1.0).mean())


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def by_confidence(confidence: np.ndarray, error: np.ndarray) -> tuple[float, ...]:
    """Return the mean error in five equal parts, from the least confident to the most.

    Where one of the two is not known, a value does not count.
    """
    known = np.isfinite(confidence) & np.isfinite(error)
    if known.sum() < QUINTILES:
        return ()
    ordered = error[known][np.argsort(confidence[known], kind='stable')]
    return tuple(float(part.mean()) for part in np.array_split(ordered, QUINTILES))


def falls(quintiles: Sequence[float]) -> bool | None:
    """Tell whether the error falls from each fifth to the next; None: there are none."""
    if not quintiles:
        return None
    return all(b < a for a, b in zip(quintiles[:-1], quintiles[1:], strict=True))
