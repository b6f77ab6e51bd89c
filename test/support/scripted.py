"""A predictor that follows a script, for tests of the engine and of the node.

The camera walks a known path through a box-shaped room, so poses, depth and similarity of views
are exact and belong together; noise, confidence droughts, outliers, latency and failures are
added on request. ``index`` counts the frames shown to the predictor, from 0, and never restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
import itertools
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
from r3_ros.core.datatypes import (
    DepthMap,
    DeviceMemory,
    Edge,
    Frame,
    FramePrediction,
    Intrinsics,
    KnownKeyframe,
    ModelInfo,
)
from r3_ros.core.error_model import ErrorModel
from r3_ros.core.geometry import inverse, make_T
from r3_ros.core.resize_geometry import as_rgb
from scipy.spatial.transform import Rotation

#: Half the size of the room along x, y, z, in map units; the walk stays well inside.
ROOM = np.array([2.0, 1.2, 2.0])
START_NS = 1_700_000_000_123_456_789
SECOND_NS = 1_000_000_000
#: Between two frames at 10 Hz.
PERIOD_NS = SECOND_NS // 10

Path = Callable[[int], np.ndarray]


def circle(radius: float = 0.5, period_s: float = 20.0, start_ns: int = START_NS) -> Path:
    """Walk a circle at constant height, looking along the path; a loop every ``period_s``."""

    def T_room_camera(stamp_ns: int) -> np.ndarray:
        angle = 2.0 * math.pi * (stamp_ns - start_ns) / SECOND_NS / period_s
        # Optical axes: the circle lies in the x-z plane, y points down, so yaw turns about y.
        position = radius * np.array([-math.cos(angle), 0.0, math.sin(angle)])
        return make_T(Rotation.from_euler('y', angle).as_matrix(), position)

    return T_room_camera


def straight(speed: float = 0.2, start_ns: int = START_NS) -> Path:
    """Walk forward from the room's middle at ``speed`` map units per second."""

    def T_room_camera(stamp_ns: int) -> np.ndarray:
        return make_T(np.eye(3), np.array([0.0, 0.0, speed * (stamp_ns - start_ns) / SECOND_NS]))

    return T_room_camera


def truth(path: Path, stamp_ns: int, first_ns: int = START_NS) -> np.ndarray:
    """Return the exact T_world_camera, the world being the camera at ``first_ns``."""
    return inverse(path(first_ns)) @ path(stamp_ns)


