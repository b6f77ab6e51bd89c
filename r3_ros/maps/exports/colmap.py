"""Exports a saved map as a COLMAP text model, with the images of its keyframes.

Source: COLMAP's documentation of its output format. Poses are world to camera; the centre of the
upper left pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.atomic_files import atomic_directory
from ...core.datatypes import SparseLandmarks
from ...core.geometry import inverse, quat_xyzw
from ...input.image_decoding import decode_eight_bit
from .. import map_layout
from ..saved_map import SavedKeyframes, SavedMap

CAMERAS, IMAGES, POINTS3D, IMAGE_FOLDER = 'cameras.txt', 'images.txt', 'points3D.txt', 'images'
_HALF = 0.5  # from our pixel coordinates, with centres at integers, to COLMAP's
_GREY = (128, 128, 128)
#: Observations with a larger reprojection error are not exported, in pixels. They serve to find
#: places again, but would pull a bundle adjustment that starts from the model.
_MOST_PX = 2.5


def write_colmap(folder: Path | str, saved: SavedMap, overwrite: bool = False) -> int:
    """Write a model and return the number of its points.

    Points are the predictor's landmarks with their observations; without landmarks they are the
    cloud, without observations.

    :raises OutputError: it exists, is no model, or cannot be written.
    :raises FrameError: an image of the map cannot be decoded.
    """
    cameras, camera_of = _cameras(saved.keyframes)
    names = [
        map_layout.image_name(i, map_layout.image_kind(saved.images.get(i, b'')))
        for i in saved.keyframes.ids.tolist()
    ]
    marks = saved.landmarks if saved.landmarks is not None and len(saved.landmarks) else None
    marks = None if marks is None else _fitting(saved, marks)
    with atomic_directory(folder, overwrite, marker=CAMERAS) as temporary:
        (temporary / CAMERAS).write_text(cameras, encoding='ascii')
        (temporary / IMAGES).write_text(_images(saved, camera_of, names, marks), encoding='ascii')
        points = _cloud(saved) if marks is None else _landmarks(saved, marks)
        (temporary / POINTS3D).write_text(points, encoding='ascii')
        (temporary / IMAGE_FOLDER).mkdir()
        for frame_id, name in zip(saved.keyframes.ids.tolist(), names, strict=True):
            if frame_id in saved.images:
                (temporary / IMAGE_FOLDER / name).write_bytes(saved.images[frame_id])
    return len(saved.points) if marks is None else len(marks)


def _cameras(keyframes: SavedKeyframes) -> tuple[str, np.ndarray]:
    """Return the text, and (N,) the number of each keyframe's camera, from 1."""
    rows = np.concatenate(
        [keyframes.sizes, keyframes.K[:, [0, 1], [0, 1]], keyframes.K[:, :2, 2] + _HALF], axis=1
    )
    unique, camera_of = np.unique(rows, axis=0, return_inverse=True)
    lines = ['# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy']
    for number, (width, height, *lens) in enumerate(unique.tolist(), 1):
        numbers = ' '.join(map(repr, lens))
        lines.append(f'{number} PINHOLE {int(width)} {int(height)} {numbers}')
    return '\n'.join(lines) + '\n', camera_of.reshape(-1) + 1


def _images(
    saved: SavedMap, camera_of: np.ndarray, names: list[str], marks: SparseLandmarks | None
) -> str:
    """Return two lines for each keyframe: pose and camera, and its observations."""
    T_optical_map = inverse(saved.keyframes.T_map_optical)
    quats = np.roll(quat_xyzw(T_optical_map), 1, axis=1)
    rows = np.concatenate([quats, T_optical_map[:, :3, 3]], axis=1).tolist()
    lines = ['# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, and a line of X Y POINT3D_ID']
    for n, frame_id in enumerate(saved.keyframes.ids.tolist()):
        pose = ' '.join(map(repr, rows[n]))
        lines.append(f'{n + 1} {pose} {camera_of[n]} {names[n]}')
        observations = ''
        if marks is not None:
            own = np.flatnonzero(marks.frame_ids == frame_id)
            observations = ' '.join(
                f'{x:.3f} {y:.3f} {mark + 1}'
                for (x, y), mark in zip(
                    (marks.pixels[own] + _HALF).tolist(),
                    marks.landmarks[own].tolist(),
                    strict=True,
                )
            )
        lines.append(observations)
    return '\n'.join(lines) + '\n'


