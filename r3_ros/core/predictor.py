"""The interfaces of predictors: the models of depth and relative poses (``model.name``).

The engine never touches pixels or weights; a predictor never decides which frames are held. One
step of the engine calls, in this order and from one thread::

    descriptor = predictor.describe(frame)
    context_ids = <retrieved by the engine>
    prediction = predictor.predict(frame, context_ids)
    predictor.forget(<frames dropped by the engine>)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .datatypes import (
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
from .error_model import ErrorModel
from .resize_geometry import Geometry


class Predictor(Protocol):
    """Depth and relative poses of new frames against the frames it holds.

    A predictor holds every frame it has predicted until :meth:`forget`. A frame that could not be
    related to any other can be context of later ones: the engine may begin a new segment there.
    """

    info: ModelInfo

    #: Length of a descriptor.
    descriptor_size: int

    #: Whether predictions have a pose token.
    has_pose_token: bool

    #: What helps while nothing is tracked yet, as a request without a full stop.
    start_advice: str

    @property
    def capacity(self) -> int | None:
        """Frames that can be held; None: no limit, or not known before the first frame."""

    @property
    def confidence_reference(self) -> float:
        """Score (the mean of an edge's two confidences) of a good edge under nominal conditions.

        The initial value of the gate's reference, which then follows the stream. It may change
        during the first frames.
        """

    @property
    def error_model(self) -> ErrorModel:
        """The errors of the edges."""

    def describe(self, frame: Frame) -> np.ndarray:
        """Return the frame's descriptor, a (descriptor_size,) float32 unit vector.

        The cosine similarity of two descriptors is near 1 for images of the same view.
        Intermediate results may be kept for the :meth:`predict` call on the same frame.

        :raises FrameError: the frame cannot be used.
        :raises DeviceMemoryError: the device has no memory left for it.
        :raises DeviceLostError: the device is gone.
        """

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate the frame to the context frames, which are all held.

        Context frames that it cannot be related to get no edge.

        :param depth: False if the frame's depth is not needed.
        :raises FrameError: the frame cannot be used and is not held.
        :raises DeviceMemoryError: the device has no memory left for it; it is not held.
        :raises DeviceLostError: the device is gone.
        """

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop these frames; unknown ids are ignored."""

    def drain(
        self,
    ) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...], Intrinsics | None]:
        """Wait for background work and return its refined edges, depths and intrinsics.

        Called at the end of a recorded stream. Intrinsics are those of the frames, if estimated;
        None if they are known.
        """

    def landmarks(self, S_world_camera: Mapping[int, np.ndarray]) -> SparseLandmarks | None:
        """Return the landmarks to be saved with a map; None if the predictor has none.

        :param S_world_camera: the engine's (4, 4) poses of the keyframes, with the scale from the
            predictor's unit to the map's (see ``HeldPose.S_world_camera``). Landmarks are in the
            same world, with observations of these keyframes only.
        """

    def shrink(self) -> None:
        """Use less memory of the device from now on. Held frames stay held.

        :raises DeviceMemoryError: not enough memory even for that; only :meth:`reset` helps.
        """

    def device_memory(self) -> DeviceMemory | None:
        """Return the device's memory use; None if it is the host. Called from any thread."""

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold the keyframes of a saved map, as if they had been predicted.

        Called when nothing is held. :meth:`predict` then relates new frames to them as to any
        others; the camera's pose in the map is unknown.

        :param keyframes: oldest first, created one by one.
        :param landmarks: from :meth:`landmarks` when the map was saved.
        :raises FrameError: an image cannot be used.
        """

    def reset(self) -> None:
        """Drop all frames and estimates: the next frame starts a new world."""

    def close(self) -> None:
        """Stop background work and free the device; the last call.

        :raises DeviceLostError: the device is gone; its memory is freed when the process ends.
        """


class MetricDepth(Protocol):
    """Depth of single images in metres: a metric network, or a depth camera."""

    def metres(self, depth_map: DepthMap) -> np.ndarray:
        """Return (h, w) float32 metres along the optical axis for the image of a depth map.

        NaN in the sky and where unknown. The depth itself is not used.

        :raises FrameError: the image cannot be used.
        """

    def close(self) -> None:
        """Free the device."""


@dataclass(frozen=True, eq=False)
class WindowPrediction:
    """The prediction for S images processed together.

    Rows are sources, columns targets. All lengths are in one unit, the window's own.

    :ivar relative: (S, S, 7) float64 translation and unit quaternion ``xyzw`` of
        ``T_target_source``; NaN where nothing was predicted.
    :ivar logits: (S, S, 2) float64, confidence of translation and of rotation.
    :ivar predicted: (S, S) bool.
    :ivar fov: (S, 2) field of view in radians, vertical then horizontal.
    :ivar depth: (S, h, w) float32, ``confidence`` likewise; None if depth is switched off.
    """

    relative: np.ndarray
    logits: np.ndarray
    predicted: np.ndarray
    fov: np.ndarray
    depth: np.ndarray | None = None
    confidence: np.ndarray | None = None


class WindowPredictor(Protocol):
    """Depth and relative poses of a window of images that see one another, for offline runs.

    No state is kept between calls.
    """

    info: ModelInfo

    def geometry(self, width: int, height: int) -> Geometry:
        """Return how images of one size are prepared for :meth:`predict`.

        :raises FrameError: a size that cannot be used.
        """

    def most_frames(self, width: int, height: int) -> int:
        """Return how many prepared images of a size fit into memory at once, at least 0."""

    def describe(self, image: np.ndarray) -> np.ndarray:
        """Return the descriptor of a prepared image, a (C,) float32 unit vector."""

    def predict(self, images: Sequence[np.ndarray]) -> WindowPrediction:
        """Relate all images to one another; the first one is their reference.

        :param images: (h, w, 3) uint8 RGB each, prepared, all of one size.
        :raises ModelError: memory ran out, or the output is not finite.
        """

    def close(self) -> None:
        """Free the device."""
