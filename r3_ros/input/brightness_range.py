"""Maps images of 16 bits to 8, by the range of values that a camera uses."""

from __future__ import annotations

import numpy as np

_ALL = 1 << 16
#: Grey levels that the values must reach in the range of the sensor; else it is cut to the values.
_ENOUGH_LEVELS = 64
#: Around the values then, as a share of their range, for brighter and darker images.
_MARGIN = 0.25
#: Fewer values are never spread over more grey levels: a covered lens stays black.
_LEAST_RANGE = 256
#: Pixels in x and y of which one is looked at.
_STEP = 8


class BrightnessRange:
    """The range of one camera, found in its first image.

    Sensors of 10 to 14 bits and thermal cameras use a part of the 16 bits, whose upper byte alone
    would be a few grey levels. The range only grows, and by large steps, so that the brightness of
    a scene stays the same from image to image.

    :ivar note: the range, as text; empty while all 16 bits are used, or without such images.
    """

    def __init__(self) -> None:
        self.note = ''
        self._low, self._high = float(_ALL), 0.0  # of the values
        self._first, self._last = _ALL, 0  # of the range
        self._levels = np.empty(0, np.uint8)

    def to_eight_bit(self, image: np.ndarray) -> np.ndarray:
        """Return a uint8 image of the same shape; the same object if it has 8 bits.

        :param image: uint8 or uint16, of any shape.
        """
        if image.dtype == np.uint8:
            return image
        # Single hot or dead pixels do not count.
        low, high = np.percentile(image[::_STEP, ::_STEP], (1, 99))
        if low < self._first or high > self._last:
            self._low, self._high = min(low, self._low), max(high, self._high)
            self._widen()
        return np.take(self._levels, image)

    def _widen(self) -> None:
        span = self._high - self._low
        # A sensor of n bits.
        self._first, self._last = 0, max(1 << int(self._high).bit_length(), _LEAST_RANGE) - 1
        if span / (self._last + 1) < _ENOUGH_LEVELS / 256:
            self._first = int(max(self._low - _MARGIN * span, 0))
            widest = max(self._high + _MARGIN * span, self._first + _LEAST_RANGE - 1)
            self._last = min(int(widest), _ALL - 1)
        levels = (np.arange(_ALL) - self._first) * 256 // (self._last + 1 - self._first)
        self._levels = levels.clip(0, 255).astype(np.uint8)
        self.note = ''
        if self._last - self._first < _ALL - 1:
            self.note = (
                f'16-bit images use values of about {self._first} to {self._last}, which are '
                'scaled to 8 bits'
            )
