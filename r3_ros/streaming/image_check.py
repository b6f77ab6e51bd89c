"""Images from which no pose follows: of one colour (a covered lens), or repeated by a driver."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.datatypes import Frame

#: Every n-th pixel along each side is compared.
_STRIDE = 4
#: Standard deviation of the levels, of 255, below which an image shows nothing: sensor noise of a
#: dark frame. The shading of a white wall has more.
_NOTHING_LEVELS = 1.5
#: Rate conversion repeats an image now and then; so many repeats in a row are a fault.
_FROZEN_FRAMES = 3


class ImageCheck:
    """Compares each image with the one before; one per session."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._since_ns = 0
        self._repeats = 0

    def fault(self, frame: Frame, longest_s: float) -> str:
        """Return what is wrong with an image, empty if it can be used.

        :param longest_s: longest time for which one image may repeat; 0 disables this check.
        """
        # A copy: strided views are several times as slow, and the image may be overwritten.
        levels = frame.image[::_STRIDE, ::_STRIDE].copy()
        same = self._last is not None and np.array_equal(levels, self._last)
        self._repeats = self._repeats + 1 if same else 0
        if not same:
            self._last, self._since_ns = levels, frame.stamp_ns
        means, deviations = cv2.meanStdDev(levels)
        if deviations.max() < _NOTHING_LEVELS:
            seen = 'black' if means.mean() < 32 else 'of one colour'
            return f'the image is {seen}: is the lens covered?'
        for_s = (frame.stamp_ns - self._since_ns) / 1e9
        if self._repeats >= _FROZEN_FRAMES and 0 < longest_s <= for_s:
            return f'the camera has sent the same image for {for_s:.1f} s: it hangs'
        return ''
