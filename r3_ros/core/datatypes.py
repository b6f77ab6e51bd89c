"""The words every layer shares: frames, intrinsics, edges, predictions, estimates.

Plain values only: no ROS, no torch, no policy. Poses are 4x4 float64 matrices named
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
        """Refuse values that no camera has."""
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
        """Return the 3x3 float64 camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def fov_x(self) -> float:
        """Return the horizontal field of view in radians, exact for an off-centre camera."""
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
        """Build from a 3x3 matrix; skew is not representable and is refused.

        :raises CalibrationError: the matrix is no pinhole matrix without skew.
        """
        K = np.asarray(K, dtype=np.float64)
        if K.shape != (3, 3) or abs(K[0, 1]) > 1e-6 * abs(K[0, 0]):
            raise CalibrationError(
                f'K must be a 3x3 pinhole matrix without skew, got {K.tolist()}'
            )
        return cls(K[0, 0], K[1, 1], K[0, 2], K[1, 2], int(width), int(height))


@dataclass(frozen=True, eq=False)
class Frame:
    """One undistorted picture on its way into the engine.

    :ivar image: (H, W, 3) uint8 RGB. Never modified.
    :ivar stamp_ns: acquisition time in nanoseconds, copied as an integer.
    :ivar intrinsics: of ``image``; None if the camera is not calibrated.
    :ivar frame_id: the engine's running number; -1 until the engine gives it one.
    """

    image: np.ndarray
    stamp_ns: int
    intrinsics: Intrinsics | None = None
    frame_id: int = -1


