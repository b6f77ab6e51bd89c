"""The history of one frame's pose in its parent, read at a stamp by interpolation."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .exceptions import ExtrapolationException
from .rigid import Motion, slerp


@dataclass(frozen=True)
class Sample:
    """One received transform: the pose of a frame in ``parent``."""

    stamp_ns: int
    parent: str
    motion: Motion
    authority: str


class StaticCache:
    """One transform that holds at every stamp."""

    def __init__(self) -> None:
        self._sample: Sample | None = None

    def insert(self, sample: Sample) -> bool:
        """Keep the transform; it replaces the one before."""
        self._sample = sample
        return True

    def at(self, stamp_ns: int) -> Sample | None:
        """Return the transform, whatever the stamp."""
        return self._sample

    def clear(self) -> None:
        """Keep the transform: a jump of the clock does not make it untrue."""

    @property
    def latest_ns(self) -> int:
        """Return 0, which stands for any time."""
        return 0

    @property
    def oldest_ns(self) -> int:
        """Return 0, which stands for any time."""
        return 0

    def __len__(self) -> int:
        return int(self._sample is not None)


class TimeCache:
    """Transforms of the last ``duration_ns``, in the order of their stamps."""

    def __init__(self, duration_ns: int) -> None:
        self._duration_ns = duration_ns
        self._samples: list[Sample] = []
        self._stamps: list[int] = []

    def insert(self, sample: Sample) -> bool:
        """Keep a transform unless it is too old or its stamp is there already."""
        if self._stamps and sample.stamp_ns < self.latest_ns - self._duration_ns:
            return False
        i = bisect_left(self._stamps, sample.stamp_ns)
        if i < len(self._stamps) and self._stamps[i] == sample.stamp_ns:
            return False
        self._stamps.insert(i, sample.stamp_ns)
        self._samples.insert(i, sample)
        expired = bisect_left(self._stamps, self.latest_ns - self._duration_ns)
        del self._stamps[:expired], self._samples[:expired]
        return True

    def at(self, stamp_ns: int) -> Sample | None:
        """Return the transform at the stamp, 0 for the newest, or None if nothing was received.

        :raises ExtrapolationException: if the stamp is outside of what is held.
        """
        if not self._samples:
            return None
        if stamp_ns == 0:
            return self._samples[-1]
        i = bisect_left(self._stamps, stamp_ns)
        if i < len(self._stamps) and self._stamps[i] == stamp_ns:
            return self._samples[i]
        requested = f'Requested time {stamp_ns / 1e9:.6f}'
        if len(self._stamps) == 1:
            raise ExtrapolationException(
                f'Lookup would require extrapolation at time {stamp_ns / 1e9:.6f}, '
                f'but only time {self.latest_ns / 1e9:.6f} is in the buffer'
            )
        if i == 0:
            raise ExtrapolationException(
                f'Lookup would require extrapolation into the past.  {requested} but the earliest '
                f'data is at time {self.oldest_ns / 1e9:.6f}'
            )
        if i == len(self._stamps):
            raise ExtrapolationException(
                f'Lookup would require extrapolation into the future.  {requested} but the latest '
                f'data is at time {self.latest_ns / 1e9:.6f}'
            )
        return _interpolate(self._samples[i - 1], self._samples[i], stamp_ns)

    def clear(self) -> None:
        """Forget everything."""
        self._samples.clear()
        self._stamps.clear()

    @property
    def latest_ns(self) -> int:
        """Return the newest stamp, 0 if there is none."""
        return self._stamps[-1] if self._stamps else 0

    @property
    def oldest_ns(self) -> int:
        """Return the oldest stamp, 0 if there is none."""
        return self._stamps[0] if self._stamps else 0

    def __len__(self) -> int:
        return len(self._samples)


def _interpolate(before: Sample, after: Sample, stamp_ns: int) -> Sample:
    """Return the transform between two; where the parent changes in between, the older one."""
    if before.parent != after.parent:
        return before
    share = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    translation: NDArray[np.float64] = (
        1.0 - share
    ) * before.motion.translation + share * after.motion.translation
    quat = slerp(before.motion.quat_xyzw, after.motion.quat_xyzw, share)
    return Sample(stamp_ns, before.parent, Motion(translation, quat), before.authority)
