"""R3 as :class:`~r3_ros.core.predictor.Predictor` of the engine.

``describe`` runs the blocks that see one frame alone, ``predict`` the rest with the cached keys
and values of the context frames chosen by the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
import math

import numpy as np
import torch

from ..core.config import MemoryConfig, ModelConfig
from ..core.datatypes import (
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
from ..core.error_model import ErrorModel
from ..core.errors import DeviceMemoryError, FrameError, ModelError
from ..core.geometry import inverse, T_from_quat
from ..core.resize_geometry import Geometry, image_size
from ..input.network_input import area_geometry, intrinsics_from_fov, r3_geometry
from .backbone import Tokens
from .cache.frame_memory import CacheBudget, FrameMemory
from .cache.recomputation import Recomputation
from .device_errors import device_errors
from .device_memory import device_memory, empty_cache
from .network import FrameCache, PairNetwork, Prediction
from .variants import CameraOutput

#: Score of an edge whose logits are both 1, the reference before the first edges of a stream.
_FIRST_GUESS = math.log1p(math.e)
#: Nearest keyframes of a saved map with which the keys and values of one are recomputed.
_RESTORED_NEIGHBOURS = 4
#: Frames at the start of a stream, and best edges of each, that set the reference score.
_WARM_UP_FRAMES = 10
_BEST_EDGES = 3
#: Frames in the median field of view of an uncalibrated camera.
_FOV_FRAMES = 30


@dataclass(frozen=True)
class _Described:
    """A frame between ``describe`` and ``predict``."""

    frame_id: int
    pixels: np.ndarray  # (h, w, 3) uint8
    geometry: Geometry
    tokens: Tokens


class R3Predictor:
    """Depth and relative poses by the R3 network.

    Until :meth:`forget`, a frame is held by its cache entry, about 23 MiB at 504 x 280 in bfloat16
    for R3-large, or by its image, from which the entry is recomputed when needed.

    :ivar variant: name of the network, a key of ``model.variants.VARIANTS``.
    :ivar image_size: of the network's input, as ``model.image_size``.
    :ivar error_model: guesses, unless one was fitted to the weights.
    """

    has_pose_token = True

    def __init__(
        self,
        network: PairNetwork,
        info: ModelInfo,
        config: ModelConfig,
        budget: CacheBudget,
        device: torch.device,
        recomputed_per_frame: int = MemoryConfig.recomputed_per_frame,
    ) -> None:
        """Take a network in evaluation mode, on its device.

        :param recomputed_per_frame: entries recomputed for one new frame at most.
        """
        self.info = info
        self.descriptor_size = network.config.backbone.width
        self.error_model = ErrorModel()
        self._network = network
        self._device = device
        self._with_depth = config.depth
        self.variant = network.config.name
        self.image_size = config.image_size
        self._memory = FrameMemory[FrameCache](budget)
        self._recomputation = Recomputation(network, self._memory, device, recomputed_per_frame)
        self._described: _Described | None
        self._warm_up: list[float]
        self._fovs: deque[np.ndarray]
        self._geometry = lru_cache(maxsize=4)(geometry_rule(network, config.image_size))
        self.reset()

    @property
    def capacity(self) -> int | None:
        """Number of frames that fit into the cache; None before the first."""
        return self._memory.capacity

    @property
    def weight_bytes(self) -> int:
        """Size of the network's weights."""
        return sum(parameter.nbytes for parameter in self._network.parameters())

    @property
    def confidence_reference(self) -> float:
        """Score of a good edge: the mean over the best edges of this stream's first frames."""
        return float(np.mean(self._warm_up)) if self._warm_up else _FIRST_GUESS

    @device_errors()
    @torch.inference_mode()
    def describe(self, frame: Frame) -> np.ndarray:
        """Return the (C,) float32 unit descriptor of a frame.

        :raises FrameError: the image cannot be used, or its descriptor is not finite.
        """
        described = self._prepared(frame)
        mean = described.tokens.descriptor[0, 0].float()
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
        """Predict one frame from the cached keys and values of the context frames."""
        described = self._described
        self._described = None
        if described is None or described.frame_id != frame.frame_id:
            described = self._prepared(frame)
        size = described.geometry.height, described.geometry.width
        is_reference = not len(self._memory)
        attended = self._recomputation.available(context_ids, size)
        prediction = self._network.predict(
            described.tokens,
            self._memory.context(attended),
            reference=is_reference,
            depth=self._with_depth and depth,
            camera=self._camera(frame, described.geometry),
        )
        relative, fov, pose_token = _camera_outputs(prediction)
        geometry = described.geometry
        intrinsics, seen = self._intrinsics(frame, geometry, fov)
        # Nothing fails from here on, so an unusable frame leaves no state behind.
        edges = _edges(frame.frame_id, attended, relative)
        self._memory.keep(frame.frame_id, prediction.cache, described.pixels)
        self._recomputation.note(frame.frame_id, attended, is_reference)
        self._fovs.append(fov)
        if edges and len(self._warm_up) < _WARM_UP_FRAMES:
            scores = [0.5 * (e.confidence_translation + e.confidence_rotation) for e in edges]
            self._warm_up.append(max(float(np.mean(sorted(scores)[-_BEST_EDGES:])), 1e-6))
        return FramePrediction(
            intrinsics=frame.intrinsics or geometry.to_source(intrinsics),
            seen_fov_x=math.nan if seen is None else geometry.to_source(seen).fov_x,
            edges=edges,
            depths=self._depths(described, prediction, intrinsics),
            intrinsics_estimated=frame.intrinsics is None,
            pose_token=pose_token,
        )

    def hold_image(self, frame_id: int, image: np.ndarray, neighbours: Sequence[int] = ()) -> None:
        """Hold a frame of another run, to be recomputed in the context of a :meth:`predict`.

        :param image: (H, W, 3) uint8 RGB, undistorted, of the size of the stream.
        :param neighbours: nearby frames that it attends to if they are held.
        :raises FrameError: it is no such image.
        :raises ModelError: the images do not fit into ``memory.max_host_mib``.
        """
        self._recomputation.forget([frame_id])
        self._memory.hold_image(frame_id, self._pixels(image)[0])
        self._recomputation.note(frame_id, neighbours)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop these frames."""
        frame_ids = tuple(frame_ids)
        self._memory.forget(frame_ids)
        self._recomputation.forget(frame_ids)

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...], Intrinsics | None]:
        """Return nothing: :meth:`predict` returns everything."""
        return (), (), None

    def landmarks(self, S_world_camera: Mapping[int, np.ndarray]) -> None:
        """Do nothing: the network has no landmarks."""

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
        """Hold the images of a saved map; entries are recomputed when first needed.

        :raises FrameError: an image cannot be used.
        :raises ModelError: the images do not fit into ``memory.max_host_mib``.
        """
        self.reset()
        centres: dict[int, np.ndarray] = {}
        for known in keyframes:
            centre = known.T_world_camera[:3, 3]
            far = {i: float(np.linalg.norm(other - centre)) for i, other in centres.items()}
            near = sorted(far, key=far.__getitem__)
            self.hold_image(known.frame_id, known.image, near[:_RESTORED_NEIGHBOURS])
            centres[known.frame_id] = centre

    def reset(self) -> None:
        """Drop all frames."""
        self._memory.clear()
        self._recomputation.clear()
        self._described = None
        self._warm_up = []
        self._fovs = deque(maxlen=_FOV_FRAMES)

    @device_errors()
    def close(self) -> None:
        """Free the cache; the weights are freed with the predictor."""
        self.reset()
        empty_cache(self._device)

    def _prepared(self, frame: Frame) -> _Described:
        """Resize the image and run the blocks that see one frame alone."""
        pixels, geometry = self._pixels(frame.image)
        tensor = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        tokens = self._network.describe(tensor.permute(2, 0, 1)[None, None])
        return _Described(frame.frame_id, pixels, geometry, tokens)

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return an image resized for the network, (h, w, 3) uint8, and the geometry."""
        geometry = self._geometry(*image_size(image))
        # Copied: the image may be read-only, or the source may write to it again.
        return np.array(geometry.apply(image)), geometry

    def _camera(self, frame: Frame, geometry: Geometry) -> torch.Tensor | None:
        """Return (1, 4) fx, fy, cx, cy: calibrated, else by the fields of view so far."""
        if frame.intrinsics is not None:
            known = geometry.to_network(frame.intrinsics)
        else:
            vertical, horizontal = np.median(self._fovs, axis=0) if self._fovs else (0.0, 0.0)
            try:
                known = intrinsics_from_fov(vertical, horizontal, geometry.width, geometry.height)
            except FrameError:
                return None
        numbers = [[known.fx, known.fy, known.cx, known.cy]]
        return torch.tensor(numbers, dtype=torch.float32, device=self._device)

    def _intrinsics(
        self, frame: Frame, geometry: Geometry, fov: np.ndarray
    ) -> tuple[Intrinsics, Intrinsics | None]:
        """Return the intrinsics of the network's input: calibrated, else predicted; and predicted.

        :raises FrameError: the field of view is invalid, and the camera is not calibrated.
        """
        vertical, horizontal = np.median([*self._fovs, fov], axis=0)
        known = None if frame.intrinsics is None else geometry.to_network(frame.intrinsics)
        try:
            seen = intrinsics_from_fov(vertical, horizontal, geometry.width, geometry.height)
        except FrameError:
            if known is None:
                raise
            return known, None
        return known or seen, seen

    def _depths(
        self, described: _Described, prediction: Prediction, intrinsics: Intrinsics
    ) -> tuple[DepthMap, ...]:
        if prediction.depth is None or prediction.confidence is None:
            return ()
        maps = torch.stack([prediction.depth[0, 0], prediction.confidence[0, 0]]).cpu().numpy()
        depth, confidence = maps
        bad = ~np.isfinite(maps).all(axis=0)
        depth[bad], confidence[bad] = np.nan, 1.0
        depth_map = DepthMap(described.frame_id, depth, confidence, described.pixels, intrinsics)
        return (depth_map,)


