"""Initialise a session from a saved map.

Frames of the map get the first ids, in the order of time, and keep their poses. The engine's
world is the map's, so a map saved later holds both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from ...core.config import R3Config
from ...core.datatypes import Edge, KnownKeyframe, SparseLandmarks
from ...core.errors import FrameError, MapError, MapProblem
from ...core.geometry import inverse
from ...input.image_decoding import decode_eight_bit
from ...maps.cloud import Cloud
from ...maps.saved_map import SavedMap
from ..map_snapshot import observed_in
from ..pose_resolution import HeldPose, isotropic
from ..session import Session
from .search import LEAST_KEYFRAMES, Relocalisation, Vicinity

#: Maximum number of keyframes given to the bank, as a multiple of its room; more are thinned out.
_OFFERED = 4


@dataclass(frozen=True, eq=False)
class LoadedMap:
    """The content of a saved map that a session holds.

    :ivar frame_ids: of keyframes in the bank, by row of the saved keyframes.
    :ivar landmarks: in the engine's world and with the session's ids; None without any.
    """

    saved: SavedMap
    frame_ids: Mapping[int, int]
    T_world_camera: Mapping[int, np.ndarray]
    landmarks: SparseLandmarks | None

    @property
    def images(self) -> dict[int, bytes]:
        ids, images = self.saved.keyframes.ids, self.saved.images
        return {frame_id: images[int(ids[row])] for row, frame_id in self.frame_ids.items()}

    def keyframes(self) -> Iterator[KnownKeyframe]:
        """Decode the keyframes one by one, oldest first.

        :raises FrameError: an image is broken.
        """
        keyframes = self.saved.keyframes
        for row, frame_id in self.frame_ids.items():
            image = self.saved.images[int(keyframes.ids[row])]
            yield KnownKeyframe(
                frame_id=frame_id,
                stamp_ns=int(keyframes.stamps_ns[row]),
                image=decode_eight_bit(image),
                intrinsics=keyframes.intrinsics(row),
                T_world_camera=self.T_world_camera[frame_id],
                descriptor=keyframes.descriptors[row],
            )


def require_findable(saved: SavedMap) -> None:
    """Refuse a map in which no camera can be found.

    :raises MapError: BAD_FORMAT: it has too few keyframes with images, or a broken one.
    """
    count = sum(int(i) in saved.images for i in saved.keyframes.ids)
    if count < LEAST_KEYFRAMES:
        raise MapError(
            MapProblem.BAD_FORMAT,
            f'the map has {count} keyframes with images, and it takes {LEAST_KEYFRAMES} to find '
            'a camera: save it with include_images and after more motion, or load it for display '
            '(localize: false)',
        )
    for frame_id, image in saved.images.items():
        try:
            decode_eight_bit(image)
        except FrameError as error:
            raise MapError(
                MapProblem.BAD_FORMAT, f'image of keyframe {frame_id}: {error}'
            ) from error


def take_in(
    session: Session,
    saved: SavedMap,
    config: R3Config,
    room: int | None,
    near: Vicinity | None = None,
) -> LoadedMap:
    """Initialise a new session from a map, and begin the search for the camera in it.

    :param session: without a frame so far.
    :param room: keyframes that the predictor can hold.
    :param near: where to search.
    """
    rows, frame_ids = _numbered(saved)
    T_world_map = inverse(saved.facts.T_map_world)
    chosen = _thinned(saved, config.keyframe.max_keyframes)
    T_kept = in_world(T_world_map, saved.keyframes.T_map_optical, saved.facts.unit)
    held = {int(frame_ids[row]): row for row in chosen}
    _fill_bank(session, saved, held, T_kept, room)
    kept = {held[i]: i for i in session.bank.ids()}
    _fill_graph(session, saved, kept, T_kept)
    poses = {frame_id: T_kept[row] for row, frame_id in kept.items()}
    _fill_record(session, saved, rows, frame_ids, poses, T_kept, T_world_map)
    if config.map.enabled:
        _fill_map(session, saved, poses, T_world_map)
    if saved.facts.metres_per_unit is not None:
        session.scale.adopt(saved.facts.metres_per_unit, saved.facts.scale_source)
    session.relocalisation = Relocalisation(poses, near)
    session.gate.begin_lost(config.relocalise.min_frames)
    return LoadedMap(saved, kept, poses, known_landmarks(saved, kept, T_world_map))


def _numbered(saved: SavedMap) -> tuple[np.ndarray, np.ndarray]:
    """Return ids of keyframes and of all other recorded poses, in the order of time.

    :returns: rows of the trajectory that are no keyframe's, and (N + rows,) frame ids: of the
        keyframes, then of those rows.
    """
    keyframes, trajectory = saved.keyframes, saved.trajectory
    rows = np.flatnonzero(~np.isin(trajectory.stamps_ns, keyframes.stamps_ns))
    # Keyframes keep their order even if their stamps do not ascend.
    keys = np.maximum.accumulate(keyframes.stamps_ns)
    order = np.argsort(np.concatenate([keys, trajectory.stamps_ns[rows]]), kind='stable')
    frame_ids = np.empty(len(order), np.int64)
    frame_ids[order] = np.arange(len(order))
    return rows, frame_ids


def _thinned(saved: SavedMap, most: int) -> np.ndarray:
    """Return rows of keyframes with images, evenly thinned to what a bank can evaluate."""
    usable = [n for n, i in enumerate(saved.keyframes.ids) if int(i) in saved.images]
    if len(usable) > _OFFERED * most:
        places = np.linspace(0, len(usable) - 1, _OFFERED * most).round().astype(int)
        return np.array(usable)[places]
    return np.array(usable)


def in_world(T_world_map: np.ndarray, T_map: np.ndarray, unit: float) -> np.ndarray:
    """Return (N, 4, 4) poses of a map in the engine's world and unit."""
    T = T_world_map @ T_map
    T[:, :3, 3] /= unit
    return T


