"""The readout time of a rolling shutter, by how images deform where the camera changes its speed.

While the content moves by v pixels a second, each row of H is shifted by v R / H against the row
before, with the readout time R: sideways motion skews an image, motion up or down stretches it.
So from one image to the next the skew changes by R / H times the change of v. A turn about the
optical axis skews both axes by opposite amounts, and coming closer stretches both by the same; the
sum, or the difference, is free of these. Slanted surfaces skew by the motion itself, which is not
related to its change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..core.config import LONGEST_READOUT_S
from ..core.trajectory_file import NANOSECONDS
from ..input.rolling_shutter import RollingShutter

#: Corners and share of them that have to agree on one deformation, within so many pixels.
_LEAST_CORNERS, _LEAST_SHARE, _AGREE_PX = 30, 0.4, 3.0
#: Changes of the speed, in image heights from one image to the next, that are cuts.
_MOST_CHANGE = 0.1
#: Images in a row whose errors are taken as one, as motion and surroundings stay alike, and least
#: number of such rows.
_ROW, _LEAST_ROWS = 12, 8
_ITERATIONS = 10
#: Standard deviations from which on a readout time is none by chance, and the least share of the
#: time between images: less costs little, and slow images tell little.
_CERTAIN_SIGMAS, _LEAST_READOUT = 5.0, 0.3
#: Images of a stream that are measured at once, corners of each, and the standard deviation over
#: the time between images with which an uncertain readout is none.
_MEASURED, _CORNERS, _NONE_SIGMA = 600, 200, 0.05


class Deformation(NamedTuple):
    """How an image moved and deformed since the one before; NaN where it is unknown.

    :ivar motion: (x, y) of the middle, in image heights.
    :ivar skew: of x by rows and of y by columns, summed; and the stretch of y over that of x.
    """

    motion: tuple[float, float] = (np.nan, np.nan)
    skew: tuple[float, float] = (np.nan, np.nan)


class Readout(NamedTuple):
    """The readout time of a rolling shutter, in seconds.

    :ivar time_s: from the first row to the last.
    :ivar sigma_s: its standard deviation.
    :ivar usual_s: the usual time between images, which no readout is longer than.
    """

    time_s: float
    sigma_s: float
    usual_s: float

    @property
    def certain(self) -> bool:
        """Whether there is a rolling shutter."""
        return self.time_s > max(_CERTAIN_SIGMAS * self.sigma_s, _LEAST_READOUT * self.usual_s)


def deformation_of(before: np.ndarray, after: np.ndarray, shape: tuple[int, int]) -> Deformation:
    """Return the deformation that most corners agree on.

    :param before: (N, 2) pixels of corners; ``after``: (N, 2) where they are now.
    :param shape: height and width of the image.
    """
    if len(before) < _LEAST_CORNERS:
        return Deformation()
    A, agree = cv2.estimateAffine2D(
        before.astype(np.float32), after.astype(np.float32), ransacReprojThreshold=_AGREE_PX
    )
    if A is None or agree.mean() < _LEAST_SHARE:
        return Deformation()
    height, width = shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    x, y = (A[:, :2] @ middle + A[:, 2] - middle) / height
    return Deformation((x, y), (A[0, 1] + A[1, 0], A[1, 1] - A[0, 0]))


def estimated_readout(
    stamps_ns: Sequence[int], deformations: Sequence[Deformation]
) -> Readout | None:
    """Return the readout time; None if it is not known.

    Too few images tell, they are far apart, or something else deforms them, which would take rows
    longer than images.

    :param deformations: of each image since the one before.
    """
    if len(stamps_ns) < _ROW * _LEAST_ROWS:
        return None
    usual_s = float(np.median(np.diff(stamps_ns))) / NANOSECONDS
    if not 0 < usual_s <= LONGEST_READOUT_S:
        # Rows would take a small share of the time between images.
        return None
    steps_s = np.diff(np.array(stamps_ns), prepend=stamps_ns[0])[:, None] / NANOSECONDS
    motion = np.array([d.motion for d in deformations])
    skew = np.array([d.skew for d in deformations])
    with np.errstate(divide='ignore', invalid='ignore'):
        # Mean speeds between images. Those at an image are the means of two of these.
        speed = np.where(steps_s > 0, motion / steps_s, np.nan)
    change = np.full_like(speed, np.nan)
    change[1:-1] = (speed[2:] - speed[:-2]) / 2
    change[np.abs(change) * steps_s > _MOST_CHANGE] = np.nan
    found = [_slope(change[:, axis], skew[:, axis]) for axis in (0, 1)]
    known = [readout for readout in found if readout is not None]
    if not known:
        return None
    times_s, sigmas_s = np.array(known).T
    weights = 1 / sigmas_s**2
    time_s, sigma_s = float(weights @ times_s / weights.sum()), float(weights.sum() ** -0.5)
    if time_s - 2 * sigma_s > usual_s:
        return None
    return Readout(min(time_s, usual_s), sigma_s, usual_s)


class MeasuredShutter:
    """Corrects the images of a stream once their tracks tell that rows take time.

    :ivar readout_s: the time that is corrected; 0 while it is not certain.
    """

    def __init__(self) -> None:
        self.readout_s = 0.0
        self._shutter = RollingShutter(0.0)
        self._stamps_ns: deque[int] = deque(maxlen=_MEASURED)
        self._deformations: deque[Deformation] = deque(maxlen=_MEASURED)
        self._known = False
        self._images = 0

    def corrected(self, image: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the next image, corrected as :meth:`.RollingShutter.corrected` does."""
        return self._shutter.corrected(image, stamp_ns)

    def note(
        self, stamp_ns: int, tracks: tuple[np.ndarray, np.ndarray] | None, shape: tuple[int, int]
    ) -> None:
        """Measure an image.

        :param tracks: (N, 2) pixels in the image before, and (N, 2) here; None without.
        :param shape: height and width of the images that these are pixels of.
        """
        if self._known:
            return
        deformation = Deformation()
        if tracks is not None:
            before, after = (pixels[:: len(pixels) // _CORNERS + 1] for pixels in tracks)
            deformation = deformation_of(before, after, shape)
        self._stamps_ns.append(stamp_ns)
        self._deformations.append(deformation)
        self._images += 1
        if self._images % _ROW:
            return
        readout = estimated_readout(self._stamps_ns, self._deformations)
        if readout is None:
            return
        if readout.certain:
            self.readout_s = readout.time_s
            self._shutter = RollingShutter(readout.time_s)
        self._known = readout.certain or readout.sigma_s < _NONE_SIGMA * readout.usual_s


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Return the slope of a line through the origin, with Huber's weights, and its deviation.

    That follows from sums over rows (cluster-robust: Liang and Zeger, Biometrika 73, 1986).
    """
    known = np.isfinite(x) & np.isfinite(y)
    row = np.arange(len(x))[known] // _ROW
    x, y = x[known], y[known]
    rows = len(np.unique(row))
    if rows < _LEAST_ROWS or not x.any():
        return None
    weights = np.ones(len(x))
    for _ in range(_ITERATIONS):
        slope = (weights * x * y).sum() / (weights * x * x).sum()
        left = y - slope * x
        # A floor for images without noise.
        usual = 1.4826 * np.median(np.abs(left)) + 1e-6
        weights = 1 / np.maximum(1.0, np.abs(left) / usual)
    sums = np.bincount(row, weights * x * left)
    variance = (sums**2).sum() * rows / (rows - 1) + usual**2 * (weights * x * x).sum() / len(x)
    return float(slope), float(np.sqrt(variance) / (weights * x * x).sum())
