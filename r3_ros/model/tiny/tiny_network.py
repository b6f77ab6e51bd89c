"""r3-tiny: R3's causal transformer for depth, and poses solved from dense matches and depth.

All that pairs need of a frame is computed from that frame and those it attends to, and cached:
later frames relate to any subset of cached ones. Two frames that share nothing have no confident
matches, and the confidence of the pair is low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..backbone import Tokens
from ..camera_head import FovHead, Pairs
from ..depth_head import DenseDepth
from ..layers import in_float32
from ..network import FrameCache, normalised, PairNetwork, Prediction
from ..variants import NetworkConfig, PATCH
from .matching import cell_centres, chosen_cells, Matcher, Matches, PAIRS_AT_ONCE
from .pair_solver import MatchedPoints, Motions, solve_motions
from .stem import DescriptorHead, Descriptors, Stem, STRIDE

#: Matches of each frame from which a pair is solved.
SOLVED_CELLS = 300
#: Standard deviation of log depth times the depth head's confidence, whose loss makes errors
#: inverse to it, and the range it is kept in. Chosen on clips of the training's kinds.
_DEPTH_NOISE, _DEPTH_NOISE_RANGE = 1.5, (0.05, 1.2)
#: Noise of matches in normalised coordinates, for the expected errors of a solution.
_NOISE = 0.005
#: Inverse variance of motions before any match, likewise.
_PRIOR = 10.0
#: Fields of view outside of this range, radians, are predicted by untrained networks only.
_FOV_RANGE = (0.2, 2.8)


@dataclass(frozen=True)
class TinyTokens(Tokens):
    """Frames after the blocks that see one frame alone, with their descriptors (B, S, ...)."""

    descriptors: Descriptors


class PairFeatures(NamedTuple):
    """What the pairs of frames need, with any leading dimensions.

    :ivar coarse: (..., h, w, 48) descriptors of cells; ``fine``: (..., H // 2, W // 2, 24).
    :ivar log_depth: (..., h, w) of the cells; ``depth_noise``: their standard deviations.
    :ivar fov: (..., 2) radians, vertical then horizontal.
    """

    coarse: Tensor
    fine: Tensor
    log_depth: Tensor
    depth_noise: Tensor
    fov: Tensor


class Encoded(NamedTuple):
    """S frames without their pairs; see :class:`~r3_ros.model.network.Prediction`."""

    fov: Tensor
    camera_feature: Tensor
    dense: DenseDepth
    cache: FrameCache


class ObservedPairs(NamedTuple):
    """The matches from which P pairs are solved.

    :ivar source: points of i seen in j; ``target``: points of j seen in i; depth over ``unit``.
    :ivar unit: (P,) mean distance of the cells of both frames.
    :ivar confidence: (P, 2) mean confidence of all matches of i, and of j.
    """

    source: MatchedPoints
    target: MatchedPoints
    unit: Tensor
    confidence: Tensor


class SolvedPairs(NamedTuple):
    """Motions ``X_j = R X_i + t`` of P pairs, t in the unit of the depth; confidence logits."""

    rotation: Tensor
    translation: Tensor
    logit_translation: Tensor
    logit_rotation: Tensor


class TinyNetwork(PairNetwork):
    """Depth from the transformer; poses from the stem's descriptors, depth and the camera."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        width = config.backbone.width
        self.stem = Stem(width)
        self.descriptors = DescriptorHead(width)
        self.matcher = Matcher()
        self.pair_confidence = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 2))
        self.cam_dec = FovHead(config.backbone.feature_width)

    @staticmethod
    def keeps_float32(name: str) -> bool:
        """Return whether a parameter stays float32 in every precision."""
        own = ('stem.', 'descriptors.', 'matcher.', 'pair_confidence.')
        return name.startswith(own) or PairNetwork.keeps_float32(name)

    def describe(self, images: Tensor) -> TinyTokens:
        """Run the parts that see one frame alone.

        :param images: (B, S, 3, H, W), see :mod:`~r3_ros.model.network`.
        :raises FrameError: wrong shape or type.
        """
        x = normalised(images, dimensions=5)
        B, S, _, H, W = x.shape
        features = self.stem(x.flatten(0, 1))
        added = self.stem.patch_features(features, H // PATCH, W // PATCH)
        tokens = self.backbone.describe(x, added)
        patches = tokens.tokens[:, :, 1:].flatten(0, 1).unflatten(1, (tokens.rows, tokens.columns))
        described = self.descriptors(features, patches.permute(0, 3, 1, 2))
        return TinyTokens(**vars(tokens), descriptors=_split(described, B))

    def describe_alone(self, images: Tensor) -> Descriptors:
        """Return descriptors (B, S, ...) without the transformer, to train matching first."""
        x = normalised(images, dimensions=5)
        return _split(self.descriptors(self.stem(x.flatten(0, 1)), None), len(x))

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
        """Predict the frames from cached ones and one another; see the base.

        Pairs need depth, which is always returned; there are no rays.
        """
        encoded = self.encode(described, cached, causal, reference)
        features = encoded.cache.pair_features
        if cached is not None:
            features = cached.features_with(features)
        size = described.rows * PATCH, described.columns * PATCH
        S = described.tokens.shape[1]
        pairs = self.pairs(PairFeatures(*features), S, causal, camera, size)
        return Prediction(
            encoded.fov, pairs, encoded.cache, encoded.camera_feature, *encoded.dense[:2]
        )

    def encode(
        self,
        described: Tokens,
        cached: FrameCache | None = None,
        causal: bool = True,
        reference: bool | None = None,
    ) -> Encoded:
        """Run everything but the pairs; arguments as of :meth:`predict`."""
        assert isinstance(described, TinyTokens)
        taps = self._taps(described, cached, causal, reference)
        with in_float32(described.tokens.device):
            feature = self.cam_dec.project(taps.camera_tokens[-1])
            fov = self.cam_dec.fov(feature)
        dense = self._dense(taps.features, described, rays=False)
        log_depth = F.avg_pool2d(dense.depth.log(), STRIDE)
        noise = _DEPTH_NOISE * torch.exp(-F.avg_pool2d(dense.confidence.log(), STRIDE))
        noise = noise.clamp(*_DEPTH_NOISE_RANGE)
        kept = PairFeatures(*described.descriptors, log_depth, noise, fov)
        return Encoded(fov, feature, dense, FrameCache(taps.key_values, kept))

    def observe(
        self,
        frames: PairFeatures,
        source: Tensor,
        target: Tensor,
        matches: tuple[Matches, Matches],
        camera: Tensor,
    ) -> ObservedPairs:
        """Choose and refine the matches from which P pairs are solved; without gradients.

        :param frames: (F, ...).
        :param source: (P,) indices of frames i; ``target``: of frames j.
        :param matches: of i in j and of j in i.
        :param camera: (P, 4) fx, fy, cx, cy in pixels, of both frames.
        """
        with torch.no_grad(), in_float32(camera.device):
            points = [_points(frames.log_depth[side], camera) for side in (source, target)]
            unit = torch.cat(points, dim=1).norm(dim=-1).mean(1)
            points = [p / unit[:, None, None] for p in points]
            confidence = [side.logit.sigmoid().mean(1) for side in matches]
            return ObservedPairs(
                self._observed(frames, source, target, points[0], matches[0], camera),
                self._observed(frames, target, source, points[1], matches[1], camera),
                unit,
                torch.stack(confidence, dim=-1),
            )

    def solve(self, observed: ObservedPairs) -> SolvedPairs:
        """Solve P pairs; only the confidences of the pairs have gradients."""
        with torch.no_grad(), in_float32(observed.unit.device):
            motions = solve_motions(observed.source, observed.target)
        with in_float32(observed.unit.device):
            logits = self.pair_confidence(_figures(motions, observed.confidence))
        translation = motions.translation * observed.unit[:, None]
        return SolvedPairs(motions.rotation, translation, *logits.unbind(-1))

    def _observed(
        self,
        frames: PairFeatures,
        source: Tensor,
        target: Tensor,
        points: Tensor,
        matches: Matches,
        camera: Tensor,
    ) -> MatchedPoints:
        """Choose and refine matches."""
        cells = chosen_cells(matches.logit, SOLVED_CELLS)
        near = _gathered(matches.pixel, cells)
        refined = self.matcher.refine(frames.fine, source, target, cells, near).pixel
        return MatchedPoints(
            _gathered(points, cells),
            normalised_places(refined, camera),
            matches.logit.gather(1, cells).sigmoid(),
            frames.depth_noise[source].float().flatten(1).gather(1, cells),
        )

    def pairs(
        self,
        features: PairFeatures,
        S: int,
        causal: bool,
        camera: Tensor | None,
        size: tuple[int, int],
    ) -> Pairs:
        """Relate the last S of N + S frames to those before them, and to those after them.

        :param causal: only to those before them.
        :param camera: (B, 4), see :meth:`observe`; None: by the predicted fields of view.
        :param size: H and W.
        """
        B, total = features.fov.shape[:2]
        device, N = features.fov.device, total - S
        rotation = torch.zeros(B, total, S, 3, 3, device=device)
        translation = torch.zeros(B, total, S, 3, device=device)
        logits = torch.zeros(B, total, S, 2, device=device)
        order = [(i, j) for j in range(N, total) for i in range(j)]
        if order:
            i, j = (list(frames) for frames in zip(*order, strict=True))
            observed = self._matched(features, i, j, camera, size)
            solved = [part.unflatten(0, (-1, B)).transpose(0, 1) for part in self.solve(observed)]
            at = (slice(None), i, [frame - N for frame in j])
            rotation[at], translation[at] = solved[0], solved[1]
            logits[at] = torch.stack(solved[2:], dim=-1)
        predicted = torch.ones(total, S, dtype=torch.bool, device=device).triu(1 - N)
        if not causal:
            # Pairs (j, i) of the last S frames are the inverses of (i, j).
            R, t = rotation[:, N:].transpose(1, 2).mT, translation[:, N:].transpose(1, 2)
            translation[:, N:] -= (R @ t[..., None])[..., 0]
            rotation[:, N:] += R.clone()
            logits[:, N:] += logits[:, N:].transpose(1, 2).clone()
            predicted = predicted | ~torch.ones_like(predicted).triu(-N)
        return Pairs(
            translation,
            quaternion_of(rotation) * predicted[..., None],
            logits[..., 0],
            logits[..., 1],
            predicted,
        )

    def _matched(
        self,
        features: PairFeatures,
        i: Sequence[int],
        j: Sequence[int],
        camera: Tensor | None,
        size: tuple[int, int],
    ) -> ObservedPairs:
        """Match pairs of frames.

        :returns: pair by pair, and within a pair of frames B of them.
        """
        B, total = features.fov.shape[:2]
        frames = PairFeatures(*(f.flatten(0, 1) for f in features))
        clips = total * torch.arange(B, device=frames.fov.device)
        source, target = (
            (torch.tensor(k, device=clips.device)[:, None] + clips).flatten() for k in (i, j)
        )
        if camera is None:
            cameras = camera_of_fov((frames.fov[source] + frames.fov[target]) / 2, size)
        else:
            cameras = camera.repeat(len(i), 1)
        parts = []
        for pairs in torch.arange(len(source), device=clips.device).split(PAIRS_AT_ONCE):
            own, other = source[pairs], target[pairs]
            with torch.no_grad(), in_float32(cameras.device):
                peaks = self.matcher.peaks(frames.coarse, own, other)
                matches = self.matcher.match(*peaks, frames.coarse.shape[2])
            parts.append(self.observe(frames, own, other, matches, cameras[pairs]))
        sources, targets, units, confidences = zip(*parts, strict=True)
        return ObservedPairs(
            MatchedPoints(*(torch.cat(part) for part in zip(*sources, strict=True))),
            MatchedPoints(*(torch.cat(part) for part in zip(*targets, strict=True))),
            torch.cat(units),
            torch.cat(confidences),
        )


def camera_of_fov(fov: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (..., 4) fx, fy, cx, cy of cameras with centred principal points.

    :param fov: (..., 2) radians, vertical then horizontal; ``size``: H and W.
    """
    H, W = size
    slope = torch.tan(fov.clamp(*_FOV_RANGE) / 2)
    centre = fov.new_tensor([(W - 1) / 2, (H - 1) / 2]).expand_as(fov)
    return torch.cat([W / 2 / slope[..., 1:], H / 2 / slope[..., :1], centre], dim=-1)


def normalised_places(pixel: Tensor, camera: Tensor) -> Tensor:
    """Map (P, Q, 2) pixels of cameras (P, 4) to normalised coordinates."""
    return (pixel - camera[:, None, 2:]) / camera[:, None, :2]


def _points(log_depth: Tensor, camera: Tensor) -> Tensor:
    """Return the points (P, M, 3) of cells."""
    centres = cell_centres(*log_depth.shape[-2:], log_depth.device)[None]
    rays = F.pad(normalised_places(centres, camera), (0, 1), value=1.0)
    return rays * log_depth.float().exp().flatten(1)[..., None]


def _gathered(values: Tensor, cells: Tensor) -> Tensor:
    """Return (P, Q, C) of (P, M, C) at cells (P, Q)."""
    return values.gather(1, cells[..., None].expand(-1, -1, values.shape[-1]))


def _figures(motions: Motions, confidence: Tensor) -> Tensor:
    """Return the 12 figures (P, 12) by which the error of a solution is estimated."""
    information = motions.information.double() / _NOISE**2
    information = information + _PRIOR * torch.eye(6, device=information.device)
    variance = torch.linalg.inv(information).diagonal(dim1=-2, dim2=-1).float()
    mean_i, mean_j = confidence.unbind(-1)
    half_chord = (motions.rotation - torch.eye(3, device=variance.device)).flatten(1).norm(dim=1)
    others = (
        motions.square.clamp(min=1e-10).log(),
        mean_i.clamp(min=1e-4).log(),
        mean_j.clamp(min=1e-4).log(),
        2 * torch.asin((half_chord / 8**0.5).clamp(max=1)),
        motions.translation.norm(dim=-1),
        (mean_i - mean_j).abs(),
    )
    return torch.cat([variance.clamp(min=1e-12).log() / 5, torch.stack(others, dim=-1)], dim=-1)


def quaternion_of(rotation: Tensor) -> Tensor:
    """Return unit quaternions ``xyzw`` (..., 4) of rotations (..., 3, 3) below half a turn."""
    x, y, z = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    squares = torch.stack((1 + x - y - z, 1 - x + y - z, 1 - x - y + z, 1 + x + y + z), dim=-1)
    halves = squares.clamp(min=0).sqrt() / 2
    axis = torch.stack(
        (
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ),
        dim=-1,
    )
    return torch.cat([torch.copysign(halves[..., :3], axis), halves[..., 3:]], dim=-1)


def _split(flat: Descriptors, batch: int) -> Descriptors:
    return Descriptors(*(part.unflatten(0, (batch, -1)) for part in flat))
