"""What can be set of the authors' loop, and the four ways in which they set it."""

from __future__ import annotations

from dataclasses import dataclass, field
import enum

#: Frames whose scores say what is usual at the start of a segment.
WARMUP_FRAMES = 5


class CacheMode(enum.Enum):
    """Which frames stay in the cache."""

    ALL = 'all'  # every one that is not refused
    DYNAMIC = 'dynamic'  # the newest, the first and the keyframes


@dataclass(frozen=True)
class CacheOptions:
    """What stays in the cache.

    :ivar recent_frames: newest frames that stay in dynamic mode; at least one does.
    :ivar first_frames: of each segment, stay in dynamic mode.
    """

    mode: CacheMode = CacheMode.ALL
    recent_frames: int = 0
    first_frames: int = 1


@dataclass(frozen=True)
class BankOptions:
    """Which frames become keyframes, and which cease to be.

    :ivar interval: admit every n-th frame, and look at nothing else; 0 admits what is new.
    :ivar novelty: admit a frame whose cosine to every keyframe is less.
    :ivar max_interval: frames after which one is admitted in any case.
    :ivar confidence_ratio: least score of a keyframe, as a share of that of the segment's first
        frames; 0 is off.
    :ivar evict_oldest: when full. False evicts the one whose best match ever was the weakest,
        which is what their code means to do and, through the entry point that they use, does not.
    """

    interval: int = 0
    novelty: float = 0.985
    max_interval: int = 30
    max_keyframes: int = 100
    confidence_ratio: float = 0.0
    evict_oldest: bool = True


@dataclass(frozen=True)
class GateOptions:
    """Which frames are refused; those of dynamic mode never are.

    :ivar threshold: least score; ``percent``: least score as a share of that of the segment's
        first frames. 0 is off.
    :ivar warmup_frames: these first frames; the very first does not count.
    """

    threshold: float = 0.0
    percent: float = 0.0
    warmup_frames: int = 3


@dataclass(frozen=True)
class FallbackOptions:
    """When a new segment begins, and from what.

    :ivar max_segment_frames: longest segment; 0 is off.
    :ivar drought_threshold: a segment ends when the scores of ``drought_frames`` frames in a row
        are below it, or below ``drought_percent`` of those of its first frames. 0 is off.
    :ivar min_segment_frames: shortest segment.
    :ivar bridge_frames: newest held frames, which the new segment begins with.
    """

    max_segment_frames: int = 0
    drought_threshold: float = 0.0
    drought_percent: float = 45.0
    drought_frames: int = 3
    min_segment_frames: int = 16
    bridge_frames: int = 10

    @property
    def remembered_frames(self) -> int:
        """Return the number of frames whose pictures and depths are kept."""
        return 3 * self.bridge_frames + self.drought_frames

    @property
    def cooldown_frames(self) -> int:
        """Return the number of frames after an attempt in which there is no drought."""
        return self.bridge_frames + self.drought_frames


@dataclass(frozen=True)
class MetricOptions:
    """How units become metres.

    :ivar bootstrap_frames: first frames that are pooled; with fewer than two the first frame
        alone decides.
    :ivar min_confidence: of the depth of a pixel.
    """

    bootstrap_frames: int = 5
    min_confidence: float = 1.02


@dataclass(frozen=True)
class StreamOptions:
    """Everything that can be set.

    :ivar fallback: None never begins a new segment; ``metric``: None keeps the network's units.
    :ivar topn: edges that make a pose.
    """

    cache: CacheOptions = field(default_factory=CacheOptions)
    bank: BankOptions = field(default_factory=BankOptions)
    gate: GateOptions = field(default_factory=GateOptions)
    fallback: FallbackOptions | None = None
    metric: MetricOptions | None = None
    topn: int = 999


@dataclass(frozen=True)
class Preset:
    """A preset of their demo.

    :ivar weights: the checkpoint that it takes.
    """

    weights: str
    stream: StreamOptions


_DYNAMIC = CacheOptions(CacheMode.DYNAMIC)
PRESETS = {
    'official_test': Preset('r3', StreamOptions()),
    'official_local': Preset('r3', StreamOptions(cache=_DYNAMIC)),
    'official_long': Preset(
        'r3_long',
        StreamOptions(
            cache=_DYNAMIC,
            fallback=FallbackOptions(max_segment_frames=300),
            metric=MetricOptions(),
        ),
    ),
    'official_strided': Preset(
        'r3_long',
        StreamOptions(fallback=FallbackOptions(max_segment_frames=100), metric=MetricOptions()),
    ),
}
