"""Pictures that a camera gives although it sees nothing, or nothing new.

A covered lens or a failed sensor gives pictures of one colour; a driver that hangs gives the same
picture with new stamps. Neither tells where the camera is, whatever a predictor makes of it.
"""

from __future__ import annotations

import numpy as np

from ..datatypes import Frame

#: Every n-th pixel along each side is looked at.
_STRIDE = 4
#: Standard deviation of the levels, of 255, below which a picture shows nothing: sensor noise of a
#: dark frame. A white wall has more in its shading.
_NOTHING_LEVELS = 1.5
#: A camera repeats a picture now and then where a rate is converted. In so many frames in a row
#: none with a sensor does.
_FROZEN_FRAMES = 3


class PictureCheck:
    """Compares each picture with the one before; one per session."""

    def __init__(self) -> None:
        """Start with none seen."""
        self._last: np.ndarray | None = None
        self._since_ns = 0
        self._repeats = 0

    def fault(self, frame: Frame, longest_s: float) -> str:
        """Take a picture in; return what is wrong with it, nothing if it can be used.

        :param longest_s: a camera that repeats a picture for so long hangs; 0: none ever does.
        """
        levels = frame.image[::_STRIDE, ::_STRIDE]
        same = self._last is not None and np.array_equal(levels, self._last)
        self._repeats = self._repeats + 1 if same else 0
        if not same:
            self._last, self._since_ns = levels.copy(), frame.stamp_ns
        if levels.std(axis=(0, 1)).max(initial=0.0) < _NOTHING_LEVELS:
            seen = 'black' if levels.mean() < 32 else 'of one colour'
            return f'the picture is {seen}: is the lens covered?'
        for_s = (frame.stamp_ns - self._since_ns) / 1e9
        if self._repeats >= _FROZEN_FRAMES and 0 < longest_s <= for_s:
            return f'the camera has sent the same picture for {for_s:.1f} s: it hangs'
        return ''
