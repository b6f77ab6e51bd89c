"""R3 as :class:`~r3_ros.core.predictor.Predictor` of the engine.

``describe`` runs the blocks that see one frame alone, ``predict`` the rest with the cached keys
and values of the context frames chosen by the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core.config import MemoryConfig, ModelConfig
from ..core.datatypes import (
    DepthMap,
    Edge,
    Frame,
    FramePrediction,
    KnownKeyframe,
    ModelInfo,
    SparseLandmarks,
)
from ..core.errors import FrameError
from ..core.geometry import inverse, T_from_quat
from ..core.resize_geometry import Geometry
from ..input.network_input import area_geometry, intrinsics_from_fov, r3_geometry
from .backbone import Tokens
from .cache.frame_memory import CacheBudget, FrameMemory
from .cache.recomputation import Recomputation
from .device_errors import device_errors
from .multi_view import MultiViewNetwork
from .network import FrameCache, PairNetwork, Prediction
from .network_predictor import finite_depth, NetworkPredictor, NOT_FINITE
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


class R3Predictor(NetworkPredictor[Tokens]):
    """Depth and relative poses by the R3 network.

    Until :meth:`forget`, a frame is held by its cache entry, about 23 MiB at 504 x 280 in bfloat16
    for R3-large, or by its image, from which the entry is recomputed when needed.

    :ivar variant: name of the network, a key of ``model.variants.VARIANTS``.
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
        memory = FrameMemory[FrameCache](budget)
        geometry = geometry_rule(network, config.image_size)
        super().__init__(network, info, config, memory, device, geometry)
        self.descriptor_size = network.config.backbone.width
        self._network = network
        self._with_depth = config.depth
        self.variant = network.config.name
        self._recomputation = Recomputation(network, memory, device, recomputed_per_frame)
        self._token_size = network.config.backbone.feature_width
        self._graphs: StepGraphs | None = None
        if config.cuda_graphs and device.type == 'cuda':
            self._graphs = StepGraphs()
        self._input: dict[torch.Size, Tensor] = {}  # of the graphs, by shape
        self._warm_up: list[float] = []

    @property
    def confidence_reference(self) -> float:
        """Score of a good edge: of the error model, else of this stream's first frames."""
        if self.error_model.reference is not None:
            return self.error_model.reference
        return float(np.mean(self._warm_up)) if self._warm_up else _FIRST_GUESS

    @device_errors()
    @torch.inference_mode()
    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Predict one frame from the cached keys and values of the context frames."""
        described = self._taken(frame)
        size = described.geometry.height, described.geometry.width
        is_reference = not len(self._memory)
        attended = self._recomputation.available(context_ids, size)
        context, places = self._memory.context(attended)
        with_depth = self._with_depth and depth

        def related() -> tuple[Tensor, FrameCache]:
            prediction = self._network.predict(
                described.features,
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
        intrinsics, seen_fov_x = self._intrinsics(frame, geometry, output.fov)
        # Nothing fails from here on, so an unusable frame leaves no state behind.
        edges = _edges(frame.frame_id, attended, output.relative[places])
        self._memory.keep(frame.frame_id, entry, described.pixels)
        self._recomputation.note(frame.frame_id, attended, is_reference)
        self._fovs.append(output.fov)
        if edges and len(self._warm_up) < _WARM_UP_FRAMES:
            scores = [0.5 * (e.confidence_translation + e.confidence_rotation) for e in edges]
            self._warm_up.append(max(float(np.mean(sorted(scores)[-_BEST_EDGES:])), 1e-6))
        depths: tuple[DepthMap, ...] = ()
        if output.maps is not None:
            depths = (finite_depth(frame.frame_id, output.maps, described.pixels, intrinsics),)
        return FramePrediction(
            intrinsics=frame.intrinsics or geometry.to_source(intrinsics),
            seen_fov_x=seen_fov_x,
            edges=edges,
            depths=depths,
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
        super().reset()
        self._recomputation.clear()
        self._warm_up = []

    def shrink(self) -> None:
        """Halve the part of the cache on the device, and free the memory that torch caches."""
        self._drop_graphs()
        super().shrink()

    @contextmanager
    def operation_by_operation(self) -> Iterator[None]:
        """Replay no graphs, in which no operation can be counted."""
        graphs, self._graphs = self._graphs, None
        try:
            yield
        finally:
            self._graphs = graphs

    def _encoded(self, images: Tensor) -> tuple[Tokens, Tensor]:
        if self._graphs is not None:
            # Graphs read their input where it was first.
            images = self._input.setdefault(images.shape, images).copy_(images)

        def alone() -> tuple[Tokens, Tensor]:
            tokens = self._network.describe(images[None])
            return tokens, tokens.descriptor[0, 0]

        return self._run(images.shape, alone)

    def _drop_graphs(self) -> None:
        """Drop what reads the cache where it is, and what the graphs have computed."""
        self._described = None
        self._input.clear()
        if self._graphs is not None:
            self._graphs.clear()

    def _run(self, key: Hashable, function: Callable[[], _Result]) -> _Result:
        return function() if self._graphs is None else self._graphs.run(key, function)

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


def geometry_rule(
    network: PairNetwork | MultiViewNetwork, image_size: int
) -> Callable[[int, int], Geometry]:
    """Return what gives the geometry for images of a width and a height."""
    if isinstance(network, MultiViewNetwork):
        return partial(network.geometry, image_size=image_size)
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
        raise FrameError(NOT_FINITE)
    return _Output(
        columns.astype(np.float64).reshape(-1, 9),
        fov.astype(np.float64),
        token.copy(),  # kept longer than the maps
        maps.reshape(2, *size) if maps.size else None,
    )


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
