"""Networks of image pairs as :class:`~r3_ros.core.predictor.Predictor` of the engine.

A frame is encoded once, in ``describe``. ``predict`` runs the decoder for the frame and each
context frame: the time of a step grows with the context (``stream.*``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
import math

import numpy as np
import torch

from ...core.config import MemoryConfig, ModelConfig
from ...core.datatypes import (
    DepthMap,
    DeviceMemory,
    Edge,
    Frame,
    FramePrediction,
    Intrinsics,
    KnownKeyframe,
    ModelInfo,
    SparseLandmarks,
)
from ...core.error_model import ErrorModel
from ...core.errors import DeviceMemoryError, FrameError, ModelError
from ...core.resize_geometry import Geometry, image_size
from ...input.network_input import r3_geometry
from ..cache.frame_memory import CacheBudget, FrameMemory
from ..device_errors import device_errors
from ..device_memory import device_memory, empty_cache
from ..multi_view import FrameFeatures
from .croco import PointNetwork, PoseNetwork
from .heads import PATCH
from .point_pairs import GRID, relate_points, RelatedFrame
from .pose_pairs import PairWorld, relate_poses

#: Frames in the median focal length of an uncalibrated camera.
_FOCAL_FRAMES = 30


@dataclass(frozen=True)
class _Described:
    """A frame between ``describe`` and ``predict``."""

    frame_id: int
    pixels: np.ndarray  # (h, w, 3) uint8
    geometry: Geometry
    features: FrameFeatures


class PairPredictor:
    """Relative poses, and depth if the network has it, by a network of image pairs.

    The unit of DUSt3R is about the distance of the first scene, that of MASt3R about a metre, that
    of Reloc3r the first step of the camera. Until :meth:`forget`, a frame is held by its encoded
    image, 3 MiB at 512 x 384, or by its image, which is encoded again when needed; and by its
    depth at every fourth row and column.

    :ivar image_size: of the network's input, as ``model.image_size``.
    :ivar error_model: guesses, unless one was fitted to the weights.
    :ivar confidence_reference: the scores of point maps are shares of points that agree.
    """

    has_pose_token = False
    confidence_reference = 0.9

    def __init__(
        self,
        network: PointNetwork | PoseNetwork,
        info: ModelInfo,
        config: ModelConfig,
        budget: CacheBudget,
        device: torch.device,
        recomputed_per_frame: int = MemoryConfig.recomputed_per_frame,
    ) -> None:
        """Take a network in evaluation mode, on its device.

        :param recomputed_per_frame: images encoded again for one new frame at most.
        """
        self.info = info
        self.descriptor_size = network.config.encoder_width
        self.error_model = ErrorModel()
        self.image_size = config.image_size
        self._network = network
        self._device = device
        self._with_depth = config.depth
        self._encoded_per_frame = recomputed_per_frame
        self._memory = FrameMemory[FrameFeatures](budget)
        rule = partial(r3_geometry, size=config.image_size, square_ok=True, patch=PATCH)
        self._geometry = lru_cache(maxsize=4)(rule)
        self._described: _Described | None
        self.reset()

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit into the cache; None before the first."""
        return self._memory.capacity

    @device_errors()
    @torch.inference_mode()
    def describe(self, frame: Frame) -> np.ndarray:
        """Return the (C,) float32 unit descriptor of a frame, the mean over its tokens.

        :raises FrameError: the image cannot be used, or its descriptor is not finite.
        """
        described = self._prepared(frame)
        mean = described.features.descriptor[0].float()
        descriptor: np.ndarray = (mean / mean.norm()).cpu().numpy()
        if not np.isfinite(descriptor).all():
            raise FrameError(
                'the descriptor of the image is not finite: its pixels, or the weights, '
                'cannot be used'
            )
        self._described = described
        return descriptor

    @device_errors()
    @torch.inference_mode()
    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate one frame to each context frame.

        :raises FrameError: the camera is not calibrated, and the network gives no focal length.
        """
        described = self._described
        self._described = None
        if described is None or described.frame_id != frame.frame_id:
            described = self._prepared(frame)
        geometry = described.geometry
        known = None if frame.intrinsics is None else geometry.to_network(frame.intrinsics)
        context = self._context(context_ids, described)
        edges: Sequence[Edge]
        depths: tuple[DepthMap, ...] = ()
        if isinstance(self._network, PoseNetwork):
            if known is None:
                raise FrameError(
                    f'{self.info.name} does not estimate the focal length: give the calibration '
                    'of the camera'
                )
            camera, seen = known, None
            pairs = relate_poses(self._network, described.features, context)
            edges = self._world.edges(frame.frame_id, pairs)
        else:
            related = relate_points(
                self._network, frame.frame_id, described.features, context, self._depths, known
            )
            seen = self._seen_camera(related, geometry)
            camera, edges = known or seen, related.edges
            self._depths[frame.frame_id] = related.depth[::GRID, ::GRID].copy()
            if depth and self._with_depth:
                depths = (_depth_map(described, related, camera),)
        # Nothing fails from here on, so an unusable frame leaves no state behind.
        self._memory.keep(frame.frame_id, described.features, described.pixels)
        return FramePrediction(
            intrinsics=frame.intrinsics or geometry.to_source(camera),
            seen_fov_x=math.nan if seen is None else geometry.to_source(seen).fov_x,
            edges=tuple(edges),
            depths=depths,
            intrinsics_estimated=frame.intrinsics is None,
        )

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop these frames."""
        frame_ids = tuple(frame_ids)
        self._memory.forget(frame_ids)
        self._world.forget(frame_ids)
        for frame_id in frame_ids:
            self._depths.pop(frame_id, None)

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...], Intrinsics | None]:
        """Return nothing: :meth:`predict` returns everything."""
        return (), (), None

    def landmarks(self, S_world_camera: Mapping[int, np.ndarray]) -> None:
        """Do nothing: the networks have no landmarks."""

    @device_errors()
    @torch.inference_mode()
    def shrink(self) -> None:
        """Halve the part of the cache on the device, and free the memory that torch caches."""
        self._described = None
        empty_cache(self._device)
        try:
            self._memory.shrink()
        except ModelError as error:
            raise DeviceMemoryError(f'the cache cannot be made smaller: {error}') from error
        empty_cache(self._device)

    def device_memory(self) -> DeviceMemory | None:
        """Return the use of the device's memory; None on a CPU."""
        return device_memory(self._device)

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold the images of a saved map; they are encoded when first needed.

        :raises FrameError: an image cannot be used.
        :raises ModelError: the images do not fit into ``memory.max_host_mib``.
        """
        self.reset()
        for known in keyframes:
            self._memory.hold_image(known.frame_id, self._pixels(known.image)[0])
            self._world.place(known.frame_id, known.T_world_camera)

    def reset(self) -> None:
        """Drop all frames."""
        self._memory.clear()
        self._described = None
        self._depths: dict[int, np.ndarray] = {}
        self._world = PairWorld()
        self._focals: deque[float] = deque(maxlen=_FOCAL_FRAMES)

    @device_errors()
    def close(self) -> None:
        """Free the cache; the weights are freed with the predictor."""
        self.reset()
        empty_cache(self._device)

    def _prepared(self, frame: Frame) -> _Described:
        pixels, geometry = self._pixels(frame.image)
        return _Described(frame.frame_id, pixels, geometry, self._encoded(pixels))

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return an image resized for the network, (h, w, 3) uint8, and the geometry."""
        geometry = self._geometry(*image_size(image))
        # Copied: the image may be read-only, or the source may write to it again.
        return np.array(geometry.apply(image)), geometry

    def _encoded(self, pixels: np.ndarray) -> FrameFeatures:
        tensor = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        return self._network.encode(tensor.permute(2, 0, 1)[None])

    def _context(
        self, frame_ids: Sequence[int], described: _Described
    ) -> dict[int, FrameFeatures]:
        """Return the encoded context frames, after encoding some of which only images are held.

        :raises FrameError: they are of another size than the new frame.
        """
        missing = [i for i in frame_ids if not self._memory.in_full(i)]
        for frame_id in missing[: self._encoded_per_frame]:
            self._memory.keep(frame_id, self._encoded(self._memory.image(frame_id)))
        full = [i for i in frame_ids if self._memory.in_full(i)]
        joined = self._memory.context(full)
        if joined is None:
            return {}
        size, new = (joined.rows, joined.columns), described.features
        if size != (new.rows, new.columns):
            raise FrameError(
                f'the image has {new.columns}x{new.rows} patches when resized for the network, '
                f'and held ones have {size[1]}x{size[0]}: the shape of the images and '
                'model.image_size must not change'
            )
        return {
            frame_id: joined.mapped(partial(torch.narrow, dim=0, start=n, length=1))
            for n, frame_id in enumerate(full)
        }

    def _seen_camera(self, related: RelatedFrame, geometry: Geometry) -> Intrinsics:
        """Return the intrinsics of the network's input by the median focal length so far.

        :raises FrameError: there is none.
        """
        if related.focals:
            self._focals.append(float(np.median(related.focals)))
        if not self._focals:
            raise FrameError(
                'the network gives no focal length for this image: its points are not in front '
                'of a camera'
            )
        focal = float(np.median(self._focals))
        width, height = geometry.width, geometry.height
        return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def _depth_map(described: _Described, related: RelatedFrame, camera: Intrinsics) -> DepthMap:
    depth, confidence = related.depth, related.confidence.copy()
    confidence[~np.isfinite(depth) | ~np.isfinite(confidence)] = 1.0
    return DepthMap(described.frame_id, depth, confidence, described.pixels, camera)
