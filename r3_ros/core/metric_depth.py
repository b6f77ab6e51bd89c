"""The seam between the engine and whatever tells depth in metres.

It stands beside :mod:`r3_ros.core.predictor`: the engine never touches pixels or weights. A metric
network stands behind it, and the tests put a scripted one here; a depth camera would fit as well.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .datatypes import DepthMap


class MetricDepth(Protocol):
    """Depth of single pictures in metres."""

    def metres(self, depth_map: DepthMap) -> np.ndarray:
        """Return (h, w) float32 metres along the optical axis for the picture of a depth map.

        Pixel for pixel with its depth, which is not looked at; NaN in the sky and where unknown.

        :raises FrameError: nothing can be made of this picture.
        """

    def close(self) -> None:
        """Free the device; it is not used afterwards."""
