"""R3 as :class:`~r3_ros.core.predictor.Predictor` of the engine.

``describe`` runs the blocks that see one frame alone, ``predict`` the rest with the cached keys
and values of the context frames chosen by the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

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
from .network import FrameCache, PairNetwork, Prediction
from .step_graphs import StepGraphs
from .transfers import fetched, uploaded
from .variants import CameraOutput

_Result = TypeVar('_Result')

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
    descriptor: Tensor  # (C,) float32 unit vector


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
        self._memory = FrameMemory(budget)
        self._recomputation = Recomputation(network, self._memory, device, recomputed_per_frame)
        self._token_size = network.config.backbone.feature_width
        self._graphs: StepGraphs | None = None
        if config.cuda_graphs and device.type == 'cuda':
            self._graphs = StepGraphs()
        self._input: dict[tuple[int, int], Tensor] = {}  # of the graphs, by size
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
        descriptor = fetched(described.descriptor)
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
        context, places = self._memory.context(attended)
        with_depth = self._with_depth and depth

        def related() -> tuple[Tensor, FrameCache]:
            prediction = self._network.predict(
                described.tokens,
                context,
                reference=is_reference,
                depth=with_depth,
                camera=self._camera(frame, described.geometry),
            )
            return _packed(prediction), prediction.cache

        entry: FrameCache | None = None
        if context is None:
            packed, entry = related()
        else:
            packed, _ = self._run((size, len(attended), is_reference, with_depth), related)
        output = _unpacked(fetched(packed), self._token_size, len(attended), size)
        geometry = described.geometry
        intrinsics, seen = self._intrinsics(frame, geometry, output.fov)
        # Nothing fails from here on, so an unusable frame leaves no state behind.
        edges = _edges(frame.frame_id, attended, output.relative[places])
        self._memory.keep(frame.frame_id, entry, described.pixels)
        self._recomputation.note(frame.frame_id, attended, is_reference)
        self._fovs.append(output.fov)
        if edges and len(self._warm_up) < _WARM_UP_FRAMES:
            scores = [0.5 * (e.confidence_translation + e.confidence_rotation) for e in edges]
            self._warm_up.append(max(float(np.mean(sorted(scores)[-_BEST_EDGES:])), 1e-6))
        return FramePrediction(
            intrinsics=frame.intrinsics or geometry.to_source(intrinsics),
            seen_fov_x=math.nan if seen is None else geometry.to_source(seen).fov_x,
            edges=edges,
            depths=_depths(described, output, intrinsics),
            intrinsics_estimated=frame.intrinsics is None,
            pose_token=output.pose_token,
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
        self._drop_graphs()
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

    def _empty_torch_cache(self) -> None:
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

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
        self._drop_graphs()
        self._memory.clear()
        self._recomputation.clear()
        self._warm_up = []
        self._fovs = deque(maxlen=_FOV_FRAMES)

    @device_errors()
    def close(self) -> None:
        """Free the cache; the weights are freed with the predictor."""
        self.reset()
        self._empty_torch_cache()

    def _prepared(self, frame: Frame) -> _Described:
        """Resize the image and run the blocks that see one frame alone."""
        pixels, geometry = self._pixels(frame.image)
        size = pixels.shape[:2]
        tensor = uploaded(pixels, self._device, into=self._input.get(size))
        if self._graphs is not None:
            self._input[size] = tensor

        def alone() -> tuple[Tokens, Tensor]:
            tokens = self._network.describe(tensor.permute(2, 0, 1)[None, None])
            mean = tokens.descriptor[0, 0].float()
            return tokens, mean / mean.norm()

        return _Described(frame.frame_id, pixels, geometry, *self._run(size, alone))

    @contextmanager
    def operation_by_operation(self) -> Iterator[None]:
        """Replay no graphs, in which no operation can be counted."""
        graphs, self._graphs = self._graphs, None
        try:
            yield
        finally:
            self._graphs = graphs

    def _drop_graphs(self) -> None:
        """Drop what reads the cache where it is, and what the graphs have computed."""
        self._described = None
        self._input.clear()
        if self._graphs is not None:
            self._graphs.clear()

    def _run(self, key: Hashable, function: Callable[[], _Result]) -> _Result:
        return function() if self._graphs is None else self._graphs.run(key, function)

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return an image resized for the network, (h, w, 3) uint8, and the geometry."""
        geometry = self._geometry(*image_size(image))
        # Copied: the image may be read-only, or the source may write to it again.
        return np.array(geometry.apply(image)), geometry

    def _camera(self, frame: Frame, geometry: Geometry) -> torch.Tensor | None:
        """Return (1, 4) fx, fy, cx, cy: calibrated, else by the fields of view so far.

        None if that is unknown, or not used by the network.
        """
        if self._network.config.camera is not CameraOutput.MATCHES:
            return None
        if frame.intrinsics is not None:
            known = geometry.to_network(frame.intrinsics)
        else:
            vertical, horizontal = np.median(self._fovs, axis=0) if self._fovs else (0.0, 0.0)
            try:
                known = intrinsics_from_fov(vertical, horizontal, geometry.width, geometry.height)
            except FrameError:
                return None
        numbers = np.array([[known.fx, known.fy, known.cx, known.cy]], np.float32)
        return uploaded(numbers, self._device)

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


