"""The classical predictor: visual odometry and plane sweep behind the engine's seam."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import cv2
import numpy as np

from ..core.config import ClassicalConfig
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
from ..core.errors import FrameError
from ..core.geometry import inverse
from . import describe
from .confidence import Evidence, REFERENCE, rotation_confidence
from .features import working_picture
from .landmarks import HeldFrame
from .odometry import Mode, Odometry
from .pinhole import Pinhole
from .saved_landmarks import KnownMap, landmarks_in
from .sweep import sweep_size, Swept

#: Smallest picture that has room for corners.
SHORTEST_SIDE = 64
#: Focal length assumed for a camera without calibration, over the longer side: a phone or webcam.
ASSUMED_FOCAL = 0.9
#: Keyframes whose colour is kept: a depth comes few steps after its keyframe, or never.
MOST_COLORS = 10
#: What is left of an edge's confidence while a place found again has not proved itself.
DOUBTFUL_TRUST = 0.3
#: Below this change a pose that was given out is not worth correcting.
SAME_POSE = 1e-9


class ClassicalPredictor:
    """Relative poses by corners and landmarks, dense depth by plane sweep; no weights, no GPU.

    OpenCV is set to one thread for the whole process: with pictures this small its threads cost
    more than they bring, and the background threads here already use the other core.
    """

    info = ModelInfo('classical')
    capacity: int | None = None
    confidence_reference: float = REFERENCE
    descriptor_size: int = describe.SIZE
    #: Only frames placed in the one map of landmarks can be related to.
    can_restart: bool = False
    has_pose_token: bool = False

    def __init__(self, config: ClassicalConfig, with_depth: bool = True):
        cv2.setNumThreads(1)
        self._config = config
        self._with_depth = with_depth
        self._odometry: Odometry | None = None
        # A saved map, until the first frame tells the camera.
        self._known: KnownMap | None = None
        self._intrinsics: Intrinsics | None = None
        self._estimated = False
        self._size = (0, 0)
        self._described: tuple[int, np.ndarray, np.ndarray] | None = None
        self._descriptors: dict[int, np.ndarray] = {}
        # Colour of keyframes that may still be swept.
        self._colors: dict[int, np.ndarray] = {}

    def describe(self, frame: Frame) -> np.ndarray:
        """Return the frame's descriptor; keep its working picture for :meth:`predict`."""
        gray = self._working_picture(frame)
        descriptor = describe.describe(gray)
        self._described = (frame.frame_id, gray, descriptor)
        return descriptor

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Take one frame and relate it to the context frames.

        Depth is of the keyframes that are chosen here, whatever is asked for.
        """
        if self._described is not None and self._described[0] == frame.frame_id:
            _, gray, descriptor = self._described
        else:
            gray = self._working_picture(frame)
            descriptor = describe.describe(gray)
        self._described = None
        odometry = self._odometry_for(frame, gray)
        alike = sorted(context_ids, key=lambda i: -self._likeness(i, descriptor))
        outcome = odometry.step(frame.frame_id, gray, alike)
        if outcome.keyframe:
            self._descriptors[frame.frame_id] = descriptor
        if outcome.keyframe and self._with_depth:
            self._colors[frame.frame_id] = cv2.resize(
                frame.image, sweep_size(odometry.camera), interpolation=cv2.INTER_AREA
            )
            while len(self._colors) > MOST_COLORS:
                del self._colors[min(self._colors)]
        edges: tuple[Edge, ...] = ()
        if outcome.posed:
            trust = DOUBTFUL_TRUST if outcome.doubtful else 1.0
            edges = self._edges(odometry, odometry.frames[frame.frame_id], context_ids, trust)
        refined = self._corrections(odometry, frame.frame_id)
        provisional = odometry.mode is Mode.STARTING
        height, width = frame.image.shape[:2]
        return FramePrediction(
            intrinsics=odometry.camera.intrinsics(width, height),
            edges=edges,
            refined=refined,
            depths=self._depths(outcome.swept),
            keyframe=outcome.keyframe,
            provisional=provisional,
            intrinsics_estimated=self._estimated,
        )

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames, and the landmarks that only they had seen."""
        if self._odometry is not None:
            for frame_id in frame_ids:
                self._odometry.forget(frame_id)
                self._colors.pop(frame_id, None)
                self._descriptors.pop(frame_id, None)

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...]]:
        """Wait for what is under way and return what follows from it."""
        if self._odometry is None:
            return (), ()
        depths = self._depths(self._odometry.drain())
        return self._corrections(self._odometry, None), depths

    def landmarks(self, T_world_camera: Mapping[int, np.ndarray]) -> SparseLandmarks | None:
        """Return the landmarks, with the sightings of these keyframes, in the engine's world."""
        if self._odometry is None:
            # Not seen yet, so as they were.
            return None if self._known is None else self._known.landmarks
        return landmarks_in(self._odometry.world, T_world_camera, self._size)

    def shrink(self) -> None:
        """Do nothing: all is in the host's memory, and bounded."""

    def device_memory(self) -> DeviceMemory | None:
        """Return None: no device is used."""
        return None

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold the keyframes and landmarks of a saved map; the first frame is lost in it.

        The map is held as for the camera of that frame, whatever the saved pictures' size.
        """
        if landmarks is None:
            raise FrameError('the map has no landmarks: it was not made by the classical model')
        self.reset()
        descriptors = {}

        def kept() -> Iterator[KnownKeyframe]:
            for keyframe in keyframes:
                descriptors[keyframe.frame_id] = keyframe.descriptor
                yield keyframe

        self._known = KnownMap.of(kept(), landmarks)
        self._descriptors = descriptors

    def reset(self) -> None:
        """Forget everything; the next frame starts anew."""
        self.close()
        self._odometry = None
        self._known = None
        self._intrinsics = None
        self._described = None
        self._colors.clear()
        self._descriptors.clear()

    def close(self) -> None:
        """Stop the background threads."""
        if self._odometry is not None:
            self._odometry.close()

    # ---- input ----------------------------------------------------------------------------

    def _working_picture(self, frame: Frame) -> np.ndarray:
        """Return the (h, w) uint8 grey picture that everything here works on."""
        image = frame.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FrameError(
                f'the picture must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}'
            )
        height, width = image.shape[:2]
        if min(height, width) < SHORTEST_SIDE:
            raise FrameError(
                f'a picture of {width}x{height} has no room for features: '
                f'send at least {SHORTEST_SIDE} pixels a side'
            )
        if self._odometry is not None and self._size != (width, height):
            raise FrameError(
                f'the picture size changed from {self._size[0]}x{self._size[1]} to '
                f'{width}x{height}: reset before sending pictures of another camera'
            )
        return working_picture(image)

    def _odometry_for(self, frame: Frame, gray: np.ndarray) -> Odometry:
        """Return the running odometry, or start one with this frame's camera."""
        if self._odometry is not None:
            self._check_intrinsics(frame)
            return self._odometry
        height, width = frame.image.shape[:2]
        intrinsics = frame.intrinsics
        self._estimated = intrinsics is None
        if intrinsics is None and self._known is not None:
            intrinsics = self._known.intrinsics_for(width, height)
        elif intrinsics is None:
            focal = ASSUMED_FOCAL * max(width, height)
            centre = ((width - 1) / 2.0, (height - 1) / 2.0)
            intrinsics = Intrinsics(focal, focal, *centre, width, height)
        elif (intrinsics.width, intrinsics.height) != (width, height):
            raise FrameError(
                f'the calibration is for {intrinsics.width}x{intrinsics.height}, the picture is '
                f'{width}x{height}: send the calibration of this picture size'
            )
        self._intrinsics = intrinsics
        self._size = (width, height)
        camera = Pinhole.of(intrinsics, gray.shape[1], gray.shape[0])
        self._odometry = Odometry(
            camera,
            self._config.max_features,
            self._config.window_keyframes,
            guessed_focal=self._estimated and self._known is None,
            planes=self._config.depth_planes if self._with_depth else 0,
        )
        if self._known is not None:
            self._odometry.enter(self._known)
            self._known = None
        return self._odometry

    def _check_intrinsics(self, frame: Frame) -> None:
        """Refuse a camera that changed while running; one that came late waits for a reset."""
        if self._estimated or frame.intrinsics is None or frame.intrinsics == self._intrinsics:
            return
        raise FrameError(
            f'the calibration changed from {self._intrinsics} to {frame.intrinsics}: '
            'reset to go on with the new one'
        )

    # ---- output ---------------------------------------------------------------------------

    def _edges(
        self,
        odometry: Odometry,
        frame: HeldFrame,
        context_ids: Sequence[int],
        trust: float,
    ) -> tuple[Edge, ...]:
        """Return an edge for each context frame that shares landmarks with the frame."""
        held = [odometry.frames.get(i) for i in context_ids]
        context = [h for h in held if h is not None and h.posed and h is not frame]
        if odometry.mode is Mode.STARTING:
            rotation = rotation_confidence(odometry.start_rotation_sigma)
            return tuple(_edge(h, frame, 0.0, rotation) for h in context)
        evidence = Evidence(frame, odometry.landmarks, odometry.camera)
        edges = []
        for h in context:
            certainty = evidence.against(h)
            if certainty is not None:
                translation = trust * certainty.confidence_translation
                edges.append(_edge(h, frame, translation, trust * certainty.confidence_rotation))
        frame.announced = frame.T_world_camera.copy() if edges else None
        return tuple(edges)

    def _corrections(self, odometry: Odometry, present_id: int | None) -> tuple[Edge, ...]:
        """Return an edge for each held frame whose pose is no longer what the engine knows.

        From the first that moved on, every frame gets one: those that stayed where they are
        must not follow, in the engine's graph, those that moved.
        """
        refined: list[Edge] = []
        source: HeldFrame | None = None
        moving = False
        for held in odometry.frames:
            if held.frame_id == present_id or not held.posed:
                continue
            known = held.announced
            if known is None:
                # Only told as the present frame so far; the engine resolved it from those edges.
                known = held.announced = held.T_world_camera.copy()
            moving = moving or bool(np.abs(known - held.T_world_camera).max() > SAME_POSE)
            if moving and source is not None:
                refined.append(_edge(source, held, REFERENCE, REFERENCE))
                held.announced = held.T_world_camera.copy()
            if held.keyframe:
                source = held
        return tuple(refined)

    def _likeness(self, frame_id: int, descriptor: np.ndarray) -> float:
        """Return how much a keyframe looks like a descriptor; -1 for other frames."""
        known = self._descriptors.get(frame_id)
        return -1.0 if known is None else float(known @ descriptor)

    def _depths(self, swept: Iterable[Swept]) -> tuple[DepthMap, ...]:
        """Return sweeps of frames still held as depth maps; a frame is swept once."""
        return tuple(
            DepthMap(
                s.frame_id,
                s.depth,
                s.confidence,
                self._colors.pop(s.frame_id),
                s.camera.intrinsics(s.camera.width, s.camera.height),
            )
            for s in swept
        )


def _edge(source: HeldFrame, target: HeldFrame, translation: float, rotation: float) -> Edge:
    """Return the edge that the poses of two held frames give."""
    return Edge(
        source.frame_id,
        target.frame_id,
        inverse(source.T_world_camera) @ target.T_world_camera,
        translation,
        rotation,
    )
