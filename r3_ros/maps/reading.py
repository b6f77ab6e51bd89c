"""Reading maps of unknown origin.

The bounded manifest declares the counts; each file must have exactly that size, and its numbers
are checked. File names are never taken from the content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..core.datatypes import SparseLandmarks
from ..core.errors import FrameError, MapError, MapProblem, SourceError
from ..core.trajectory_file import parse_tum
from ..input.image_decoding import encoded_size, MOST_PIXELS
from . import map_layout as layout
from .cloud import Cloud
from .cloud_file import parse_ply, ply_header, VERTEX
from .folder import MapFolder, open_map_folder
from .manifest import Counts, parse_manifest
from .map_layout import bad_format
from .saved_map import SavedEdges, SavedKeyframes, SavedMap, SavedTrajectory

#: Pixels.
_LEAST_FOCAL = 1e-3
#: Largest deviation of R R' from the identity.
_RIGID_TOLERANCE = 1e-4
#: Largest deviation of a descriptor's length from 1.
_UNIT_TOLERANCE = 1e-2
_LARGEST_ID = 1 << 53


def read_map(path: Path | str, with_images: bool = True) -> SavedMap:
    """Read a map folder.

    :param with_images: False leaves the images of keyframes out.
    :raises MapError: NOT_FOUND, BAD_FORMAT or VERSION_MISMATCH.
    """
    with open_map_folder(Path(path)) as folder:
        facts, counts = parse_manifest(_text(folder, layout.MANIFEST, layout.MOST_MANIFEST_BYTES))
        columns = layout.keyframe_columns(counts.keyframes, facts.descriptor_size)
        keyframes = SavedKeyframes(**folder.arrays(layout.KEYFRAMES, columns))
        _check_keyframes(keyframes)
        columns = layout.graph_columns(counts.edges)
        edges = SavedEdges(**folder.arrays(layout.GRAPH, columns))
        _check_edges(edges, keyframes.ids)
        return SavedMap(
            facts=facts,
            keyframes=keyframes,
            edges=edges,
            points=_points(folder, counts),
            trajectory=_trajectory(folder, counts),
            landmarks=_landmarks(folder, counts, keyframes),
            images=_images(folder, counts, keyframes) if with_images else {},
        )


def _text(folder: MapFolder, name: str, most_bytes: int) -> str:
    try:
        return folder.read(name, most_bytes).decode('utf-8')
    except UnicodeDecodeError as error:
        raise bad_format(name, 'it is no text') from error


def _landmarks(
    folder: MapFolder, counts: Counts, keyframes: SavedKeyframes
) -> SparseLandmarks | None:
    if not counts.landmarks and not folder.has(layout.LANDMARKS):
        return None
    columns = layout.landmark_columns(counts.landmarks, counts.sightings)
    landmarks = SparseLandmarks(**folder.arrays(layout.LANDMARKS, columns))
    _check_landmarks(landmarks, keyframes)
    return landmarks


def _points(folder: MapFolder, counts: Counts) -> Cloud:
    header = ply_header(counts.points).encode('ascii')
    size = len(header) + counts.points * VERTEX.itemsize
    data = folder.read(layout.POINTS, size)
    if len(data) != size or not data.startswith(header):
        raise bad_format(layout.POINTS, f'it must hold {counts.points} points as r3 writes them')
    cloud = parse_ply(data, layout.POINTS)
    placed = (np.abs(cloud.points) < layout.FARTHEST).all()
    placed = placed and np.isfinite(cloud.confidence).all()
    _require(placed, layout.POINTS, 'a point is not finite')
    return cloud


def _trajectory(folder: MapFolder, counts: Counts) -> SavedTrajectory:
    most_bytes = (counts.poses + 1) * layout.MOST_POSE_BYTES
    text = _text(folder, layout.TRAJECTORY, most_bytes)
    if not counts.poses:
        return SavedTrajectory(np.empty(0, np.int64), np.empty((0, 4, 4)))
    try:
        poses = parse_tum(text, layout.TRAJECTORY)
    except SourceError as error:
        raise MapError(MapProblem.BAD_FORMAT, str(error)) from error
    if len(poses) != counts.poses:
        message = f'it holds {len(poses)} poses, the manifest says {counts.poses}'
        raise bad_format(layout.TRAJECTORY, message)
    _check_stamps(layout.TRAJECTORY, poses.stamps_ns)
    _check_poses(layout.TRAJECTORY, poses.T_world_camera)
    return SavedTrajectory(poses.stamps_ns, poses.T_world_camera)


def _images(folder: MapFolder, counts: Counts, keyframes: SavedKeyframes) -> dict[int, bytes]:
    if not counts.keyframe_images:
        return {}
    images: dict[int, bytes] = {}
    total = pixels = 0
    with folder.inside(layout.IMAGES) as inside:
        if inside is None:
            raise bad_format(layout.IMAGES, 'the images are missing')
        for frame_id, size in zip(keyframes.ids.tolist(), keyframes.sizes.tolist(), strict=True):
            names = [layout.image_name(frame_id, kind) for kind in layout.IMAGE_KINDS]
            name = next(filter(inside.has, names), None)
            if name is None:
                continue
            data = inside.read(name, layout.MOST_IMAGE_BYTES)
            _check_image(f'{layout.IMAGES}/{name}', data, (size[0], size[1]))
            total, pixels = total + len(data), pixels + size[0] * size[1]
            if total > layout.MOST_IMAGES_BYTES or pixels > layout.MOST_IMAGES_PIXELS:
                raise bad_format(layout.IMAGES, 'the images are too large in all')
            images[frame_id] = data
    if len(images) != counts.keyframe_images:
        message = f'{len(images)} images, the manifest says {counts.keyframe_images}'
        raise bad_format(layout.IMAGES, message)
    return images


def _check_image(name: str, data: bytes, size: tuple[int, int]) -> None:
    """Check the header alone; the image is decoded when it is needed."""
    try:
        found = encoded_size(data)
    except FrameError as error:
        raise bad_format(name, str(error)) from error
    if found != size:
        raise bad_format(
            name, f'it is {found[0]}x{found[1]} pixels, its keyframe {size[0]}x{size[1]}'
        )


# Checks of the numbers; types and shapes are right already


def _check_keyframes(keyframes: SavedKeyframes) -> None:
    ids, K = keyframes.ids, keyframes.K
    _require(np.diff(ids) > 0, layout.KEYFRAMES, 'ids must rise')
    _require((ids >= 0) & (ids < _LARGEST_ID), layout.KEYFRAMES, 'ids must be positive')
    _check_stamps(layout.KEYFRAMES, keyframes.stamps_ns)
    _check_poses(layout.KEYFRAMES, keyframes.T_map_optical)
    sizes = keyframes.sizes
    sane = (sizes > 0) & (sizes <= layout.MOST_IMAGE_SIDE)
    _require(sane, layout.KEYFRAMES, f'sizes must be 1 to {layout.MOST_IMAGE_SIDE} pixels')
    fitting = sizes.astype(np.int64).prod(axis=1) <= MOST_PIXELS
    _require(fitting, layout.KEYFRAMES, f'sizes must be {MOST_PIXELS} pixels in all')
    template = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1.0]])
    free = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=bool)
    pinhole = (np.abs(K) < layout.FARTHEST).all()  # False for NaN
    pinhole = pinhole and (np.where(free, template, K) == template).all()
    pinhole = pinhole and (K[:, [0, 1], [0, 1]] >= _LEAST_FOCAL).all()
    _require(pinhole, layout.KEYFRAMES, 'K must be pinhole matrices')
    scores = keyframes.confidences[~np.isnan(keyframes.confidences)]
    _require_range(scores, layout.MOST_CONFIDENCE, layout.KEYFRAMES, 'confidences')
    _require_range(keyframes.variances, layout.FARTHEST**2, layout.KEYFRAMES, 'variances')
    segments = keyframes.segments
    # After more segments than a session counts, the oldest ones share the number -1.
    numbered = ((segments >= -1) & (segments < layout.MOST_SEGMENTS)).all()
    numbered = numbered and (segments[1:] >= segments[:-1]).all()
    _require(numbered, layout.KEYFRAMES, 'segments must be numbers that do not fall')
    with np.errstate(over='ignore', invalid='ignore'):
        lengths = np.linalg.norm(keyframes.descriptors.astype(np.float64), axis=1)
    unit = np.abs(lengths - 1.0) < _UNIT_TOLERANCE
    _require(unit, layout.KEYFRAMES, 'descriptors must be unit vectors')


def _check_edges(edges: SavedEdges, keyframe_ids: np.ndarray) -> None:
    known = np.isin(edges.source_ids, keyframe_ids) & np.isin(edges.target_ids, keyframe_ids)
    _require(known, layout.GRAPH, 'an edge names a keyframe that is not there')
    apart = edges.source_ids != edges.target_ids
    _require(apart, layout.GRAPH, 'an edge leads from a keyframe to itself')
    _check_poses(layout.GRAPH, edges.T_source_target)
    _require_range(edges.confidences, layout.MOST_CONFIDENCE, layout.GRAPH, 'confidences')


def _check_landmarks(landmarks: SparseLandmarks, keyframes: SavedKeyframes) -> None:
    placed = np.abs(landmarks.positions) < layout.FARTHEST
    _require(placed, layout.LANDMARKS, 'a position is not finite')
    _require(landmarks.relative_sigma >= 0, layout.LANDMARKS, 'relative_sigma must be 0 or more')
    named = (landmarks.landmarks >= 0) & (landmarks.landmarks < len(landmarks))
    _require(named, layout.LANDMARKS, 'an observation is of no landmark')
    if not len(landmarks.frame_ids):
        return
    row = np.searchsorted(keyframes.ids, landmarks.frame_ids)
    known = row < len(keyframes)
    row = np.where(known, row, 0)
    known &= keyframes.ids[row] == landmarks.frame_ids if len(keyframes) else False
    _require(known, layout.LANDMARKS, 'an observation is of no keyframe')
    inside = (landmarks.pixels >= -0.5) & (landmarks.pixels <= keyframes.sizes[row] - 0.5)
    _require(inside, layout.LANDMARKS, 'an observation is outside of its image')


def _check_stamps(name: str, stamps_ns: np.ndarray) -> None:
    """Check that (N,) times fit into ROS messages."""
    first, last = layout.STAMPS_NS
    fitting = (stamps_ns >= first) & (stamps_ns <= last)
    _require(fitting, name, 'stamps_ns is beyond what a message can hold')


def _check_poses(name: str, T: np.ndarray) -> None:
    _require(np.abs(T) < layout.FARTHEST, name, 'a pose is not finite')
    R = T[:, :3, :3]
    rigid = np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)) < _RIGID_TOLERANCE
    rigid_all = rigid.all() and (np.linalg.det(R) > 0).all()
    rigid_all = rigid_all and (np.abs(T[:, 3] - [0, 0, 0, 1]) < 1e-9).all()
    _require(rigid_all, name, 'a pose is no rigid motion')


def _require_range(values: np.ndarray, most: float, name: str, what: str) -> None:
    _require((values >= 0) & (values <= most), name, f'{what} must be 0 to {most:g}')


def _require(holds: Any, name: str, message: str) -> None:
    if not np.all(holds):
        raise bad_format(name, message)