@dataclass(frozen=True, eq=False)
class Edge:
    """A relative pose between two frames with a confidence each for translation and rotation.

    Confidences are scores >= 0 that grow with certainty, 0 for "knows nothing"; a network with
    logits gives their softplus. They need not share a unit with another predictor's: only their
    ratios to one another and to the predictor's ``confidence_reference`` are used.
    """

    source_id: int
    target_id: int
    T_source_target: np.ndarray  # (4, 4) float64
    confidence_translation: float
    confidence_rotation: float


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Dense depth of one frame.

    :ivar frame_id: the frame it belongs to.
    :ivar depth: (h, w) float32, z along the optical axis in map units, NaN where unknown.
    :ivar confidence: (h, w) float32, dimensionless, >= 1 as R3's; larger is better.
    :ivar image: (h, w, 3) uint8 RGB, the picture at the size of the depth, pixel for pixel.
    :ivar intrinsics: of the depth image (it may be smaller than the picture).
    """

    frame_id: int
    depth: np.ndarray
    confidence: np.ndarray
    image: np.ndarray
    intrinsics: Intrinsics


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """What a predictor says of one frame against its context.

    :ivar intrinsics: of the frame, as calibrated or as estimated by the predictor.
    :ivar edges: one per context frame that could be related: ``T_i_frame``.
    :ivar refined: edges between frames held before, which replace the old ones.
    :ivar depths: depth of this frame, or of earlier ones that took longer; may be empty.
    :ivar keyframe: True if the predictor needs this frame kept, False if it must not become a
        keyframe, None to leave it to the engine's admission rule.
    :ivar provisional: True while the predictor has no geometry yet (its start-up); poses are
        then held and claim no confidence.
    :ivar intrinsics_estimated: True if the predictor had to guess the focal length.
    :ivar seen_fov_x: horizontal field of view that the pictures themselves show, radians, also
        where a calibration says another; NaN if the predictor does not look for it.
    :ivar pose_token: (d,) float32 unit vector that the frame's camera answers were read from;
        None if the predictor has none.
    """

    intrinsics: Intrinsics
    edges: tuple[Edge, ...] = ()
    refined: tuple[Edge, ...] = ()
    depths: tuple[DepthMap, ...] = ()
    keyframe: bool | None = None
    provisional: bool = False
    intrinsics_estimated: bool = False
    seen_fov_x: float = math.nan
    pose_token: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class KnownKeyframe:
    """A keyframe of a saved map, for a predictor to hold as if it had seen it.

    :ivar frame_id: its number in the session that goes on with the map.
    :ivar image: (H, W, 3) uint8 RGB, undistorted.
    :ivar intrinsics: of ``image``.
    :ivar T_world_camera: (4, 4) float64, in map units.
    :ivar descriptor: (D,) float32, as the predictor described it.
    """

    frame_id: int
    stamp_ns: int
    image: np.ndarray
    intrinsics: Intrinsics
    T_world_camera: np.ndarray
    descriptor: np.ndarray


@dataclass(frozen=True, eq=False)
class SparseLandmarks:
    """Points that a predictor has triangulated, and where its keyframes saw them.

    :ivar positions: (L, 3) float64, in the frame the producer names.
    :ivar relative_sigma: (L,) float64, standard deviation of the depth over the depth, for a
        pixel of noise.
    :ivar frame_ids: (M,) int64, the keyframe of each sighting; sightings of a frame lie together.
    :ivar landmarks: (M,) int64, row of the landmark that was seen.
    :ivar pixels: (M, 2) float64, where, in the undistorted picture.
    """

    positions: np.ndarray
    relative_sigma: np.ndarray
    frame_ids: np.ndarray
    landmarks: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        """Return the number of landmarks."""
        return len(self.positions)


@dataclass(frozen=True)
class ModelInfo:
    """What a predictor is and where it runs.

    :ivar checkpoint_sha256: of its file of weights; None for a predictor without weights.
    :ivar device: ``cpu``, ``cuda:0``, ...
    :ivar precision: the type most of its arithmetic runs in: fp32, bf16, fp16.
    :ivar notes: what is to be known of the weights that were loaded, one line each.
    """

    name: str
    device: str = 'cpu'
    precision: str = 'fp32'
    checkpoint_sha256: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceMemory:
    """How the memory of a device is used, in bytes.

    :ivar device: its name, as its maker gives it.
    :ivar used: by this process, in use.
    :ivar reserved: by this process, the unused share of it included.
    :ivar peak: the most that was in use since the predictor was loaded.
    :ivar free: not taken by any process.
    """

    device: str
    used: int
    reserved: int
    peak: int
    free: int

    @property
    def cap(self) -> int:
        """Return what this process could have at the most, as things are."""
        return self.reserved + self.free


class TrackingState(enum.Enum):
    """What the estimator can say of itself after a frame."""

    INITIALIZING = 'initializing'
    TRACKING = 'tracking'
    LOW_CONFIDENCE = 'low_confidence'
    LOST = 'lost'
    RECOVERING = 'recovering'


@dataclass(frozen=True, eq=False)
class Estimate:
    """The engine's answer for one frame.

    :ivar T_world_camera: (4, 4) float64 or None where no pose may be claimed (LOST). The world
        is the first camera of the session, optical axes.
    :ivar covariance: (6, 6) float64 or None, order x y z rx ry rz; the pose error is a small
        motion ``exp(xi)`` in the camera frame, map units and radians.
    :ivar T_previous_camera: (4, 4) motion since the last frame that had a pose, both poses taken
        from the same state of the estimator, so corrections never show in it; None without one.
    :ivar step_covariance: (6, 6) float64 of ``T_previous_camera``, in the convention of
        ``covariance``; None where it is unknown.
    :ivar confidence_translation: best-edge score, NaN for a frame without edges.
    :ivar confidence_ratio: score over the session's reference score; 1.0 is nominal.
    :ivar corrected: ids of frames whose earlier poses changed in this step.
    :ivar evicted: ids of keyframes that left the bank in this step.
    :ivar seen_fov_x: as of :class:`FramePrediction`.
    :ivar metres_per_unit: length of a map unit, in which all of the above is; None: unknown.
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
    timings_ms: Mapping[str, float] = field(default_factory=dict)
