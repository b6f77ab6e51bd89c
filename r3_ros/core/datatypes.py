"""The data that all layers share: frames, intrinsics, edges, predictions, estimates.

Plain values only. Poses are 4x4 float64 matrices named
``T_target_source``: ``p_target = T_target_source @ p_source``; camera axes are optical
(x right, y down, z forward). See docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import enum
import math

import numpy as np

from .errors import CalibrationError


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics of an undistorted image, in pixels.

    Pixel centres lie at integer coordinates (the OpenCV and ROS rule): the image covers
    ``[-0.5, width - 0.5] x [-0.5, height - 0.5]``.

    :raises CalibrationError: a value is not finite, or a focal length or a size is not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)):
            raise CalibrationError(f'intrinsics must be finite numbers, got {self}')
        if self.fx <= 0 or self.fy <= 0:
            raise CalibrationError(
                f'focal lengths must be positive, got fx={self.fx}, fy={self.fy}: '
                'calibrate the camera, or leave the calibration out to have it estimated'
            )
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(f'image size must be positive, got {self.width}x{self.height}')

    @property
    def K(self) -> np.ndarray:
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def fov_x(self) -> float:
        """The horizontal field of view in radians, exact for an off-centre camera."""
        left = math.atan((self.cx + 0.5) / self.fx)
        return left + math.atan((self.width - 0.5 - self.cx) / self.fx)

    def resized(self, width: int, height: int) -> Intrinsics:
        """Return the intrinsics after the image was resized to ``width`` x ``height`` pixels."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width=width,
            height=height,
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> Intrinsics:
        """Return the intrinsics of the sub-image with its top left pixel at ``(x, y)``."""
        return replace(self, cx=self.cx - x, cy=self.cy - y, width=width, height=height)

    @classmethod
    def from_K(cls, K: np.ndarray, width: int, height: int) -> Intrinsics:
        """Build from a 3x3 matrix.

        :raises CalibrationError: not a pinhole matrix without skew.
        """
        K = np.asarray(K, dtype=np.float64)
        if K.shape != (3, 3) or abs(K[0, 1]) > 1e-6 * abs(K[0, 0]):
            raise CalibrationError(
                f'K must be a 3x3 pinhole matrix without skew, got {K.tolist()}'
            )
        (fx, _, cx), (_, fy, cy), _ = K.tolist()
        return cls(fx, fy, cx, cy, int(width), int(height))


@dataclass(frozen=True, eq=False)
class Frame:
    """One undistorted image of the stream.

    :ivar image: (H, W, 3) uint8 RGB, or (H, W) of a grey camera. Never modified.
    :ivar intrinsics: of ``image``; None if the camera is not calibrated.
    :ivar frame_id: number given by the engine; -1 before.
    """

    image: np.ndarray
    stamp_ns: int
    intrinsics: Intrinsics | None = None
    frame_id: int = -1


