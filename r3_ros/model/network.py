"""The networks: from images and an explicit cache to predictions and new cache entries.

Modules hold only weights; the state of a stream is a :class:`FrameCache` owned by the caller.
Images are (B, S, 3, H, W), H and W multiples of 14, either uint8 (0 to 255) or floating point
(0 to 1); the dtype alone determines the range.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
import re

import torch
from torch import nn, Tensor

from ..core.config import PUBLISHED_IMAGE
from ..core.errors import FrameError
from ..core.resize_geometry import Geometry
from ..input.network_input import da3_geometry, IMAGENET_MEAN, IMAGENET_STD
from .backbone import Backbone, KeyValues, Taps, Tokens
from .camera_head import camera_poses, CameraDecoder, PairHead, Pairs, PoseEncoder
from .depth_head import DenseDepth, DualHead, HEAD_FRAMES, MetricHead, MonoDepth
from .layers import in_float32
from .multi_view import FrameFeatures, MultiViewNetwork, Views
from .pass_memory import pass_bytes
from .reference_view import choose_reference
from .variants import HEAD_CHANNELS, NetworkConfig, PATCH

#: Parameters that stay float32 in every precision: norms and scales, and the last layers of
#: branches whose outputs are exponentiated or angles.
_FLOAT32 = re.compile(
    r'(^|\.)(\w*norm\d?|ls\d)\.|_token$|pos_embed$|^cam_|output_conv2(_aux\.\d\.[25]|\.2)\.'
)


@dataclass(frozen=True)
class FrameCache:
    """The cache of N frames. Any subset in any order is a valid context.

    :ivar key_values: of each cross-frame block.
    :ivar pair_features: (B, N, ...) each, what pairs need of the frames: R3's source halves of
        pairs; the descriptors, depth and fields of view of r3-tiny.
    :ivar extended: the same memory with one more frame at the end, into which a single frame that
        attends to these is written; None: such frames are joined to a copy.
    """

    key_values: tuple[KeyValues, ...]
    pair_features: tuple[Tensor, ...]
    extended: FrameCache | None = None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.pair_features[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Size of all tensors."""
        tensors = [t for kv in self.key_values for t in (kv.keys, kv.values)]
        return sum(t.nbytes for t in (*tensors, *self.pair_features))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """A copy of keys and values (L, 2, B, h, N, P, d), L blocks; and the pair features."""
        layers = [torch.stack([kv.keys, kv.values]) for kv in self.key_values]
        return torch.stack(layers), *self.pair_features

    @property
    def frame_dimensions(self) -> tuple[int, ...]:
        """The dimension of the frames in each part."""
        return 4, *(1 for _ in self.pair_features)

    def with_parts(self, parts: Sequence[Tensor]) -> FrameCache:
        """Return the cache of other frames, in the memory of these parts."""
        keys_and_values, *features = parts
        layers = tuple(KeyValues(*layer.unbind()) for layer in keys_and_values)
        return FrameCache(layers, tuple(features))

    def features_with(self, own: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return (B, N + S, ...) pair features, with those (B, S, ...) of the frames of a call."""
        if self.extended is None or own[0].shape[1] > 1:
            parts = zip(self.pair_features, own, strict=True)
            return tuple(torch.cat(part, dim=1) for part in parts)
        for all_frames, new in zip(self.extended.pair_features, own, strict=True):
            all_frames[:, -1:].copy_(new)
        return self.extended.pair_features

    @staticmethod
    def join(caches: Sequence[FrameCache]) -> FrameCache:
        """Return a copy of the frames of several caches, one after another."""
        layers = zip(*(cache.key_values for cache in caches), strict=True)
        features = zip(*(cache.pair_features for cache in caches), strict=True)
        return FrameCache(
            tuple(first.followed_by(*others) for first, *others in layers),
            tuple(torch.cat(parts, dim=1) for parts in features),
        )


@dataclass(frozen=True)
class Prediction:
    """R3's output for S frames.

    :ivar fov: (B, S, 2) fields of view in radians, vertical then horizontal.
    :ivar pairs: relative poses from the cached frames and those of the call.
    :ivar cache: the entries of the S frames; keys and values in ``extended`` of the given cache,
        if it has that.
    :ivar camera_feature: (B, S, D), the input of the camera outputs.
    :ivar depth: (B, S, H, W) in the unit of the translations, optional; ``confidence`` likewise,
        > 1.
    :ivar rays: (B, S, 8h, 8w, 6), optional; ``ray_confidence`` (B, S, 8h, 8w).
    """

    fov: Tensor
    pairs: Pairs
    cache: FrameCache
    camera_feature: Tensor
    depth: Tensor | None = None
    confidence: Tensor | None = None
    rays: Tensor | None = None
    ray_confidence: Tensor | None = None


@dataclass(frozen=True)
class AbsolutePrediction:
    """Plain DA3's output for S frames.

    :ivar encodings: (B, S, 9) camera-to-world poses relative to the reference view.
    :ivar reference: (B,) int64 index of the reference view.
    :ivar depth: (B, S, H, W) in the unit of the translations; ``confidence`` likewise, > 1.
    :ivar rays: (B, S, 8h, 8w, 6), optional; ``ray_confidence`` (B, S, 8h, 8w).
    """

    encodings: Tensor
    reference: Tensor
    depth: Tensor
    confidence: Tensor
    rays: Tensor | None = None
    ray_confidence: Tensor | None = None


class _Network(nn.Module):
    """The base of all networks."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)

    @staticmethod
    def keeps_float32(name: str) -> bool:
        """Return whether a parameter stays float32 in every precision."""
        return _FLOAT32.search(name) is not None


class _AnyView(_Network):
    """The base of R3 and plain DA3: description of frames, and depth from the taps."""

    head: DualHead

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.head = DualHead(config.depth_head, config.backbone.feature_width)

    def describe(self, images: Tensor) -> Tokens:
        """Run the part of the backbone that sees one frame alone.

        :param images: (B, S, 3, H, W), see the module.
        :raises FrameError: wrong shape or type.
        """
        return self.backbone.describe(normalised(images, dimensions=5))

    def pass_bytes(self, width: int, height: int, frames: int, depth: bool = True) -> int:
        """Return an upper bound of the peak memory of a pass, without the weights.

        :param width: of the images, in pixels; ``height`` likewise.
        """
        size = self.backbone.patch_embed.proj.weight.element_size()
        return pass_bytes(self.config, height // PATCH, width // PATCH, frames, size, depth)

    def _dense(self, features: Sequence[Tensor], tokens: Tokens, rays: bool) -> DenseDepth:
        """Run the head on (B, S, h*w, D) taps, a few frames at a time; returns (B, S, ...)."""
        head = partial(self.head, rows=tokens.rows, columns=tokens.columns, rays=rays)
        maps = in_small_batches(head, [tap.flatten(0, 1) for tap in features])
        return DenseDepth(*(m.unflatten(0, features[0].shape[:2]) for m in maps))


def in_small_batches(
    head: Callable[[Sequence[Tensor]], Sequence[Tensor | None]], features: Sequence[Tensor]
) -> list[Tensor]:
    """Run a dense head on (N, h*w, D) taps, a few frames at a time.

    :returns: those of its outputs that are not None, (N, ...) each.
    """
    batches = range(0, len(features[0]), HEAD_FRAMES)
    outputs = [head([tap[i : i + HEAD_FRAMES] for tap in features]) for i in batches]
    maps = ([m for m in parts if m is not None] for parts in zip(*outputs, strict=True))
    return [torch.cat(parts) for parts in maps if parts]


class PairNetwork(_AnyView, ABC):
    """The base of networks that predict depth and pairwise relative poses."""

    @abstractmethod
    def predict(
        self,
        described: Tokens,
        cached: FrameCache | None = None,
        *,
        causal: bool = True,
        reference: bool | None = None,
        depth: bool = True,
        rays: bool = False,
        camera: Tensor | None = None,
    ) -> Prediction:
        """Predict the frames from cached ones and one another.

        A whole clip at once with ``causal`` gives the same as frame by frame with a full cache.

        :param cached: any subset of earlier frames in any order.
        :param causal: a frame sees the cached ones and those before it; else also those after it.
        :param reference: whether the first frame is the reference frame; None: if there are no
            cached ones.
        :param depth: run the depth head; ``rays``: run it with its ray branch.
        :param camera: (B, 4) known fx, fy, cx, cy in pixels, for networks that can use it.
        :raises FrameError: the cached frames are of another size, batch or network.
        """

    def forward(
        self, images: Tensor, *, causal: bool = False, depth: bool = True, rays: bool = False
    ) -> Prediction:
        """Predict a whole clip (B, S, 3, H, W) at once, with frame 0 as the reference."""
        return self.predict(self.describe(images), causal=causal, depth=depth, rays=rays)

    def _taps(
        self,
        described: Tokens,
        cached: FrameCache | None,
        causal: bool,
        reference: bool | None,
    ) -> Taps:
        """Run the blocks that relate frames; see :meth:`predict`."""
        if cached is not None:
            self._check_fits(described, cached)
        if reference is None:
            reference = cached is None or not cached.frames
        roles = self.backbone.camera_token.expand(described.tokens.shape[0], -1, -1)  # (B, 2, C)
        S = described.tokens.shape[1]
        own = roles[:, :1] if reference else roles[:, 1:]
        camera_tokens = torch.cat([own, roles[:, 1:].expand(-1, S - 1, -1)], dim=1)
        if cached is None:
            return self.backbone.relate(described, camera_tokens, causal)
        extended = cached.extended.key_values if cached.extended and S == 1 else ()
        return self.backbone.relate(described, camera_tokens, causal, cached.key_values, extended)

    def _check_fits(self, described: Tokens, cached: FrameCache) -> None:
        """Refuse cached frames of other shapes."""
        backbone = self.config.backbone
        B, _, P, _ = described.tokens.shape
        blocks, shape = len(backbone.cross_frame_blocks), (B, backbone.heads, P, HEAD_CHANNELS)
        keys_and_values = [t for kv in cached.key_values for t in (kv.keys, kv.values)]
        got = {(*t.shape[:2], *t.shape[3:]) for t in keys_and_values}
        frames = {t.shape[2] for t in keys_and_values}
        fits = len(cached.key_values) == blocks and got == {shape} and frames == {cached.frames}
        if not fits or cached.pair_features[0].shape[0] != B:
            raise FrameError(
                f'the frame does not fit the cached ones: they must hold {blocks} blocks of '
                f'{shape} for each frame, got {len(cached.key_values)} of {sorted(got)}; a cache '
                'is of one network, one batch size and one image size'
            )


class R3Network(PairNetwork):
    """R3: depth and pairwise relative poses, causally or with full context.

    Source: arXiv 2605.26519, and docs/network.md.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.cam_dec = PairHead(config.backbone.feature_width)

    def predict(
        self,
        described: Tokens,
        cached: FrameCache | None = None,
        *,
        causal: bool = True,
        reference: bool | None = None,
        depth: bool = True,
        rays: bool = False,
        camera: Tensor | None = None,
    ) -> Prediction:
        """Predict the frames from cached ones and one another; a known camera is not used."""
        taps = self._taps(described, cached, causal, reference)
        with in_float32(described.tokens.device):
            feature = self.cam_dec.project(taps.camera_tokens[-1])
            sources = own = self.cam_dec.source_half(feature)
            if cached is not None:
                (sources,) = cached.features_with([own])
            pairs = self.cam_dec(sources, self.cam_dec.target_half(feature), causal)
            fov = self.cam_dec.fov(feature)
        dense = self._dense(taps.features, described, rays) if depth or rays else None
        entries = FrameCache(taps.key_values, (own,))
        return Prediction(fov, pairs, entries, feature, *(dense or ()))


class DA3Network(_AnyView, MultiViewNetwork):
    """Plain Depth Anything 3, any view: depth and poses relative to a chosen reference view.

    Source: arXiv 2511.10647.
    """

    image_size = PUBLISHED_IMAGE

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.descriptor_size = config.backbone.width
        self.cam_dec = CameraDecoder(config.backbone.feature_width)
        self.cam_enc = PoseEncoder(config.backbone.width)

    def forward(self, images: Tensor, *, rays: bool = False) -> AbsolutePrediction:
        """Predict S views of a scene (B, S, 3, H, W), in any order.

        :raises FrameError: wrong shape or type of the images.
        """
        return self._predict(self.describe(images), rays)

    def geometry(self, width: int, height: int, image_size: int) -> Geometry:
        """Return the geometry of Depth Anything 3's rule."""
        return da3_geometry(width, height, image_size)

    def encode(self, images: Tensor) -> FrameFeatures:
        """Run the blocks before the first with camera tokens on (S, 3, H, W) images."""
        seen = self.describe(images[None])
        tensors = seen.tokens[0], seen.class_token[0]
        return FrameFeatures(tensors, seen.descriptor[0], seen.rows, seen.columns)

    def relate(self, features: FrameFeatures) -> Views:
        """Predict the frames; the reference view is chosen among three or more."""
        (tokens, class_token), described = features.tensors, features.descriptor[None]
        seen = Tokens(tokens[None], described, class_token[None], features.rows, features.columns)
        prediction = self._predict(seen, rays=False)
        return Views(
            camera_poses(prediction.encodings[0]),
            prediction.encodings[0, :, 7:],
            prediction.depth[0],
            prediction.confidence[0],
        )

    def _predict(self, described: Tokens, rays: bool) -> AbsolutePrediction:
        reference = choose_reference(described.class_token)
        views = torch.arange(described.tokens.shape[1], device=reference.device)
        is_reference = (views == reference[:, None])[..., None]  # (B, S, 1)
        roles = self.backbone.camera_token
        camera_tokens = torch.where(is_reference, roles[:, :1], roles[:, 1:])
        taps = self.backbone.relate(described, camera_tokens, causal=False)
        encodings = self.cam_dec.absolute(self.cam_dec.project(taps.camera_tokens[-1]))
        dense = self._dense(taps.features, described, rays)
        return AbsolutePrediction(encodings, reference, *dense)


class MetricNetwork(_Network):
    """DA3METRIC: depth of single images for a focal length of 300 pixels, and sky."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.head = MetricHead(config.depth_head, config.backbone.feature_width)

    def forward(self, images: Tensor) -> MonoDepth:
        """Predict (N, 3, H, W) images; ``metric_predictor`` converts the depth to metres.

        :raises FrameError: wrong shape or type.
        """
        x = normalised(images, dimensions=4)
        rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        parts = [
            self.head(self.backbone.features_alone(x[i : i + HEAD_FRAMES]), rows, columns)
            for i in range(0, len(x), HEAD_FRAMES)
        ]
        return MonoDepth(*(torch.cat(part) for part in zip(*parts, strict=True)))


def normalised(
    images: Tensor,
    dimensions: int,
    patch: int = PATCH,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """Return float32 images normalised by a mean and a deviation of each colour; see the module.

    :raises FrameError: wrong shape or type.
    """
    shape = tuple(images.shape)
    if images.ndim != dimensions or shape[-3] != 3 or shape[-2] % patch or shape[-1] % patch:
        wanted = '(B, S, 3, H, W)' if dimensions == 5 else '(N, 3, H, W)'
        raise FrameError(
            f'images must be {wanted} with sides that are multiples of {patch}, got {shape}'
        )
    if 0 in shape:
        raise FrameError(f'there is no image in a tensor of shape {shape}')
    if images.dtype == torch.uint8:
        gain, offset = _gain_and_offset(mean, std, images.device, 1 / 255)
    elif images.dtype.is_floating_point:
        gain, offset = _gain_and_offset(mean, std, images.device, 1.0)
    else:
        raise FrameError(
            f'images must be uint8 (0 to 255) or floating point (0 to 1), got {images.dtype}'
        )
    # One pass over the image.
    return torch.addcmul(offset, images, gain)


@lru_cache(maxsize=8)
def _gain_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, unit: float
) -> tuple[Tensor, Tensor]:
    """Return gain and offset (3, 1, 1) that normalise images in which ``1 / unit`` is white."""
    with torch.inference_mode(False):
        of_colours = torch.tensor([mean, std], dtype=torch.float64, device=device)
        means, stds = of_colours[..., None, None]
        return (unit / stds).float(), (-means / stds).float()
