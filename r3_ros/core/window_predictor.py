"""The interface of predictors that process a window of images at once, for offline runs.

All images of a window see one another, so no state is kept between calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .datatypes import ModelInfo
from .resize_geometry import Geometry


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """The prediction for S images processed together.

    Rows are sources, columns targets, and an encoding (:mod:`~r3_ros.core.pose_encoding`) takes
    the source's camera coordinates to the target's. All lengths are in one unit, the window's own.

    :ivar relative: (S, S, 7) float64 translation and unit quaternion of ``T_target_source``; NaN
        where nothing was predicted.
    :ivar logits: (S, S, 2) float64, confidence of translation and of rotation.
    :ivar predicted: (S, S) bool.
    :ivar fov: (S, 2) field of view in radians, vertical then horizontal.
    :ivar depth: (S, h, w) float32, ``confidence`` likewise; None if depth is switched off.
    """

    relative: np.ndarray
    logits: np.ndarray
    predicted: np.ndarray
    fov: np.ndarray
    depth: np.ndarray | None = None
    confidence: np.ndarray | None = None


class WindowPredictor(Protocol):
    """Depth and relative poses of images that see one another."""

    info: ModelInfo

    def geometry(self, width: int, height: int) -> Geometry:
        """Return how images of one size are prepared for :meth:`predict`.

        :raises FrameError: a size that cannot be used.
        """

    def most_frames(self, width: int, height: int) -> int:
        """Return how many prepared images of a size fit into memory at once, at least 0."""

    def describe(self, image: np.ndarray) -> np.ndarray:
        """Return the descriptor of a prepared image, a (C,) float32 unit vector."""

    def predict(self, images: Sequence[np.ndarray]) -> WindowPrediction:
        """Relate all images to one another; the first one is their reference.

        :param images: (h, w, 3) uint8 RGB each, prepared, all of one size.
        :raises ModelError: memory ran out, or the output is not finite.
        """

    def close(self) -> None:
        """Free the device."""
