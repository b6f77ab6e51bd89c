"""Exports a saved map for nerfstudio, gsplat and Instant-NGP: ``transforms.json`` with images.

Source: nerfstudio's documentation of its data conventions. Poses are camera to world, cameras look
along -z with y up; the centre of the upper left pixel is (0.5, 0.5).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...core.atomic_files import atomic_directory
from .. import map_layout
from ..cloud_file import write_points
from ..saved_map import SavedMap

TRANSFORMS, POINTS, IMAGES, DEPTH = 'transforms.json', 'points.ply', 'images', 'depth'
#: Unit of the 16-bit depth images: a thousandth of a map unit, nerfstudio's default.
_DEPTH_STEP = 1e-3
_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_nerfstudio(
    folder: Path | str, saved: SavedMap, depths: Path | None = None, overwrite: bool = False
) -> tuple[int, int]:
    """Write keyframes with an image, their depth, and the cloud to start from.

    nerfstudio wants depth images of all frames or of none: those without depth get an empty one.

    :param depths: folder of ``NNNNNN.npz`` of the run that made the map (``r3 run --save-depth``).
    :returns: number of images, and of those with depth.
    :raises OutputError: it exists, is no such folder, or cannot be written.
    """
    with atomic_directory(folder, overwrite, marker=TRANSFORMS) as temporary:
        (temporary / IMAGES).mkdir()
        if depths is not None:
            (temporary / DEPTH).mkdir()
        frames, with_depth = [], 0
        for row, frame_id in enumerate(saved.keyframes.ids.tolist()):
            image = saved.images.get(frame_id)
            if image is None:
                continue
            name = f'{IMAGES}/{map_layout.image_name(frame_id, map_layout.image_kind(image))}'
            (temporary / name).write_bytes(image)
            pose = saved.keyframes.T_map_optical[row] @ _OPENGL
            frame = {'file_path': name, 'transform_matrix': pose.tolist(), **_lens(saved, row)}
            if depths is not None:
                frame['depth_file_path'] = f'{DEPTH}/{frame_id:06d}.png'
                depth = _depth_steps(depths / f'{frame_id:06d}.npz')
                with_depth += depth is not None
                if depth is None:
                    lens = saved.keyframes.intrinsics(row)
                    depth = np.zeros((lens.height, lens.width), np.uint16)
                png = cv2.imencode('.png', depth)[1]
                (temporary / frame['depth_file_path']).write_bytes(png.tobytes())
            frames.append(frame)
        write_points(temporary / POINTS, saved.points)
        content = {'camera_model': 'PINHOLE', 'ply_file_path': POINTS, **_common(frames)}
        (temporary / TRANSFORMS).write_text(json.dumps(content, indent=1) + '\n')
    return len(frames), with_depth


def _lens(saved: SavedMap, row: int) -> dict[str, float]:
    lens = saved.keyframes.intrinsics(row)
    return {
        'fl_x': lens.fx, 'fl_y': lens.fy, 'cx': lens.cx + 0.5, 'cy': lens.cy + 0.5,
        'w': lens.width, 'h': lens.height,
    }  # fmt: skip


def _common(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the frames, with what all have alike beside them: some readers look only there."""
    names = ('fl_x', 'fl_y', 'cx', 'cy', 'w', 'h')
    alike = [name for name in names if len({frame[name] for frame in frames}) == 1]
    if len(alike) < len(names):
        return {'frames': frames}
    lens = {name: frames[0][name] for name in names}
    rest = [{k: v for k, v in frame.items() if k not in lens} for frame in frames]
    return {**lens, 'frames': rest}


def _depth_steps(path: Path) -> np.ndarray | None:
    """Return a depth map as (H, W) uint16 steps, 0 where unknown; None if there is no file."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as saved:
        steps = np.nan_to_num(saved['depth'] / _DEPTH_STEP, nan=0.0)
    return np.where(steps <= np.iinfo(np.uint16).max, np.rint(steps), 0).astype(np.uint16)
