"""R3 as :class:`~r3_ros.core.predictor.Predictor` of the engine.

``describe`` runs the blocks that see one frame alone, ``predict`` the rest with the cached keys
and values of the context frames chosen by the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
import math

import numpy as np
import torch

from ..core.config import MemoryConfig, ModelConfig
from ..core.datatypes import (
    DepthMap,
    Edge,
    Frame,
    FramePrediction,
    Intrinsics,
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
from .network_predictor import Described, finite_depth, NetworkPredictor, NOT_FINITE
from .variants import CameraOutput

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
        self._warm_up: list[float] = []

    @property
    def confidence_reference(self) -> float:
        """Score of a good edge: the mean over the best edges of this stream's first frames."""
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
        prediction = self._network.predict(
            described.features,
            self._memory.context(attended),
            reference=is_reference,
            depth=self._with_depth and depth,
            camera=self._camera(frame, described.geometry),
        )
        relative, fov, pose_token = _camera_outputs(prediction)
        geometry = described.geometry
        intrinsics, seen_fov_x = self._intrinsics(frame, geometry, fov)
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
            seen_fov_x=seen_fov_x,
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
        super().reset()
        self._recomputation.clear()
        self._warm_up = []

    def _encoded(self, images: torch.Tensor) -> tuple[Tokens, torch.Tensor]:
        tokens = self._network.describe(images[None])
        return tokens, tokens.descriptor[0, 0]

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

    def _depths(
        self, described: Described[Tokens], prediction: Prediction, intrinsics: Intrinsics
    ) -> tuple[DepthMap, ...]:
        if prediction.depth is None or prediction.confidence is None:
            return ()
        maps = torch.stack([prediction.depth[0, 0], prediction.confidence[0, 0]]).cpu().numpy()
        return (finite_depth(described.frame_id, maps, described.pixels, intrinsics),)


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
        raise FrameError(NOT_FINITE)
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
