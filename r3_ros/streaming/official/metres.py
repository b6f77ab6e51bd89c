"""The scale of the first segment in metres: at once from one frame, then from several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...frame_relations import MetricNetwork
from .options import MetricOptions
from .scale import metric_scale
from .segment import Remembered, Segment

#: A change of scale that is not worth it.
_SAME = 1e-4


class Metres:
    """Asks the metric network."""

    def __init__(self, network: MetricNetwork, options: MetricOptions) -> None:
        """Begin with nothing pooled."""
        self._network = network
        self._options = options
        self._pooled: list[Remembered] = []
        self._done = options.bootstrap_frames < 2

    def per_unit(self, frames: Sequence[Remembered]) -> float | None:
        """Return metres per unit of the network's depth, None if no pixel says so."""
        metric = self._network([frame.picture for frame in frames])
        depth = np.stack([frame.view.depth for frame in frames])
        confidence = np.stack([frame.view.confidence for frame in frames])
        return metric_scale(metric, depth, confidence, self._options.min_confidence)

    def after_frame(self, segment: Segment, frame: int, seen: Remembered) -> None:
        """Set the scale of the segment at the first frame, and correct it when all are there.

        Poses and depths already given out are not corrected.
        """
        if frame == 0:
            scale = self.per_unit([seen])
            if scale is not None:
                segment.scale = scale
        if self._done:
            return
        self._pooled.append(seen)
        if len(self._pooled) < self._options.bootstrap_frames:
            return
        scale = self.per_unit(self._pooled)
        if scale is not None and abs(scale / segment.scale - 1) > _SAME:
            segment.rescale(scale / segment.scale)
        self.finish()

    def finish(self) -> None:
        """Pool no more: a new segment has a scale of its own."""
        self._done = True
        self._pooled = []
