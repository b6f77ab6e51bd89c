"""Metres per map unit, from ratios measured by a metric network or odometry.

A map unit is the unit of the world, which is that of segment 0. A ratio is taken at a keyframe
and kept in that keyframe's *own* unit, whose length in the world is its ``HeldPose.scale``: when
loop closure shows that units have drifted, earlier ratios follow, and a map unit stays the same.

Unknown is None, never 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
import math

import numpy as np

from ...core.config import ScaleConfig
from ...core.datatypes import DepthMap

#: Smallest usable depth, in either unit.
_LEAST_DEPTH = 1e-4
#: Quantiles beyond which the ratios of one image are cut.
_TAILS = (0.05, 0.95)
#: Minimum number of ratios of one image, and the number to which more are thinned out evenly.
_LEAST_RATIOS, _MOST_RATIOS = 100, 4096
#: Minimum and maximum number of windows of odometry in an estimate.
_LEAST_WINDOWS, _MOST_WINDOWS = 8, 100
#: Largest standard error of the logarithm of a solid estimate.
_LARGEST_ERROR = 0.03
_MOST_OUTLIERS = 0.5
#: Tukey's constant: 95 % efficiency on normal noise.
_TUKEY = 4.685
_MEDIAN_TO_SIGMA = 1.4826
_ROUNDS = 30
#: Share by which an unlocked scale moves towards each new estimate.
_FOLLOW_SHARE = 0.1


@dataclass(frozen=True)
class ScaleView:
    """The scale as known now; ``source`` is one of ``config.REPORTED_SCALE_SOURCES``.

    :ivar metres_per_unit: in use; None: unknown.
    :ivar live_ratio: the newest estimate over the one in use; None without one.
    :ivar waits_for: what is missing while it is unknown, in words.
    """

    source: str = 'none'
    metres_per_unit: float | None = None
    locked: bool = False
    live_ratio: float | None = None
    waits_for: str = ''

    @property
    def is_metric(self) -> bool:
        return self.metres_per_unit is not None

    @property
    def published_unit(self) -> float:
        """Factor on map units where they are published; 1 while the scale is unknown."""
        return 1.0 if self.metres_per_unit is None else self.metres_per_unit

    @property
    def awaited(self) -> bool:
        return self.source != 'none' and not self.is_metric


@dataclass(frozen=True, eq=False)
class _Sample:
    """Ratios measured at one keyframe, in metres per unit of its own.

    :ivar metres: length of the camera's motion, 0 for ratios from an image.
    """

    anchor_id: int
    log_ratios: np.ndarray
    metres: float


@dataclass(frozen=True)
class _Fit:
    log_scale: float
    is_solid: bool


class ScaleEstimator:
    """Pools ratios into metres per map unit, and keeps or follows the estimate.

    :ivar metres_per_unit: in use; None: unknown.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self.metres_per_unit = config.fixed if config.source == 'fixed' else None
        kept = config.bootstrap_frames if config.source == 'model' else _MOST_WINDOWS
        self._samples: deque[_Sample] = deque(maxlen=kept)
        #: Length in the world of the units of keyframes with samples, as last known.
        self._units: dict[int, float] = {}
        self._newest: _Fit | None = None
        #: Whether the scale in use was set by the user, and whether no estimate may change it.
        self._is_users, self._users_lock = False, False
        #: Source of the scale of a loaded map.
        self._adopted_from: str | None = None

    def set_by_user(self, metres_per_unit: float, lock: bool) -> bool:
        """Set the scale in use; return whether it has changed.

        :param lock: no estimate may change it. Otherwise estimates change it as they change their
            own, where there is a source and ``scale.lock`` is off.
        """
        before, self.metres_per_unit = self.metres_per_unit, metres_per_unit
        self._is_users, self._users_lock = True, lock
        return metres_per_unit != before

    def adopt(self, metres_per_unit: float, source: str) -> None:
        """Adopt the scale of a loaded map, whose unit is this session's."""
        self.metres_per_unit = metres_per_unit
        self._adopted_from, self._is_users = source, False

    def update_config(self, config: ScaleConfig) -> bool:
        """Apply live parameters; return whether the scale in use has changed."""
        before, last = self.metres_per_unit, self.config
        self.config = config
        # A scale set by the user or adopted from a map stays until the parameter itself changes.
        given = self._is_users or self._adopted_from is not None
        if config.source == 'fixed' and (config.fixed != last.fixed or not given):
            self.metres_per_unit, self._is_users = config.fixed, False
        return self.metres_per_unit != before

    def add(self, anchor_id: int, unit: float, ratios: np.ndarray, metres: float = 0.0) -> bool:
        """Add ratios, and return whether the scale in use has changed.

        :param anchor_id: the keyframe whose own unit they are per.
        :param unit: length of that unit in the world.
        :param ratios: (N,) metres per unit; those that are not positive count as outliers.
        :param metres: length of the camera's motion behind them.
        """
        with np.errstate(divide='ignore', invalid='ignore'):
            logs = np.log(np.asarray(ratios, dtype=np.float64))
        self._samples.append(_Sample(anchor_id, logs, metres))
        used = {sample.anchor_id for sample in self._samples}
        self._units[anchor_id] = unit
        self._units = {i: length for i, length in self._units.items() if i in used}
        self._newest, before = self._fit(), self.metres_per_unit
        if self._newest is not None and self._newest.is_solid:
            newest = math.exp(self._newest.log_scale)
            if before is None:
                self.metres_per_unit = newest
            elif not self.is_locked:
                self._is_users = False
                self.metres_per_unit = before * (newest / before) ** _FOLLOW_SHARE
        return self.metres_per_unit != before

    @property
    def keyframes(self) -> Collection[int]:
        return self._units.keys()

    def refer(self, units: Mapping[int, float]) -> None:
        """Update the units of keyframes, which a correction may have changed.

        The scale in use stays, since the world's unit has not changed.
        """
        changed = {
            i: units[i] for i in self._units if units.get(i, self._units[i]) != self._units[i]
        }
        if changed:
            self._units.update(changed)
            self._newest = self._fit()

    @property
    def is_locked(self) -> bool:
        if self.metres_per_unit is None:
            return False
        if self._is_users and self._users_lock:
            return True
        return self.config.lock or self.config.source in ('none', 'fixed')

    def view(self) -> ScaleView:
        """Return a snapshot of the scale."""
        newest, in_use = self._newest, self.metres_per_unit
        ratio = None
        if newest is not None and in_use is not None:
            ratio = math.exp(newest.log_scale) / in_use
        source: str = self.config.source
        if self._is_users:
            source = 'user'
        elif source == 'none' and self._adopted_from is not None:
            source = self._adopted_from
        return ScaleView(
            source=source,
            metres_per_unit=in_use,
            locked=self.is_locked,
            live_ratio=ratio,
            waits_for='' if in_use is not None else self._missing(),
        )

    def _missing(self) -> str:
        count, config = len(self._samples), self.config
        if config.source == 'model':
            return f'scale not known: {count} of {config.bootstrap_frames} keyframes measured'
        if config.source == 'odometry':
            went_m = sum(sample.metres for sample in self._samples)
            return (
                f'scale not known: {went_m:.2f} m of odometry so far, at least '
                f'{config.min_translation:g} m and {_LEAST_WINDOWS} agreeing stretches are needed'
            )
        return ''

    def _fit(self) -> _Fit | None:
        """Estimate the logarithm of metres per map unit, None without usable ratios."""
        samples = self._samples
        if not samples:
            return None
        logs = np.concatenate(
            [sample.log_ratios - math.log(self._units[sample.anchor_id]) for sample in samples]
        )
        if self.config.source == 'model':
            return _Fit(float(np.median(logs)), len(samples) == samples.maxlen)
        fitted = _robust_mean(logs)
        if fitted is None:
            return None
        center, weights = fitted
        spread = _MEDIAN_TO_SIGMA * float(np.median(np.abs(logs[weights > 0] - center)))
        agreeing = int(np.count_nonzero(weights))
        went_m = sum(s.metres for s, weight in zip(samples, weights, strict=True) if weight > 0)
        is_solid = (
            agreeing >= _LEAST_WINDOWS
            and went_m >= self.config.min_translation
            and float(np.mean(weights == 0)) <= _MOST_OUTLIERS
            and spread / math.sqrt(agreeing) <= _LARGEST_ERROR
        )
        return _Fit(center, is_solid)


