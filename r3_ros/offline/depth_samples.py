"""A few depth maps of a run, for its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..core.datatypes import DepthMap

MOST_SAMPLES = 6
#: Pixels; larger depth maps are thinned.
_WIDTH = 240


@dataclass(frozen=True, eq=False)
class DepthSample:
    """A thinned depth map: fields as of :class:`DepthMap`."""

    frame_id: int
    depth: np.ndarray
    confidence: np.ndarray
    image: np.ndarray


class DepthSamples:
    """Keeps depth maps that lie evenly over those of a run, in bounded memory."""

    def __init__(self) -> None:
        self._kept: list[DepthSample] = []
        self._seen = 0
        self._every = 1

    def note(self, depths: Iterable[DepthMap | DepthSample]) -> None:
        """Add the next depth maps of the run."""
        for depth_map in depths:
            if self._seen % self._every == 0:
                self._kept.append(_thinned(depth_map))
            self._seen += 1
            if len(self._kept) > 2 * MOST_SAMPLES:
                self._kept = self._kept[::2]
                self._every *= 2

    def rescale(self, scales: Mapping[int, float]) -> None:
        """Multiply depth by a scale for each frame; those without one are dropped."""
        self._kept = [
            replace(d, depth=d.depth * np.float32(scales[d.frame_id]))
            for d in self._kept
            if d.frame_id in scales
        ]

    def chosen(self) -> list[DepthSample]:
        """Return at most :data:`MOST_SAMPLES` of them, in the order of the run."""
        count = min(MOST_SAMPLES, len(self._kept))
        rows = np.linspace(0, len(self._kept) - 1, count).round().astype(int)
        return [self._kept[row] for row in rows]


def _thinned(depth_map: DepthMap | DepthSample) -> DepthSample:
    step = -(-depth_map.depth.shape[1] // _WIDTH)
    depth = depth_map.depth[::step, ::step].copy()
    confidence = depth_map.confidence[::step, ::step].copy()
    image = cv2.resize(depth_map.image, depth.shape[::-1], interpolation=cv2.INTER_AREA)
    return DepthSample(depth_map.frame_id, depth, confidence, image)
