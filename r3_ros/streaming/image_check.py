"""Images from which no pose follows: of one colour, or the same one again and again.

A covered lens or a failed sensor gives images of one colour; a driver that hangs repeats an image
with new stamps. Neither shows where the camera is, whatever a predictor makes of it.
"""

from __future__ import annotations

import numpy as np

from ..datatypes import Frame

#: Every n-th pixel along each side is looked at.
_STRIDE = 4
#: Standard deviation of the levels, of 255, below which an image shows nothing: sensor noise of a
#: dark frame. A white wall has more in its shading.
_NOTHING_LEVELS = 1.5
#: A camera repeats an image now and then where a rate is converted. In so many frames in a row
#: none with a sensor does.
_FROZEN_FRAMES = 3


class ImageCheck:
    """Compares each image with the one before; one per session."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._since_ns = 0
        self._repeats = 0

    def fault(self, frame: Frame, longest_s: float) -> str:
        """Check an image; return what is wrong with it, empty if it can be used.

        :param longest_s: a camera that repeats an image for so long hangs; 0 disables this check.
        """
        levels = frame.image[::_STRIDE, ::_STRIDE]
        same = self._last is not None and np.array_equal(levels, self._last)
        self._repeats = self._repeats + 1 if same else 0
        if not same:
            self._last, self._since_ns = levels.copy(), frame.stamp_ns
        if levels.std(axis=(0, 1)).max(initial=0.0) < _NOTHING_LEVELS:
            seen = 'black' if levels.mean() < 32 else 'of one colour'
            return f'the image is {seen}: is the lens covered?'
        for_s = (frame.stamp_ns - self._since_ns) / 1e9
        if self._repeats >= _FROZEN_FRAMES and 0 < longest_s <= for_s:
            return f'the camera has sent the same image for {for_s:.1f} s: it hangs'
        return ''
