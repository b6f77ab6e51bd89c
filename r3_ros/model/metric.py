"""Metres from the metric network: the focal length rule, and what to do with the sky.

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
#: Fewer pixels than this of either class say nothing about it.
_MIN_PIXELS = 10
_FAR_QUANTILE = 0.99


def metric_depth(prediction: MonoDepth, intrinsics: Intrinsics) -> np.ndarray:
    """Return (N, H, W) float32 depth in metres, NaN in the sky.

    :param intrinsics: of the network's input.
    """
    focal_px = (intrinsics.fx + intrinsics.fy) / 2
    metres = prediction.depth.cpu().numpy() * np.float32(focal_px / CANONICAL_FOCAL_PX)
    metres[prediction.sky.cpu().numpy() >= SKY_THRESHOLD] = np.nan
    return metres


def with_far_sky(depth: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return depth (..., H, W) whose sky lies as far as the farthest things do, to look at.

    The far depth is the 0.99 quantile of what is not sky. The authors draw at most 100,000 pixels
    for it; all are taken here, so the answer does not change from call to call.
    """
    is_sky = sky >= SKY_THRESHOLD
    if min(is_sky.sum(), (~is_sky).sum()) <= _MIN_PIXELS:
        return depth.copy()
    far = np.quantile(depth[~is_sky], _FAR_QUANTILE)
    return np.where(is_sky, far, depth).astype(depth.dtype)
