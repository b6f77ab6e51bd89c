"""The shift of one image against another."""

from __future__ import annotations

import cv2
import numpy as np


def shift_between(previous: np.ndarray, current: np.ndarray, shrink: int) -> np.ndarray:
    """Return the (2,) pixels by which most of an image has moved, by phase correlation.

    :param previous: (H, W) uint8 grey, as ``current``.
    :param shrink: how many times smaller the images are made before.
    """
    size = (previous.shape[1] // shrink, previous.shape[0] // shrink)
    small = [
        cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        for image in (previous, current)
    ]
    window = cv2.createHanningWindow(size, cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(small[0], small[1], window)
    return np.array(shift) * shrink
