"""Every parameter of r3_ros, once: default, unit, range, help, and whether it may change live.

The dataclasses below feed the library, the ``r3`` command, the ROS parameters, the YAML files
and the parameter page; nothing else holds a default.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError
from .parameter_fields import group, param, parameters

MODEL_NAMES = ('classical', 'r3', 'r3_long', 'r3_tiny')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
#: Long side of the images that R3 can process, in pixels, and that of the published weights.
SMALLEST_IMAGE, LARGEST_IMAGE, PUBLISHED_IMAGE = 112, 1008, 504
#: Encodings that an ambiguous image may have; ``input.image_decoding`` decodes all of these.
ENCODING_HINTS = (
    '',
    'rgb8',
    'bgr8',
    'rgba8',
    'bgra8',
    'mono8',
    'mono16',
    'bayer_rggb8',
    'bayer_bggr8',
    'bayer_gbrg8',
    'bayer_grbg8',
    'yuv422',
    'uyvy',
    'yuv422_yuy2',
    'yuyv',
    'nv12',
)
SCALE_SOURCES = ('none', 'fixed', 'model', 'odometry')
#: Sources in a status or a saved map; ``user``: the scale was set by a service while running.
REPORTED_SCALE_SOURCES = (*SCALE_SOURCES, 'user')


@dataclass(frozen=True)
class InputConfig:
    """The image stream."""

    transport: str = param('raw', 'image transport subscribed to', choices=('raw', 'compressed'))
    encoding_hint: str = param(
        '',
        'encoding to assume for the ambiguous 8UC1, 8UC3, 8UC4 and 16UC1; empty: OpenCV order',
        choices=ENCODING_HINTS,
        live=True,
    )
    rectification: str = param(
        'auto',
        'undistort images; auto: if the calibration has distortion and the topic is not named as '
        'rectified',
        choices=('auto', 'on', 'off'),
    )
    camera_info_timeout: float = param(
        2.0,
        'wait this long for a calibration, then estimate the focal length; 0: do not wait',
        's',
        0.0,
        60.0,
    )
    frame_policy: str = param(
        'newest',
        'newest drops frames that arrive faster than they are processed; queue keeps them, for '
        'offline bags',
        choices=('newest', 'queue'),
    )
    queue_size: int = param(
        30, 'frames held by frame_policy queue; the oldest is dropped beyond', low=1, high=1000
    )
    max_rate: float = param(
        0.0, 'process at most this many frames per second; 0: all', 'Hz', 0.0, 240.0, live=True
    )
    max_age: float = param(
        0.0, 'reject frames older than this by the ROS clock; 0: never', 's', 0.0, 60.0, live=True
    )
    max_time_gap: float = param(
        5.0,
        'after a longer gap between frames the pose has to be confirmed again; 0: off',
        's',
        0.0,
        3600.0,
        live=True,
    )
    max_frozen_time: float = param(
        0.5,
        'no poses once the camera has repeated an identical image for this long; 0: no check, for '
        'simulated cameras without noise',
        's',
        0.0,
        3600.0,
        live=True,
    )
    on_time_jump_back: str = param(
        'reset', 'what to do when time jumps back', choices=('reset', 'ignore', 'error'), live=True
    )
    time_jump_threshold: float = param(
        0.5,
        'a smaller step back in time is a frame out of order, which is dropped',
        's',
        0.01,
        60.0,
        live=True,
    )
    on_resolution_change: str = param(
        'reset', 'what to do when the image size changes', choices=('reset', 'reject'), live=True
    )


@dataclass(frozen=True)
class ModelConfig:
    """The predictor of depth and relative poses."""

    name: str = param(
        'classical',
        'the predictor; r3 and r3_long are the network with the published weights of that name, '
        'r3_tiny with weights you trained (model.checkpoint)',
        choices=MODEL_NAMES,
    )
    checkpoint: str = param(
        '', 'weights file (.safetensors) for R3, of any size; empty: found by model.name'
    )
    image_size: int = param(
        0,
        'long side of the images that R3 processes, a multiple of 14 from 112 on; 0: as in '
        'training, 504 if the weights do not state it',
        'pixels',
        0,
        LARGEST_IMAGE,
    )
    precision: str = param(
        'auto',
        'precision of R3; auto: fp32 on a CPU, bf16 on a GPU that supports it, else fp16',
        choices=PRECISIONS,
    )
    depth: bool = param(True, 'compute dense depth; off saves time where only poses are needed')
    depth_every: int = param(
        1,
        'R3 computes depth for keyframes and for every N-th frame; 0: for keyframes only',
        'frames',
        0,
        300,
        live=True,
    )
    device: str = param(
        'auto',
        'device of the predictor and of keyframe retrieval; auto: the best that it can use',
        choices=('auto', 'cpu', 'cuda'),
    )


@dataclass(frozen=True)
class MemoryConfig:
    """Memory limits of R3: 23 MiB a frame at 504x280 in bf16, twice as much in fp32."""

    max_gpu_mib: int = param(
        2048,
        'cached frames on the device of R3; its context must fit',
        'MiB',
        16,
        1_048_576,
    )
    oom_policy: str = param(
        'shrink',
        'when the device runs out of memory: shrink drops a quarter of the keyframes and half of '
        'the recent frames, and resets the second time; reset resets; error stops until ~/reset, '
        'as the third time within a minute does with any policy',
        choices=('shrink', 'reset', 'error'),
        live=True,
    )
    max_host_mib: int = param(
        8192,
        'cached frames in host memory beyond those on the device, and the images of all frames; a '
        'frame that does not fit is recomputed from its image when it is needed',
        'MiB',
        0,
        1_048_576,
    )
    recomputed_per_frame: int = param(
        4,
        'frames recomputed from their images per new frame at most; others wait for the next',
        'frames',
        1,
        64,
    )


@dataclass(frozen=True)
class ClassicalConfig:
    """The classical predictor: features, triangulation, bundle adjustment, plane sweep."""

    max_features: int = param(700, 'corners tracked per frame', low=100, high=4000)
    window_keyframes: int = param(7, 'keyframes adjusted by bundle adjustment', low=3, high=30)
    depth_planes: int = param(64, 'depth hypotheses of the plane sweep', low=16, high=256)


@dataclass(frozen=True)
class OfflineConfig:
    """``r3 run --mode offline``: R3 with full context, window by window."""

    window_frames: int = param(
        32,
        'frames of a window, fewer if memory is short; R3 was trained on 4 to 32, r3_long on 32 '
        'to 100; 0: as many as memory allows',
        'frames',
        0,
        10_000,
    )
    overlap_frames: int = param(
        8, 'frames that a window shares with earlier ones', 'frames', 2, 100
    )
    max_memory_mib: int = param(
        8192, 'memory of one window on the device, without the weights', 'MiB', 16, 1_048_576
    )


@dataclass(frozen=True)
class StreamConfig:
    """The context: held frames that a new frame is related to."""

    recent_frames: int = param(
        5, 'newest frames held, keyframes or not, always in the context', low=1, high=64
    )
    recent_keyframes: int = param(6, 'newest keyframes always in the context', low=1, high=64)
    retrieved_keyframes: int = param(
        6, 'keyframes added to the context by retrieval', low=0, high=64
    )
    retrieval_similarity: float = param(
        1.0, 'weight of descriptor similarity in retrieval', low=0.0, high=10.0, live=True
    )
    retrieval_overlap: float = param(
        1.0,
        'weight of view overlap, from the predicted pose, in retrieval; 0: off',
        low=0.0,
        high=10.0,
        live=True,
    )
    retrieval_confidence: float = param(
        0.2,
        'weight of the confidence of recent matches in retrieval; 0: off',
        low=0.0,
        high=10.0,
        live=True,
    )
    retrieval_hysteresis: float = param(
        0.05,
        'a retrieved keyframe is replaced only by one whose score is better by this',
        low=0.0,
        high=10.0,
        live=True,
    )


@dataclass(frozen=True)
class LoopConfig:
    """Loop closing with old keyframes that are seen again."""

    enabled: bool = param(
        True, 'reject edges that contradict the pose, and use them to close loops'
    )
    min_frames: int = param(
        3, 'frames that must agree on a correction', 'frames', 1, 10, live=True
    )
    min_keyframes: int = param(
        3, 'old keyframes that must agree on a correction', low=1, high=10, live=True
    )
    scale_drift: float = param(
        0.01,
        'standard deviation of the scale drift from one keyframe to the next; 0: no drift',
        low=0.0,
        high=0.5,
        live=True,
    )
    kernel_width: float = param(
        3.0,
        'residual at which an edge that closes a loop loses half its weight',
        'standard deviations',
        0.5,
        100.0,
        live=True,
    )
    new_segment_after: int = param(
        30,
        'frames lost until a new segment begins, joined later if known places are seen again; 0: '
        'never',
        'frames',
        0,
        10_000,
        live=True,
    )
    apply_after: int = param(
        10,
        'frames from closing a loop to applying its correction, which is computed meanwhile',
        'frames',
        1,
        300,
        live=True,
    )


@dataclass(frozen=True)
class ScaleConfig:
    """The length of a map unit in metres: see docs/streaming.md."""

    source: str = param(
        'none',
        'source of the metric scale: none (map units), fixed (a number), model (the metric depth '
        "network), odometry (the robot's own)",
        choices=SCALE_SOURCES,
    )
    fixed: float = param(1.0, 'length of a map unit, for source fixed', 'm', 1e-4, 1e4, live=True)
    bootstrap_frames: int = param(
        5, 'keyframes of the first estimate by the metric depth network', low=1, high=100
    )
    check_every: int = param(
        10,
        'after the first estimate, re-estimated every N keyframes; 0 disables',
        low=0,
        high=1000,
        live=True,
    )
    min_translation: float = param(
        1.0, 'motion by odometry needed for the first estimate', 'm', 0.05, 100.0
    )
    lock: bool = param(True, 'keep the first estimate; off: follow later ones slowly', live=True)
    require_metric_for_tf: bool = param(
        True, "do not correct a robot's odometry, which is in metres, before the scale is known"
    )
    drift_warn_ratio: float = param(
        1.1,
        'warn when the newest estimate differs from the one in use by this factor',
        low=1.0,
        high=10.0,
        live=True,
    )


@dataclass(frozen=True)
class KeyframeConfig:
    """Admission of keyframes, unless the predictor itself decides."""

    mode: str = param(
        'overlap',
        'admit frames whose view overlaps too little with keyframes (overlap), or whose pose '
        'token differs from theirs (pose_token, R3 only)',
        choices=('overlap', 'pose_token'),
    )
    novelty_threshold: float = param(
        0.985,
        'mode overlap, while the camera pose is unknown: admit a frame whose similarity to every '
        'keyframe is below this',
        low=0.0,
        high=1.0,
        live=True,
    )
    overlap_threshold: float = param(
        0.8,
        'admit a frame whose overlap with every related keyframe is below this',
        low=0.0,
        high=1.0,
        live=True,
    )
    token_threshold: float = param(
        0.95,
        'admit a frame whose pose token has a similarity below this to those of keyframes',
        low=0.0,
        high=1.0,
        live=True,
    )
    max_interval: int = param(
        30, 'admit a frame after this many without a keyframe', 'frames', 1, 1000, live=True
    )
    max_keyframes: int = param(
        2000,
        'keyframes held at most; fewer if the predictor has no memory for them',
        low=4,
        high=100_000,
    )


@dataclass(frozen=True)
class TrackingConfig:
    """When a pose may be published."""

    low_confidence_ratio: float = param(
        0.4, 'LOW_CONFIDENCE below this ratio to the usual score', low=0.0, high=1.0, live=True
    )
    lost_ratio: float = param(
        0.15, 'no pose below this ratio to the usual score', low=0.0, high=1.0, live=True
    )
    lost_after_frames: int = param(
        3, 'frames without a pose until the state is LOST', 'frames', 1, 100, live=True
    )
    recover_frames: int = param(
        3,
        'consecutive agreeing frames that end LOST; twice as many if their scores are low',
        'frames',
        1,
        30,
        live=True,
    )
    publish_when_lost: bool = param(
        False, 'while LOST repeat the last pose with a huge covariance', live=True
    )


@dataclass(frozen=True)
class RelocaliseConfig:
    """Relocalisation in a loaded map."""

    min_frames: int = param(
        3,
        'consecutive frames that must agree on a pose in a loaded map; twice as many if their '
        'scores are low',
        'frames',
        1,
        100,
        live=True,
    )
    timeout: float = param(
        30.0,
        'after this time without success the loaded map is dropped and a new session begins',
        's',
        0.1,
        3600.0,
        live=True,
    )


@dataclass(frozen=True)
class CovarianceConfig:
    """From confidence to covariance. A heuristic: see docs/conventions.md."""

    translation_scale: float = param(
        0.02,
        'standard deviation of an edge of nominal score, relative to its length',
        low=1e-6,
        high=10.0,
        live=True,
    )
    rotation_scale: float = param(
        0.01,
        'standard deviation of an edge of nominal score, relative to its angle',
        low=1e-6,
        high=10.0,
        live=True,
    )
    unscaled_factor: float = param(
        100.0,
        'factor on the published translation block while the metric scale is unknown',
        low=1.0,
        high=1e6,
        live=True,
    )


@dataclass(frozen=True)
class PointsConfig:
    """The points of a depth map."""

    stride: int = param(2, 'use every N-th pixel', 'pixels', 1, 32, live=True)
    min_confidence: float = param(
        1.0, 'drop pixels of lower confidence', low=0.0, high=1000.0, live=True
    )
    confidence_percentile: float = param(
        20.0, 'drop this share of the least confident pixels', '%', 0.0, 99.0, live=True
    )
    min_range: float = param(0.05, 'drop nearer points', 'map units', 0.0, 1000.0, live=True)
    max_range: float = param(
        20.0, 'drop farther points; 0: keep all', 'map units', 0.0, 1000.0, live=True
    )
    edge_threshold: float = param(
        0.05,
        'drop pixels at relative depth steps above this (flying pixels); 0: off',
        low=0.0,
        high=1.0,
        live=True,
    )
    max_points: int = param(100_000, 'points per cloud', 'points', 1000, 2_000_000, live=True)
    organized: bool = param(False, 'publish clouds in the shape of the image', live=True)


@dataclass(frozen=True)
class MapConfig:
    """The accumulated coloured map."""

    enabled: bool = param(True, 'build the map')
    voxel_size: float = param(
        0.01, 'edge of a voxel, which holds one point', 'map units', 0.001, 5.0
    )
    max_points: int = param(
        2_000_000, 'points of the map; the oldest are dropped first', 'points', 10_000, 20_000_000
    )
    publish_period: float = param(
        2.0, 'publish the map at most this often', 's', 0.1, 600.0, live=True
    )
    max_publish_points: int = param(
        500_000,
        'points of a published map; larger ones are thinned out',
        'points',
        1000,
        10_000_000,
        live=True,
    )
    directory: str = param(
        '', 'folder for relative names of maps and trajectories; empty: r3_maps in the ROS home'
    )
    save_on_shutdown: str = param(
        '',
        'save the map under this name when the node shuts down; an existing map is replaced only '
        'if the session loaded it, otherwise the time is added to the name; empty: do not save',
        live=True,
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """The 2-D grid for navigation, in metres: see docs/maps.md."""

    enabled: bool = param(False, 'publish ~/occupancy; needs a known metric scale (scale.source)')
    publish_period: float = param(
        5.0, 'publish the grid at most this often', 's', 0.5, 600.0, live=True
    )
    resolution: float = param(0.05, 'edge of a cell', 'm', 0.01, 1.0, live=True)
    min_height: float = param(
        0.1, 'points higher above the floor are obstacles', 'm', 0.01, 10.0, live=True
    )
    max_height: float = param(
        1.5, 'points higher above the floor than this are ignored', 'm', 0.02, 100.0, live=True
    )
    estimate_floor: bool = param(
        True, 'estimate the floor from the map; off: it is at floor_height', live=True
    )
    floor_height: float = param(
        0.0, 'z of the floor in map, if it is not estimated', 'm', -100.0, 100.0, live=True
    )
    min_points: int = param(
        5, 'points needed for an occupied or a floor cell', 'points', 1, 1000, live=True
    )
    max_cells: int = param(
        4_000_000, 'larger grids are refused', 'cells', 1000, 100_000_000, live=True
    )


@dataclass(frozen=True)
class TrajectoryConfig:
    """The record of past poses."""

    max_poses: int = param(
        200_000, 'poses held; the oldest are dropped first', 'poses', 100, 10_000_000
    )


@dataclass(frozen=True)
class DiagnosticsConfig:
    """When /diagnostics warns."""

    period: float = param(1.0, 'time between diagnostics', 's', 0.1, 10.0)
    min_rate: float = param(
        1.0, 'warn below this rate of processed frames', 'Hz', 0.0, 240.0, live=True
    )
    max_latency: float = param(
        0.5, 'warn above this age of a pose when it is published', 's', 0.0, 60.0, live=True
    )


@dataclass(frozen=True)
class R3Config:
    """All parameters. Frozen: a change is a new, validated object."""

    autostart: bool = param(True, 'configure and activate the node at its start')
    map_frame: str = param('map', 'id of the map frame (REP-105)')
    odom_frame: str = param('odom', 'id of the odometry frame (REP-105)')
    base_frame: str = param(
        '', 'moving frame whose pose is published; empty: the root of the tf tree of the camera'
    )
    camera_optical_frame: str = param('', 'replaces a wrong or empty frame_id of the images')
    publish_map_to_odom_tf: bool = param(True, 'broadcast map -> odom')
    publish_odom_to_base_tf: bool = param(True, 'broadcast odom -> base')
    tf_publish_rate: float = param(
        20.0,
        'repeat map -> odom at this rate; 0: only with each frame',
        'Hz',
        0.0,
        100.0,
        live=True,
    )
    transform_tolerance: float = param(
        0.1, 'date map -> odom this far ahead', 's', 0.0, 5.0, live=True
    )
    tf_lookup_timeout: float = param(
        0.2, 'wait this long for a transform', 's', 0.0, 5.0, live=True
    )
    planar: bool = param(
        False, 'limit map -> odom to x, y and yaw, for a robot on a floor', live=True
    )
    path_max_size: int = param(
        1024, 'keyframe poses in the published path', 'poses', 1, 100_000, live=True
    )
    input: InputConfig = group(InputConfig)
    model: ModelConfig = group(ModelConfig)
    memory: MemoryConfig = group(MemoryConfig)
    classical: ClassicalConfig = group(ClassicalConfig)
    offline: OfflineConfig = group(OfflineConfig)
    stream: StreamConfig = group(StreamConfig)
    loop: LoopConfig = group(LoopConfig)
    scale: ScaleConfig = group(ScaleConfig)
    keyframe: KeyframeConfig = group(KeyframeConfig)
    tracking: TrackingConfig = group(TrackingConfig)
    relocalise: RelocaliseConfig = group(RelocaliseConfig)
    covariance: CovarianceConfig = group(CovarianceConfig)
    points: PointsConfig = group(PointsConfig)
    map: MapConfig = group(MapConfig)
    occupancy: OccupancyConfig = group(OccupancyConfig)
    trajectory: TrajectoryConfig = group(TrajectoryConfig)
    diagnostics: DiagnosticsConfig = group(DiagnosticsConfig)

    def validate(self) -> None:
        """Check every value and how they fit together.

        :raises ConfigError: naming the parameter, its value and what is allowed.
        """
        for parameter in parameters(self):
            parameter.check(parameter.value)
        _check_relations(self)


def is_image_size(pixels: int) -> bool:
    """Return whether R3 can process images whose long side is this.

    Sides are whole patches of 14 pixels; at 224 R3's rule would crop the image to a square.
    """
    return SMALLEST_IMAGE <= pixels <= LARGEST_IMAGE and not pixels % 14 and pixels != 224


def _check_relations(config: R3Config) -> None:
    """Refuse parameters that contradict one another."""
    frames = {
        'map_frame': config.map_frame,
        'odom_frame': config.odom_frame,
        'base_frame': config.base_frame,
    }
    for name, frame in frames.items():
        if frame.startswith('/'):
            raise ConfigError(f"parameter '{name}' is {frame!r}: tf2 frames have no leading slash")
        if not frame and name != 'base_frame':
            raise ConfigError(f"parameter '{name}' is empty: give the frame a name")
    named = [frame for frame in frames.values() if frame]
    if len(set(named)) < len(named):
        raise ConfigError(f'map_frame, odom_frame and base_frame must differ, got {frames}')
    if config.model.image_size and not is_image_size(config.model.image_size):
        raise ConfigError(
            f"parameter 'model.image_size' is {config.model.image_size}: use a multiple of 14 "
            f'from {SMALLEST_IMAGE} on, for example 504 or 392 (224 would crop the image to a '
            'square), or 0 for the size that the weights were trained on'
        )
    if config.scale.source == 'model' and not config.model.depth:
        raise ConfigError(
            "parameter 'scale.source' is 'model', which compares depths, and 'model.depth' is "
            'false: set it to true, or choose another source'
        )
    offline = config.offline
    if 0 < offline.window_frames <= offline.overlap_frames:
        raise ConfigError(
            f"parameter 'offline.window_frames' is {offline.window_frames}, not above "
            f"'offline.overlap_frames' ({offline.overlap_frames}); 0 means as many as fit"
        )
    tracking = config.tracking
    if tracking.lost_ratio > tracking.low_confidence_ratio:
        raise ConfigError(
            f"parameter 'tracking.lost_ratio' is {tracking.lost_ratio}, above "
            f"'tracking.low_confidence_ratio' ({tracking.low_confidence_ratio})"
        )
    points = config.points
    if 0 < points.max_range <= points.min_range:
        raise ConfigError(
            f"parameter 'points.max_range' is {points.max_range}, not above "
            f"'points.min_range' ({points.min_range}); 0 means no limit"
        )
    occupancy = config.occupancy
    if occupancy.max_height <= occupancy.min_height:
        raise ConfigError(
            f"parameter 'occupancy.max_height' is {occupancy.max_height}, not above "
            f"'occupancy.min_height' ({occupancy.min_height})"
        )