def geometry_rule(network: PairNetwork, image_size: int) -> Callable[[int, int], Geometry]:
    """Return what gives the geometry for images of a width and a height."""
    if network.config.camera is CameraOutput.MATCHES:
        return partial(area_geometry, size=image_size)
    # Square images stay square instead of being cropped.
    return partial(r3_geometry, size=image_size, square_ok=True)


@dataclass(frozen=True)
class _Output:
    """A prediction on the host.

    :ivar relative: (N, 9) float64 translation, quaternion, both logits of the context's frames.
    :ivar fov: (2,) float64; ``pose_token``: (D,) float32 unit vector.
    :ivar maps: (2, H, W) float32 depth and confidence; None if it was not wanted.
    """

    relative: np.ndarray
    fov: np.ndarray
    pose_token: np.ndarray
    maps: np.ndarray | None


def _packed(prediction: Prediction) -> Tensor:
    """Return all that the host needs of a prediction, to be copied at once."""
    # The last row would be the frame against itself.
    columns = prediction.pairs.numbers[0, :-1, 0]  # (N, 9)
    token = prediction.camera_feature[0, 0]
    parts = [prediction.fov, token / token.norm().clamp_min(1e-12), columns]
    parts += [maps for maps in (prediction.depth, prediction.confidence) if maps is not None]
    return torch.cat([part.flatten() for part in parts])


def _unpacked(
    numbers: np.ndarray, token_size: int, context: int, size: tuple[int, int]
) -> _Output:
    """Return what was packed.

    :raises FrameError: a value other than depth is not finite.
    """
    fov, token, columns, maps = np.split(numbers, np.cumsum([2, token_size, 9 * context]))
    if not all(np.isfinite(part).all() for part in (fov, token, columns)):
        raise FrameError(
            "the network's output is not finite: try model.precision fp32, and "
            '`r3 weights check` on the weights'
        )
    return _Output(
        columns.astype(np.float64).reshape(-1, 9),
        fov.astype(np.float64),
        token.copy(),  # kept longer than the maps
        maps.reshape(2, *size) if maps.size else None,
    )


def _depths(
    described: _Described, output: _Output, intrinsics: Intrinsics
) -> tuple[DepthMap, ...]:
    if output.maps is None:
        return ()
    depth, confidence = output.maps
    bad = ~np.isfinite(output.maps).all(axis=0)
    depth[bad], confidence[bad] = np.nan, 1.0
    depth_map = DepthMap(described.frame_id, depth, confidence, described.pixels, intrinsics)
    return (depth_map,)


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
