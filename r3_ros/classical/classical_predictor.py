"""The classical predictor: visual odometry and plane sweep as a :class:`Predictor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import math
from pathlib import Path
from typing import NamedTuple

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
from ..core.error_model import ErrorModel
from ..core.errors import FrameError
from ..core.geometry import inverse
from ..core.resize_geometry import as_rgb, image_size
from . import describe
from .confidence import Evidence, NoiseLevel, REFERENCE, rotation_confidence
from .features import working_image
from .landmarks import HeldFrame
from .odometry import Mode, Odometry
from .pinhole import Pinhole
from .readout import MeasuredShutter
from .saved_landmarks import KnownMap, landmarks_in
from .sweep import sweep_size, Swept

#: Least side of an image, in pixels.
SHORTEST_SIDE = 64
#: First guess of the focal length without calibration, over the longer side: 64 degrees.
ASSUMED_FOCAL = 0.8
#: Keyframes whose colour is kept: depth is ready a few steps after its keyframe, or never.
MOST_COLORS = 10
#: Factor on an edge's confidence while a relocalisation is unconfirmed, or without landmarks.
UNCONFIRMED_FACTOR = 0.3
#: Smaller changes of a reported pose are not reported.
SAME_POSE = 1e-9


class _Described(NamedTuple):
    """A frame, its image as if all rows were of one time, that in grey, and its descriptor."""

    frame: Frame
    image: np.ndarray
    gray: np.ndarray
    descriptor: np.ndarray


class ClassicalPredictor:
    """Relative poses by corners and landmarks, dense depth by plane sweep; no weights, no GPU.

    OpenCV is set to one thread for the whole process: for such small images more threads are
    slower, and the background threads here use a second core.
    """

    info = ModelInfo('classical')
    capacity: int | None = None
    confidence_reference: float = REFERENCE
    descriptor_size: int = describe.SIZE
    has_pose_token: bool = False
    start_advice: str = 'move the camera sideways, with texture in view'
    error_model = ErrorModel.read(Path(__file__).with_name('error_model.json'))

    def __init__(self, config: ClassicalConfig, with_depth: bool = True):
        cv2.setNumThreads(1)
        self._config = config
        self._with_depth = with_depth
        self._odometry: Odometry | None = None
        # A saved map, until the first frame with its camera.
        self._known: KnownMap | None = None
        self._intrinsics: Intrinsics | None = None
        self._estimated = False
        self._noise = NoiseLevel()
        self._size = (0, 0)
        self._shutter = MeasuredShutter()
        self._described: _Described | None = None
        self._descriptors: dict[int, np.ndarray] = {}
        # Colour images of keyframes that may still be swept.
        self._colors: dict[int, np.ndarray] = {}

    @property
    def focal_sigma(self) -> float:
        """Return the relative standard deviation of the focal length.

        0 if the calibration was given; NaN before the first frame.
        """
        return math.nan if self._odometry is None else self._odometry.focal_sigma

    def describe(self, frame: Frame) -> np.ndarray:
        """Return the frame's descriptor."""
        if self._described is None or self._described.frame is not frame:
            image = self._shutter.corrected(self._checked(frame), frame.stamp_ns)
            gray = working_image(image)
            self._described = _Described(frame, image, gray, describe.describe(gray))
        return self._described.descriptor

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate one frame to the context frames.

        Depth is computed for keyframes only, regardless of ``depth``.
        """
        descriptor = self.describe(frame)
        assert self._described is not None
        image, gray = self._described.image, self._described.gray
        self._described = None
        odometry = self._odometry_for(frame, gray)
        by_similarity = sorted(context_ids, key=lambda i: -self._similarity(i, descriptor))
        outcome = odometry.step(frame.frame_id, gray, by_similarity)
        if self._config.correct_rolling_shutter:
            self._shutter.note(frame.stamp_ns, outcome.tracks, gray.shape)
        if outcome.keyframe:
            self._descriptors[frame.frame_id] = descriptor
        if outcome.keyframe and self._with_depth:
            size = sweep_size(odometry.camera)
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            self._colors[frame.frame_id] = as_rgb(small)
            while len(self._colors) > MOST_COLORS:
                del self._colors[min(self._colors)]
        edges: tuple[Edge, ...] = ()
        if outcome.posed:
            factor = UNCONFIRMED_FACTOR if outcome.unconfirmed else 1.0
            edges = self._edges(odometry, odometry.frames[frame.frame_id], context_ids, factor)
        if outcome.elsewhere is not None:
            there, unit = outcome.elsewhere.frame, outcome.elsewhere.unit
            edges += self._edges(odometry, there, context_ids, 1.0, unit)
        refined = self._corrections(odometry, frame.frame_id)
        height, width = frame.image.shape[:2]
        return FramePrediction(
            intrinsics=odometry.camera.resized(width, height),
            edges=edges,
            refined=refined,
            depths=self._depths(odometry.camera, outcome.swept),
            keyframe=outcome.keyframe,
            provisional=odometry.mode is Mode.STARTING,
            settled=outcome.settled,
            intrinsics_estimated=self._estimated,
            focal_sigma=odometry.focal_sigma,
            readout_s=self._shutter.readout_s,
            unit_unsure=outcome.unit_unsure,
        )

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames, and the landmarks that only they had seen."""
        if self._odometry is not None:
            for frame_id in frame_ids:
                self._odometry.forget(frame_id)
                self._colors.pop(frame_id, None)
                self._descriptors.pop(frame_id, None)

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...], Intrinsics | None]:
        """Wait for background work; return its refined edges, depths and an estimated camera."""
        if self._odometry is None:
            return (), (), None
        swept = self._odometry.drain()
        depths = self._depths(self._odometry.camera, swept)
        intrinsics = self._odometry.camera.resized(*self._size) if self._estimated else None
        return self._corrections(self._odometry, None), depths, intrinsics

    def landmarks(self, S_world_camera: Mapping[int, np.ndarray]) -> SparseLandmarks | None:
        """Return the landmarks and their observations in these keyframes."""
        if self._odometry is None:
            return None if self._known is None else self._known.landmarks
        return landmarks_in(self._odometry.map, S_world_camera, self._size)

    def shrink(self) -> None:
        """Do nothing: all data is in host memory, and bounded."""

    def device_memory(self) -> DeviceMemory | None:
        """Return None: no device is used."""
        return None

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold a saved map, which is converted to the camera of the next frame."""
        if landmarks is None:
            raise FrameError('the map has no landmarks: it was not made by the classical model')
        self.reset()
        self._known = KnownMap.of(keyframes, landmarks)
        self._descriptors = {k.frame_id: k.descriptor for k in self._known.keyframes}

    def reset(self) -> None:
        """Drop all frames and landmarks; the next frame starts a new world."""
        self.close()
        self._odometry = None
        self._known = None
        self._intrinsics = None
        self._noise = NoiseLevel()
        self._shutter = MeasuredShutter()
        self._described = None
        self._colors.clear()
        self._descriptors.clear()

    def close(self) -> None:
        """Stop the background threads."""
        if self._odometry is not None:
            self._odometry.close()

    def _checked(self, frame: Frame) -> np.ndarray:
        """Return the image of a frame.

        :raises FrameError: wrong type or size.
        """
        width, height = image_size(frame.image)
        if min(height, width) < SHORTEST_SIDE:
            raise FrameError(
                f'an image of {width}x{height} is too small: '
                f'send at least {SHORTEST_SIDE} pixels a side'
            )
        if self._odometry is not None and self._size != (width, height):
            raise FrameError(
                f'the image size changed from {self._size[0]}x{self._size[1]} to '
                f'{width}x{height}: reset before sending images of another size'
            )
        return frame.image

    def _odometry_for(self, frame: Frame, gray: np.ndarray) -> Odometry:
        if self._odometry is not None:
            self._check_intrinsics(frame)
            return self._odometry
        height, width = frame.image.shape[:2]
        intrinsics = frame.intrinsics
        self._estimated = intrinsics is None
        if intrinsics is None and self._known is not None:
            intrinsics = self._known.keyframes[-1].intrinsics.resized(width, height)
        elif intrinsics is None:
            focal = ASSUMED_FOCAL * max(width, height)
            centre = ((width - 1) / 2.0, (height - 1) / 2.0)
            intrinsics = Intrinsics(focal, focal, *centre, width, height)
        elif (intrinsics.width, intrinsics.height) != (width, height):
            raise FrameError(
                f'the calibration is for {intrinsics.width}x{intrinsics.height}, the image is '
                f'{width}x{height}: send the calibration of this image size'
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
            fill=self._config.fill_depth,
        )
        if self._known is not None:
            self._odometry.enter(self._known)
            self._known = None
        return self._odometry

    def _check_intrinsics(self, frame: Frame) -> None:
        """Refuse a changed calibration; one that comes late is used after a reset."""
        if self._estimated or frame.intrinsics is None or frame.intrinsics == self._intrinsics:
            return
        raise FrameError(
            f'the calibration changed from {self._intrinsics} to {frame.intrinsics}: '
            'reset to use the new one'
        )

    def _edges(
        self,
        odometry: Odometry,
        frame: HeldFrame,
        context_ids: Sequence[int],
        factor: float,
        unit: float = 1.0,
    ) -> tuple[Edge, ...]:
        """Return an edge for each context frame that shares landmarks with the frame.

        :param factor: on the confidences.
        :param unit: of the frame, in that of the segment its pose is in.
        """
        held = [odometry.frames.get(i) for i in context_ids]
        context = [h for h in held if h is not None and h.segment == frame.segment]
        if odometry.mode is Mode.STARTING:
            frame.reported = frame.T_world_camera.copy()
            rotation = rotation_confidence(odometry.start_rotation_sigma)
            return tuple(self._edge(h, frame, (0.0, rotation)) for h in context)
        evidence = Evidence(frame, odometry.map)
        self._noise.follow(evidence.noise_px)
        edges = []
        for h, found in zip(context, evidence.against(context), strict=True):
            if found is not None:
                translation, rotation = found.confidences
                sigma_t, sigma_r = found.sigmas
                scores = factor * translation, factor * rotation
                edge = self._edge(h, frame, scores, (sigma_t / (factor * unit), sigma_r / factor))
                edge.T_source_target[:3, 3] /= unit
                edges.append(edge)
        frame.reported = frame.T_world_camera.copy() if edges else None
        return tuple(edges)

    def _corrections(self, odometry: Odometry, present_id: int | None) -> tuple[Edge, ...]:
        """Return an edge for each held frame from the first that has moved since its report.

        All later ones get an edge too, so that the engine's graph does not move those that stayed.
        """
        refined: list[Edge] = []
        # By segment.
        sources: dict[int, HeldFrame] = {}
        moving: set[int] = set()
        for held in odometry.frames.values():
            if held.frame_id == present_id:
                continue
            known = held.reported
            if known is None:
                # So far it was the present frame, resolved by the engine from its edges.
                known = held.reported = held.T_world_camera.copy()
            if np.abs(known - held.T_world_camera).max() > SAME_POSE:
                moving.add(held.segment)
            source = sources.get(held.segment)
            if held.segment in moving and source is not None:
                refined.append(self._edge(source, held, (REFERENCE, REFERENCE)))
                held.reported = held.T_world_camera.copy()
            if held.keyframe:
                sources[held.segment] = held
        return tuple(refined)

    def _edge(
        self,
        source: HeldFrame,
        target: HeldFrame,
        scores: tuple[float, float],
        evidence: tuple[float, float] | None = None,
    ) -> Edge:
        T_source_target = inverse(source.T_world_camera) @ target.T_world_camera
        ids = source.frame_id, target.frame_id
        return Edge(*ids, T_source_target, *scores, evidence, self._noise.value)

    def _similarity(self, frame_id: int, descriptor: np.ndarray) -> float:
        """Return the similarity of a keyframe to a descriptor; -1 for other frames."""
        known = self._descriptors.get(frame_id)
        return -1.0 if known is None else float(known @ descriptor)

    def _depths(self, camera: Pinhole, swept: Iterable[Swept]) -> tuple[DepthMap, ...]:
        return tuple(
            DepthMap(
                s.frame_id,
                s.depth,
                s.confidence,
                self._colors.pop(s.frame_id),
                # The focal length may have changed since the sweep began.
                camera.resized(s.depth.shape[1], s.depth.shape[0]),
            )
            for s in swept
        )
