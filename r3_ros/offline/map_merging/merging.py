"""Two saved maps merged by the model that made both (``r3 map merge``).

The merged map has the content of both, moved with its keyframes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
import math
import time
from typing import TypeVar

import numpy as np
from scipy.spatial import cKDTree

from ... import __version__
from ...core.config import R3Config
from ...core.datatypes import SparseLandmarks
from ...core.errors import MergeError
from ...core.geometry import inverse, inverse_similarity, rigid_part, rotation_angle, scale_of
from ...core.predictor import Predictor
from ...maps.cloud import Cloud
from ...maps.saved_map import SavedEdges, SavedKeyframes, SavedMap, SavedTrajectory
from ...streaming.loops.solver_job import Correction
from ...streaming.voxel_map import voxelised
from .locating import locate, Located, MapGraph, Progress
from .map_alignment import align, join, require_same_metres

Columns = TypeVar('Columns', SavedKeyframes, SavedEdges, SparseLandmarks)


@dataclass(frozen=True, eq=False)
class Merge:
    """The merged map and figures of its alignment.

    :ivar located: keyframes of the second map located in the first; ``agreeing``: those that
        agree on one similarity.
    :ivar scale: of the second map's lengths in the first; ``turn_deg``: between their axes.
    """

    saved: SavedMap
    located: int
    agreeing: int
    scale: float
    turn_deg: float


def merge_maps(
    first: SavedMap,
    second: SavedMap,
    predictor: Predictor,
    config: R3Config,
    progress: Progress | None = None,
) -> Merge:
    """Merge two maps of overlapping places, in frame and unit of the first.

    :param predictor: the model that made both; it is reset.
    :raises MapError: another model made one of them.
    :raises MergeError: no common place is found, or not with certainty.
    """
    for name, saved in (('first', first), ('second', second)):
        saved.require_model(predictor.info, predictor.descriptor_size)
        if len(saved.keyframes) < 2 or len(saved.images) < 2:
            raise MergeError(
                f'the {name} map has {len(saved.images)} keyframes with images, and maps are '
                'merged by their images: save it with include_images, and after more motion'
            )
    a = MapGraph.of(first, int(first.keyframes.ids[0]))
    b = MapGraph.of(second, int(a.ids[-1]) + 1)
    located = locate(a, b, predictor, progress)
    alignment = align(located, b)
    require_same_metres(a, b, alignment)
    correction = join(a, b, alignment, predictor.confidence_reference, config)
    S = alignment.S_first_second
    return Merge(
        saved=merged_map(a, b, correction, alignment.located),
        located=len(located),
        agreeing=len(alignment.located),
        scale=float(scale_of(S)) * first.facts.unit / second.facts.unit,
        turn_deg=math.degrees(float(rotation_angle(rigid_part(S)[:3, :3]))),
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One of the two maps and its correction.

    :ivar ids: (N,) of its keyframes in the merged map.
    :ivar S_moved: (N, 4, 4) by keyframe: from the map's own frame and unit to the merged ones.
    """

    saved: SavedMap
    ids: np.ndarray
    S_moved: np.ndarray


def merged_map(
    first: MapGraph, second: MapGraph, correction: Correction, located: Sequence[Located]
) -> SavedMap:
    """Return both maps as one, in frame and unit of the first.

    Poses and landmarks move with their keyframe, points with the nearest one. One point per voxel
    is kept, and of two poses with one stamp that of the first map.
    """
    parts = []
    for graph in (first, second):
        S = np.stack([correction.S_corrected_world[i] for i in graph.ids.tolist()])
        S = first.S_map_engine @ S @ inverse_similarity(graph.S_map_engine)
        parts.append(_Part(graph.saved, graph.ids, S))
    facts = replace(
        first.saved.facts,
        r3_ros_version=__version__,
        saved_ns=time.time_ns(),
        image_size=second.saved.facts.image_size or first.saved.facts.image_size,
    )
    images = {
        int(new): part.saved.images[int(old)]
        for part in parts
        for old, new in zip(part.saved.keyframes.ids, part.ids, strict=True)
        if int(old) in part.saved.images
    }
    cloud = Cloud.joined([_points(part) for part in parts])
    return SavedMap(
        facts=facts,
        keyframes=_keyframes(parts, correction),
        edges=_edges(parts, correction, located),
        points=voxelised(cloud, facts.voxel_size),
        trajectory=_trajectory(parts, facts.T_base_optical),
        landmarks=_landmarks(parts),
        images=images,
    )


