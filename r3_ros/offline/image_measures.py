"""Numbers that tell how well a camera can be tracked by the images of a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import math
from typing import NamedTuple

import cv2
import numpy as np

from ..classical.features import coverage, find_corners, track_fast, working_image
from ..classical.readout import Deformation, deformation_of
from ..core.datatypes import Frame
from ..input.source import RawFrame
from ..streaming.image_check import ImageCheck

#: Corners in an image: several in each cell that :func:`coverage` counts.
_CORNERS = 300
#: Least standard deviation of the grey levels around a corner that noise does not make.
_LEAST_CONTRAST = 4.0
#: Side of that surrounding, and sigma of the smoothing that removes noise, in pixels.
_SURROUNDING, _SMOOTHING_PX = 15, 1.0
#: Levels from which on a pixel is overexposed.
_WHITE = 250
#: Sigma of the blur that an image is compared with for its sharpness, in pixels.
_REFERENCE_BLUR_PX = 2.0


class ImageMeasures(NamedTuple):
    """The measures of one image, and of the motion since the one before.

    :ivar size: width and height in pixels.
    :ivar brightness: mean grey level, 0 to 255.
    :ivar white: share of overexposed pixels.
    :ivar sharpness: gradients over those of the image blurred by two pixels, along the axis where
        that is less; 1 is the least. Blur by motion acts along one axis.
    :ivar texture: share of an 8 x 6 grid over the image that has corners.
    :ivar followed: share of the corners of the image before that are found again; NaN in the first
        image, and where the image before has none.
    :ivar flow: median motion of these, over the width of the image; NaN if there are none.
    :ivar fault: why the engine takes no pose from the image; empty if it does.
    :ivar repeated: the pixels are those of the image before.
    :ivar deformation: since the image before.
    """

    stamp_ns: int
    size: tuple[int, int]
    brightness: float
    white: float
    sharpness: float
    texture: float
    followed: float
    flow: float
    fault: str
    repeated: bool
    deformation: Deformation


def measure_images(frames: Iterable[RawFrame], max_frozen_s: float) -> Iterator[ImageMeasures]:
    """Measure each image; holds two images at a time.

    :param max_frozen_s: longest time for which one image may repeat.
    """
    check = ImageCheck()
    before, corners = np.empty((0, 0), np.uint8), np.empty((0, 2), np.float32)
    for raw in frames:
        gray = working_image(raw.image)
        height, width = gray.shape
        followed, flow, repeated, deformation = math.nan, math.nan, False, Deformation()
        if before.shape == gray.shape:
            repeated = np.array_equal(before, gray)
            if len(corners):
                ends, ok = track_fast(before, gray, corners, corners)
                followed = float(ok.mean())
                if ok.any():
                    moved = np.linalg.norm(ends[ok] - corners[ok], axis=1)
                    flow = float(np.median(moved)) / width
                deformation = deformation_of(corners[ok], ends[ok], gray.shape)
        corners = _clear_corners(gray)
        yield ImageMeasures(
            stamp_ns=raw.stamp_ns,
            size=(raw.image.shape[1], raw.image.shape[0]),
            brightness=float(gray.mean()),
            white=float((gray >= _WHITE).mean()),
            sharpness=_sharpness(gray),
            texture=coverage(corners, width, height),
            followed=followed,
            flow=flow,
            fault=check.fault(Frame(raw.image, raw.stamp_ns), max_frozen_s),
            repeated=repeated,
            deformation=deformation,
        )
        before = gray


def _clear_corners(gray: np.ndarray) -> np.ndarray:
    """Return the (N, 2) float32 corners that stand out from noise."""
    distance = max(5.0, 0.42 * math.sqrt(gray.size / _CORNERS))
    corners = find_corners(gray, _CORNERS, np.empty((0, 2)), distance)
    smooth = cv2.GaussianBlur(gray, (0, 0), _SMOOTHING_PX)
    side = (_SURROUNDING, _SURROUNDING)
    mean = cv2.boxFilter(smooth, cv2.CV_32F, side)
    variance = cv2.sqrBoxFilter(smooth, cv2.CV_32F, side) - mean * mean
    x, y = np.rint(corners).astype(int).T
    return corners[variance[y, x] > _LEAST_CONTRAST**2]


def _sharpness(gray: np.ndarray) -> float:
    blurred = cv2.GaussianBlur(gray, (0, 0), _REFERENCE_BLUR_PX)
    shares = []
    for axis in ((1, 0), (0, 1)):
        gradients = [float(cv2.norm(cv2.Sobel(i, cv2.CV_16S, *axis), cv2.NORM_L1))
                     for i in (gray, blurred)]  # fmt: skip
        shares.append(gradients[0] / max(gradients[1], 1.0))
    return min(shares)
