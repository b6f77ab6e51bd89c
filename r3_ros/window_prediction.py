"""The seam between offline reconstruction and what predicts a window of pictures at once.

All pictures of a window see one another, so nothing is held from one call to the next. R3's
network stands behind this protocol, and the tests put a scripted predictor here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .datatypes import ModelInfo
from .input_geometry import Geometry


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """What a predictor says of S pictures that it saw together, as R3 writes it.

    Rows are sources, columns targets, and an encoding (:mod:`~r3_ros.pose_encoding`) takes the
    source's camera coordinates to the target's. All lengths are in one unit, the window's own.

    :ivar relative: (S, S, 7) float64 translation and unit quaternion of ``T_target_source``; NaN
        where nothing was predicted.
    :ivar logits: (S, S, 2) float64, confidence of translation and of rotation.
    :ivar predicted: (S, S) bool.
    :ivar fov: (S, 2) field of view in radians, vertical then horizontal.
    :ivar depth: (S, h, w) float32, ``confidence`` likewise; None where no depth was asked for.
    """

    relative: np.ndarray
    logits: np.ndarray
    predicted: np.ndarray
    fov: np.ndarray
    depth: np.ndarray | None = None
    confidence: np.ndarray | None = None


class WindowPredictor(Protocol):
    """Depth and relative poses of pictures that see one another."""

    #: What it is and where it runs.
    info: ModelInfo

    def geometry(self, width: int, height: int) -> Geometry:
        """Return what becomes of pictures of one size before they are given to it.

        :raises FrameError: a size that cannot be used.
        """

    def most_frames(self, width: int, height: int) -> int:
        """Return how many pictures of a prepared size fit into memory at once, at least 0."""

    def describe(self, picture: np.ndarray) -> np.ndarray:
        """Return a (C,) float32 unit vector telling what a prepared picture looks like."""

    def predict(self, pictures: Sequence[np.ndarray]) -> WindowPrediction:
        """Relate all pictures to one another; the first one is their reference.

        :param pictures: (h, w, 3) uint8 RGB each, prepared, all of one size.
        :raises ModelError: memory ran out, or the answer is not finite.
        """

    def close(self) -> None:
        """Free the device; the predictor is not used afterwards."""
