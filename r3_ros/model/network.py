"""The networks, assembled: pictures and an explicit cache in, predictions and new entries out.

Modules hold weights and nothing else: what a stream remembers is a :class:`FrameCache` in the
caller's hands. Pictures are (B, S, 3, H, W), H and W multiples of 14, either uint8 (0 to 255) or
floating point (0 to 1); the range is never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
import re

import torch
from torch import nn, Tensor

from ..errors import FrameError, TransformError
from ..input.network_input import IMAGENET_MEAN, IMAGENET_STD
from .backbone import Backbone, KeyValues, Tokens
from .camera_head import CameraDecoder, PairHead, Pairs, PoseEncoder
from .depth_head import DenseDepth, DualHead, MetricHead, MonoDepth
from .layers import in_float32
from .reference_view import choose_reference
from .variants import CameraOutput, HEAD_CHANNELS, NetworkConfig, PATCH

#: Frames that the depth head takes at once: its maps at full size are large.
HEAD_FRAMES = 4

#: Parameters that stay float32 in every precision: small ones that set scales, and the ends of
#: branches, whose outputs are exponentiated or read as angles.
_FLOAT32 = re.compile(
    r'(^|\.)(\w*norm\d?|ls\d)\.|_token$|pos_embed$|^cam_|output_conv2(_aux\.\d\.[25]|\.2)\.'
)


@dataclass(frozen=True)
class FrameCache:
    """What later frames need of N earlier ones. Any subset in any order is a valid context.

    :ivar key_values: one per cross-frame block, (B, h, N, P, d) each.
    :ivar pair_sources: (B, N, D) float32, the frames' halves of pairs they are the source of.
    """

    key_values: tuple[KeyValues, ...]
    pair_sources: Tensor

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.pair_sources.shape[1]

    def select(self, frames: Sequence[int]) -> FrameCache:
        """Return some frames, in the order given."""
        index = torch.tensor(frames, dtype=torch.int64)
        if self.pair_sources.is_cuda:
            index = index.pin_memory()  # so that the copy does not wait for the device
        index = index.to(self.pair_sources.device, non_blocking=True)
        return FrameCache(
            tuple(entry.select(index) for entry in self.key_values),
            self.pair_sources.index_select(1, index),
        )

    @staticmethod
    def join(caches: Sequence[FrameCache]) -> FrameCache:
        """Return the frames of several caches in one."""
        if len(caches) == 1:
            return caches[0]
        layers = zip(*(cache.key_values for cache in caches), strict=True)
        return FrameCache(
            tuple(
                KeyValues(
                    torch.cat([entry.keys for entry in layer], dim=2),
                    torch.cat([entry.values for entry in layer], dim=2),
                )
                for layer in layers
            ),
            torch.cat([cache.pair_sources for cache in caches], dim=1),
        )


@dataclass(frozen=True)
class Prediction:
    """R3's answer for S frames.

    :ivar fov: (B, S, 2) fields of view in radians, vertical then horizontal.
    :ivar pairs: relative poses from the cached frames and those of the call.
    :ivar cache: the new entries of the S frames; joining them to a cache is up to the caller.
    :ivar camera_feature: (B, S, D) what the camera answers were read from.
    :ivar depth: (B, S, H, W) in the unit of the translations, or None if not asked for;
        ``confidence`` likewise, > 1.
    :ivar rays: (B, S, 8h, 8w, 6), None unless asked for; ``ray_confidence`` (B, S, 8h, 8w).
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
    """Plain DA3's answer for S frames.

    :ivar encodings: (B, S, 9) camera-to-world poses against the reference view, fields of view.
    :ivar reference: (B,) int64 index of the reference view, None where cameras were given.
    :ivar depth: (B, S, H, W) in the unit of the translations; ``confidence`` likewise, > 1.
    :ivar rays: (B, S, 8h, 8w, 6), None unless asked for; ``ray_confidence`` (B, S, 8h, 8w).
    """

    encodings: Tensor
    reference: Tensor | None
    depth: Tensor
    confidence: Tensor
    rays: Tensor | None = None
    ray_confidence: Tensor | None = None


