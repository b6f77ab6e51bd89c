"""Snapshot of a session, from which a saved map is made.

Taking it is cheap; :func:`saved_map` does the rest, in the thread that writes the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import time

import numpy as np

from .. import __version__
from ..core.datatypes import Edge, Intrinsics, ModelInfo, SparseLandmarks
from ..core.geometry import inverse
from ..core.predictor import Predictor
from ..maps.saved_map import MapFacts, SavedEdges, SavedKeyframes, SavedMap, SavedTrajectory
from .pose_resolution import HeldPose
from .scale.estimator import ScaleView
from .session import Session
from .trajectory import TrajectoryView
from .voxel_map import MapView


@dataclass(frozen=True, eq=False)
class KeyframeSnapshot:
    """A keyframe in the world, with the number of its stretch of the stream."""

    frame_id: int
    stamp_ns: int
    pose: HeldPose
    intrinsics: Intrinsics
    descriptor: np.ndarray
    segment: int


@dataclass(frozen=True, eq=False)
class MapSnapshot:
    """A session between two frames, immutable. Lengths in map units.

    :ivar keyframes: of the bank, oldest first, those with a pose in the world.
    :ivar edges: among them.
    :ivar landmarks: of the predictor, in the world; None if it has none.
    :ivar images: of keyframes, encoded.
    """

    model: ModelInfo
    descriptor_size: int
    session_id: int
    map_view: MapView
    trajectory: TrajectoryView
    keyframes: Sequence[KeyframeSnapshot]
    edges: Sequence[Edge]
    scale: ScaleView
    landmarks: SparseLandmarks | None
    images: Mapping[int, bytes]


@dataclass(frozen=True, eq=False)
class MapPlacement:
    """Where the engine's world lies in the published map, and the names of the frames.

    :ivar T_map_world: (4, 4); ``T_base_optical``: (4, 4) the camera on the moving frame.
    """

    T_map_world: np.ndarray
    T_base_optical: np.ndarray
    map_frame: str
    base_frame: str
    optical_frame: str


def take_map_snapshot(
    session: Session, predictor: Predictor, images: Mapping[int, bytes]
) -> MapSnapshot:
    """Take a snapshot; the owner of the session calls it, between two frames.

    :param images: of keyframes, encoded, by id.
    """
    keyframes = [
        KeyframeSnapshot(
            frame_id=i,
            stamp_ns=session.bank.stamp_ns(i),
            pose=session.graph.held[i],
            intrinsics=intrinsics,
            descriptor=session.bank.descriptor(i),
            segment=sum(found <= i for found in session.followed_since) - 1,
        )
        for i in session.bank.in_segment(0)
        if (intrinsics := session.bank.intrinsics(i)) is not None
    ]
    known = {keyframe.frame_id for keyframe in keyframes}
    return MapSnapshot(
        model=predictor.info,
        descriptor_size=predictor.descriptor_size,
        session_id=session.session_id,
        map_view=session.map_view(),
        trajectory=session.trajectory_view(),
        keyframes=keyframes,
        edges=[e for e in session.graph.edges() if {e.source_id, e.target_id} <= known],
        scale=session.scale.view(),
        landmarks=predictor.landmarks({k.frame_id: k.pose.S_world_camera for k in keyframes}),
        images={k.frame_id: images[k.frame_id] for k in keyframes if k.frame_id in images},
    )


def saved_map(
    snapshot: MapSnapshot, placement: MapPlacement | MapFacts, voxel_size: float
) -> SavedMap:
    """Return a session as a map to save, in the frame and unit of the published map.

    :param placement: or the facts of a loaded map, which has the same.
    :param voxel_size: of the points, in map units.
    """
    unit = snapshot.scale.published_unit
    S_map_world = placement.T_map_world @ np.diag([unit] * 3 + [1.0])
    sizes = [(k.intrinsics.width, k.intrinsics.height) for k in snapshot.keyframes]
    facts = MapFacts(
        r3_ros_version=__version__,
        model_name=snapshot.model.name,
        checkpoint_sha256=snapshot.model.checkpoint_sha256,
        descriptor_size=snapshot.descriptor_size,
        image_size=sizes[-1] if sizes else None,
        map_frame=placement.map_frame,
        base_frame=placement.base_frame,
        optical_frame=placement.optical_frame,
        T_base_optical=placement.T_base_optical,
        T_map_world=placement.T_map_world,
        metres_per_unit=snapshot.scale.metres_per_unit,
        scale_source=snapshot.scale.source,
        voxel_size=voxel_size * unit,
        session_id=snapshot.session_id,
        saved_ns=time.time_ns(),
    )
    return SavedMap(
        facts=facts,
        keyframes=_keyframes(snapshot, placement.T_map_world, unit),
        edges=_edges(snapshot, unit),
        points=snapshot.map_view.cloud().moved(S_map_world),
        trajectory=_trajectory(snapshot, placement, unit),
        landmarks=_landmarks(snapshot, S_map_world),
        images=snapshot.images,
    )


def _keyframes(snapshot: MapSnapshot, T_map_world: np.ndarray, unit: float) -> SavedKeyframes:
    keyframes = snapshot.keyframes
    count = len(keyframes)
    best: dict[int, tuple[float, float]] = {}
    for edge in snapshot.edges:
        so_far = best.get(edge.target_id, edge.scores)
        best[edge.target_id] = max(so_far, edge.scores, key=sum)
    nothing = (np.nan, np.nan)
    T = np.array([k.pose.T_world_camera for k in keyframes]).reshape(count, 4, 4)
    variances = [k.pose.variances * [unit**2, 1.0] for k in keyframes]
    sizes = [(k.intrinsics.width, k.intrinsics.height) for k in keyframes]
    descriptors = np.array([k.descriptor for k in keyframes], np.float32)
    return SavedKeyframes(
        ids=np.array([k.frame_id for k in keyframes], np.int64),
        stamps_ns=np.array([k.stamp_ns for k in keyframes], np.int64),
        T_map_optical=T_map_world @ _with_length(T, unit),
        K=np.array([k.intrinsics.K for k in keyframes]).reshape(count, 3, 3),
        sizes=np.array(sizes, np.int32).reshape(count, 2),
        confidences=np.array([best.get(k.frame_id, nothing) for k in keyframes]).reshape(count, 2),
        variances=np.array(variances).reshape(count, 2),
        descriptors=descriptors.reshape(count, snapshot.descriptor_size),
        segments=np.array([k.segment for k in keyframes], np.int32),
    )


def _edges(snapshot: MapSnapshot, unit: float) -> SavedEdges:
    """Return the edges in the map's unit; each was in that of its target."""
    edges, scales = snapshot.edges, {k.frame_id: k.pose.scale for k in snapshot.keyframes}
    count = len(edges)
    T = np.array([e.T_source_target for e in edges]).reshape(count, 4, 4)
    T[:, :3, 3] *= np.array([scales[e.target_id] * unit for e in edges]).reshape(count, 1)
    return SavedEdges(
        source_ids=np.array([e.source_id for e in edges], np.int64),
        target_ids=np.array([e.target_id for e in edges], np.int64),
        T_source_target=T,
        confidences=np.array([e.scores for e in edges]).reshape(count, 2),
    )


