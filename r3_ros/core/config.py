"""Every parameter of r3_ros, once: default, unit, range, help, and whether it may change live.

The dataclasses below feed the library, the ``r3`` command, the ROS parameters, the YAML files
and the parameter page; nothing else holds a default.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError
from .parameter_fields import flattened, group, live, param, parameters

#: Networks that relate several views of a scene in one pass.
MULTI_VIEW_NAMES = ('da3_small', 'da3_base', 'da3_large', 'da3_giant', 'vggt', 'lingbot_map')
#: Networks that relate two images.
PAIR_NAMES = ('dust3r', 'mast3r', 'reloc3r')
MODEL_NAMES = ('classical', 'r3', 'r3_long', 'r3_tiny', *MULTI_VIEW_NAMES, *PAIR_NAMES)
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
#: Long side of the images that networks can process, in pixels, and that of R3 as published.
SMALLEST_IMAGE, LARGEST_IMAGE, PUBLISHED_IMAGE = 112, 1008, 504
#: Encodings that an ambiguous image may have; ``input.image_decoding`` decodes all of these.
ENCODING_HINTS = (
    '',
    *'rgb8 bgr8 rgba8 bgra8 mono8 bayer_rggb8 bayer_bggr8 bayer_gbrg8 bayer_grbg8'.split(),
    *'rgb16 bgr16 rgba16 bgra16 mono16'.split(),
    *'bayer_rggb16 bayer_bggr16 bayer_gbrg16 bayer_grbg16'.split(),
    *'yuv422 uyvy yuv422_yuy2 yuyv nv12 nv21'.split(),
)
#: Longest readout of a rolling shutter.
LONGEST_READOUT_S = 0.2
SCALE_SOURCES = ('none', 'fixed', 'model', 'odometry')
#: Sources in a status or a saved map; ``user``: the scale was set by a service while running.
REPORTED_SCALE_SOURCES = (*SCALE_SOURCES, 'user')


@dataclass(frozen=True)
class InputConfig:
    """The image stream."""

    transport: str = param('raw', 'image transport subscribed to', choices=('raw', 'compressed'))
    encoding_hint: str = live(
        '',
        'encoding to assume for the ambiguous 8UC1, 8UC3, 8UC4, 16UC1, 16UC3 and 16UC4; empty: '
        'grey, or the order of OpenCV',
        choices=ENCODING_HINTS,
    )
    rectification: str = param(
        'auto',
        'undistort images; auto: if the calibration has distortion and the topic is not named as '
        'rectified',
        choices=('auto', 'on', 'off'),
    )
    readout_time: float = param(
        0.0,
        'time from the first row of an image to the last, of a rolling shutter: rows are moved to '
        'where they are at the time of the middle one; 0: all rows are exposed together',
        0.0, LONGEST_READOUT_S, 's',
    )  # fmt: skip
    camera_info_timeout: float = param(
        2.0, 'time to wait for a calibration before estimating the focal length', 0.0, 60.0, 's'
    )
    frame_policy: str = param(
        'newest',
        'newest drops frames that arrive faster than they are processed; queue keeps up to '
        'queue_size of them, for bags',
        choices=('newest', 'queue'),
    )
    queue_size: int = param(
        30, 'frames held by frame_policy queue; the oldest is dropped beyond', 1, 1000
    )
    max_rate: float = live(
        0.0, 'process at most this many frames per second; 0: all', 0.0, 240.0, 'Hz'
    )
    max_age: float = live(
        0.0, 'reject frames older than this by the ROS clock; 0: never', 0.0, 60.0, 's'
    )
    max_time_gap: float = live(
        5.0, 'confirm the pose anew after a longer gap; 0: off', 0.0, 3600.0, 's'
    )
    max_frozen_time: float = live(
        0.5, 'no poses after this long with identical images; 0: off', 0.0, 3600.0, 's'
    )
    on_time_jump_back: str = live(
        'reset', 'what to do when time jumps back', choices=('reset', 'ignore', 'error')
    )
    time_jump_threshold: float = live(
        0.5, 'a smaller jump back drops the frame as out of order', 0.01, 60.0, 's'
    )
    on_resolution_change: str = live(
        'reset', 'what to do when the image size changes', choices=('reset', 'reject')
    )

    @property
    def frames_waiting(self) -> int:
        """How many frames may wait to be processed."""
        return 1 if self.frame_policy == 'newest' else self.queue_size


@dataclass(frozen=True)
class ModelConfig:
    """The predictor of depth and relative poses."""

    name: str = param(
        'classical',
        'the predictor; r3 and r3_long are the network with the published weights of that name, '
        'r3_tiny is the small one that comes with this package; da3_*, vggt and lingbot_map: '
        'networks of several views; dust3r, mast3r and reloc3r: of two images',
        choices=MODEL_NAMES,
    )
    checkpoint: str = param(
        '', 'weights file (.safetensors) for the network, of any size; empty: found by model.name'
    )
    context_frames: int = param(
        7, 'da3_*, vggt, lingbot_map: context frames in one pass with a new frame, at most',
        3, 64, 'frames',
    )  # fmt: skip
    image_size: int = param(
        0, 'long side in the network, a multiple of 14 from 112, of 16 for networks of pairs; for '
        'r3_tiny that of a 4:3 image, others get its area; 0: as trained',
        0, LARGEST_IMAGE, 'pixels',
    )  # fmt: skip
    precision: str = param(
        'auto',
        'precision of the network; auto: fp32 on a CPU, bf16 on a GPU that supports it, else fp16',
        choices=PRECISIONS,
    )
    depth: bool = param(True, 'compute dense depth; off saves time where only poses are needed')
    depth_every: int = live(
        1, 'networks: depth of keyframes and every N-th frame; 0: no others', 0, 300, 'frames'
    )
    cuda_graphs: bool = param(
        False,
        'R3 on a GPU: one launch for each part of a step instead of hundreds; not for r3_tiny, '
        'which reads back in between',
    )
    device: str = param(
        'auto',
        'device of the predictor and of keyframe retrieval; auto: the best that it can use',
        choices=('auto', 'cpu', 'cuda'),
    )


@dataclass(frozen=True)
class MemoryConfig:
    """Memory limits of the networks. A frame of R3 takes 23 MiB at 504x280 in bf16."""

    max_gpu_mib: int = param(
        2048,
        'cached frames on the device of a network, allocated with the first; a context must fit',
        16,
        1_048_576,
        'MiB',
    )
    oom_policy: str = live(
        'shrink',
        'when the device runs out of memory: shrink drops a quarter of the keyframes and half of '
        'the recent frames, and resets the second time; reset resets; error stops until ~/reset, '
        'as the third time within a minute does with any policy',
        choices=('shrink', 'reset', 'error'),
    )
    max_host_mib: int = param(
        8192, 'cached frames in host memory and the images of all frames', 0, 1_048_576, 'MiB'
    )
    recomputed_per_frame: int = param(
        4, 'cached frames recomputed from their images per new frame, at most', 1, 64, 'frames'
    )


@dataclass(frozen=True)
class ClassicalConfig:
    """The classical predictor: features, triangulation, bundle adjustment, plane sweep."""

    max_features: int = param(700, 'corners tracked per frame', 100, 4000)
    window_keyframes: int = param(7, 'keyframes adjusted by bundle adjustment', 3, 30)
    depth_planes: int = param(64, 'depth hypotheses of the plane sweep', 16, 256)
    fill_depth: bool = param(
        False, 'interpolate depth where the plane sweep has none, with a confidence below 1'
    )
    correct_rolling_shutter: bool = param(
        True,
        'measure whether rows are exposed one after the other, and correct images since that is '
        'certain; not if input.readout_time is set',
    )


@dataclass(frozen=True)
class OfflineConfig:
    """``r3 run --mode offline``: a network with full context, window by window."""

    window_frames: int = param(
        32,
        'frames of a window, fewer if memory is short; R3 was trained on 4 to 32, r3_long on 32 '
        'to 100; 0: as many as memory allows',
        0,
        10_000,
        'frames',
    )
    overlap_frames: int = param(
        8, 'frames that a window shares with earlier ones', 2, 100, 'frames'
    )
    max_memory_mib: int = param(
        8192, 'memory of one window on the device, without the weights', 16, 1_048_576, 'MiB'
    )


@dataclass(frozen=True)
class StreamConfig:
    """The context: held frames that a new frame is related to."""

    recent_frames: int = param(
        5, 'newest frames held, keyframes or not, always in the context', 1, 64
    )
    recent_keyframes: int = param(6, 'newest keyframes always in the context', 1, 64)
    retrieved_keyframes: int = param(6, 'keyframes added to the context by retrieval', 0, 64)
    retrieval_similarity: float = live(
        1.0, 'weight of descriptor similarity in retrieval', 0.0, 10.0
    )
    retrieval_overlap: float = live(
        1.0, 'weight of predicted view overlap in retrieval; 0: off', 0.0, 10.0
    )
    retrieval_confidence: float = live(
        0.2, 'weight of recent match confidence in retrieval; 0: off', 0.0, 10.0
    )
    retrieval_hysteresis: float = live(
        0.05, 'score margin needed to replace a retrieved keyframe', 0.0, 10.0
    )


@dataclass(frozen=True)
class LoopConfig:
    """Loop closing with old keyframes that are seen again."""

    enabled: bool = param(
        True, 'reject edges that contradict the pose, and use them to close loops'
    )
    min_frames: int = live(3, 'frames that must agree on a correction', 1, 10, 'frames')
    min_keyframes: int = live(3, 'old keyframes that must agree on a correction', 1, 10)
    scale_drift: float = live(
        0.01, 'standard deviation of scale drift per keyframe; 0: no drift', 0.0, 0.5
    )
    kernel_width: float = live(
        3.0, "residual that halves a loop's weight", 0.5, 100.0, 'standard deviations'
    )
    new_segment_after: int = live(
        30, 'lost frames before a new segment begins; 0: never', 0, 10_000, 'frames'
    )
    apply_after: int = live(
        10, 'delay from closing a loop to applying its correction', 1, 300, 'frames'
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
    fixed: float = live(1.0, 'length of a map unit, for source fixed', 1e-4, 1e4, 'm')
    bootstrap_frames: int = param(
        5, 'keyframes of the first estimate by the metric depth network', 1, 100
    )
    check_every: int = live(10, 'then re-estimated every N keyframes; 0 disables', 0, 1000)
    min_translation: float = param(
        1.0, 'motion by odometry needed for the first estimate', 0.05, 100.0, 'm'
    )
    lock: bool = live(True, 'keep the first estimate; off: follow later ones slowly')
    require_metric_for_tf: bool = param(
        True, "do not correct a robot's odometry, which is in metres, before the scale is known"
    )
    drift_warn_ratio: float = live(
        1.1, 'warn if the newest estimate differs from the used one by this', 1.0, 10.0
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
    novelty_threshold: float = live(
        0.985,
        'mode overlap, while the camera pose is unknown: admit a frame whose similarity to every '
        'keyframe is below this',
        0.0,
        1.0,
    )
    overlap_threshold: float = live(
        0.8, 'admit a frame whose overlap with all keyframes is below this', 0.0, 1.0
    )
    token_threshold: float = live(
        0.95, 'admit a frame whose pose token similarity is below this', 0.0, 1.0
    )
    max_interval: int = live(
        30, 'admit a frame after this many without a keyframe', 1, 1000, 'frames'
    )
    max_keyframes: int = param(
        2000, 'keyframes held at most; fewer if the predictor has no memory for them', 4, 100_000
    )


@dataclass(frozen=True)
class TrackingConfig:
    """When a pose may be published."""

    low_confidence_ratio: float = live(
        0.4, 'LOW_CONFIDENCE below this ratio to the usual score', 0.0, 1.0
    )
    lost_ratio: float = live(0.15, 'no pose below this ratio to the usual score', 0.0, 1.0)
    drift_share: float = live(
        0.05,
        'LOW_CONFIDENCE while the position may have drifted by this share of the path; 0: never',
        0.0,
        1.0,
    )
    drift_angle: float = live(
        10.0,
        'LOW_CONFIDENCE while the rotation may have drifted by this; 0: never',
        0.0,
        180.0,
        'degrees',
    )
    focal_sigma: float = live(
        0.05,
        'LOW_CONFIDENCE while an estimated focal length may be off by this share; 0: never',
        0.0,
        1.0,
    )
    lost_after_frames: int = live(
        3, 'frames without a pose until the state is LOST', 1, 100, 'frames'
    )
    recover_frames: int = live(
        3, 'agreeing frames that end LOST; twice as many at low scores', 1, 30, 'frames'
    )
    publish_when_lost: bool = live(False, 'while LOST repeat the last pose with a huge covariance')


@dataclass(frozen=True)
class RelocaliseConfig:
    """Relocalisation in a loaded map."""

    model: str = param(
        '',
        'another network that finds the camera in a loaded map, as well as the predictor; empty: '
        'the predictor alone',
        choices=('', *MODEL_NAMES[1:]),
    )
    checkpoint: str = param('', 'weights file for that network; empty: found by its name')
    min_frames: int = live(
        3, 'agreeing frames needed; twice as many at low scores', 1, 100, 'frames'
    )
    timeout: float = live(
        30.0, 'drop the loaded map and begin a new session after this', 0.1, 3600.0, 's'
    )


@dataclass(frozen=True)
class CovarianceConfig:
    """Of published messages. See docs/conventions.md for the errors of the predictors."""

    unscaled_factor: float = live(
        100.0, 'factor on the translation block while the scale is unknown', 1.0, 1e6
    )


@dataclass(frozen=True)
class PointsConfig:
    """The points of a depth map."""

    stride: int = live(2, 'use every N-th pixel', 1, 32, 'pixels')
    min_confidence: float = live(1.0, 'drop pixels of lower confidence', 0.0, 1000.0)
    confidence_percentile: float = live(
        20.0, 'drop this share of the least confident pixels', 0.0, 99.0, '%'
    )
    min_range: float = live(0.05, 'drop nearer points', 0.0, 1000.0, 'map units')
    max_range: float = live(20.0, 'drop farther points; 0: keep all', 0.0, 1000.0, 'map units')
    edge_threshold: float = live(
        0.05, 'drop pixels at larger relative depth steps; 0: off', 0.0, 1.0
    )
    max_points: int = live(100_000, 'points per cloud', 1000, 2_000_000, 'points')
    organized: bool = live(False, 'publish clouds in the shape of the image')


@dataclass(frozen=True)
class MapConfig:
    """The accumulated coloured map."""

    enabled: bool = param(True, 'build the map')
    voxel_size: float = param(
        0.01, 'edge of a voxel, which holds one point', 0.001, 5.0, 'map units'
    )
    max_points: int = param(
        2_000_000, 'points of the map; the oldest are dropped first', 10_000, 20_000_000, 'points'
    )
    publish_period: float = live(2.0, 'publish the map at most this often', 0.1, 600.0, 's')
    max_publish_points: int = live(
        500_000, 'points of a published map, thinned to fit', 1000, 10_000_000, 'points'
    )
    directory: str = param(
        '', 'folder for relative names of maps and trajectories; empty: r3_maps in the ROS home'
    )
    save_on_shutdown: str = live(
        '',
        'save the map under this name when the node shuts down; an existing map is replaced only '
        'if the session loaded it, otherwise the time is added to the name; empty: do not save',
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """The 2-D grid for navigation, in metres: see docs/maps.md."""

    enabled: bool = param(False, 'publish ~/occupancy; needs a known metric scale (scale.source)')
    publish_period: float = live(5.0, 'publish the grid at most this often', 0.5, 600.0, 's')
    resolution: float = live(0.05, 'edge of a cell', 0.01, 1.0, 'm')
    min_height: float = live(0.1, 'points higher above the floor are obstacles', 0.01, 10.0, 'm')
    max_height: float = live(
        1.5, 'points higher above the floor than this are ignored', 0.02, 100.0, 'm'
    )
    estimate_floor: bool = live(
        True, 'estimate the floor from the map; off: it is at floor_height'
    )
    floor_height: float = live(
        0.0, 'z of the floor in map, if it is not estimated', -100.0, 100.0, 'm'
    )
    min_points: int = live(5, 'points needed for an occupied or a floor cell', 1, 1000, 'points')
    max_cells: int = live(4_000_000, 'larger grids are refused', 1000, 100_000_000, 'cells')


@dataclass(frozen=True)
class TrajectoryConfig:
    """The record of past poses."""

    max_poses: int = param(
        200_000, 'poses held; the oldest are dropped first', 100, 10_000_000, 'poses'
    )


@dataclass(frozen=True)
class DiagnosticsConfig:
    """When /diagnostics warns."""

    period: float = param(1.0, 'time between diagnostics', 0.1, 10.0, 's')
    min_rate: float = live(1.0, 'warn below this rate of processed frames', 0.0, 240.0, 'Hz')
    max_latency: float = live(
        0.5, 'warn above this age of a pose when it is published', 0.0, 60.0, 's'
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
    tf_publish_rate: float = live(
        20.0, 'repeat map -> odom at this rate; 0: once per frame', 0.0, 100.0, 'Hz'
    )
    transform_tolerance: float = live(0.1, 'date map -> odom this far ahead', 0.0, 5.0, 's')
    tf_lookup_timeout: float = live(0.2, 'wait this long for a transform', 0.0, 5.0, 's')
    planar: bool = live(False, 'limit map -> odom to x, y and yaw, for a robot on a floor')
    path_max_size: int = live(1024, 'keyframe poses in the published path', 1, 100_000, 'poses')
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


def is_image_size(pixels: int, patch: int = 14) -> bool:
    """Return whether a network can process images whose long side is this.

    Sides are whole patches, of 14 pixels, or of 16 in networks of pairs. At 224 the rule of both
    crops the image to a square, on which only some of the latter were trained.
    """
    cropped = pixels == 224 and patch == 14
    return SMALLEST_IMAGE <= pixels <= LARGEST_IMAGE and not pixels % patch and not cropped


def _check_relations(config: R3Config) -> None:
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
    of_pairs = config.model.name in PAIR_NAMES
    patch = 16 if of_pairs else 14
    if config.model.image_size and not is_image_size(config.model.image_size, patch):
        example = '512 or 384' if of_pairs else '504 or 392 (224 would crop the image to a square)'
        raise ConfigError(
            f"parameter 'model.image_size' is {config.model.image_size}: use a multiple of "
            f'{patch} from {SMALLEST_IMAGE} on, for example {example}, or 0 for the size that '
            'the weights were trained on'
        )
    if config.scale.source == 'model' and not config.model.depth:
        raise ConfigError(
            "parameter 'scale.source' is 'model', which compares depths, and 'model.depth' is "
            'false: set it to true, or choose another source'
        )
    tracking = config.tracking
    if tracking.lost_ratio > tracking.low_confidence_ratio:
        raise ConfigError(
            f"parameter 'tracking.lost_ratio' is {tracking.lost_ratio}, above "
            f"'tracking.low_confidence_ratio' ({tracking.low_confidence_ratio})"
        )
    values = flattened(config)
    for larger, smaller, zero in (
        ('offline.window_frames', 'offline.overlap_frames', '0 means as many as fit'),
        ('points.max_range', 'points.min_range', '0 means no limit'),
        ('occupancy.max_height', 'occupancy.min_height', ''),
    ):
        if values[larger] <= values[smaller] and not (zero and values[larger] == 0):
            message = f"parameter '{larger}' is {values[larger]}, not above '{smaller}' "
            message += f'({values[smaller]})'
            raise ConfigError(f'{message}; {zero}' if zero else message)
