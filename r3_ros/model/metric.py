"""Metres from the metric network, by the focal length rule.

Source: Depth Anything 3 (arXiv 2511.10647). The network answers as if the focal length of its
input were 300 pixels.
"""

from __future__ import annotations

import numpy as np

from ..datatypes import Intrinsics
from .depth_head import MonoDepth

#: Focal length, in pixels of the network's input, at which the raw depth is in metres.
CANONICAL_FOCAL_PX = 300.0
#: Pixels with at least this answer are sky.
SKY_THRESHOLD = 0.3


def metric_depth(prediction: MonoDepth, intrinsics: Intrinsics) -> np.ndarray:
    """Return (N, H, W) float32 depth in metres, NaN in the sky.

    :param intrinsics: of the network's input.
    """
    focal_px = (intrinsics.fx + intrinsics.fy) / 2
    metres = prediction.depth.cpu().numpy() * np.float32(focal_px / CANONICAL_FOCAL_PX)
    metres[prediction.sky.cpu().numpy() >= SKY_THRESHOLD] = np.nan
    return metres
