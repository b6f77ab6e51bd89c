"""The interface to a source of depth in metres: a metric network, or a depth camera."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .datatypes import DepthMap


class MetricDepth(Protocol):
    """Depth of single images in metres."""

    def metres(self, depth_map: DepthMap) -> np.ndarray:
        """Return (h, w) float32 metres along the optical axis for the image of a depth map.

        NaN in the sky and where unknown. The depth itself is not used.

        :raises FrameError: the image cannot be used.
        """

    def close(self) -> None:
        """Free the device."""
