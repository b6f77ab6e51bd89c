"""What predictors with a network share: image to input, intrinsics, held frames, the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
import math
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from ..core.config import ModelConfig
from ..core.datatypes import DepthMap, DeviceMemory, Edge, Frame, Intrinsics, ModelInfo
from ..core.error_model import ErrorModel
from ..core.errors import DeviceMemoryError, FrameError, ModelError
from ..core.resize_geometry import Geometry, image_size
from ..input.network_input import intrinsics_from_fov
from .cache.frame_memory import FrameMemory
from .device_errors import device_errors
from .transfers import fetched, uploaded

NOT_FINITE = (
    "the network's output is not finite: try model.precision fp32, and `r3 weights check` on the "
    'weights'
)
NO_POSE = (
    'the network has no pose for this frame: its answers contradict one another, so the frame is '
    'left out'
)
#: Frames in the median field of view of an uncalibrated camera.
_FOV_FRAMES = 30

FeaturesT = TypeVar('FeaturesT')


@dataclass(frozen=True)
class Described(Generic[FeaturesT]):
    """A frame after the layers that see it alone.

    :ivar pixels: (h, w, 3) uint8, prepared for the network.
    :ivar descriptor: (C,) of any length.
    """

    frame_id: int
    pixels: np.ndarray
    geometry: Geometry
    features: FeaturesT
    descriptor: torch.Tensor


class NetworkPredictor(ABC, Generic[FeaturesT]):
    """The base of the predictors of a stream that have a network.

    :ivar network: in evaluation mode, on its device.
    :ivar weight_bytes: size of its weights.
    :ivar image_size: of the network's input, as ``model.image_size``.
    :ivar error_model: guesses, unless one was fitted to the weights.
    """

    has_pose_token = False
    start_advice = 'move slowly, so that images overlap, and try `r3 weights check` on the weights'

    def __init__(
        self,
        network: torch.nn.Module,
        info: ModelInfo,
        config: ModelConfig,
        memory: FrameMemory[Any],
        device: torch.device,
        geometry: Callable[[int, int], Geometry],
    ) -> None:
        """Take a network in evaluation mode, on its device.

        :param geometry: how images of a width and a height are prepared.
        """
        self.info = info
        self.network = network
        self.weight_bytes = sum(parameter.nbytes for parameter in network.parameters())
        self.error_model = ErrorModel()
        self.image_size = config.image_size
        self._device = device
        self._memory = memory
        self._geometry = lru_cache(maxsize=4)(geometry)
        self._described: Described[FeaturesT] | None = None
        self._fovs: deque[np.ndarray] = deque(maxlen=_FOV_FRAMES)

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit into the cache; None before the first."""
        return self._memory.capacity

    @property
    def context_bytes(self) -> int:
        """Size of what is cached of the frames of the largest context so far."""
        return self._memory.context_bytes

    @device_errors()
    @torch.inference_mode()
    def describe(self, frame: Frame) -> np.ndarray:
        """Return the (C,) float32 unit descriptor of a frame.

        :raises FrameError: the image cannot be used, or its descriptor is not finite.
        """
        described = self._prepared(frame)
        mean = described.descriptor.float()
        descriptor = fetched(mean / mean.norm())
        if not np.isfinite(descriptor).all():
            raise FrameError(
                'the descriptor of the image is not finite: its pixels, or the weights, '
                'cannot be used'
            )
        self._described = described
        return descriptor

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...], Intrinsics | None]:
        """Return nothing: ``predict`` returns everything."""
        return (), (), None

    def landmarks(self, S_world_camera: Mapping[int, np.ndarray]) -> None:
        """Do nothing: networks have no landmarks."""

    @device_errors()
    @torch.inference_mode()
    def shrink(self) -> None:
        """Halve the part of the cache on the device, and free the memory that torch caches."""
        self._described = None
        self._empty_torch_cache()
        try:
            self._memory.shrink()
        except ModelError as error:
            raise DeviceMemoryError(f'the cache cannot be made smaller: {error}') from error
        self._empty_torch_cache()

    def device_memory(self) -> DeviceMemory | None:
        """Return the use of the device's memory; None on a CPU."""
        device = self._device
        if device.type != 'cuda':
            return None
        try:
            free, _ = torch.cuda.mem_get_info(device)
            return DeviceMemory(
                device=torch.cuda.get_device_name(device),
                used=torch.cuda.memory_allocated(device),
                reserved=torch.cuda.memory_reserved(device),
                peak=torch.cuda.max_memory_allocated(device),
                free=free,
            )
        except RuntimeError:
            return None  # the device is lost; the next frame raises the error

    def operation_by_operation(self) -> AbstractContextManager[None]:
        """Return a context in which steps call each operation, so that it can be counted."""
        return nullcontext()

    def reset(self) -> None:
        """Drop all frames."""
        self._memory.clear()
        self._described = None
        self._fovs.clear()

    @device_errors()
    def close(self) -> None:
        """Free the cache; the weights are freed with the predictor."""
        self.reset()
        self._empty_torch_cache()

    @abstractmethod
    def _encoded(self, images: torch.Tensor) -> tuple[FeaturesT, torch.Tensor]:
        """Run the layers that see one frame alone on one (1, 3, h, w) uint8 image.

        :returns: the features, and the (C,) descriptor.
        """

    def _prepared(self, frame: Frame) -> Described[FeaturesT]:
        pixels, geometry = self._pixels(frame.image)
        features, descriptor = self._encoded(self._tensor(pixels))
        return Described(frame.frame_id, pixels, geometry, features, descriptor)

    def _taken(self, frame: Frame) -> Described[FeaturesT]:
        """Return the frame as it was described last, or describe it now."""
        described = self._described
        self._described = None
        if described is None or described.frame_id != frame.frame_id:
            described = self._prepared(frame)
        return described

    def _tensor(self, pixels: np.ndarray) -> torch.Tensor:
        """Return a (h, w, 3) image as (1, 3, h, w) on the device."""
        return uploaded(pixels, self._device).permute(2, 0, 1)[None]

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return an image resized for the network, (h, w, 3) uint8, and the geometry."""
        geometry = self._geometry(*image_size(image))
        # Copied: the image may be read-only, or the source may write to it again.
        return np.array(geometry.apply(image)), geometry

    def _intrinsics(
        self, frame: Frame, geometry: Geometry, fov: np.ndarray
    ) -> tuple[Intrinsics, float]:
        """Return the intrinsics of the network's input: calibrated, else predicted.

        :returns: and the horizontal field of view of the image by the network, NaN if invalid.
        :raises FrameError: the field of view is invalid, and the camera is not calibrated.
        """
        vertical, horizontal = np.median([*self._fovs, fov], axis=0)
        known = None if frame.intrinsics is None else geometry.to_network(frame.intrinsics)
        try:
            seen = intrinsics_from_fov(vertical, horizontal, geometry.width, geometry.height)
        except FrameError:
            if known is None:
                raise
            return known, math.nan
        return known or seen, geometry.to_source(seen).fov_x

    def _empty_torch_cache(self) -> None:
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()


def finite_depth(
    frame_id: int, maps: np.ndarray, pixels: np.ndarray, intrinsics: Intrinsics
) -> DepthMap:
    """Return the depth map of (2, h, w) depth and confidence; see :func:`finite`."""
    return DepthMap(frame_id, *finite(maps), pixels, intrinsics)


def finite(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return depth and confidence (..., h, w) of both in one array, changed in place.

    NaN, with confidence 1, where either is not finite.
    """
    depth, confidence = maps
    bad = ~np.isfinite(maps).all(axis=0)
    depth[bad], confidence[bad] = np.nan, 1.0
    return depth, confidence