class _Network(nn.Module):
    """What all networks share."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)

    @staticmethod
    def keeps_float32(name: str) -> bool:
        """Say whether a parameter stays float32 whatever the precision of the others."""
        return _FLOAT32.search(name) is not None


class _AnyView(_Network):
    """What R3 and plain DA3 share: frames alone, then depth from the taps."""

    head: DualHead

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.head = DualHead(config.depth_head, config.backbone.feature_width)

    def describe(self, images: Tensor) -> Tokens:
        """Run everything that needs no other frame: patches and the blocks before any role.

        :param images: (B, S, 3, H, W), see the module.
        :raises FrameError: wrong shape or type.
        """
        return self.backbone.describe(normalised(images, dimensions=5))

    def _dense(self, features: Sequence[Tensor], tokens: Tokens, rays: bool) -> DenseDepth:
        """Run the head on (B, S, h*w, D) taps, a few frames at a time; answers are (B, S, ...)."""
        B, S = features[0].shape[:2]
        flat = [tap.flatten(0, 1) for tap in features]
        parts: list[DenseDepth] = [
            self.head(
                [tap[i : i + HEAD_FRAMES] for tap in flat], tokens.rows, tokens.columns, rays
            )
            for i in range(0, B * S, HEAD_FRAMES)
        ]

        def joined(maps: list[Tensor]) -> Tensor:
            return torch.cat(maps).unflatten(0, (B, S))

        dense = DenseDepth(joined([p.depth for p in parts]), joined([p.confidence for p in parts]))
        if not rays:
            return dense
        return dense._replace(
            rays=joined([p.rays for p in parts if p.rays is not None]),
            ray_confidence=joined(
                [p.ray_confidence for p in parts if p.ray_confidence is not None]
            ),
        )


class R3Network(_AnyView):
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
    ) -> Prediction:
        """Relate the frames to cached ones and to one another.

        Frame by frame with everything cached, or a whole clip at once with ``causal``: the
        predictions are the same.

        :param cached: frames remembered, any subset in any order; None: none.
        :param causal: a frame sees the cached ones and those before it; else also those after it.
        :param reference: the first frame is the one that the others refer to; None: it is, unless
            there are cached ones.
        :param depth: also run the depth head; ``rays``: its ray branch, too, and so the head.
        :raises FrameError: the cached frames are of another size, batch or network.
        """
        if cached is not None:
            self._check_fits(described, cached)
        if reference is None:
            reference = cached is None or not cached.frames
        roles = self.backbone.camera_token.expand(described.tokens.shape[0], -1, -1)  # (B, 2, C)
        S = described.tokens.shape[1]
        own = roles[:, :1] if reference else roles[:, 1:]
        camera_tokens = torch.cat([own, roles[:, 1:].expand(-1, S - 1, -1)], dim=1)
        taps = self.backbone.relate(
            described, camera_tokens, causal, cached.key_values if cached else None
        )
        with in_float32(described.tokens.device):
            feature = self.cam_dec.project(taps.camera_tokens[-1])
            entries = FrameCache(taps.key_values, self.cam_dec.source_half(feature))
            sources = entries.pair_sources
            if cached is not None:
                sources = torch.cat([cached.pair_sources, sources], dim=1)
            pairs = self.cam_dec(sources, self.cam_dec.target_half(feature), causal)
            fov = self.cam_dec.fov(feature)
        dense = self._dense(taps.features, described, rays) if depth or rays else None
        return Prediction(
            fov=fov,
            pairs=pairs,
            cache=entries,
            camera_feature=feature,
            depth=dense.depth if dense else None,
            confidence=dense.confidence if dense else None,
            rays=dense.rays if dense else None,
            ray_confidence=dense.ray_confidence if dense else None,
        )

    def _check_fits(self, described: Tokens, cached: FrameCache) -> None:
        """Refuse cached frames that the described ones cannot attend to, by shapes alone."""
        backbone = self.config.backbone
        B, _, P, _ = described.tokens.shape
        shape = (B, backbone.heads, cached.frames, P, HEAD_CHANNELS)
        wanted = [shape] * (2 * len(backbone.cross_frame_blocks))
        got = [tuple(t.shape) for kv in cached.key_values for t in (kv.keys, kv.values)]
        if got != wanted or cached.pair_sources.shape[0] != B:
            raise FrameError(
                f'the frame does not fit the cached ones: they must hold {len(wanted)} tensors of '
                f'{shape}, got {len(got)} of {sorted(set(got))}; a cache is of one network, one '
                'batch and one picture size'
            )

    def forward(
        self, images: Tensor, *, causal: bool = False, depth: bool = True, rays: bool = False
    ) -> Prediction:
        """Predict a whole clip (B, S, 3, H, W) at once, frame 0 being the reference."""
        return self.predict(self.describe(images), causal=causal, depth=depth, rays=rays)


class DA3Network(_AnyView):
    """Plain Depth Anything 3, any view: depth and poses against a reference view it chooses.

    Source: arXiv 2511.10647.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.cam_dec = CameraDecoder(config.backbone.feature_width)
        self.cam_enc = PoseEncoder(config.backbone.width)

    def forward(
        self,
        images: Tensor,
        *,
        cameras: Tensor | None = None,
        reference_view: str = 'saddle_balanced',
        rays: bool = False,
    ) -> AbsolutePrediction:
        """Predict S views of a scene (B, S, 3, H, W), in any order.

        :param cameras: (B, S, 9) encodings of known camera-to-world poses and fields of view, see
            :func:`~r3_ros.model.known_cameras.encode_cameras`; None: unknown.
        :param reference_view: how the reference is chosen among three views or more.
        :raises FrameError: wrong shape or type of the pictures.
        :raises TransformError: wrong shape of the cameras.
        :raises ModelError: unknown ``reference_view``.
        """
        described = self.describe(images)
        reference = None
        if cameras is not None:
            if cameras.shape != (*images.shape[:2], 9):
                raise TransformError(
                    f'cameras must be encodings ({images.shape[0]}, {images.shape[1]}, 9), one '
                    f'per picture, got {tuple(cameras.shape)}'
                )
            camera_tokens = self.cam_enc(cameras)
        else:
            reference = choose_reference(described.class_token, reference_view)
            views = torch.arange(images.shape[1], device=reference.device)
            is_reference = (views == reference[:, None])[..., None]  # (B, S, 1)
            roles = self.backbone.camera_token
            camera_tokens = torch.where(is_reference, roles[:, :1], roles[:, 1:])
        taps = self.backbone.relate(described, camera_tokens, causal=False)
        encodings = self.cam_dec.absolute(self.cam_dec.project(taps.camera_tokens[-1]))
        dense = self._dense(taps.features, described, rays)
        return AbsolutePrediction(encodings, reference, *dense)