def _fitting(saved: SavedMap, marks: SparseLandmarks) -> SparseLandmarks:
    """Return the landmarks with the observations that fit them."""
    image = np.searchsorted(saved.keyframes.ids, marks.frame_ids)
    fits = _reprojection_px(saved, marks, image) < _MOST_PX
    return replace(
        marks,
        frame_ids=marks.frame_ids[fits],
        landmarks=marks.landmarks[fits],
        pixels=marks.pixels[fits],
    )


def _landmarks(saved: SavedMap, marks: SparseLandmarks) -> str:
    """Return a line for each landmark: position, colour, error in pixels, observations."""
    image = np.searchsorted(saved.keyframes.ids, marks.frame_ids)
    # Index of an observation in its image's line.
    by_image = np.argsort(image, kind='stable')
    starts = np.searchsorted(image[by_image], np.arange(len(saved.keyframes)))
    index = np.empty(len(image), np.int64)
    index[by_image] = np.arange(len(image)) - starts[image[by_image]]
    errors = _reprojection_px(saved, marks, image)
    colors = _colors(saved, marks, image)
    order = np.argsort(marks.landmarks, kind='stable')
    bounds = np.searchsorted(marks.landmarks[order], np.arange(len(marks) + 1))
    lines = ['# POINT3D_ID X Y Z R G B ERROR TRACK[] as (IMAGE_ID, POINT2D_IDX)']
    for mark in range(len(marks)):
        own = order[bounds[mark] : bounds[mark + 1]]
        track = ' '.join(f'{image[i] + 1} {index[i]}' for i in own)
        x, y, z = marks.positions[mark].tolist()
        r, g, b = colors[mark]
        error = float(errors[own].mean()) if len(own) else 0.0
        lines.append(f'{mark + 1} {x!r} {y!r} {z!r} {r} {g} {b} {error:.3f} {track}'.rstrip())
    return '\n'.join(lines) + '\n'


def _reprojection_px(saved: SavedMap, marks: SparseLandmarks, image: np.ndarray) -> np.ndarray:
    """Return the (M,) reprojection errors of the observations."""
    T = inverse(saved.keyframes.T_map_optical)[image]
    seen = np.einsum('nij,nj->ni', T[:, :3, :3], marks.positions[marks.landmarks]) + T[:, :3, 3]
    K = saved.keyframes.K[image]
    depth = np.maximum(seen[:, 2:], 1e-9)
    expected = seen[:, :2] / depth * K[:, [0, 1], [0, 1]] + K[:, :2, 2]
    return np.linalg.norm(expected - marks.pixels, axis=1)


def _colors(saved: SavedMap, marks: SparseLandmarks, image: np.ndarray) -> np.ndarray:
    """Return (L, 3) the colour of each landmark in an image, grey without one."""
    colors = np.tile(np.array(_GREY, np.uint8), (len(marks), 1))
    for n, frame_id in enumerate(saved.keyframes.ids.tolist()):
        own = np.flatnonzero(image == n)
        if frame_id in saved.images and len(own):
            pixels = decode_eight_bit(saved.images[frame_id])
            x, y = np.rint(marks.pixels[own]).astype(int).T
            x, y = x.clip(0, pixels.shape[1] - 1), y.clip(0, pixels.shape[0] - 1)
            colors[marks.landmarks[own]] = pixels[y, x]
    return colors


def _cloud(saved: SavedMap) -> str:
    cloud = saved.points
    lines = ['# POINT3D_ID X Y Z R G B ERROR TRACK[]']
    rows = zip(cloud.points.tolist(), cloud.colors.tolist(), strict=True)
    for n, ((x, y, z), (r, g, b)) in enumerate(rows, 1):
        lines.append(f'{n} {x:.6f} {y:.6f} {z:.6f} {r} {g} {b} 0')
    return '\n'.join(lines) + '\n'
