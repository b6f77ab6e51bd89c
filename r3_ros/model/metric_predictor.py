"""The metric network behind :class:`~r3_ros.metric_depth.MetricDepth`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..datatypes import DepthMap
from ..input.network_input import da3_geometry, DA3Rule, Geometry
from .device_errors import tells_device_errors
from .metric import metric_depth
from .network import MetricNetwork


class MetricPredictor:
    """Depth in metres by DA3METRIC, prepared as Depth Anything 3 prepares pictures."""

    def __init__(
        self, network: MetricNetwork, device: torch.device, rule: DA3Rule | None = None
    ) -> None:
        """Take a loaded network in evaluation mode, on its device."""
        self._network = network
        self._device = device
        self._rule = DA3Rule() if rule is None else rule
        self._geometry = lru_cache(maxsize=4)(self._geometry_of)

    @tells_device_errors
    @torch.inference_mode()
    def metres(self, depth_map: DepthMap) -> np.ndarray:
        """Return (h, w) float32 metres, NaN in the sky and where the answer is not finite.

        :raises FrameError: the picture is too small or too elongated.
        :raises DeviceMemoryError: the device has no memory left.
        :raises DeviceLostError: the device is gone.
        """
        height, width = depth_map.image.shape[:2]
        geometry = self._geometry(width, height)
        # A copy that is ours: torch warns of arrays that must not be written.
        pixels = torch.from_numpy(np.array(geometry.apply(depth_map.image))).to(self._device)
        prediction = self._network(pixels.permute(2, 0, 1)[None])
        metres = metric_depth(prediction, geometry.to_network(depth_map.intrinsics))[0]
        metres[~np.isfinite(metres)] = np.nan
        return _at_source(metres, geometry)

    def close(self) -> None:
        """Do nothing: the weights go with the predictor."""

    def _geometry_of(self, width: int, height: int) -> Geometry:
        return da3_geometry(width, height, self._rule)


def _at_source(values: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the value of the nearest pixel of the network's input for each of the source.

    The nearest, and no mean: between a near and a far pixel, or beside the sky, lies nothing.
    """
    source = np.stack([np.arange(geometry.source_width), np.zeros(geometry.source_width)])
    columns = _to_network(source, geometry)[0]
    source = np.stack([np.zeros(geometry.source_height), np.arange(geometry.source_height)])
    rows = _to_network(source, geometry)[1]
    at_source: np.ndarray = values[
        rows.clip(0, geometry.height - 1)[:, None], columns.clip(0, geometry.width - 1)
    ]
    return at_source


def _to_network(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return (2, N) whole pixels of the network's input for (2, N) pixels of the source."""
    homogeneous = np.concatenate([pixels, np.ones((1, pixels.shape[1]))])
    return np.rint((geometry.pixels_network_source @ homogeneous)[:2]).astype(np.int64)
