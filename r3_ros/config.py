"""Every parameter of r3_ros, once: default, unit, range, help, and whether it may change live.

The dataclasses below feed the library, the ``r3`` command, the ROS parameters, the YAML files
and the parameter page; nothing else holds a default. A parameter's name is its dotted path
(``keyframe.max_keyframes``), in ROS as in YAML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
import difflib
import math
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import ConfigError

MODEL_NAMES = ('classical', 'r3', 'r3_long', 'r3_tiny')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
#: Long sides of the pictures that R3 may be given, in pixels, and that of the published weights.
SMALLEST_IMAGE, LARGEST_IMAGE, PUBLISHED_IMAGE = 112, 1008, 504
#: What an untyped image can be taken for; ``input.image_decoding`` decodes all of these.
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
#: What a status and a saved map name as the source: also a number that was set while it ran.
REPORTED_SCALE_SOURCES = (*SCALE_SOURCES, 'user')


@dataclass(frozen=True)
class Meta:
    """What is known of a parameter beyond its type and default."""

    help: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False


def _param(default: Any, help: str, unit: str = '', **meta: Any) -> Any:
    return field(default=default, metadata={'r3': Meta(help=help, unit=unit, **meta)})


def _group(kind: type) -> Any:
    return field(default_factory=kind)


@dataclass(frozen=True)
class InputConfig:
    """How pictures come in."""

    transport: str = _param('raw', 'image transport subscribed to', choices=('raw', 'compressed'))
    encoding_hint: str = _param(
        '',
        'encoding to assume for the ambiguous 8UC1, 8UC3, 8UC4 and 16UC1; empty: OpenCV order',
        choices=ENCODING_HINTS,
        live=True,
    )
    rectification: str = _param(
        'auto',
        'undistort pictures: auto does if the calibration has distortion and the topic is not '
        'named as rectified',
        choices=('auto', 'on', 'off'),
    )
    camera_info_timeout: float = _param(
        2.0,
        'wait this long for a calibration, then estimate the focal length; 0 never waits',
        's',
        low=0.0,
        high=60.0,
    )
    frame_policy: str = _param(
        'newest',
        'newest drops frames that come too fast; queue keeps them for offline bags',
        choices=('newest', 'queue'),
    )
    queue_size: int = _param(
        30, 'frames kept by frame_policy queue; the oldest is dropped beyond', low=1, high=1000
    )
    max_rate: float = _param(
        0.0,
        'process at most this many frames per second; 0: all',
        'Hz',
        low=0.0,
        high=240.0,
        live=True,
    )
    max_age: float = _param(
        0.0,
        'reject frames older than this against the clock; 0: never',
        's',
        low=0.0,
        high=60.0,
        live=True,
    )
    max_time_gap: float = _param(
        5.0,
        'a longer gap between frames makes the next one prove itself; 0: off',
        's',
        low=0.0,
        high=3600.0,
        live=True,
    )
    max_frozen_time: float = _param(
        0.5,
        'a camera that sends one and the same picture for so long hangs, and gives no pose; 0: '
        'never, for simulated cameras without noise',
        's',
        low=0.0,
        high=3600.0,
        live=True,
    )
    on_time_jump_back: str = _param(
        'reset', 'what to do when time jumps back', choices=('reset', 'ignore', 'error'), live=True
    )
    time_jump_threshold: float = _param(
        0.5,
        'smaller steps back are frames out of order and are dropped',
        's',
        low=0.01,
        high=60.0,
        live=True,
    )
    on_resolution_change: str = _param(
        'reset', 'what to do when the picture size changes', choices=('reset', 'reject'), live=True
    )


@dataclass(frozen=True)
class ModelConfig:
    """What regresses depth and relative poses."""

    name: str = _param(
        'classical',
        'the predictor; r3 and r3_long are the network with the weights of that name, r3_tiny '
        'with those of a training of your own (model.checkpoint)',
        choices=MODEL_NAMES,
    )
    checkpoint: str = _param(
        '', 'file of weights (.safetensors) for r3, of any size; empty: found by model.name'
    )
    image_size: int = _param(
        0,
        'long side of the picture that R3 is given, a multiple of 14 from 112 on; 0: as its '
        'weights were trained, 504 if they do not say',
        'pixels',
        low=0,
        high=LARGEST_IMAGE,
    )
    precision: str = _param(
        'auto',
        'arithmetic of R3; auto: fp32 on a CPU, bf16 on a GPU that has it, else fp16',
        choices=PRECISIONS,
    )
    depth: bool = _param(True, 'compute dense depth; off saves time where only poses are wanted')
    depth_every: int = _param(
        1,
        'R3 computes depth for every n-th frame, and for keyframes always; 0: for keyframes alone',
        'frames',
        low=0,
        high=300,
        live=True,
    )
    device: str = _param(
        'auto',
        'where the predictor and the keyframe search run; auto: the best the predictor can use',
        choices=('auto', 'cpu', 'cuda'),
    )


@dataclass(frozen=True)
class MemoryConfig:
    """What R3 may hold: 23 MiB a frame at 504x280 in bf16, twice as much in fp32."""

    max_gpu_mib: int = _param(
        2048,
        'cached frames on the device that R3 runs on; its context must fit',
        'MiB',
        low=16,
        high=1_048_576,
    )
    oom_policy: str = _param(
        'shrink',
        'when the device has no memory left: shrink lets a quarter of the keyframes and half of '
        'the recent frames go, and starts anew the second time; reset starts anew; error stops '
        'until ~/reset, as the third time within a minute does',
        choices=('shrink', 'reset', 'error'),
        live=True,
    )
    max_host_mib: int = _param(
        8192,
        'cached frames in host memory, beyond those on the device, and the image of every frame; '
        'a frame that does not fit is computed again from its image when it is wanted',
        'MiB',
        low=0,
        high=1_048_576,
    )
    recomputed_per_frame: int = _param(
        4,
        'frames computed again from their images for one new frame; others wait for the next',
        'frames',
        low=1,
        high=64,
    )


@dataclass(frozen=True)
class ClassicalConfig:
    """The classical predictor: features, triangulation, bundle adjustment, plane sweep."""

    max_features: int = _param(700, 'corners followed per frame', low=100, high=4000)
    window_keyframes: int = _param(7, 'keyframes that bundle adjustment moves', low=3, high=30)
    depth_planes: int = _param(64, 'depth hypotheses of the plane sweep', low=16, high=256)


@dataclass(frozen=True)
class OfflineConfig:
    """``r3 run --mode offline``: R3 with full context, window by window."""

    window_frames: int = _param(
        32,
        'frames that see one another at once, fewer where memory does not allow it; R3 was '
        'trained on 4 to 32, r3_long on 32 to 100; 0: as many as memory allows',
        'frames',
        low=0,
        high=10_000,
    )
    overlap_frames: int = _param(
        8, 'frames that a window shares with earlier ones', 'frames', low=2, high=100
    )
    max_memory_mib: int = _param(
        8192,
        'what one window may take on the device that R3 runs on, beside the weights',
        'MiB',
        low=16,
        high=1_048_576,
    )


@dataclass(frozen=True)
class StreamConfig:
    """Which remembered frames a new one is related to."""

    recent_frames: int = _param(
        5, 'newest frames held whether or not they are keyframes', low=1, high=64
    )
    recent_keyframes: int = _param(6, 'newest keyframes always in the context', low=1, high=64)
    retrieved_keyframes: int = _param(
        6, 'keyframes brought into the context because they look like the frame', low=0, high=64
    )
    retrieval_similarity: float = _param(
        1.0, 'what looking like the frame counts in retrieval', low=0.0, high=10.0, live=True
    )
    retrieval_overlap: float = _param(
        1.0,
        'what seeing the same space counts in retrieval, from the predicted pose; 0: off',
        low=0.0,
        high=10.0,
        live=True,
    )
    retrieval_confidence: float = _param(
        0.2,
        'what having matched well of late counts in retrieval; 0: off',
        low=0.0,
        high=10.0,
        live=True,
    )
    retrieval_hysteresis: float = _param(
        0.05,
        'a retrieved keyframe gives way only to one whose score is better by this',
        low=0.0,
        high=10.0,
        live=True,
    )


@dataclass(frozen=True)
class LoopConfig:
    """Closing loops: what old keyframes, seen again, say against the way here."""

    enabled: bool = _param(
        True, 'keep edges that contradict the pose out of it, and close loops by them'
    )
    min_frames: int = _param(
        3, 'frames that must ask for the same correction', 'frames', low=1, high=10, live=True
    )
    min_keyframes: int = _param(
        3, 'old keyframes that must ask for the same correction', low=1, high=10, live=True
    )
    scale_drift: float = _param(
        0.01,
        'standard deviation of the drift of scale from one keyframe to the next; 0: no drift',
        low=0.0,
        high=0.5,
        live=True,
    )
    kernel_width: float = _param(
        3.0,
        'misfit at which an edge that closes a loop loses half its weight',
        'standard deviations',
        low=0.5,
        high=100.0,
        live=True,
    )
    new_segment_after: int = _param(
        30,
        'frames lost until a new segment begins, to be joined when old places are seen again; '
        '0: never',
        'frames',
        low=0,
        high=10_000,
        live=True,
    )
    apply_after: int = _param(
        10,
        'frames from the closing of a loop until its correction, which is worked out meanwhile',
        'frames',
        low=1,
        high=300,
        live=True,
    )


@dataclass(frozen=True)
class ScaleConfig:
    """How long a map unit is: see docs/streaming.md."""

    source: str = _param(
        'none',
        'what tells metres: none (map units stay), fixed (a number), model (the metric network), '
        'odometry (what the robot says of its motion)',
        choices=SCALE_SOURCES,
    )
    fixed: float = _param(1.0, 'a map unit, for source fixed', 'm', low=1e-4, high=1e4, live=True)
    bootstrap_frames: int = _param(
        5, 'keyframes that the metric network looks at for one estimate', low=1, high=100
    )
    check_every: int = _param(
        10,
        'afterwards it looks at every so many keyframes, for the live ratio; 0: never again',
        low=0,
        high=1000,
        live=True,
    )
    min_translation: float = _param(
        1.0,
        'motion that odometry must have told of before it is believed',
        'm',
        low=0.05,
        high=100.0,
    )
    lock: bool = _param(True, 'keep the first estimate; off: follow later ones slowly', live=True)
    require_metric_for_tf: bool = _param(
        True, "do not correct a robot's odometry, which is in metres, before they are known"
    )
    drift_warn_ratio: float = _param(
        1.1,
        'warn when the newest estimate leaves the one in use by this factor',
        low=1.0,
        high=10.0,
        live=True,
    )


@dataclass(frozen=True)
class KeyframeConfig:
    """Which frames are remembered, unless the predictor itself asks for one."""

    mode: str = _param(
        'overlap',
        'admit frames that share too little of the view with keyframes (overlap), or whose pose '
        'token is unlike theirs (pose_token, R3 alone)',
        choices=('overlap', 'pose_token'),
    )
    novelty_threshold: float = _param(
        0.985,
        'in overlap mode, where the camera is not known to be in the world: admit a frame whose '
        'similarity to every keyframe is below this',
        low=0.0,
        high=1.0,
        live=True,
    )
    overlap_threshold: float = _param(
        0.8,
        'admit a frame that shares less than this with every keyframe it is related to',
        low=0.0,
        high=1.0,
        live=True,
    )
    token_threshold: float = _param(
        0.95,
        'admit a frame whose pose token is less similar to those of keyframes than this',
        low=0.0,
        high=1.0,
        live=True,
    )
    max_interval: int = _param(
        30,
        'admit a frame after this many without a keyframe',
        'frames',
        low=1,
        high=1000,
        live=True,
    )
    max_keyframes: int = _param(
        2000,
        'keyframes remembered at the most; fewer where the predictor has no room for them',
        low=4,
        high=100_000,
    )


@dataclass(frozen=True)
class TrackingConfig:
    """When a pose is believed."""

    low_confidence_ratio: float = _param(
        0.4, 'LOW_CONFIDENCE below this share of the usual score', low=0.0, high=1.0, live=True
    )
    lost_ratio: float = _param(
        0.15,
        'a frame below this share of the usual score has no pose',
        low=0.0,
        high=1.0,
        live=True,
    )
    lost_after_frames: int = _param(
        3, 'frames without a pose until the state is LOST', 'frames', low=1, high=100, live=True
    )
    recover_frames: int = _param(
        3,
        'agreeing frames in a row that end LOST; twice as many if their scores are low',
        'frames',
        low=1,
        high=30,
        live=True,
    )
    publish_when_lost: bool = _param(
        False, 'while LOST repeat the last pose with a huge covariance', live=True
    )


@dataclass(frozen=True)
class RelocaliseConfig:
    """Finding the camera in a map that was loaded."""

    min_frames: int = _param(
        3,
        'frames in a row that must agree on a place in a loaded map; twice as many if their '
        'scores are low',
        'frames',
        low=1,
        high=100,
        live=True,
    )
    timeout: float = _param(
        30.0,
        'when it is not found for so long, the map is put away and a new session begins',
        's',
        low=0.1,
        high=3600.0,
        live=True,
    )


@dataclass(frozen=True)
class CovarianceConfig:
    """How confidence becomes a covariance. A heuristic: see docs/conventions.md."""

    translation_scale: float = _param(
        0.02,
        'standard deviation of an edge of nominal score, as a share of its length',
        low=1e-6,
        high=10.0,
        live=True,
    )
    rotation_scale: float = _param(
        0.01,
        'standard deviation of an edge of nominal score, as a share of its angle',
        low=1e-6,
        high=10.0,
        live=True,
    )
    unscaled_factor: float = _param(
        100.0,
        'multiplies the published translation block while metres are not known',
        low=1.0,
        high=1e6,
        live=True,
    )


@dataclass(frozen=True)
class PointsConfig:
    """Which pixels of a depth map become points."""

    stride: int = _param(2, 'use every n-th pixel', 'pixels', low=1, high=32, live=True)
    min_confidence: float = _param(
        1.0, 'drop pixels of lower confidence', low=0.0, high=1000.0, live=True
    )
    confidence_percentile: float = _param(
        20.0, 'drop this share of the least confident pixels', '%', low=0.0, high=99.0, live=True
    )
    min_range: float = _param(
        0.05, 'drop nearer points', 'map units', low=0.0, high=1000.0, live=True
    )
    max_range: float = _param(
        20.0, 'drop farther points; 0: keep all', 'map units', low=0.0, high=1000.0, live=True
    )
    edge_threshold: float = _param(
        0.05,
        'drop pixels whose depth steps by more than this share (flying pixels); 0: off',
        low=0.0,
        high=1.0,
        live=True,
    )
    max_points: int = _param(
        100_000, 'points per cloud at the most', 'points', low=1000, high=2_000_000, live=True
    )
    organized: bool = _param(False, 'publish the cloud in the shape of the picture', live=True)


@dataclass(frozen=True)
class MapConfig:
    """The accumulated coloured map."""

    enabled: bool = _param(True, 'build the map')
    voxel_size: float = _param(
        0.01, 'edge of a voxel; one point is kept in each', 'map units', low=0.001, high=5.0
    )
    max_points: int = _param(
        2_000_000, 'points of the map; the oldest go first', 'points', low=10_000, high=20_000_000
    )
    publish_period: float = _param(
        2.0, 'publish the map at most this often', 's', low=0.1, high=600.0, live=True
    )
    max_publish_points: int = _param(
        500_000,
        'points of a published map; more are thinned out',
        'points',
        low=1000,
        high=10_000_000,
        live=True,
    )
    directory: str = _param(
        '', 'where relative names of maps and trajectories go; empty: r3_maps in the ROS home'
    )
    save_on_shutdown: str = _param(
        '',
        'save the map under this name when the node shuts down; one that is there is replaced '
        'only if the session went on from it, else the time is added to the name; empty: do not',
        live=True,
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """The 2-D grid for navigation, in metres: see docs/maps.md."""

    enabled: bool = _param(
        False, 'publish ~/occupancy; nothing comes while metres are not known (scale.source)'
    )
    publish_period: float = _param(
        5.0, 'publish the grid at most this often', 's', low=0.5, high=600.0, live=True
    )
    resolution: float = _param(0.05, 'edge of a cell', 'm', low=0.01, high=1.0, live=True)
    min_height: float = _param(
        0.1, 'points higher above the floor are obstacles', 'm', low=0.01, high=10.0, live=True
    )
    max_height: float = _param(
        1.5, 'points higher than this are not in the way', 'm', low=0.02, high=100.0, live=True
    )
    estimate_floor: bool = _param(
        True, 'find the floor in the map; off: it is at floor_height', live=True
    )
    floor_height: float = _param(
        0.0, 'z of the floor in map, where it is not found', 'm', low=-100.0, high=100.0, live=True
    )
    min_points: int = _param(
        5, 'points that make a cell occupied, or floor', 'points', low=1, high=1000, live=True
    )
    max_cells: int = _param(
        4_000_000, 'a larger grid is refused', 'cells', low=1000, high=100_000_000, live=True
    )


@dataclass(frozen=True)
class TrajectoryConfig:
    """The record of past poses."""

    max_poses: int = _param(
        200_000, 'poses remembered; the oldest go first', 'poses', low=100, high=10_000_000
    )


@dataclass(frozen=True)
class DiagnosticsConfig:
    """When /diagnostics warns."""

    period: float = _param(1.0, 'time between diagnostics', 's', low=0.1, high=10.0)
    min_rate: float = _param(
        1.0, 'warn below this rate of processed frames', 'Hz', low=0.0, high=240.0, live=True
    )
    max_latency: float = _param(
        0.5,
        'warn above this age of a pose when it is published',
        's',
        low=0.0,
        high=60.0,
        live=True,
    )


@dataclass(frozen=True)
class R3Config:
    """All parameters. Frozen: a change is a new, validated object."""

    autostart: bool = _param(True, 'configure and activate without being asked')
    map_frame: str = _param('map', 'id of the map frame (REP-105)')
    odom_frame: str = _param('odom', 'id of the odometry frame (REP-105)')
    base_frame: str = _param(
        '', 'moving frame whose pose is published; empty: the camera, or the frame it hangs from'
    )
    camera_optical_frame: str = _param('', 'replaces a wrong or empty frame_id of the pictures')
    publish_map_to_odom_tf: bool = _param(True, 'broadcast map -> odom')
    publish_odom_to_base_tf: bool = _param(True, 'broadcast odom -> base')
    tf_publish_rate: float = _param(
        20.0,
        'repeat map -> odom at this rate; 0: only with each frame',
        'Hz',
        low=0.0,
        high=100.0,
        live=True,
    )
    transform_tolerance: float = _param(
        0.1, 'date map -> odom this far ahead', 's', low=0.0, high=5.0, live=True
    )
    tf_lookup_timeout: float = _param(
        0.2, 'wait this long for a transform', 's', low=0.0, high=5.0, live=True
    )
    planar: bool = _param(
        False, 'map -> odom has x, y and yaw alone, for a robot on a floor', live=True
    )
    path_max_size: int = _param(
        1024, 'keyframe poses in the published path', 'poses', low=1, high=100_000, live=True
    )
    input: InputConfig = _group(InputConfig)
    model: ModelConfig = _group(ModelConfig)
    memory: MemoryConfig = _group(MemoryConfig)
    classical: ClassicalConfig = _group(ClassicalConfig)
    offline: OfflineConfig = _group(OfflineConfig)
    stream: StreamConfig = _group(StreamConfig)
    loop: LoopConfig = _group(LoopConfig)
    scale: ScaleConfig = _group(ScaleConfig)
    keyframe: KeyframeConfig = _group(KeyframeConfig)
    tracking: TrackingConfig = _group(TrackingConfig)
    relocalise: RelocaliseConfig = _group(RelocaliseConfig)
    covariance: CovarianceConfig = _group(CovarianceConfig)
    points: PointsConfig = _group(PointsConfig)
    map: MapConfig = _group(MapConfig)
    occupancy: OccupancyConfig = _group(OccupancyConfig)
    trajectory: TrajectoryConfig = _group(TrajectoryConfig)
    diagnostics: DiagnosticsConfig = _group(DiagnosticsConfig)

    def validate(self) -> None:
        """Check every value and how they fit together.

        :raises ConfigError: naming the parameter, its value and what is allowed.
        """
        for parameter in parameters(self):
            parameter.check(parameter.value)
        _check_relations(self)


@dataclass(frozen=True)
class Parameter:
    """One parameter with its place in the tree."""

    name: str
    kind: type
    default: Any
    value: Any
    meta: Meta

    @property
    def allowed(self) -> str:
        """Say in words which values are allowed."""
        if self.meta.choices:
            return 'one of ' + ', '.join(choice or "''" for choice in self.meta.choices)
        if self.meta.low is None:
            return {bool: 'true or false', str: 'any text'}.get(self.kind, 'any number')
        unit = f' {self.meta.unit}' if self.meta.unit else ''
        return f'{self.meta.low:g} to {self.meta.high:g}{unit}'

    def check(self, value: Any) -> Any:
        """Return the value in its exact type.

        :raises ConfigError: wrong type, not finite, outside the range or not among the choices.
        """
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            raise ConfigError(
                f"parameter '{self.name}' must be of type {self.kind.__name__}, "
                f'got {value!r} ({type(value).__name__})'
            )
        meta = self.meta
        if meta.choices and value not in meta.choices:
            raise ConfigError(f"parameter '{self.name}' is {value!r}, allowed: {self.allowed}")
        if meta.low is not None and meta.high is not None and isinstance(value, (int, float)):
            if not (math.isfinite(value) and meta.low <= value <= meta.high):
                raise ConfigError(f"parameter '{self.name}' is {value!r}, allowed: {self.allowed}")
        return value


#: A root of groups with a ``validate``: this one, or another that is built the same way.
_Root = TypeVar('_Root', bound=Any)


def parameters(config: Any = None) -> Iterator[Parameter]:
    """Walk all parameters in order, with the values of ``config`` (the defaults if None)."""
    yield from _walk(R3Config() if config is None else config, '')


def _walk(group: Any, prefix: str) -> Iterator[Parameter]:
    for item in fields(group):
        value = getattr(group, item.name)
        if is_dataclass(value):
            yield from _walk(value, f'{prefix}{item.name}.')
        else:
            yield Parameter(
                name=prefix + item.name,
                kind=type(item.default),
                default=item.default,
                value=value,
                meta=item.metadata['r3'],
            )


def updated(config: _Root, changes: Mapping[str, Any]) -> _Root:
    """Return a validated copy with some parameters (dotted names) changed.

    :raises ConfigError: unknown name, wrong type or value, or a contradiction.
    """
    known = {parameter.name: parameter for parameter in parameters(config)}
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"unknown parameter '{name}'" + _suggestion(name, known))
        config = _replace_path(config, name.split('.'), known[name].check(value))
    config.validate()
    return config


def _suggestion(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else '; `r3 parameters` lists all'


def _replace_path(group: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replace_path(getattr(group, path[0]), path[1:], value)
    return replace(group, **{path[0]: value})


def flattened(config: Any) -> dict[str, Any]:
    """Return the values of all parameters by dotted name."""
    return {parameter.name: parameter.value for parameter in parameters(config)}


def load_config(path: Path | str, base: Any = None) -> Any:
    """Read a YAML file over ``base``: plain nested groups, or a ROS parameter file.

    In a ROS file every node entry counts (``/**``, ``r3`` or ``/ns/r3``), in the order given.

    :raises ConfigError: unreadable, not YAML, or holding an unknown or bad parameter.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'cannot read the parameter file {path}: {error}') from error
    except yaml.YAMLError as error:
        raise ConfigError(f'{path} is not valid YAML: {error}') from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f'{path} must hold groups of parameters, found {type(content).__name__}')
    config = R3Config() if base is None else base
    try:
        return updated(config, _flat(_ros_parameters(content)))
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def _ros_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """Take the parameters out of their node entries, if the file is written for ROS."""
    nodes = [v for v in content.values() if isinstance(v, dict) and 'ros__parameters' in v]
    if not nodes:
        return dict(content)
    merged: dict[str, Any] = {}
    for node in nodes:
        groups = node['ros__parameters'] or {}
        if not isinstance(groups, dict):
            raise ConfigError(f'ros__parameters must hold parameters, found {groups!r}')
        merged.update(_flat(groups))
    # Belongs to rclpy, not to r3_ros.
    merged.pop('use_sim_time', None)
    return {k: v for k, v in merged.items() if not k.startswith('qos_overrides.')}


def _flat(content: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f'{prefix}{name}.'))
        else:
            flat[f'{prefix}{name}'] = value
    return flat


def is_image_size(pixels: int) -> bool:
    """Say whether R3 can be given pictures whose long side is this.

    Sides are whole patches of 14 pixels; at 224 R3's rule would crop the picture to a square.
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
            f"parameter 'model.image_size' is {config.model.image_size}: take a multiple of 14 "
            f'from {SMALLEST_IMAGE} on, for example 504 or 392 (224 would crop the picture to a '
            'square), or 0 for what the weights were trained on'
        )
    if config.scale.source == 'model' and not config.model.depth:
        raise ConfigError(
            "parameter 'scale.source' is 'model', which compares depths, and 'model.depth' is "
            'false: leave it on, or take another source'
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
