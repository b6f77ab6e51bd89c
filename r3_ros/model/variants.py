"""The configurations of the networks: widths, depths and heads.

Sources: R3 (arXiv 2605.26519), Depth Anything 3 (arXiv 2511.10647) and VGGT (arXiv 2503.11651),
as released.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import enum

#: Side of a square patch in pixels; the sides of an input are multiples of it.
PATCH = 14
#: The position table is a square of this many entries (trained at 518 x 518).
TABLE_SIDE = 37
#: Channels of an attention head, in every variant.
HEAD_CHANNELS = 64


class CameraOutput(enum.Enum):
    """The camera output of a network."""

    NONE = 'none'
    PAIRS = 'pairs'  # R3: relative poses of frame pairs, with confidences
    MATCHES = 'matches'  # r3-tiny: the same, solved from dense matches and depth
    ABSOLUTE = 'absolute'  # plain DA3: every frame against the reference view
    REFINED = 'refined'  # VGGT: every frame against the first, refined in several rounds
    VIDEO = 'video'  # LingBot-Map: the same for frames in order

    @property
    def is_refined(self) -> bool:
        """Whether the network is VGGT or LingBot-Map."""
        return self in (CameraOutput.REFINED, CameraOutput.VIDEO)


@dataclass(frozen=True)
class BackboneConfig:
    """A vision transformer whose later blocks alternate between one frame and all frames.

    :ivar width: C, channels of a token.
    :ivar taps: the four blocks whose outputs the heads read.
    :ivar alternate_from: from this block on, blocks with an odd index attend across frames, and
        queries and keys are normalised and rotated; None: every block sees one frame alone.
    :ivar swiglu_width: hidden width of a SwiGLU feed-forward layer; None: GELU, four times C.
    """

    width: int
    depth: int
    taps: tuple[int, int, int, int]
    alternate_from: int | None
    swiglu_width: int | None = None

    @property
    def heads(self) -> int:
        """Attention heads per block."""
        return self.width // HEAD_CHANNELS

    @property
    def feature_width(self) -> int:
        """D, channels of a tap: local and global half together if blocks alternate."""
        return self.width if self.alternate_from is None else 2 * self.width

    def is_cross_frame(self, block: int) -> bool:
        """Return whether a block attends across frames."""
        return self.alternate_from is not None and block >= self.alternate_from and block % 2 == 1

    @property
    def cross_frame_blocks(self) -> tuple[int, ...]:
        """Blocks that attend across frames, whose keys and values are cached."""
        return tuple(i for i in range(self.depth) if self.is_cross_frame(i))


@dataclass(frozen=True)
class DepthHeadConfig:
    """A dense prediction head.

    :ivar features: F, channels of the fused pyramid.
    :ivar channels: of the four levels before fusion.
    :ivar rays: whether a dual head has its ray branch.
    :ivar rectified_skips: whether residual units add their input without its negative part.
    """

    features: int
    channels: tuple[int, int, int, int]
    rays: bool = True
    rectified_skips: bool = False


@dataclass(frozen=True)
class NetworkConfig:
    """One network of the family."""

    name: str
    backbone: BackboneConfig
    depth_head: DepthHeadConfig
    camera: CameraOutput


_TINY = BackboneConfig(width=192, depth=12, taps=(5, 7, 9, 11), alternate_from=4)
_SMALL = BackboneConfig(width=384, depth=12, taps=(5, 7, 9, 11), alternate_from=4)
_BASE = BackboneConfig(width=768, depth=12, taps=(5, 7, 9, 11), alternate_from=4)
_LARGE = BackboneConfig(width=1024, depth=24, taps=(11, 15, 19, 23), alternate_from=8)
_GIANT = BackboneConfig(
    width=1536, depth=40, taps=(19, 27, 33, 39), alternate_from=13, swiglu_width=4096
)
_LARGE_LOCAL = BackboneConfig(width=1024, depth=24, taps=(4, 11, 17, 23), alternate_from=None)
# Of VGGT, blocks before ``alternate_from`` are its image encoder, with a final norm of its own.
_VGGT_SMALL = BackboneConfig(width=384, depth=36, taps=(17, 23, 29, 35), alternate_from=12)
_VGGT = BackboneConfig(width=1024, depth=72, taps=(33, 47, 59, 71), alternate_from=24)

_TINY_HEAD = DepthHeadConfig(features=48, channels=(32, 64, 128, 192), rays=False)
_SMALL_HEAD = DepthHeadConfig(features=64, channels=(48, 96, 192, 384))
_BASE_HEAD = DepthHeadConfig(features=128, channels=(96, 192, 384, 768))
_LARGE_HEAD = DepthHeadConfig(features=256, channels=(256, 512, 1024, 1024))
_VGGT_SMALL_HEAD = replace(_SMALL_HEAD, rays=False, rectified_skips=True)
_VGGT_HEAD = replace(_LARGE_HEAD, rays=False, rectified_skips=True)

#: Every network, by name. `r3-large` is the only R3 released by its authors; the smaller ones and
#: the giant share its layout; `r3-tiny` is our own, for CPUs. `vggt-small` has VGGT's layout with
#: da3-small's dimensions; its authors released `vggt` alone.
VARIANTS: dict[str, NetworkConfig] = {
    config.name: config
    for config in (
        NetworkConfig('r3-tiny', _TINY, _TINY_HEAD, CameraOutput.MATCHES),
        NetworkConfig('r3-small', _SMALL, _SMALL_HEAD, CameraOutput.PAIRS),
        NetworkConfig('r3-base', _BASE, _BASE_HEAD, CameraOutput.PAIRS),
        NetworkConfig('r3-large', _LARGE, _LARGE_HEAD, CameraOutput.PAIRS),
        NetworkConfig('r3-giant', _GIANT, _LARGE_HEAD, CameraOutput.PAIRS),
        NetworkConfig('da3-small', _SMALL, _SMALL_HEAD, CameraOutput.ABSOLUTE),
        NetworkConfig('da3-base', _BASE, _BASE_HEAD, CameraOutput.ABSOLUTE),
        NetworkConfig('da3-large', _LARGE, _LARGE_HEAD, CameraOutput.ABSOLUTE),
        NetworkConfig('da3-giant', _GIANT, _LARGE_HEAD, CameraOutput.ABSOLUTE),
        NetworkConfig('da3metric-large', _LARGE_LOCAL, _LARGE_HEAD, CameraOutput.NONE),
        NetworkConfig('vggt-small', _VGGT_SMALL, _VGGT_SMALL_HEAD, CameraOutput.REFINED),
        NetworkConfig('vggt', _VGGT, _VGGT_HEAD, CameraOutput.REFINED),
        NetworkConfig('lingbot-map-small', _VGGT_SMALL, _VGGT_SMALL_HEAD, CameraOutput.VIDEO),
        NetworkConfig('lingbot-map', _VGGT, _VGGT_HEAD, CameraOutput.VIDEO),
    )
}


class PairOutput(enum.Enum):
    """What a network of image pairs predicts."""

    POINTS = 'points'  # point maps by a pyramid: DUSt3R for images of 512 pixels
    LINEAR_POINTS = 'linear points'  # point maps token by token: DUSt3R for 224 pixels
    DESCRIPTORS = 'descriptors'  # point maps in metres, and descriptors: MASt3R
    POSE = 'pose'  # the relative pose, its translation without length: Reloc3r


@dataclass(frozen=True)
class CrocoConfig:
    """A network of image pairs: an encoder of single images, a decoder that relates two.

    :ivar encoder_width: channels of an encoder token; ``decoder_width`` of a decoder token.
    :ivar image_size: long side of the training images in pixels; 224: a square.
    """

    name: str
    output: PairOutput
    image_size: int = 512
    encoder_width: int = 1024
    encoder_depth: int = 24
    decoder_width: int = 768
    decoder_depth: int = 12

    @property
    def taps(self) -> tuple[int, int, int, int]:
        """Stages of the decoder that the heads read; 0 is its input, before its own width."""
        depth = self.decoder_depth
        return 0, depth // 2, depth * 3 // 4, depth


#: Every network of image pairs, by name. Sources: DUSt3R (arXiv 2312.14132), MASt3R (arXiv
#: 2406.09756), Reloc3r (arXiv 2412.08376), as released.
PAIR_VARIANTS: dict[str, CrocoConfig] = {
    config.name: config
    for config in (
        CrocoConfig('dust3r', PairOutput.POINTS),
        CrocoConfig('dust3r-linear', PairOutput.LINEAR_POINTS, image_size=224),
        CrocoConfig('mast3r', PairOutput.DESCRIPTORS),
        CrocoConfig('reloc3r', PairOutput.POSE),
    )
}
