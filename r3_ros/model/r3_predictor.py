"""R3 behind the engine's interface: what it holds of each frame, and how its answers are written.

``describe`` runs the blocks that see the frame alone, ``predict`` the rest against the cached
keys and values of the context frames the engine chose, whichever they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np
import torch

from ..config import MemoryConfig, ModelConfig
from ..datatypes import (
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
from ..errors import DeviceMemoryError, FrameError, ModelError
from ..geometry import inverse, T_from_quat
from ..input.network_input import Geometry, intrinsics_from_fov, r3_geometry, R3Rule
from .backbone import Tokens
from .cache.frame_memory import FrameMemory, Room
from .cache.recomputation import Recomputation
from .device_errors import tells_device_errors
from .network import Prediction, R3Network

#: Score of an edge whose logits are both 1: stands for a good one until the stream has shown its
#: own.
_FIRST_GUESS = math.log1p(math.e)
#: Keyframes of a saved map that the keys and values of another one are computed with: the nearest.
_RESTORED_NEIGHBOURS = 4
#: Frames whose best scores set what a good edge of this stream is.
_WARM_UP_FRAMES = 10
_BEST_EDGES = 3
#: Frames whose fields of view are averaged (median) where the camera is not calibrated.
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

    Everything held of a frame is its cache entry, about 23 MiB at 504 x 280 in bfloat16 for
    R3-large, or its image, from which the entry is computed when it is wanted, until
    :meth:`forget` names it.
    """

    can_restart = True
    has_pose_token = True

    def __init__(
        self,
        network: R3Network,
        info: ModelInfo,
        config: ModelConfig,
        room: Room,
        device: torch.device,
        recomputed_per_frame: int = MemoryConfig.recomputed_per_frame,
    ) -> None:
        """Take a loaded network in evaluation mode, on its device, and the room for its cache.

        :param recomputed_per_frame: frames held by their image that one new frame may bring
            back; more than these do not see it.
        """
        self.info = info
        self.descriptor_size = network.config.backbone.width
        self._network = network
        self._device = device
        self._with_depth = config.depth
        # Squares stay squares: a robot wants to see all of its image.
        self._rule = R3Rule(size=config.image_size, square_ok=True)
        self._memory = FrameMemory(room)
        self._recomputation = Recomputation(network, self._memory, device, recomputed_per_frame)
        self._described: _Described | None
        self._warm_up: list[float]
        self._fovs: deque[np.ndarray]
        self._geometry = lru_cache(maxsize=4)(self._geometry_of)
        self.reset()

    @property
    def variant(self) -> str:
        """Return the name of the network, a key of ``model.variants.VARIANTS``."""
        return self._network.config.name

    @property
    def image_size(self) -> int:
        """Return the long side of the images that the network is given, in pixels."""
        return self._rule.size

    @property
    def capacity(self) -> int | None:
        """Frames that fit into all tiers of the memory; None before the first."""
        return self._memory.capacity

    @property
    def confidence_reference(self) -> float:
        """Score of a good edge: the mean of the best of this stream's first frames.

        The logits have no unit of their own, so the start of the stream gives one.
        """
        return float(np.mean(self._warm_up)) if self._warm_up else _FIRST_GUESS

    @tells_device_errors
    @torch.inference_mode()
    def describe(self, frame: Frame) -> np.ndarray:
        """Run what needs no other frame and return its (C,) float32 unit descriptor."""
        described = self._prepared(frame)
        mean = described.tokens.descriptor[0, 0].float()
        descriptor: np.ndarray = (mean / mean.norm()).cpu().numpy()
        if not np.isfinite(descriptor).all():
            raise FrameError(
                'the network sees nothing finite in the image: its pixels, or the weights, '
                'cannot be used'
            )
        self._described = described
        return descriptor

    @tells_device_errors
    @torch.inference_mode()
    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate one frame to the context frames by their cached keys and values."""
        described = self._described
        self._described = None
        if described is None or described.frame_id != frame.frame_id:
            described = self._prepared(frame)
        size = described.geometry.height, described.geometry.width
        is_reference = not len(self._memory)
        attended = self._recomputation.available(context_ids, size)
        context = self._memory.context(attended)
        prediction = self._network.predict(
            described.tokens,
            context.cache,
            reference=is_reference,
            depth=self._with_depth and depth,
        )
        relative, fov, pose_token = _camera_answers(prediction)
        geometry = described.geometry
        intrinsics, seen = self._intrinsics(frame, geometry, fov)
        # Nothing fails from here on: a frame that cannot be used has left no trace.
        edges = _edges(frame.frame_id, context.frame_ids, relative)
        self._memory.keep(frame.frame_id, prediction.cache, described.pixels)
        self._recomputation.note(frame.frame_id, attended, is_reference)
        self._fovs.append(fov)
        self._note_scores(edges)
        return FramePrediction(
            intrinsics=frame.intrinsics or geometry.to_source(intrinsics),
            seen_fov_x=math.nan if seen is None else geometry.to_source(seen).fov_x,
            edges=edges,
            depths=self._depths(described, prediction, intrinsics),
            intrinsics_estimated=frame.intrinsics is None,
            pose_token=pose_token,
        )

    def hold_image(self, frame_id: int, image: np.ndarray, neighbours: Sequence[int] = ()) -> None:
        """Hold a frame of another run as if it had been predicted.

        Nothing is computed before a :meth:`predict` has it in its context.

        :param image: (H, W, 3) uint8 RGB, undistorted; of the size that the stream will have.
        :param neighbours: frames it is near to, which it attends where they are held as well.
        :raises FrameError: it is no such image.
        :raises ModelError: the images do not fit into ``memory.max_host_mib``.
        """
        self._recomputation.forget([frame_id])
        self._memory.hold_image(frame_id, self._pixels(image)[0])
        self._recomputation.note(frame_id, neighbours)

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Free what is held of these frames."""
        frame_ids = tuple(frame_ids)
        self._memory.forget(frame_ids)
        self._recomputation.forget(frame_ids)

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...]]:
        """Return nothing: every answer is given with its frame."""
        return (), ()

    def landmarks(self, T_world_camera: Mapping[int, np.ndarray]) -> None:
        """Return none: the network triangulates nothing."""

    @tells_device_errors
    @torch.inference_mode()
    def shrink(self) -> None:
        """Halve the slots of the cache, and give back what torch keeps for later."""
        self._described = None
        self._give_back()
        try:
            self._memory.shrink()
        except ModelError as error:
            raise DeviceMemoryError(f'the cache cannot be made smaller: {error}') from error
        self._give_back()

    def device_memory(self) -> DeviceMemory | None:
        """Return how the device's memory is used; None on a CPU."""
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
            return None  # the device is lost, which the next frame reports

    def _give_back(self) -> None:
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold the images of a saved map; each is computed when it is first wanted.

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
        """Forget every frame; the weights stay."""
        self._memory.clear()
        self._recomputation.clear()
        self._described = None
        self._warm_up = []
        self._fovs = deque(maxlen=_FOV_FRAMES)

    @tells_device_errors
    def close(self) -> None:
        """Free the cache; the weights go with the predictor."""
        self.reset()
        self._memory.close()
        self._give_back()

    def _geometry_of(self, width: int, height: int) -> Geometry:
        return r3_geometry(width, height, self._rule)

    def _prepared(self, frame: Frame) -> _Described:
        """Resize the image and run the network's first half."""
        pixels, geometry = self._pixels(frame.image)
        tensor = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        tokens = self._network.describe(tensor.permute(2, 0, 1)[None, None])
        return _Described(frame.frame_id, pixels, geometry, tokens)

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Return an image as the network is given it, (h, w, 3) uint8, and how it became so."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FrameError(
                f'the image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}'
            )
        geometry = self._geometry(image.shape[1], image.shape[0])
        # A copy that is ours: the image may be read-only, or the source's to write again.
        return np.array(geometry.apply(image)), geometry

    def _intrinsics(
        self, frame: Frame, geometry: Geometry, fov: np.ndarray
    ) -> tuple[Intrinsics, Intrinsics | None]:
        """Return the intrinsics of the network's input: those in force, and by its own view.

        :raises FrameError: its view is none that a camera has, and the camera is not known.
        """
        vertical, horizontal = np.median([*self._fovs, fov], axis=0)
        try:
            seen = intrinsics_from_fov(vertical, horizontal, geometry.width, geometry.height)
        except FrameError:
            if frame.intrinsics is None:
                raise
            return geometry.to_network(frame.intrinsics), None
        if frame.intrinsics is None:
            return seen, seen
        return geometry.to_network(frame.intrinsics), seen

    def _depths(
        self, described: _Described, prediction: Prediction, intrinsics: Intrinsics
    ) -> tuple[DepthMap, ...]:
        if prediction.depth is None or prediction.confidence is None:
            return ()
        maps = torch.stack([prediction.depth[0, 0], prediction.confidence[0, 0]]).cpu().numpy()
        depth, confidence = maps
        bad = ~np.isfinite(maps).all(axis=0)
        depth[bad], confidence[bad] = np.nan, 1.0
        return (
            DepthMap(
                frame_id=described.frame_id,
                depth=depth,
                confidence=confidence,
                image=described.pixels,
                intrinsics=intrinsics,
            ),
        )

    def _note_scores(self, edges: Sequence[Edge]) -> None:
        """Let the first frames with edges say what a good edge is."""
        if edges and len(self._warm_up) < _WARM_UP_FRAMES:
            scores = [0.5 * (e.confidence_translation + e.confidence_rotation) for e in edges]
            self._warm_up.append(max(float(np.mean(sorted(scores)[-_BEST_EDGES:])), 1e-6))