def geometry_rule(network: PairNetwork, image_size: int) -> Callable[[int, int], Geometry]:
    """Return what gives the geometry for images of a width and a height."""
    if network.config.camera is CameraOutput.MATCHES:
        return partial(area_geometry, size=image_size)
    # Square images stay square instead of being cropped.
    return partial(r3_geometry, size=image_size, square_ok=True)


def _camera_outputs(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Copy the pairs, the field of view and the pose token to the host at once.

    :returns: (N, 9) float64 translation, quaternion, both logits; (2,) field of view; (D,)
        float32 unit vector.
    :raises FrameError: a value is not finite.
    """
    # The last row would be the frame against itself.
    columns = prediction.pairs.numbers[0, :-1, 0]  # (N, 9)
    token = prediction.camera_feature[0, 0]
    parts = [columns.flatten(), prediction.fov[0, 0], token / token.norm().clamp_min(1e-12)]
    numbers = torch.cat(parts).cpu().numpy()
    if not np.isfinite(numbers).all():
        raise FrameError(
            "the network's output is not finite: try model.precision fp32, and "
            '`r3 weights check` on the weights'
        )
    pairs_end, fov_end = columns.numel(), columns.numel() + 2
    relative = numbers[:pairs_end].astype(np.float64).reshape(-1, 9)
    return relative, numbers[pairs_end:fov_end].astype(np.float64), numbers[fov_end:]


def _edges(frame_id: int, context_ids: Sequence[int], relative: np.ndarray) -> tuple[Edge, ...]:
    """Return the edges ``T_i_frame`` from pairs ``T_frame_i``."""
    lengths = np.linalg.norm(relative[:, 3:7], axis=1)
    T_frame_context = T_from_quat(
        relative[:, :3], np.where(lengths[:, None] > 0, relative[:, 3:7], [0.0, 0.0, 0.0, 1.0])
    )
    T_context_frame = inverse(T_frame_context)
    scores = np.logaddexp(0.0, relative[:, 7:])  # softplus
    return tuple(
        Edge(source_id, frame_id, T_context_frame[n], float(scores[n, 0]), float(scores[n, 1]))
        for n, source_id in enumerate(context_ids)
        if lengths[n] > 0  # else there is no rotation
    )
