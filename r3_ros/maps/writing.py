"""Writing a map: the folder appears complete or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from ..core.atomic_files import atomic_directory
from ..core.trajectory_file import write_tum
from . import map_layout
from .cloud_file import write_points
from .manifest import manifest_text
from .map_layout import Column
from .saved_map import SavedMap


def write_map(
    path: Path | str,
    saved: SavedMap,
    formats: Collection[str] = (),
    include_images: bool = True,
    overwrite: bool = False,
    before_done: Callable[[], None] | None = None,
) -> int:
    """Write a map folder and return its size in bytes.

    :param formats: of the points beside PLY, any of ``map_layout.POINT_FORMATS``.
    :param include_images: False leaves the images out; no camera can be located in the map then.
    :param before_done: called before the folder gets its name; if it raises, nothing is left.
    :raises OutputError: nothing was written.
    """
    with atomic_directory(path, overwrite, marker=map_layout.MANIFEST) as folder:
        images = _fill(folder, saved, formats, include_images)
        text = manifest_text(saved, images)
        (folder / map_layout.MANIFEST).write_text(text, encoding='utf-8')
        size = sum(item.stat().st_size for item in folder.rglob('*') if item.is_file())
        if before_done is not None:
            before_done()
    return size


def _fill(folder: Path, saved: SavedMap, formats: Collection[str], include_images: bool) -> int:
    """Write all but the manifest; return the number of images."""
    for kind in sorted({'ply', *formats}):
        write_points(folder / f'points.{kind}', saved.points, kind)
    write_tum(
        folder / map_layout.TRAJECTORY, saved.trajectory.stamps_ns, saved.trajectory.T_map_base
    )
    keyframes, edges, landmarks = saved.keyframes, saved.edges, saved.landmarks
    columns = map_layout.keyframe_columns(len(keyframes), saved.facts.descriptor_size)
    _write_arrays(folder / map_layout.KEYFRAMES, keyframes, columns)
    _write_arrays(folder / map_layout.GRAPH, edges, map_layout.graph_columns(len(edges)))
    if landmarks is not None:
        columns = map_layout.landmark_columns(len(landmarks), len(landmarks.frame_ids))
        _write_arrays(folder / map_layout.LANDMARKS, landmarks, columns)
    return _write_images(folder, saved) if include_images else 0


def _write_arrays(path: Path, values: object, columns: dict[str, Column]) -> None:
    arrays = {}
    for name, column in columns.items():
        array = np.ascontiguousarray(getattr(values, name), dtype=column.dtype)
        if array.shape != column.shape:
            raise ValueError(f'{name} must have the shape {column.shape}, got {array.shape}')
        arrays[name] = array
    np.savez(path, **arrays)  # type: ignore[arg-type]  # NumPy's stubs expect options


def _write_images(folder: Path, saved: SavedMap) -> int:
    wanted = [int(i) for i in saved.keyframes.ids if int(i) in saved.images]
    if wanted:
        (folder / map_layout.IMAGES).mkdir()
    for frame_id in wanted:
        data = saved.images[frame_id]
        name = map_layout.image_name(frame_id, map_layout.image_kind(data))
        (folder / map_layout.IMAGES / name).write_bytes(data)
    return len(wanted)