def _fill_bank(
    session: Session,
    saved: SavedMap,
    held: Mapping[int, int],
    T_world_camera: np.ndarray,
    room: int | None,
) -> None:
    keyframes, edges = saved.keyframes, saved.edges
    number = {int(keyframes.ids[row]): frame_id for frame_id, row in held.items()}
    related: dict[int, list[int]] = {}
    for source, target in zip(edges.source_ids, edges.target_ids, strict=True):
        ends = sorted(number.get(int(end), -1) for end in (source, target))
        related.setdefault(ends[1], []).append(ends[0])
    for frame_id, row in held.items():
        session.bank.admit(
            frame_id,
            keyframes.descriptors[row],
            T_world_camera[row],
            keyframes.intrinsics(row),
            room=room,
            stamp_ns=int(keyframes.stamps_ns[row]),
            related=related.get(frame_id, ()),
        )


def _fill_graph(
    session: Session, saved: SavedMap, kept: Mapping[int, int], T_world_camera: np.ndarray
) -> None:
    keyframes = saved.keyframes
    number = {int(keyframes.ids[row]): frame_id for row, frame_id in kept.items()}
    incoming: dict[int, list[Edge]] = {}
    for edge in known_edges(saved, number):
        if edge.source_id <= edge.target_id:
            incoming.setdefault(edge.target_id, []).append(edge)
    before = None
    for row, frame_id in kept.items():
        pose = held_pose(saved, row, T_world_camera[row])
        session.graph.add(frame_id, pose, incoming.get(frame_id, ()))
        segment = int(keyframes.segments[row])
        if before is not None and segment != before:
            session.followed_since.append(frame_id)
        before = segment


def known_edges(saved: SavedMap, number: Mapping[int, int]) -> Iterator[Edge]:
    """Yield the edges among some keyframes, with lengths in the engine's unit.

    :param number: of those keyframes in the result, by their ids in the map.
    """
    edges = saved.edges
    for source, target, T, scores in zip(
        edges.source_ids.tolist(),
        edges.target_ids.tolist(),
        edges.T_source_target.copy(),
        edges.confidences.tolist(),
        strict=True,
    ):
        if source in number and target in number:
            T[:3, 3] /= saved.facts.unit
            yield Edge(number[source], number[target], T, *scores)


def held_pose(saved: SavedMap, row: int, T_world_camera: np.ndarray) -> HeldPose:
    """Return a pose of a saved keyframe with its uncertainty, in the engine's unit."""
    variances = saved.keyframes.variances[row] / [saved.facts.unit**2, 1.0]
    return HeldPose(T_world_camera.copy(), isotropic(variances))


def _fill_record(
    session: Session,
    saved: SavedMap,
    rows: np.ndarray,
    frame_ids: np.ndarray,
    poses: Mapping[int, np.ndarray],
    T_kept: np.ndarray,
    T_world_map: np.ndarray,
) -> None:
    trajectory, facts, count = saved.trajectory, saved.facts, len(saved.keyframes)
    T_map_optical = trajectory.T_map_base[rows] @ facts.T_base_optical
    T = np.concatenate([T_kept, in_world(T_world_map, T_map_optical, facts.unit)])
    stamps_ns = np.concatenate([saved.keyframes.stamps_ns, trajectory.stamps_ns[rows]])
    order = np.argsort(frame_ids)
    is_keyframe = np.arange(len(order)) < count
    session.trajectory.restore(
        frame_ids[order], stamps_ns[order], is_keyframe[order], T[order], poses
    )
    session.frame_count = session.first_frame = len(order)
    steps = np.diff(T[order, :3, 3], axis=0)
    session.path = float(np.linalg.norm(steps, axis=1).sum())


def _fill_map(
    session: Session, saved: SavedMap, poses: Mapping[int, np.ndarray], T_world_map: np.ndarray
) -> None:
    """Assign each point to the nearest keyframe, which it follows from now on."""
    if not len(saved.points):
        return
    S_world_map = np.diag([1.0 / saved.facts.unit] * 3 + [1.0]) @ T_world_map
    cloud = saved.points.moved(S_world_map)
    ids = np.array(list(poses))
    centres = np.array([poses[i][:3, 3] for i in ids.tolist()])
    _, nearest = cKDTree(centres).query(cloud.points)
    order = np.argsort(nearest, kind='stable')
    bounds = np.searchsorted(nearest[order], np.arange(len(ids) + 1))
    clouds: dict[int, Cloud] = {}
    for n, frame_id in enumerate(ids.tolist()):
        own = order[bounds[n] : bounds[n + 1]]
        if len(own):
            clouds[frame_id] = cloud.take(own).moved(inverse(poses[frame_id]))
    session.map.restore(clouds)


def known_landmarks(
    saved: SavedMap, kept: Mapping[int, int], T_world_map: np.ndarray
) -> SparseLandmarks | None:
    """Return the landmarks observed from some keyframes, in the engine's world and unit.

    :param kept: ids of those keyframes in the result, by row of the saved keyframes.
    """
    landmarks, keyframes = saved.landmarks, saved.keyframes
    if landmarks is None:
        return None
    number = np.full(len(keyframes), -1)
    number[list(kept)] = list(kept.values())
    seen_by = number[np.searchsorted(keyframes.ids, landmarks.frame_ids)]
    seen = observed_in(landmarks, seen_by >= 0, seen_by)
    positions = seen.positions @ T_world_map[:3, :3].T + T_world_map[:3, 3]
    return replace(seen, positions=positions / saved.facts.unit)
