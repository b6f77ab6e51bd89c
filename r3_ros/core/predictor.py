"""The seam between the engine and whatever regresses depth and relative poses.

The engine never touches pixels or weights; a predictor never decides what is remembered. R3's
network and the classical front end both stand behind this protocol, and the tests put a scripted
one here. One step of the engine calls, in this order and from one thread::

    descriptor = predictor.describe(frame)
    context_ids = <the engine retrieves by it>
    prediction = predictor.predict(frame, context_ids)
    predictor.forget(<frames the engine lets go>)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from .datatypes import (
    DepthMap,
    DeviceMemory,
    Edge,
    Frame,
    FramePrediction,
    KnownKeyframe,
    ModelInfo,
    SparseLandmarks,
)


class Predictor(Protocol):
    """Depth and relative poses of new frames against frames it holds.

    A predictor holds every frame it has predicted until :meth:`forget` names it. Recent frames
    that did not become keyframes are forgotten once they leave the engine's recent window.
    """

    #: What it is and where it runs.
    info: ModelInfo

    #: Length of a descriptor.
    descriptor_size: int

    #: Whether a frame that could not be related to any other may serve as context of later ones:
    #: then the engine can begin a new segment there.
    can_restart: bool

    #: Whether predictions have a pose token.
    has_pose_token: bool

    @property
    def capacity(self) -> int | None:
        """Frames that can be held at once; None: no bound, or not known before the first frame."""

    @property
    def confidence_reference(self) -> float:
        """Score (the mean of an edge's two confidences) of a good edge, nominal conditions given.

        The gate's reference starts here and then follows the stream. A predictor whose scores have
        no unit of their own may change it while the first frames show what is usual.
        """

    def describe(self, frame: Frame) -> np.ndarray:
        """Return a (descriptor_size,) float32 unit vector telling what the frame looks like.

        Cosine similarity of two descriptors is near 1 for pictures of the same view. What it
        computes may be kept for the :meth:`predict` call on the same frame that follows.

        :raises FrameError: the frame cannot be used at all.
        :raises DeviceMemoryError: the device has no memory left for it.
        :raises DeviceLostError: the device is gone.
        """

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate the frame to the context frames and return what was found.

        Where ``depth`` is False nobody needs the frame's depth, which may then be left out.

        Context ids always name held frames. Edges the predictor cannot support are left out;
        an edge that is there is a claim, with the confidence it deserves.

        :raises FrameError: the frame cannot be used; nothing was remembered of it.
        :raises DeviceMemoryError: the device has no memory left for it, nor was it remembered.
        :raises DeviceLostError: the device is gone.
        """

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop everything held for these frames; unknown ids are ignored."""

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...]]:
        """Wait for background work and return its refined edges and depths.

        Called at the end of a recorded stream, so that what the last frames started is not lost.
        """

    def landmarks(self, T_world_camera: Mapping[int, np.ndarray]) -> SparseLandmarks | None:
        """Return what it has triangulated, for a map to be saved; None if it does no such thing.

        :param T_world_camera: (4, 4) poses of the keyframes as the engine has them: landmarks are
            in the same world, and only sightings of these keyframes are told.
        """

    def shrink(self) -> None:
        """Take less of the device from now on: it has no memory left. What is held stays held.

        :raises DeviceMemoryError: there is not even memory for that; only :meth:`reset` helps.
        """

    def device_memory(self) -> DeviceMemory | None:
        """Tell how the device's memory is used, from any thread; None where it is the host's."""

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold the keyframes of a saved map, as if they had been predicted.

        Called when nothing is held. New frames are then related to them by :meth:`predict` as to
        any others: where the camera is, nobody knows yet.

        :param keyframes: oldest first, each made when it is asked for.
        :param landmarks: what :meth:`landmarks` returned when the map was saved.
        :raises FrameError: a picture cannot be used.
        """

    def reset(self) -> None:
        """Forget every frame and every estimate: the next frame starts a new world."""

    def close(self) -> None:
        """Stop background work and free devices; the predictor is not used afterwards.

        :raises DeviceLostError: the device is gone, so its memory is free only with the process.
        """