@dataclass(frozen=True, eq=False)
class Edge:
    """A relative pose between two frames with confidences for translation and rotation.

    Confidences are scores >= 0, 0 for no information; for networks the softplus of their logits.
    Only their ratios to one another and to the predictor's ``confidence_reference`` are used.

    :ivar evidence: standard deviations of an axis of the translation, in the unit of the target,
        and of the rotation in radians, that follow from what was measured; they are turned into
        variances by the predictor's error model. None: to be derived from the confidences.
    :ivar noise: level of the residuals in this and recent frames, over that of good images.
    """

    source_id: int
    target_id: int
    T_source_target: np.ndarray  # (4, 4) float64
    confidence_translation: float
    confidence_rotation: float
    evidence: tuple[float, float] | None = None
    noise: float = 1.0

    @property
    def scores(self) -> tuple[float, float]:
        return self.confidence_translation, self.confidence_rotation


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Dense depth of one frame.

    :ivar depth: (h, w) float32, z along the optical axis in map units, NaN where unknown.
    :ivar confidence: (h, w) float32, dimensionless, >= 1; larger is better.
    :ivar image: (h, w, 3) uint8 RGB, the frame at the size of the depth.
    :ivar intrinsics: of the depth image (it may be smaller than the frame).
    """

    frame_id: int
    depth: np.ndarray
    confidence: np.ndarray
    image: np.ndarray
    intrinsics: Intrinsics


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """The prediction for one frame against its context.

    :ivar intrinsics: of the frame, as calibrated or as estimated by the predictor.
    :ivar edges: ``T_i_frame``, one per context frame that could be related.
    :ivar refined: edges between older frames, which replace the old ones.
    :ivar depths: of this frame, or of earlier ones that took longer; may be empty.
    :ivar keyframe: whether this frame must become a keyframe: the predictor then tracks by itself,
        and gives edges only to a frame whose pose it accepts; None to leave both to the engine.
    :ivar provisional: the predictor has no geometry yet (its start-up); poses are then held
        without confidence.
    :ivar settled: earlier provisional frames whose poses are known now that the start-up has
        ended. Those of the others never will be: nothing connects them to this start.
    :ivar seen_fov_x: horizontal field of view estimated from the images, radians, also if they
        are calibrated; NaN if the predictor does not estimate it.
    :ivar focal_sigma: relative standard deviation of an estimated focal length; 0 if it was given,
        or the predictor does not know.
    :ivar readout_s: time from the first row to the last, of a rolling shutter that the predictor
        measured and corrects; 0 without.
    :ivar unit_unsure: the unit of length may differ from that of the frames before.
    :ivar pose_token: (d,) float32 unit vector, the network's token for the camera pose of the
        frame; None if the predictor has none.
    """

    intrinsics: Intrinsics
    edges: tuple[Edge, ...] = ()
    refined: tuple[Edge, ...] = ()
    depths: tuple[DepthMap, ...] = ()
    keyframe: bool | None = None
    provisional: bool = False
    settled: tuple[int, ...] = ()
    intrinsics_estimated: bool = False
    seen_fov_x: float = math.nan
    focal_sigma: float = 0.0
    readout_s: float = 0.0
    unit_unsure: bool = False
    pose_token: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class KnownKeyframe:
    """A keyframe of a saved map, for :meth:`Predictor.restore`.

    :ivar frame_id: its number in the session that loads the map.
    :ivar image: (H, W, 3) uint8 RGB, undistorted.
    :ivar T_world_camera: (4, 4) float64, in map units.
    :ivar descriptor: (D,) float32, by the same predictor.
    """

    frame_id: int
    stamp_ns: int
    image: np.ndarray
    intrinsics: Intrinsics
    T_world_camera: np.ndarray
    descriptor: np.ndarray


@dataclass(frozen=True, eq=False)
class SparseLandmarks:
    """Triangulated points and their observations in keyframes.

    :ivar positions: (L, 3) float64, in the frame that the producer documents.
    :ivar relative_sigma: (L,) float64, standard deviation of the depth over the depth, for a
        pixel of noise.
    :ivar frame_ids: (M,) int64, the keyframe of each observation, grouped by keyframe.
    :ivar landmarks: (M,) int64, row of the observed landmark.
    :ivar pixels: (M, 2) float64, in the undistorted image.
    """

    positions: np.ndarray
    relative_sigma: np.ndarray
    frame_ids: np.ndarray
    landmarks: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class ModelInfo:
    """The name of a predictor, its device and its weights.

    :ivar checkpoint_sha256: of its weights file; None for a predictor without weights.
    :ivar device: ``cpu``, ``cuda:0``, ...
    :ivar precision: the type of most of its arithmetic: fp32, bf16, fp16.
    :ivar notes: remarks on the loaded weights, one line each.
    """

    name: str
    device: str = 'cpu'
    precision: str = 'fp32'
    checkpoint_sha256: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceMemory:
    """Memory use of a device, in bytes; ``device`` is its product name.

    :ivar used: in use by this process.
    :ivar reserved: by this process, used or not.
    :ivar peak: largest ``used`` since the predictor was loaded.
    :ivar free: not reserved by any process.
    """

    device: str
    used: int
    reserved: int
    peak: int
    free: int

    @property
    def cap(self) -> int:
        """What this process could use at most."""
        return self.reserved + self.free


class TrackingState(enum.Enum):
    """The state of the estimator after a frame."""

    INITIALIZING = 'initializing'
    TRACKING = 'tracking'
    LOW_CONFIDENCE = 'low_confidence'
    LOST = 'lost'
    RECOVERING = 'recovering'

    @property
    def is_tracked(self) -> bool:
        """Whether a pose in this state follows from the images."""
        return self in (TrackingState.TRACKING, TrackingState.LOW_CONFIDENCE)


@dataclass(frozen=True, eq=False)
class Estimate:
    """The engine's estimate for one frame.

    :ivar T_world_camera: (4, 4) float64 or None without a pose (LOST). The world is the first
        camera of the session, optical axes.
    :ivar covariance: (6, 6) float64 or None, order x y z rx ry rz; the pose error is a small
        motion ``exp(xi)`` in the camera frame, map units and radians.
    :ivar T_previous_camera: (4, 4) motion since the last frame that had a pose, without
        corrections: both poses are of the same state of the estimator; None without one.
    :ivar step_covariance: (6, 6) float64 of ``T_previous_camera``, in the convention of
        ``covariance``; None if unknown.
    :ivar confidence_translation: best-edge score, NaN for a frame without edges.
    :ivar confidence_ratio: ratio of score to the session's reference score; 1.0 is nominal.
    :ivar corrected: ids of frames whose earlier poses changed in this step.
    :ivar evicted: ids of keyframes dropped from the bank since the last estimate.
    :ivar seen_fov_x: as of :class:`FramePrediction`, and so is ``readout_s``.
    :ivar metres_per_unit: length of a map unit, the unit of all of the above; None: unknown.
    """

    frame_id: int
    stamp_ns: int
    state: TrackingState
    reason: str
    T_world_camera: np.ndarray | None
    covariance: np.ndarray | None
    intrinsics: Intrinsics
    intrinsics_estimated: bool
    is_keyframe: bool
    confidence_translation: float
    confidence_rotation: float
    confidence_ratio: float
    depths: tuple[DepthMap, ...]
    context_ids: tuple[int, ...]
    T_previous_camera: np.ndarray | None = None
    step_covariance: np.ndarray | None = None
    corrected: tuple[int, ...] = ()
    evicted: tuple[int, ...] = ()
    segment_id: int = 0
    map_revision: int = 0
    metres_per_unit: float | None = None
    seen_fov_x: float = math.nan
    readout_s: float = 0.0
    timings_ms: Mapping[str, float] = field(default_factory=dict)
