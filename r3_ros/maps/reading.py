"""Reading maps of unknown origin.

The bounded manifest declares the counts; each file must have exactly that size, and its numbers
are checked. File names are never taken from the content.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.datatypes import SparseLandmarks
from ..core.errors import FrameError, MapError, MapProblem, SourceError
from ..core.trajectory_file import parse_tum
from ..input.image_decoding import encoded_size
from . import map_layout
from .cloud import Cloud
from .cloud_file import parse_ply, ply_header, VERTEX
from .folder import MapFolder, open_map_folder
from .manifest import Counts, parse_manifest
from .map_checks import (
    check_edges,
    check_keyframes,
    check_landmarks,
    check_points,
    check_poses,
    check_stamps,
)
from .map_layout import bad_format
from .saved_map import SavedEdges, SavedKeyframes, SavedMap, SavedTrajectory


def read_map(path: Path | str, with_images: bool = True) -> SavedMap:
    """Read a map folder.

    :param with_images: False leaves the images of keyframes out.
    :raises MapError: NOT_FOUND, BAD_FORMAT or VERSION_MISMATCH.
    """
    with open_map_folder(Path(path)) as folder:
        facts, counts = parse_manifest(
            _text(folder, map_layout.MANIFEST, map_layout.MOST_MANIFEST_BYTES)
        )
        columns = map_layout.keyframe_columns(counts.keyframes, facts.descriptor_size)
        keyframes = SavedKeyframes(**folder.arrays(map_layout.KEYFRAMES, columns))
        check_keyframes(keyframes)
        columns = map_layout.graph_columns(counts.edges)
        edges = SavedEdges(**folder.arrays(map_layout.GRAPH, columns))
        check_edges(edges, keyframes.ids)
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
    if not counts.landmarks and not folder.has(map_layout.LANDMARKS):
        return None
    columns = map_layout.landmark_columns(counts.landmarks, counts.sightings)
    landmarks = SparseLandmarks(**folder.arrays(map_layout.LANDMARKS, columns))
    check_landmarks(landmarks, keyframes)
    return landmarks


def _points(folder: MapFolder, counts: Counts) -> Cloud:
    header = ply_header(counts.points).encode('ascii')
    size = len(header) + counts.points * VERTEX.itemsize
    data = folder.read(map_layout.POINTS, size)
    if len(data) != size or not data.startswith(header):
        raise bad_format(
            map_layout.POINTS, f'it must hold {counts.points} points as r3 writes them'
        )
    cloud = parse_ply(data, map_layout.POINTS)
    check_points(cloud)
    return cloud


def _trajectory(folder: MapFolder, counts: Counts) -> SavedTrajectory:
    most_bytes = (counts.poses + 1) * map_layout.MOST_POSE_BYTES
    text = _text(folder, map_layout.TRAJECTORY, most_bytes)
    if not counts.poses:
        return SavedTrajectory(np.empty(0, np.int64), np.empty((0, 4, 4)))
    try:
        poses = parse_tum(text, map_layout.TRAJECTORY)
    except SourceError as error:
        raise MapError(MapProblem.BAD_FORMAT, str(error)) from error
    if len(poses) != counts.poses:
        message = f'it holds {len(poses)} poses, the manifest says {counts.poses}'
        raise bad_format(map_layout.TRAJECTORY, message)
    check_stamps(map_layout.TRAJECTORY, poses.stamps_ns)
    check_poses(map_layout.TRAJECTORY, poses.T_world_camera)
    return SavedTrajectory(poses.stamps_ns, poses.T_world_camera)


def _images(folder: MapFolder, counts: Counts, keyframes: SavedKeyframes) -> dict[int, bytes]:
    if not counts.keyframe_images:
        return {}
    images: dict[int, bytes] = {}
    total = pixels = 0
    with folder.inside(map_layout.IMAGES) as inside:
        if inside is None:
            raise bad_format(map_layout.IMAGES, 'the images are missing')
        for frame_id, size in zip(keyframes.ids.tolist(), keyframes.sizes.tolist(), strict=True):
            names = [map_layout.image_name(frame_id, kind) for kind in map_layout.IMAGE_KINDS]
            name = next(filter(inside.has, names), None)
            if name is None:
                continue
            data = inside.read(name, map_layout.MOST_IMAGE_BYTES)
            _check_image(f'{map_layout.IMAGES}/{name}', data, (size[0], size[1]))
            total, pixels = total + len(data), pixels + size[0] * size[1]
            if total > map_layout.MOST_IMAGES_BYTES or pixels > map_layout.MOST_IMAGES_PIXELS:
                raise bad_format(map_layout.IMAGES, 'the images are too large in all')
            images[frame_id] = data
    if len(images) != counts.keyframe_images:
        message = f'{len(images)} images, the manifest says {counts.keyframe_images}'
        raise bad_format(map_layout.IMAGES, message)
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