def depth_ratios(depth_map: DepthMap, metres: np.ndarray) -> np.ndarray:
    """Return (N,) ratios of metric over predicted depth of one image, without its tails.

    Pixels count where both are known and the prediction's confidence is at least its median.
    Empty if there are too few.

    :param metres: (h, w), NaN in the sky; pixel for pixel with the depth map.
    """
    depth, confidence = depth_map.depth, depth_map.confidence
    known = np.isfinite(depth) & np.isfinite(metres) & np.isfinite(confidence)
    known &= (np.nan_to_num(depth) > _LEAST_DEPTH) & (np.nan_to_num(metres) > _LEAST_DEPTH)
    if not known.any():
        return np.empty(0)
    known &= confidence >= np.median(confidence[known])
    ratios = metres[known].astype(np.float64) / depth[known]
    if len(ratios) < _LEAST_RATIOS:
        return np.empty(0)
    low, high = np.quantile(ratios, _TAILS)
    kept = ratios[(ratios >= low) & (ratios <= high)]
    if len(kept) > _MOST_RATIOS:
        kept = kept[np.linspace(0, len(kept) - 1, _MOST_RATIOS).round().astype(int)]
    return kept


def _robust_mean(values: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return a robust mean, and the weights (N,), 0 for outliers."""
    finite = np.isfinite(values)
    if not finite.any():
        return None
    weights = np.zeros(len(values))
    good = values[finite]
    center = float(np.median(good))
    for _ in range(_ROUNDS):
        residuals = good - center
        reach = _TUKEY * max(_MEDIAN_TO_SIGMA * float(np.median(np.abs(residuals))), 1e-6)
        weights[finite] = np.maximum(1.0 - (residuals / reach) ** 2, 0.0) ** 2
        moved = float(np.average(good, weights=weights[finite])) - center
        center += moved
        if abs(moved) < 1e-9:
            break
    return center, weights