def _camera_answers(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring the pairs into the new frame, its view and its pose token to the host, in one copy.

    :returns: (N, 9) float64 translation, quaternion, both logits; (2,) field of view; (D,)
        float32 unit vector.
    :raises FrameError: the network answered with something that is not finite.
    """
    pairs = prediction.pairs
    columns = torch.cat(
        [
            pairs.translation[0, :-1, 0],
            pairs.quaternion[0, :-1, 0],
            pairs.logit_translation[0, :-1],
            pairs.logit_rotation[0, :-1],
        ],
        dim=-1,
    )  # (N, 9): the last row would be the frame against itself
    token = prediction.camera_feature[0, 0]
    parts = [columns.flatten(), prediction.fov[0, 0], token / token.norm().clamp_min(1e-12)]
    numbers = torch.cat(parts).cpu().numpy()
    if not np.isfinite(numbers).all():
        raise FrameError(
            "the network's answer is not finite: try model.precision fp32, and "
            '`r3 weights check` on the weights'
        )
    pairs_end, fov_end = columns.numel(), columns.numel() + 2
    relative = numbers[:pairs_end].astype(np.float64).reshape(-1, 9)
    return relative, numbers[pairs_end:fov_end].astype(np.float64), numbers[fov_end:]


def _edges(frame_id: int, context_ids: Sequence[int], relative: np.ndarray) -> tuple[Edge, ...]:
    """Return the edges ``T_i_frame`` of pairs that the network writes as ``T_frame_i``."""
    lengths = np.linalg.norm(relative[:, 3:7], axis=1)
    T_frame_context = T_from_quat(
        relative[:, :3], np.where(lengths[:, None] > 0, relative[:, 3:7], [0.0, 0.0, 0.0, 1.0])
    )
    T_context_frame = inverse(T_frame_context)
    scores = np.logaddexp(0.0, relative[:, 7:])  # softplus
    return tuple(
        Edge(source_id, frame_id, T_context_frame[n], float(scores[n, 0]), float(scores[n, 1]))
        for n, source_id in enumerate(context_ids)
        if lengths[n] > 0  # no rotation at all is no claim
    )
