"""Recordings made of videos without ground truth: poses and depth of the classical predictor.

It knows no metric scale, so the unit is chosen by the median depth. Its depth of keyframes is
projected into all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
import fcntl
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ...classical.pinhole import Pinhole
from ...core.atomic_files import atomic_directory
from ...core.config import R3Config
from ...core.datatypes import DepthMap, Estimate, Frame, Intrinsics
from ...core.errors import ConfigError, SourceError
from ...core.geometry import inverse, transform, unproject
from ...core.parameter_fields import updated
from ...core.resize_geometry import as_rgb
from ...core.trajectory_file import NANOSECONDS
from ...factory import load_engine
from ...input.open_source import open_source
from ...offline.stream_run import run_source, undistorted_frames
from ..synth.dataset import write_depth, write_descriptions, write_image
from .recordings import LEAST_FRAMES
from .trainer import LogLine
from .training_worlds import RATE_HZ

#: A video is refused if less than this share of its frames is tracked.
_LEAST_SHARE = 0.5
#: Least interval of the written frames, as a share of that of procedural worlds.
_EARLIEST = 0.9
_WIDEST_PX = 640
#: Far below the 65 m that 16 bits of millimetres reach.
_MEDIAN_DEPTH_M = 5.0
#: Depth of lower confidence counts as unknown.
_LEAST_CONFIDENCE = 2.0
#: A closed loop rescales poses and not depth. Without it both drift, which no clip is long enough
#: to show.
_CONFIG = updated(R3Config(), {'loop.enabled': False})


class _Labels(NamedTuple):
    """What is known of a video.

    :ivar stamps_ns: (N,) of the frames to be written; ``T_world_camera``: (N, 4, 4).
    :ivar points: by the stamp of a keyframe, (n, 3) float32 points of its depth, in the world.
    """

    stamps_ns: np.ndarray
    T_world_camera: np.ndarray
    points: dict[int, np.ndarray]
    intrinsics: Intrinsics


def labelled_videos(paths: Sequence[Path], output: Path, log_line: LogLine) -> list[Path]:
    """Return the recording of each video, ``output``/NAME, made unless it exists.

    :raises ConfigError: two videos have the same name.
    :raises SourceError: a video cannot be read, or too little of it is tracked.
    :raises OutputError: a recording cannot be written.
    """
    folders = [output / path.absolute().name for path in paths]
    if len(set(folders)) < len(folders):
        raise ConfigError('two videos have the same name: rename one of the files or folders')
    output.mkdir(parents=True, exist_ok=True)
    with open(output / '.lock', 'w') as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # other processes of the training wait here
        for path, folder in zip(paths, folders, strict=True):
            if not folder.is_dir():
                log_line(f'{path}: estimating poses and depth')
                labels = _estimated(path, log_line)
                _write(path, folder, labels)
                log_line(f'{len(labels.stamps_ns)} frames written to {folder}')
    return folders


def _estimated(path: Path, log_line: LogLine) -> _Labels:
    points: dict[int, np.ndarray] = {}  # by frame, in its camera

    def keep(maps: Sequence[DepthMap]) -> None:
        for m in maps:
            K, known = m.intrinsics, np.isfinite(m.depth) & (m.confidence >= _LEAST_CONFIDENCE)
            if known.any():
                points[m.frame_id] = unproject(m.depth, K.fx, K.fy, K.cx, K.cy)[known]

    with (
        closing(load_engine(_CONFIG)) as engine,
        open_source(path) as source,
        tqdm(total=source.length, unit=' frames', desc=path.name, disable=None) as bar,
    ):

        def on_frame(_: Frame, estimate: Estimate) -> None:
            keep(estimate.depths)
            bar.update()

        run = run_source(source, engine, on_frame=on_frame)
    keep(run.last_depths)
    assert run.trajectory is not None and run.intrinsics is not None
    view, ids = run.trajectory, [record.frame_id for record in run.records if record.tracked]
    # All of these are in one world: in segments that are not joined to it nothing is tracked.
    tracked = np.isin(view.frame_ids, ids) & np.isfinite(view.T_final[:, 0, 0])
    stamps, T = view.stamps_ns[tracked], view.T_final[tracked]
    keyframes = np.flatnonzero(np.isin(view.frame_ids[tracked], list(points)))
    seen = [points[int(i)] for i in view.frame_ids[tracked][keyframes]]
    chosen, share = _thinned(stamps), len(ids) / len(run.records)
    about = (
        f'{path}: {share:.0%} of its frames are tracked, {len(chosen)} at {RATE_HZ:g} a second, '
        f'{len(seen)} with depth of their own'
    )
    if share < _LEAST_SHARE or len(chosen) < LEAST_FRAMES or not seen:
        raise SourceError(
            f'{about}; {_LEAST_SHARE:.0%}, {LEAST_FRAMES} and 1 are needed: cut it to one scene '
            'with texture, good light and sideways motion, or calibrate the camera'
        )
    log_line('\n'.join([about, *run.warnings]))
    scale = _MEDIAN_DEPTH_M / float(np.median([np.median(p[:, 2]) for p in seen]))
    T[:, :3, 3] *= scale
    world = {
        int(stamps[row]): transform(T[row], scale * p).astype(np.float32)
        for row, p in zip(keyframes, seen, strict=True)
    }
    return _Labels(stamps[chosen], T[chosen], world, run.intrinsics)


def _thinned(stamps_ns: np.ndarray) -> list[int]:
    """Return the rows of frames that are at least an interval apart."""
    rows: list[int] = []
    for row, stamp in enumerate(stamps_ns):
        if not rows or stamp - stamps_ns[rows[-1]] >= _EARLIEST * NANOSECONDS / RATE_HZ:
            rows.append(row)
    return rows


def _write(path: Path, folder: Path, labels: _Labels) -> None:
    """Read the video again and write a recording without distortion."""
    width = min(_WIDEST_PX, labels.intrinsics.width)
    height = round(width * labels.intrinsics.height / labels.intrinsics.width)
    camera = labels.intrinsics.resized(width, height)
    keyframes = np.array(sorted(labels.points))
    poses = dict(zip(labels.stamps_ns.tolist(), labels.T_world_camera, strict=True))
    images: list[str] = []
    with atomic_directory(folder) as written, open_source(path) as source:
        for frame, _ in undistorted_frames(source, _CONFIG, None):
            T_world_camera = poses.pop(frame.stamp_ns, None)
            if T_world_camera is None:
                continue
            depth = np.zeros((height // 2, width // 2))  # the largest size of depth maps
            for nearest in np.argsort(np.abs(keyframes - frame.stamp_ns))[:2]:
                points = labels.points[int(keyframes[nearest])]
                there = _depth_of(points, inverse(T_world_camera), camera, depth.shape)
                depth = np.where(depth > 0, depth, there)
            name = f'{len(images):06d}'
            image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
            write_image(written / 'rgb' / f'{name}.jpg', as_rgb(image))
            write_depth(written / 'depth' / f'{name}.png', depth)
            images.append(f'rgb/{name}.jpg')
        about = labels.stamps_ns, labels.T_world_camera, camera, path.stem
        write_descriptions(written, images, *about)


def _depth_of(
    points: np.ndarray, T_camera_world: np.ndarray, K: Intrinsics, shape: tuple[int, ...]
) -> np.ndarray:
    """Return the depth (h, w) of the nearest point in each pixel, 0 without one."""
    camera = Pinhole.of(K, shape[1], shape[0])
    pixels, depth = camera.pixels_of_points(points, T_camera_world)
    visible = (depth > 0) & camera.inside(pixels)
    order = np.flatnonzero(visible)[np.argsort(-depth[visible])]
    column, row = np.rint(pixels[order]).astype(int).T
    out = np.zeros(shape)
    out[row, column] = depth[order]  # the last one, the nearest, stays
    return out
