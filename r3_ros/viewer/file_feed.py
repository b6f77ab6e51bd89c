"""Shows what is in files: the output of a run, or a saved map."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..core.datatypes import Intrinsics
from ..core.errors import SourceError
from ..core.trajectory_file import NANOSECONDS, PoseList, stamp_text
from ..evaluation.report.run_data import load_run, RunData
from ..evaluation.trajectory_errors import true_path
from ..input.image_decoding import decode_compressed
from ..maps.cloud import Cloud
from ..maps.map_layout import MANIFEST
from ..maps.reading import read_map
from ..maps.saved_map import SavedMap
from ..offline.run_files import DEPTH, SAVED_MAP, SUMMARY, UNPLACED
from .cloud_cells import cells_of
from .scene import Scene
from .view_data import LinkKind, ShownKeyframes

Item = TypeVar('Item')

#: In a map that does not say how many keyframes count as recent.
_RECENT_KEYFRAMES = 6


@dataclass(frozen=True, eq=False)
class Finished:
    """A run or a map, all in the frame and unit of the map.

    :ivar stamps_ns: (N,) int64 of the frames; ``T_map_camera``: (N, 4, 4), NaN without a pose.
    :ivar states: (N,) tracking state of each frame in words; empty for a map.
    :ivar images: of keyframes, encoded, by stamp; ``depths``: files by stamp.
    :ivar truth: (M, 3) true positions; None if unknown.
    :ivar facts: labels and values for people.
    """

    cloud: Cloud
    keyframes: ShownKeyframes
    intrinsics: Intrinsics | None
    stamps_ns: np.ndarray
    T_map_camera: np.ndarray
    facts: Mapping[str, str]
    states: tuple[str, ...] = ()
    images: Mapping[int, bytes] = field(default_factory=dict)
    depths: Mapping[int, Path] = field(default_factory=dict)
    truth: np.ndarray | None = None


def load_finished(path: Path, truth: PoseList | None = None) -> Finished:
    """Read the output of ``r3 run``, or a saved map.

    :raises SourceError: it is neither, or damaged; or the truth does not fit.
    :raises MapError: the map cannot be read.
    """
    if (path / SUMMARY).is_file():
        try:
            return _load_run(path, truth)
        except (KeyError, ValueError) as error:
            raise SourceError(
                f'a file in {path} is damaged ({type(error).__name__}: {error}); run r3 run again'
            ) from error
    if (path / MANIFEST).is_file():
        return _load_map(path, truth)
    raise SourceError(
        f'{path} is neither the output of r3 run ({SUMMARY}) nor a saved map ({MANIFEST}): '
        'give one of these folders'
    )


def show_finished(scene: Scene, finished: Finished) -> None:
    """Show it all at its end, and let the user choose a time."""
    scene.clear()
    scene.show_cloud((cell, np.eye(4)) for cell in cells_of(finished.cloud, {}).values())
    scene.show_keyframes(finished.keyframes, finished.intrinsics)
    if finished.truth is not None:
        scene.show_truth(finished.truth)
    if len(finished.stamps_ns):
        duration_s = seconds_since_start(finished)[-1]
        scene.add_time(float(duration_s), lambda time_s: show_time(scene, finished, time_s))
        show_time(scene, finished, float(duration_s))
    else:
        scene.show_status('no poses', finished.facts)
    scene.fit()


def seconds_since_start(finished: Finished) -> np.ndarray:
    """Return the (N,) times of the frames."""
    return (finished.stamps_ns - finished.stamps_ns[0]) / NANOSECONDS


def show_time(scene: Scene, finished: Finished, time_s: float) -> None:
    """Show the frame at a time: its pose, the path so far, the last image and depth."""
    row = int(np.argmin(np.abs(seconds_since_start(finished) - time_s)))
    stamp_ns, T = int(finished.stamps_ns[row]), finished.T_map_camera[row]
    has_pose = bool(np.isfinite(T).all())
    scene.show_path(finished.T_map_camera[: row + 1, :3, 3])
    image, depth = _newest(finished.images, stamp_ns), _newest(finished.depths, stamp_ns)
    scene.show_camera(
        T if has_pose else None,
        None if image is None else decode_compressed(image),
        None if depth is None else _read_depth(depth),
        finished.intrinsics,
    )
    state = finished.states[row] if finished.states else 'saved map'
    facts = {
        'frame': f'{row + 1} of {len(finished.stamps_ns)}',
        'time': f'{seconds_since_start(finished)[row]:.2f} s',
        'stamp': stamp_text(stamp_ns),
    }
    scene.show_status(state, {**facts, **({} if has_pose else {'pose': 'none'}), **finished.facts})


def _newest(items: Mapping[int, Item], stamp_ns: int) -> Item | None:
    """Return the last item so far."""
    stamps_ns = sorted(items)
    count = bisect_right(stamps_ns, stamp_ns)
    return items[stamps_ns[count - 1]] if count else None


def _read_depth(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as saved:
        return saved['depth']


def _load_map(path: Path, truth: PoseList | None) -> Finished:
    saved = read_map(path)
    T_map_camera = saved.trajectory.T_map_base @ saved.facts.T_base_optical
    stamps_ns = saved.trajectory.stamps_ns
    return Finished(
        **_of_map(saved),
        stamps_ns=stamps_ns,
        T_map_camera=T_map_camera,
        facts={
            'map': str(path),
            'keyframes': str(len(saved.keyframes)),
            'points': f'{len(saved.points):,}',
            'lengths': saved.unit_name,
        },
        truth=None if truth is None else true_path(PoseList(stamps_ns, T_map_camera), truth),
    )


def _load_run(path: Path, truth: PoseList | None) -> Finished:
    run = load_run(path)
    saved = read_map(path / SAVED_MAP) if (path / SAVED_MAP / MANIFEST).is_file() else None
    T_map_world = UNPLACED.T_map_world if saved is None else saved.facts.T_map_world
    T_map_camera = np.full((len(run.stamps_ns), 4, 4), np.nan)
    if run.trajectory is not None:
        rows = np.searchsorted(run.stamps_ns, run.trajectory.stamps_ns)
        T_map_camera[rows] = T_map_world @ run.trajectory.T_world_camera
    true_centres = None
    if truth is not None and run.trajectory is not None:
        true_centres = true_path(PoseList(run.stamps_ns[rows], T_map_camera[rows]), truth)
    frame_ids = run.frames['frame'].astype(int).tolist()
    stamp_of = dict(zip(frame_ids, run.stamps_ns.tolist(), strict=True))
    summary = run.summary
    return Finished(
        **(_without_map(run, T_map_camera) if saved is None else _of_map(saved)),
        stamps_ns=run.stamps_ns,
        T_map_camera=T_map_camera,
        states=tuple(run.frames['state']),
        depths={stamp_of[int(file.stem)]: file for file in (path / DEPTH).glob('*.npz')},
        truth=true_centres,
        facts={
            'run': str(path),
            'tracked': f'{100 * summary["tracked_share"]:.1f} %',
            'rate': f'{summary["fps"]:.1f} frames/s',
            'keyframes': str(summary['keyframes']),
            'points': f'{summary["map_points"]:,}',
            'path': f'{summary["path_length"]:.2f} {summary["length_unit"]}',
        },
    )


def _of_map(saved: SavedMap) -> dict[str, Any]:
    """Return the fields of :class:`Finished` that come from a saved map."""
    keyframes, edges = saved.keyframes, saved.edges
    links = np.searchsorted(keyframes.ids, np.stack([edges.source_ids, edges.target_ids], axis=1))
    is_recent = np.abs(links[:, 1] - links[:, 0]) <= _RECENT_KEYFRAMES
    stamp_of = dict(zip(keyframes.ids.tolist(), keyframes.stamps_ns.tolist(), strict=True))
    return {
        'cloud': saved.points,
        'keyframes': ShownKeyframes(
            T_map_camera=keyframes.T_map_optical,
            confidence=keyframes.confidences.mean(axis=1),
            covariances=keyframes.variances[:, :1, None] * np.eye(3),
            links=links,
            kinds=np.where(is_recent, LinkKind.RECENT, LinkKind.MEMORY),
        ),
        'intrinsics': keyframes.intrinsics(len(keyframes) - 1) if len(keyframes) else None,
        'images': {stamp_of[frame_id]: data for frame_id, data in saved.images.items()},
    }


def _without_map(run: RunData, T_map_camera: np.ndarray) -> dict[str, Any]:
    """Return the same fields of a run that has saved no map, as in offline mode."""
    is_keyframe = np.asarray(run.frames['keyframe']) > 0
    T = T_map_camera[is_keyframe & np.isfinite(T_map_camera[:, 0, 0])]
    unknown = np.full(len(T), np.nan)
    camera = (run.summary.get('camera') or {}).get('undistorted')
    return {
        'cloud': run.cloud.moved(UNPLACED.T_map_world),
        'keyframes': ShownKeyframes(T, unknown, np.full((len(T), 3, 3), np.nan)),
        'intrinsics': Intrinsics(**camera) if camera else None,
    }
