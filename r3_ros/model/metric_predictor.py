"""Depth in metres by the metric network of Depth Anything 3 (arXiv 2511.10647)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..core.datatypes import DepthMap, Intrinsics
from ..core.resize_geometry import Geometry
from ..input.network_input import da3_geometry
from .depth_head import MonoDepth
from .device_errors import device_errors
from .network import MetricNetwork

#: Focal length, in pixels of the network's input, at which the raw depth is in metres.
CANONICAL_FOCAL_PX = 300.0
#: Pixels with at least this output are sky.
SKY_THRESHOLD = 0.3


class MetricPredictor:
    """DA3METRIC as :class:`~r3_ros.core.predictor.MetricDepth`."""

    def __init__(self, network: MetricNetwork, device: torch.device) -> None:
        self._network = network
        self._device = device
        self._geometry = lru_cache(maxsize=4)(da3_geometry)

    @device_errors()
    @torch.inference_mode()
    def metres(self, depth_map: DepthMap) -> np.ndarray:
        """Return (h, w) float32 metres, NaN in the sky and where the output is not finite.

        :raises FrameError: the image is too small or too elongated.
        :raises DeviceMemoryError: the device has no memory left.
        :raises DeviceLostError: the device is lost.
        """
        height, width = depth_map.image.shape[:2]
        geometry = self._geometry(width, height)
        # Copied: torch warns of read-only arrays.
        pixels = torch.from_numpy(np.array(geometry.apply(depth_map.image))).to(self._device)
        prediction = self._network(pixels.permute(2, 0, 1)[None])
        metres = metric_depth(prediction, geometry.to_network(depth_map.intrinsics))[0]
        metres[~np.isfinite(metres)] = np.nan
        return _at_source(metres, geometry)

    def close(self) -> None:
        """Do nothing: the weights are freed with the predictor."""


def metric_depth(prediction: MonoDepth, intrinsics: Intrinsics) -> np.ndarray:
    """Return (N, H, W) float32 depth in metres, NaN in the sky.

    :param intrinsics: of the network's input.
    """
    focal_px = (intrinsics.fx + intrinsics.fy) / 2
    metres = prediction.depth.cpu().numpy() * np.float32(focal_px / CANONICAL_FOCAL_PX)
    metres[prediction.sky.cpu().numpy() >= SKY_THRESHOLD] = np.nan
    return metres


def _at_source(values: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the nearest pixel of the network's input for each pixel of the source.

    Depth must not be interpolated across edges or into the sky.
    """
    network_source = geometry.pixels_network_source
    columns = _scaled(np.arange(geometry.source_width), network_source[0, [0, 2]], geometry.width)
    rows = _scaled(np.arange(geometry.source_height), network_source[1, 1:], geometry.height)
    at_source: np.ndarray = values[rows[:, None], columns]
    return at_source


def _scaled(pixels: np.ndarray, scale_offset: np.ndarray, size: int) -> np.ndarray:
    scale, offset = scale_offset
    return np.rint(scale * pixels + offset).astype(np.int64).clip(0, size - 1)