def pattern_image(width: int = 64, height: int = 48, shade: int = 0) -> np.ndarray:
    """Return a (height, width, 3) uint8 image whose three channels differ everywhere."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 // width, y * 255 // height, (x + y + shade) % 256)
    return np.stack(channels, axis=-1).astype(np.uint8)


def intrinsics(width: int = 64, height: int = 48) -> Intrinsics:
    """Return those of a camera with its centre in the middle of the image."""
    return Intrinsics(
        fx=0.8 * width,
        fy=0.8 * width,
        cx=(width - 1) / 2,
        cy=(height - 1) / 2,
        width=width,
        height=height,
    )


def frames(
    count: int, rate_hz: float = 10.0, start_ns: int = START_NS, calibrated: bool = True
) -> Iterator[Frame]:
    """Yield frames as a camera would, at a constant rate."""
    for i in range(count):
        yield Frame(
            image=pattern_image(shade=i),
            stamp_ns=start_ns + round(i * SECOND_NS / rate_hz),
            intrinsics=intrinsics() if calibrated else None,
        )


@dataclass
class Script:
    """What happens, and when.

    :ivar path: T_room_camera by stamp.
    :ivar translation_noise: standard deviation per axis and edge, map units.
    :ivar rotation_noise: standard deviation per axis and edge, radians.
    :ivar drift: every edge's translation is too long by this share (refined edges are exact).
    :ivar scale_drift: the unit of edges and depth shrinks by this share with each frame.
    :ivar new_unit: from this index on, edges and depth are longer by this factor.
    :ivar turn_drift: every edge turns too far to the left by this angle per map unit of its
        length, radians.
    :ivar reach: context frames farther off than this get no edge.
    :ivar droughts: indices whose edges have ``drought_score`` of the nominal score.
    :ivar blackouts: indices without any edge.
    :ivar outlier_share: share of edges that are wrong but claim the nominal score.
    :ivar refine_at: indices that also return exact edges between the frames held.
    :ivar provisional: so many frames at the start are declared provisional; the next frame
        makes the poses of the frames ``settled`` known.
    :ivar keyframe: what to say of a frame by its index; None leaves it to the engine.
    :ivar nan_pose_at: indices whose edges hold NaN.
    :ivar nan_depth_at: indices whose depth and confidence hold NaN and infinities.
    :ivar failures: exception to raise from ``predict`` by index.
    :ivar describe_failures: exception to raise from ``describe`` by index.
    :ivar shrink_failure: exception to raise from ``shrink``; ``close_failure``: from ``close``.
    :ivar device_memory: what to report of the device's memory.
    :ivar latency_s: time each ``predict`` takes.
    :ivar turnstile: ``predict`` waits for a permit of it; ``ScriptedPredictor.arrived`` gets
        one permit for each call that has come so far.
    :ivar depth_size: (h, w) of the depth maps; None for no depth at all.
    :ivar depth_delay: depth is handed out so many frames late, with its own frame's id.
    :ivar seen_fov_x: horizontal field of view to report for the images, radians.
    :ivar estimate_focal: pretend to guess the focal length of uncalibrated frames.
    """

    path: Path = field(default_factory=circle)
    translation_noise: float = 0.0
    rotation_noise: float = 0.0
    drift: float = 0.0
    scale_drift: float = 0.0
    new_unit: tuple[int, float] | None = None
    turn_drift: float = 0.0
    reach: float = math.inf
    droughts: Collection[int] = ()
    drought_score: float = 0.05
    blackouts: Collection[int] = ()
    outlier_share: float = 0.0
    refine_at: Collection[int] = ()
    provisional: int = 0
    settled: tuple[int, ...] = ()
    keyframe: Callable[[int], bool | None] = lambda index: None
    nan_pose_at: Collection[int] = ()
    nan_depth_at: Collection[int] = ()
    failures: Mapping[int, Exception] = field(default_factory=dict)
    describe_failures: Mapping[int, Exception] = field(default_factory=dict)
    shrink_failure: Exception | None = None
    close_failure: Exception | None = None
    device_memory: DeviceMemory | None = None
    latency_s: float = 0.0
    turnstile: threading.Semaphore | None = None
    depth_size: tuple[int, int] | None = (24, 32)
    depth_delay: int = 0
    estimate_focal: bool = True
    seen_fov_x: float = math.nan
    seed: int = 0


class ScriptedPredictor:
    """Implements the predictor protocol from a :class:`Script`.

    Of exceptions in the script copies are raised: one that is raised holds all that its traceback
    leads to, a whole node and its place in the graph, for as long as somebody keeps the script.
    """

    info = ModelInfo('scripted')
    capacity = None
    confidence_reference = 2.0
    #: Its edges are exact, or wrong on request: nothing to be added up.
    error_model = ErrorModel(summed=(0.1, 0.1))
    descriptor_size = 128
    has_pose_token = False
    start_advice = 'read the script'

    def __init__(self, script: Script | None = None) -> None:
        """Start with nothing held."""
        self.script = Script() if script is None else script
        self.arrived = threading.Semaphore(0)
        self.closed = False
        self.resets = 0
        self.shrunk = 0
        #: Context ids of every prediction so far, in order.
        self.contexts: list[tuple[int, ...]] = []
        self.restored: list[KnownKeyframe] = []
        self._index = -1
        self._room: dict[int, np.ndarray] = {}
        self._pending: list[tuple[int, DepthMap]] = []
        self._rng = np.random.default_rng(self.script.seed)
        # Random Fourier features (Rahimi and Recht, 2007): their dot product is near a Gaussian
        # of the distance, so nearby views are similar and far ones are not.
        self._frequencies = np.random.default_rng(7).normal(size=(self.descriptor_size // 2, 6))

    @property
    def held(self) -> set[int]:
        """Return the ids of the frames held now."""
        return set(self._room)

    def describe(self, frame: Frame) -> np.ndarray:
        """Describe where the frame was taken from, not what it shows."""
        self._index += 1
        if self._index in self.script.describe_failures:
            raise copy(self.script.describe_failures[self._index])
        T = self.script.path(frame.stamp_ns)
        view = np.concatenate([T[:3, 3], T[:3, 2]]) * 1.5
        phase = self._frequencies @ view
        features = np.concatenate([np.cos(phase), np.sin(phase)])
        return (features / np.linalg.norm(features)).astype(np.float32)

    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Predict as scripted."""
        script, index = self.script, self._index
        self._take_time()
        if index in script.failures:
            raise copy(script.failures[index])
        T_room_camera = script.path(frame.stamp_ns)
        context = tuple(context_ids)
        assert set(context) <= self.held, f'{context} asked for, {self.held} held'
        self.contexts.append(context)
        edges = tuple(self._edges(frame.frame_id, T_room_camera, context))
        self._room[frame.frame_id] = T_room_camera
        K = frame.intrinsics or intrinsics(frame.image.shape[1], frame.image.shape[0])
        return FramePrediction(
            intrinsics=K,
            edges=edges,
            refined=tuple(self._exact_edges()) if index in script.refine_at else (),
            depths=self._depths(frame, T_room_camera, K),
            keyframe=script.keyframe(index),
            provisional=index < script.provisional,
            settled=script.settled if index == script.provisional else (),
            intrinsics_estimated=frame.intrinsics is None and script.estimate_focal,
            seen_fov_x=script.seen_fov_x,
        )

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames."""
        for frame_id in frame_ids:
            self._room.pop(frame_id, None)

    def drain(self) -> tuple[tuple[Edge, ...], tuple[DepthMap, ...], Intrinsics | None]:
        """Hand out the depth maps that are still late."""
        late = tuple(depth for _, depth in self._pending)
        self._pending.clear()
        return (), late, None

    def landmarks(self, S_world_camera: Mapping[int, np.ndarray]) -> None:
        """Return none."""

    def shrink(self) -> None:
        """Count the call, and fail if scripted."""
        self.shrunk += 1
        if self.script.shrink_failure is not None:
            raise copy(self.script.shrink_failure)

    def device_memory(self) -> DeviceMemory | None:
        """Return the scripted value."""
        return self.script.device_memory

    def restore(self, keyframes: Iterable[KnownKeyframe], landmarks: object) -> None:
        """Know where the keyframes of a saved map were taken."""
        assert not self.held
        self.restored = list(keyframes)
        self._room = {k.frame_id: self.script.path(k.stamp_ns) for k in self.restored}

    def reset(self) -> None:
        """Forget all frames; the script goes on where it was."""
        self.resets += 1
        self._room.clear()
        self._pending.clear()

    def close(self) -> None:
        """Record the call, and fail if scripted."""
        self.closed = True
        if self.script.close_failure is not None:
            raise copy(self.script.close_failure)

    def _take_time(self) -> None:
        self.arrived.release()
        if self.script.turnstile is not None:
            self.script.turnstile.acquire()
        if self.script.latency_s > 0:
            time.sleep(self.script.latency_s)

    def _edges(
        self, frame_id: int, T_room_camera: np.ndarray, context: Sequence[int]
    ) -> Iterator[Edge]:
        script, index = self.script, self._index
        if index in script.blackouts:
            return
        score = self.confidence_reference
        if index in script.droughts:
            score *= script.drought_score
        for source_id in context:
            T_i_frame = inverse(self._room[source_id]) @ T_room_camera
            if np.linalg.norm(T_i_frame[:3, 3]) > script.reach:
                continue
            T_i_frame = self._spoiled(T_i_frame)
            yield Edge(source_id, frame_id, T_i_frame, score, score)

    def _spoiled(self, T: np.ndarray) -> np.ndarray:
        script, rng = self.script, self._rng
        if self._index in script.nan_pose_at:
            return np.full((4, 4), np.nan)
        if rng.random() < script.outlier_share:
            return make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))
        turn = Rotation.from_rotvec(rng.normal(size=3) * script.rotation_noise).as_matrix()
        shift = rng.normal(size=3) * script.translation_noise
        length = np.linalg.norm(T[:3, 3])
        turn = Rotation.from_euler('y', -script.turn_drift * length).as_matrix() @ turn
        measured = make_T(turn @ T[:3, :3], (1.0 + script.drift) * T[:3, 3] + shift)
        measured[:3, 3] *= self._unit_drift()
        return measured

    def _unit_drift(self) -> float:
        """Return how many of the present units make one of the first."""
        drift = (1.0 + self.script.scale_drift) ** self._index
        changed, factor = self.script.new_unit or (0, 1.0)
        return drift * (factor if self._index >= changed else 1.0)

    def _exact_edges(self) -> Iterator[Edge]:
        """Relate every held frame to the one before it, without noise or drift."""
        ids = sorted(self._room)
        score = 2.0 * self.confidence_reference
        for source_id, target_id in itertools.pairwise(ids):
            T = inverse(self._room[source_id]) @ self._room[target_id]
            yield Edge(source_id, target_id, T, score, score)

    def _depths(
        self, frame: Frame, T_room_camera: np.ndarray, K: Intrinsics
    ) -> tuple[DepthMap, ...]:
        if self.script.depth_size is None:
            return ()
        depth = room_depth(frame, T_room_camera, K, self.script.depth_size)
        depth.depth[:] *= self._unit_drift()
        if self._index in self.script.nan_depth_at:
            depth.depth[::2] = np.nan
            depth.depth[1::4] = np.inf
            depth.confidence[:, ::2] = np.nan
        self._pending.append((self._index + self.script.depth_delay, depth))
        ready = tuple(d for due, d in self._pending if due <= self._index)
        self._pending = [(due, d) for due, d in self._pending if due > self._index]
        return ready


def room_depth(
    frame: Frame, T_room_camera: np.ndarray, K: Intrinsics, size: tuple[int, int]
) -> DepthMap:
    """Intersect the rays of a small image with the walls of the room."""
    height, width = size
    K = K.resized(width, height)
    v, u = np.mgrid[:height, :width].astype(np.float64)
    rays = np.stack([(u - K.cx) / K.fx, (v - K.cy) / K.fy, np.ones_like(u)], axis=-1)
    direction = rays @ T_room_camera[:3, :3].T
    with np.errstate(divide='ignore'):
        # Along each axis the ray leaves through the wall it is heading for; the first one counts.
        walls = (np.sign(direction) * ROOM - T_room_camera[:3, 3]) / direction
    depth = np.where(np.isfinite(walls), walls, np.inf).min(axis=-1)
    rows = np.arange(height) * frame.image.shape[0] // height
    columns = np.arange(width) * frame.image.shape[1] // width
    confidence = 2.0 + np.hypot(rays[..., 0], rays[..., 1])
    return DepthMap(
        frame_id=frame.frame_id,
        depth=depth.astype(np.float32),
        confidence=confidence.astype(np.float32),
        image=as_rgb(frame.image[rows[:, None], columns]),
        intrinsics=K,
    )


def moved(
    stamp_ns: int,
    T_world_camera: np.ndarray,
    T_previous_camera: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
    step_covariance: np.ndarray | None = None,
) -> SimpleNamespace:
    """Return the part of an Estimate that says where the camera is."""
    return SimpleNamespace(**locals())