def _trajectory(
    snapshot: MapSnapshot, placement: MapPlacement | MapFacts, unit: float
) -> SavedTrajectory:
    T_world_camera = snapshot.trajectory.T_final
    rows = np.flatnonzero(np.isfinite(T_world_camera[:, 0, 0]))
    T_map_optical = placement.T_map_world @ _with_length(T_world_camera[rows], unit)
    T_map_base = T_map_optical @ inverse(placement.T_base_optical)
    # After a map was loaded, time may have jumped back: a recording played again.
    stamps_ns, newest = np.unique(snapshot.trajectory.stamps_ns[rows][::-1], return_index=True)
    return SavedTrajectory(stamps_ns, T_map_base[::-1][newest])


def _landmarks(snapshot: MapSnapshot, S_map_world: np.ndarray) -> SparseLandmarks | None:
    landmarks = snapshot.landmarks
    if landmarks is None:
        return None
    known = np.isin(landmarks.frame_ids, [k.frame_id for k in snapshot.keyframes])
    seen = observed_in(landmarks, known, landmarks.frame_ids)
    return replace(seen, positions=seen.positions @ S_map_world[:3, :3].T + S_map_world[:3, 3])


def observed_in(
    landmarks: SparseLandmarks, chosen: np.ndarray, frame_ids: np.ndarray
) -> SparseLandmarks:
    """Return the landmarks of some observations, and those observations alone.

    :param chosen: (N,) bool, the observations.
    :param frame_ids: (N,) ids of their frames in the result.
    """
    seen, rows = np.unique(landmarks.landmarks[chosen], return_inverse=True)
    return SparseLandmarks(
        positions=landmarks.positions[seen],
        relative_sigma=landmarks.relative_sigma[seen],
        frame_ids=frame_ids[chosen],
        landmarks=rows.astype(np.int64),
        pixels=landmarks.pixels[chosen],
    )


def _with_length(T: np.ndarray, unit: float) -> np.ndarray:
    T = T.copy()
    T[:, :3, 3] *= unit
    return T