class MetricNetwork(_Network):
    """DA3METRIC: depth of single pictures for a focal length of 300 pixels, and sky."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.head = MetricHead(config.depth_head, config.backbone.feature_width)

    def forward(self, images: Tensor) -> MonoDepth:
        """Predict (N, 3, H, W) pictures; :mod:`~r3_ros.model.metric` turns it into metres.

        :raises FrameError: wrong shape or type.
        """
        x = normalised(images, dimensions=4)
        rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        parts = [
            self.head(self.backbone.features_alone(x[i : i + HEAD_FRAMES]), rows, columns)
            for i in range(0, len(x), HEAD_FRAMES)
        ]
        return MonoDepth(*(torch.cat(part) for part in zip(*parts, strict=True)))


def build_network(config: NetworkConfig) -> R3Network | DA3Network | MetricNetwork:
    """Return the network of a configuration, with fresh weights and in training mode.

    Under ``torch.device('meta')`` it takes no memory, and is filled from a file.
    """
    if config.camera is CameraOutput.PAIRS:
        return R3Network(config)
    if config.camera is CameraOutput.ABSOLUTE:
        return DA3Network(config)
    return MetricNetwork(config)


def normalised(images: Tensor, dimensions: int) -> Tensor:
    """Return float32 pictures with ImageNet's mean and deviation taken out; see the module.

    :raises FrameError: wrong shape or type.
    """
    shape = tuple(images.shape)
    if images.ndim != dimensions or shape[-3] != 3 or shape[-2] % PATCH or shape[-1] % PATCH:
        wanted = '(B, S, 3, H, W)' if dimensions == 5 else '(N, 3, H, W)'
        raise FrameError(
            f'pictures must be {wanted} with sides that are multiples of {PATCH}, got {shape}'
        )
    if 0 in shape:
        raise FrameError(f'there is no picture in a tensor of shape {shape}')
    gain = 1.0
    if images.dtype == torch.uint8:
        gain = 1 / 255
    elif not images.dtype.is_floating_point:
        raise FrameError(
            f'pictures must be uint8 (0 to 255) or floating point (0 to 1), got {images.dtype}'
        )
    mean, std = _imagenet(images.device)
    return (images.float() * gain - mean) / std


@lru_cache(maxsize=8)
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (3, 1, 1) each, on a device."""
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device).reshape(3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=device).reshape(3, 1, 1)
        return mean, std
