"""From point maps of image pairs to edges and depth, all in one unit.

Every pair of a new frame f and a context frame i is run in both orders, so both images have points
in both cameras. The points of f in its own camera and in that of i, of the same pixels, give
``T_i_f`` by weighted alignment; those of i give it again. What the two agree on tells how good it
is. The unit of every pair is arbitrary: it is measured by the depth that i has already, and the
depth of f is the mean over the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
import math

import numpy as np
from torch import Tensor

from ...core.datatypes import Edge, Intrinsics
from ...core.errors import FrameError
from ...core.geometry import (
    inverse_similarity,
    make_T,
    mean_rotation,
    rigid_part,
    rotation_angle,
    scale_of,
    weighted_median,
)
from ...core.unit_scale import DepthGrid, scale_by_depth
from ..multi_view import FrameFeatures
from ..network_predictor import NOT_FINITE
from ..variants import PairOutput
from .alignment import align, focal_length, reciprocal_matches, refined_pose
from .croco import PointNetwork

#: Every so many rows and columns of a point map are aligned, and kept of the depth of a frame.
GRID = 4
#: Least share of the points, or of the matches, that must agree on the pose of a pair.
_LEAST_SHARE = 0.5
#: Largest disagreement of the two alignments of a pair: radians, share of the distance of the
#: scene, logarithm of the scale.
_SAME_TURN_RAD, _SAME_PLACE, _SAME_SCALE = 0.1, 0.1, 0.15
#: Errors of neighbouring points are alike: an image has about as many independent ones.
_INDEPENDENT = 16
#: Logarithm of the factor by which the depth of a frame may differ between two pairs.
_SAME_DEPTH = 0.2


@dataclass(frozen=True, eq=False)
class PointPair:
    """The relation of a new frame f to a context frame i, in the unit of their pair.

    :ivar share: of points and matches that agree with it, 0 to 1.
    :ivar evidence: standard deviations of translation and rotation.
    :ivar depth: (H, W) float32 of f; ``confidence`` likewise.
    :ivar unit: length of the unit of the pair in that of i; None: i has no depth.
    """

    source_id: int
    T_i_f: np.ndarray
    share: float
    evidence: tuple[float, float]
    depth: np.ndarray
    confidence: np.ndarray
    unit: float | None

    @property
    def grid(self) -> DepthGrid:
        return DepthGrid.of(self.depth, self.confidence, GRID)


@dataclass(frozen=True, eq=False)
class RelatedFrame:
    """What the pairs of a frame give together.

    :ivar edges: in the unit of ``depth``.
    :ivar depth: (H, W) float32, NaN behind the camera; ``confidence`` likewise, > 1.
    :ivar focals: focal length in pixels by each pair.
    """

    edges: tuple[Edge, ...]
    depth: np.ndarray
    confidence: np.ndarray
    focals: tuple[float, ...]

    @property
    def grid(self) -> DepthGrid:
        return DepthGrid.of(self.depth, self.confidence, GRID)


def relate_points(
    network: PointNetwork,
    frame_id: int,
    frame: FrameFeatures,
    context: Mapping[int, FrameFeatures],
    depths: Mapping[int, DepthGrid],
    camera: Intrinsics | None,
) -> RelatedFrame:
    """Relate a frame to context frames, a pair at a time; pairs that are not finite are left out.

    :param depths: of context frames.
    :param camera: of the prepared image, if it is calibrated.
    :raises FrameError: no pair is finite.
    """
    pairs, focals, finite = [], [], not context
    for source_id, source in context.items():
        maps = _PairMaps.of(network, source, frame)
        if not maps.finite:
            continue
        finite = True
        focals += maps.focals
        pair = _pair(source_id, maps, depths.get(source_id), camera or _centred(maps))
        if pair is not None:
            pairs.append(pair)
    if not finite:
        raise FrameError(NOT_FINITE)
    depth = _mean_depth(pairs)
    confidence = np.max([pair.confidence for pair in pairs], axis=0) if pairs else np.ones(0)
    if depth is None:
        # The image beside itself: depth of a single view.
        alone = _PairMaps.of(network, frame, frame)
        if not alone.finite:
            raise FrameError(NOT_FINITE)
        focals += alone.focals
        depth, confidence = alone.points[1, 1][..., 2], alone.confidence[1, 1]
        if network.config.output is not PairOutput.DESCRIPTORS and (depth > 0).any():
            # Not in metres: the scene is about one unit away.
            depth = depth / np.median(depth[depth > 0])
    with np.errstate(invalid='ignore'):
        depth = np.where(depth > 0, depth, np.nan).astype(np.float32)
    related = RelatedFrame((), depth, confidence, tuple(focals))
    edges = [_edge(pair, frame_id, related.grid) for pair in pairs]
    return replace(related, edges=tuple(edge for edge in edges if edge is not None))


@dataclass(frozen=True, eq=False)
class _PairMaps:
    """Point maps of two images, in both orders.

    :ivar points: by camera and image, 0 for the context frame and 1 for the new one: (H, W, 3)
        float64. Those in one camera are in one unit.
    :ivar confidence: (H, W) of them; ``descriptors``: (H, W, D) of the images in one pass.
    """

    points: dict[tuple[int, int], np.ndarray]
    confidence: dict[tuple[int, int], np.ndarray]
    descriptors: tuple[Tensor, Tensor] | None

    @staticmethod
    def of(network: PointNetwork, source: FrameFeatures, frame: FrameFeatures) -> _PairMaps:
        both = FrameFeatures.join([source, frame]), FrameFeatures.join([frame, source])
        own, other = network(*both)
        points, confidence = {}, {}
        for maps, images in ((own, (0, 1)), (other, (1, 0))):
            xyz, certain = maps.points.cpu().numpy(), maps.confidence.cpu().numpy()
            for camera, image in enumerate(images):
                points[camera, image] = xyz[camera]
                confidence[camera, image] = certain[camera]
        found = own.descriptors is not None and other.descriptors is not None
        descriptors = (own.descriptors[0], other.descriptors[0]) if found else None
        return _PairMaps(points, confidence, descriptors)

    @property
    def finite(self) -> bool:
        """Whether each map has a point and a confidence that are."""
        return all(
            (np.isfinite(points).all(axis=-1) & np.isfinite(self.confidence[key])).any()
            for key, points in self.points.items()
        )

    @cached_property
    def focals(self) -> list[float]:
        """The focal length of the new frame in pixels, if there is one."""
        focal = focal_length(self.points[1, 1], self.weights(1, 1), GRID)
        return [] if focal is None else [focal]

    def weights(self, camera: int, image: int) -> np.ndarray:
        """Return (h, w) weights on the grid: logarithms of the confidences."""
        with np.errstate(all='ignore'):
            return np.nan_to_num(np.log(self.confidence[camera, image][::GRID, ::GRID]), posinf=0)

    def flat(self, camera: int, image: int) -> np.ndarray:
        return self.points[camera, image][::GRID, ::GRID].reshape(-1, 3).astype(np.float64)


def _pair(
    source_id: int, maps: _PairMaps, depth: DepthGrid | None, camera: Intrinsics | None
) -> PointPair | None:
    """Return the relation of a pair; None if its point maps contradict one another."""

    def between_cameras(image: int) -> np.ndarray:
        return np.sqrt(maps.weights(0, image) * maps.weights(1, image)).ravel()

    forward = align(maps.flat(1, 1), maps.flat(0, 1), between_cameras(1))
    backward = align(maps.flat(0, 0), maps.flat(1, 0), between_cameras(0))
    if forward is None or backward is None:
        return None
    share = min(forward.share, backward.share)
    S, S_back = forward.S_target_source, inverse_similarity(backward.S_target_source)
    far = weighted_median(np.linalg.norm(maps.flat(0, 1), axis=1), between_cameras(1))
    turn = float(rotation_angle(rigid_part(S)[:3, :3].T @ rigid_part(S_back)[:3, :3]))
    shift = float(np.linalg.norm(S[:3, 3] - S_back[:3, 3]))
    stretch = abs(math.log(scale_of(S) / scale_of(S_back)))
    same = turn < _SAME_TURN_RAD and shift < _SAME_PLACE * far and stretch < _SAME_SCALE
    if share < _LEAST_SHARE or not same:
        return None
    shares = np.array([forward.share, backward.share])
    rotations = np.stack([rigid_part(S)[:3, :3], rigid_part(S_back)[:3, :3]])
    T = make_T(
        mean_rotation(rotations, shares),
        np.average([S[:3, 3], S_back[:3, 3]], axis=0, weights=shares),
    )
    noise = max(forward.noise, backward.noise) / math.sqrt(_INDEPENDENT)
    evidence = (math.hypot(noise * far, shift / 2), math.hypot(noise, turn / 2))
    if maps.descriptors is not None and camera is not None:
        in_source, in_frame = reciprocal_matches(*maps.descriptors)
        points = maps.points[0, 0][in_source[:, 1], in_source[:, 0]]
        refined = refined_pose(T, points, in_frame, camera)
        if refined is None or refined[1] < _LEAST_SHARE:
            return None
        T, share = refined[0], min(share, refined[1])
    depth_f = maps.points[1, 1][..., 2] * np.float32(scale_of(S))
    unit = None
    if depth is not None:
        z = DepthGrid.of(maps.points[0, 0][..., 2], maps.confidence[0, 0], GRID)
        unit = _unit(depth, z)
    return PointPair(source_id, T, share, evidence, depth_f, maps.confidence[1, 1], unit)


def _centred(maps: _PairMaps) -> Intrinsics | None:
    """Return the intrinsics of the new frame by its focal length."""
    if not maps.focals:
        return None
    (focal,) = maps.focals
    height, width = maps.confidence[1, 1].shape
    return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


def _unit(here: DepthGrid, there: DepthGrid) -> float | None:
    """Return the length of the unit of one depth in that of another of the same image."""
    scale = scale_by_depth([here], [there])
    return None if scale is None else math.exp(scale.value)


def _mean_depth(pairs: Sequence[PointPair]) -> np.ndarray | None:
    """Return the (H, W) depth of a frame in the stream's unit, NaN behind the camera.

    The geometric mean over the pairs that agree on its median.
    """
    measured = [(pair.depth * pair.unit, pair.share) for pair in pairs if pair.unit is not None]
    if not measured:
        # The unit of a saved map is not known: the first pair's own.
        return pairs[0].depth if pairs else None
    with np.errstate(all='ignore'):
        logs = [np.log(depth) for depth, _ in measured]
    shares = np.array([share for _, share in measured])
    levels = np.array([float(np.nanmedian(np.where(np.isfinite(d), d, np.nan))) for d in logs])
    agree = np.abs(levels - weighted_median(levels, shares)) < _SAME_DEPTH
    total = np.zeros(logs[0].shape)
    for log, share in zip(logs, np.where(agree, shares, 0.0), strict=True):
        if share:
            total += share * log
    mean: np.ndarray = np.exp(total / shares[agree].sum())
    return mean


def _edge(pair: PointPair, frame_id: int, depth: DepthGrid) -> Edge | None:
    unit = _unit(depth, pair.grid)
    if unit is None:
        return None
    T = pair.T_i_f.copy()
    T[:3, 3] *= unit
    sigmas = (pair.evidence[0] * unit, pair.evidence[1])
    return Edge(pair.source_id, frame_id, T, pair.share, pair.share, evidence=sigmas)
