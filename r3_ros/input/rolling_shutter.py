"""Images of a rolling shutter, as if all rows had been exposed together."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.image_shift import shift_between
from ..core.trajectory_file import NANOSECONDS

#: Images farther apart do not tell how fast the camera moves.
_LONGEST_STEP_S = 0.25
#: Images are this many times smaller where their shift is measured.
_SHRINK = 4
#: Share of the sides by which an image may move from one to the next; more is not measured.
_MOST_SHIFT = 0.3


class RollingShutter:
    """Moves the rows of images to where they are at the time of the middle row.

    Rows move by the shift of the whole image since the one before: a turn about the optical axis,
    and differences of near and far, are left as they are.

    :param readout_s: time from the first row to the last; with 0 images stay as they are.
    """

    def __init__(self, readout_s: float) -> None:
        self._readout_s = readout_s
        self._gray: np.ndarray | None = None
        self._stamp_ns = 0

    def corrected(self, image: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the corrected image; the same object where nothing is known of the motion.

        :param image: (H, W, 3) uint8 RGB or (H, W) grey, as the sensor sent its rows; the next
            one of the stream.
        """
        if not self._readout_s:
            return image
        before, step_s = self._gray, (stamp_ns - self._stamp_ns) / NANOSECONDS
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        self._gray, self._stamp_ns = gray, stamp_ns
        if before is None or before.shape != gray.shape or not 0 < step_s <= _LONGEST_STEP_S:
            return image
        height, width = gray.shape
        shift = shift_between(before, gray, _SHRINK)
        if (np.abs(shift) > _MOST_SHIFT * np.array([width, height])).any():
            return image
        # What has moved down was exposed later.
        step_s += self._readout_s * shift[1] / height
        x, y = shift * self._readout_s / step_s / height
        middle = (height - 1) / 2
        to_middle = np.array([[1, -x, x * middle], [0, 1 - y, y * middle]])
        return cv2.warpAffine(image, to_middle, (width, height), borderMode=cv2.BORDER_REPLICATE)
