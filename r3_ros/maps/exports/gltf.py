"""Exports a saved map as binary glTF (.glb): points, path and cameras, for any 3-D viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from ...core.atomic_files import atomic_write
from ..frustum import frustum_lines
from ..saved_map import SavedMap

#: glTF has y up, a map z.
_T_GLTF_MAP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
#: Length of a frustum over the median distance between neighbouring keyframes.
_FRUSTUM_STEPS = 0.5
_PATH_COLOR, _CAMERA_COLOR = (255, 140, 0, 255), (60, 120, 255, 255)


def write_gltf(path: Path | str, saved: SavedMap, overwrite: bool = False) -> None:
    """Write the points with their colours, the path of the base, and a frustum per keyframe.

    :raises OutputError: it exists, or cannot be written.
    """
    scene = trimesh.Scene()
    if len(saved.points):
        cloud = trimesh.PointCloud(saved.points.points, saved.points.colors)
        scene.add_geometry(cloud, node_name='points')
    centres = saved.trajectory.T_map_base[:, :3, 3]
    if len(centres) > 1:
        scene.add_geometry(_lines(centres, _PATH_COLOR), node_name='path')
    if len(saved.keyframes):
        T = saved.keyframes.T_map_optical
        steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
        length = _FRUSTUM_STEPS * float(np.median(steps)) if len(steps) else 1.0
        lines = frustum_lines(T, saved.keyframes.intrinsics(-1), length)
        scene.add_geometry(_lines(lines, _CAMERA_COLOR), node_name='keyframes')
    scene.apply_transform(_T_GLTF_MAP)
    with atomic_write(path, overwrite) as file:
        file.write(scene.export(file_type='glb'))


def _lines(lines: np.ndarray, color: tuple[int, ...]) -> trimesh.path.Path3D:
    drawn = trimesh.load_path(lines)
    drawn.colors = np.tile(np.array(color, np.uint8), (len(drawn.entities), 1))
    return drawn