def _keyframes(parts: Sequence[_Part], correction: Correction) -> SavedKeyframes:
    unit, moved = parts[0].saved.facts.unit, []
    for part in parts:
        keyframes, scales = part.saved.keyframes, scale_of(part.S_moved)
        variances = keyframes.variances * np.stack([scales**2, np.ones(len(scales))], axis=1)
        for n, frame_id in enumerate(part.ids.tolist()):
            if frame_id in correction.variances:
                translation, rotation = correction.variances[frame_id]
                variances[n] = translation * unit**2, rotation
        T = rigid_part(part.S_moved @ keyframes.T_map_optical)
        moved.append(replace(keyframes, ids=part.ids, T_map_optical=T, variances=variances))
    first, second = moved
    segments = second.segments - second.segments.min() + first.segments.max() + 1
    return _concatenated([first, replace(second, segments=segments.astype(np.int32))])


def _edges(
    parts: Sequence[_Part], correction: Correction, located: Sequence[Located]
) -> SavedEdges:
    """Return the edges of both, and the consistent ones between them."""
    found = []
    for part in parts:
        edges, own = part.saved.edges, part.saved.keyframes.ids
        rows = np.searchsorted(own, edges.target_ids)
        T = edges.T_source_target.copy()
        T[:, :3, 3] *= scale_of(part.S_moved)[rows, None]
        sources = part.ids[np.searchsorted(own, edges.source_ids)]
        found.append(SavedEdges(sources, part.ids[rows], T, edges.confidences))
    kept, unit = set(correction.closing), parts[0].saved.facts.unit
    for item in located:
        for edge in item.edges:
            if (edge.source_id, edge.target_id) in kept:
                T = edge.T_source_target[None].copy()
                T[:, :3, 3] *= item.pose.scale * unit
                ends = np.array([edge.source_id]), np.array([edge.target_id])
                found.append(SavedEdges(*ends, T, np.array([edge.scores])))
    return _concatenated(found)


def _concatenated(parts: Sequence[Columns]) -> Columns:
    """Return dataclasses of arrays as one."""
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


def _points(part: _Part) -> Cloud:
    cloud, centres = part.saved.points, part.saved.keyframes.T_map_optical[:, :3, 3]
    if not len(cloud):
        return cloud
    _, nearest = cKDTree(centres).query(cloud.points)
    points = _moved(cloud.points.astype(np.float64), nearest, part.S_moved)
    return Cloud(points.astype(np.float32), cloud.colors, cloud.confidence)


def _moved(points: np.ndarray, owner: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Return (N, 3) points, each moved by the similarity of its owner, (N,) rows of ``S``."""
    moved = np.empty_like(points)
    for n in np.unique(owner):
        own = owner == n
        moved[own] = points[own] @ S[n, :3, :3].T + S[n, :3, 3]
    return moved


def _trajectory(parts: Sequence[_Part], T_base_optical: np.ndarray) -> SavedTrajectory:
    """Return all poses in order of time, each moved with the keyframe nearest in time."""
    stamps, poses = [], []
    for part in parts:
        trajectory, keyframes = part.saved.trajectory, part.saved.keyframes
        # Keyframes of a merged map need not be in order of time.
        order = np.argsort(keyframes.stamps_ns, kind='stable')
        known = keyframes.stamps_ns[order]
        after = np.clip(np.searchsorted(known, trajectory.stamps_ns), 1, len(known) - 1)
        nearer = trajectory.stamps_ns - known[after - 1] < known[after] - trajectory.stamps_ns
        S = part.S_moved[order[after - nearer]]
        T_optical = trajectory.T_map_base @ part.saved.facts.T_base_optical
        stamps.append(trajectory.stamps_ns)
        poses.append(rigid_part(S @ T_optical) @ inverse(T_base_optical))
    stamps_ns, first = np.unique(np.concatenate(stamps), return_index=True)
    return SavedTrajectory(stamps_ns, np.concatenate(poses)[first])


def _landmarks(parts: Sequence[_Part]) -> SparseLandmarks | None:
    """Return the landmarks of both, each moved with the keyframe that observed it first."""
    found, before = [], 0
    for part in parts:
        marks, ids = part.saved.landmarks, part.saved.keyframes.ids
        if marks is None:
            return None
        seen_by = np.searchsorted(ids, marks.frame_ids)
        owner = np.zeros(len(marks), np.int64)
        owner[marks.landmarks[::-1]] = seen_by[::-1]
        found.append(
            replace(
                marks,
                positions=_moved(marks.positions, owner, part.S_moved),
                frame_ids=part.ids[seen_by],
                landmarks=marks.landmarks + before,
            )
        )
        before += len(marks)
    return _concatenated(found)
