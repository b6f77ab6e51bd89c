"""Reads the files of a run for the report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...core.config import R3Config
from ...core.errors import SourceError
from ...core.parameter_fields import parameters
from ...core.trajectory_file import parse_stamp, PoseList, read_tum
from ...maps.cloud import Cloud
from ...maps.cloud_file import read_ply
from ...offline.depth_samples import DepthSample
from ...offline.run_files import (
    Covariances,
    FRAMES,
    load_summary,
    MAP,
    MAP_UNITS,
    MOMENTS,
    read_covariances,
    read_samples,
    read_table,
    TRAJECTORY,
    TRAJECTORY_FINAL,
)
from ..map_views import level_scene, LevelScene
from ..run_evaluation import EVALUATION, EVALUATION_TABLE


@dataclass(frozen=True, eq=False)
class RunData:
    """One run.

    :ivar frames: columns of frames.csv; text as lists of str, numbers as (N,) float64.
    :ivar published: poses as first estimated; ``trajectory``: after corrections; None if no frame
        had one.
    :ivar evaluation: content of evaluation.json, and ``errors``: columns of evaluation.csv; None
        if the run was not evaluated.
    :ivar moments: JPEG files of events by frame.
    """

    folder: Path
    summary: dict[str, Any]
    frames: dict[str, Any]
    stamps_ns: np.ndarray
    published: PoseList | None
    trajectory: PoseList | None
    cloud: Cloud
    covariances: Covariances | None
    samples: list[DepthSample]
    moments: dict[int, bytes]
    evaluation: dict[str, Any] | None
    errors: dict[str, Any] | None

    @property
    def name(self) -> str:
        return Path(str(self.summary.get('source', 'run'))).name

    @property
    def seconds(self) -> np.ndarray:
        return (self.stamps_ns - self.stamps_ns[0]) / 1e9

    @property
    def unit(self) -> str:
        # Absent in live runs.
        return str(self.summary.get('length_unit') or MAP_UNITS)

    @property
    def tracked(self) -> np.ndarray:
        """(N,) bool."""
        return np.asarray(self.frames['tracked']) > 0

    @cached_property
    def scene(self) -> LevelScene | None:
        """Trajectory and map, level; None without poses."""
        if self.trajectory is None:
            return None
        return level_scene(self.cloud, self.trajectory.T_world_camera)

    def changed_parameters(self) -> dict[str, Any]:
        """Return the parameters that are not at their default."""
        defaults = {p.name: p.default for p in parameters(R3Config())}
        config = self.summary.get('config', {})
        return {name: value for name, value in config.items() if defaults.get(name) != value}


def load_run(folder: Path) -> RunData:
    """Read the folder of a run.

    :raises SourceError: it is no run, or a file is damaged.
    """
    summary = load_summary(folder)
    try:
        return _loaded(folder, summary)
    except (KeyError, IndexError, OSError, ValueError) as error:
        raise SourceError(
            f'a file in {folder} is damaged ({type(error).__name__}: {error}); run r3 run again, '
            'or r3 eval if it is an evaluation'
        ) from error


def _loaded(folder: Path, summary: dict[str, Any]) -> RunData:
    frames = read_table(folder / FRAMES)
    if not len(frames['stamp']):
        raise SourceError(f'{folder / FRAMES} holds no frames')
    moments = {int(path.stem): path.read_bytes() for path in (folder / MOMENTS).glob('*.jpg')}
    has_evaluation = (folder / EVALUATION).is_file()
    return RunData(
        folder=folder,
        summary=summary,
        frames=frames,
        stamps_ns=_stamps_ns(frames),
        published=_poses(folder / TRAJECTORY),
        trajectory=_poses(folder / TRAJECTORY_FINAL),
        cloud=read_ply(folder / MAP) if (folder / MAP).is_file() else Cloud.empty(),
        covariances=read_covariances(folder),
        samples=read_samples(folder),
        moments=moments,
        evaluation=_evaluation(folder / EVALUATION) if has_evaluation else None,
        errors=_errors(folder / EVALUATION_TABLE) if has_evaluation else None,
    )


def _poses(path: Path) -> PoseList | None:
    try:
        return read_tum(path)
    except SourceError:
        return None


def _evaluation(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    return content | {'S_truth_world': np.array(content['S_truth_world'])}


def _errors(path: Path) -> dict[str, Any]:
    """Return the columns of evaluation.csv, with ``stamps_ns``, and vectors as one column."""
    columns = read_table(path)
    for name in ('estimate', 'truth'):
        columns[name] = np.stack([columns[f'{name}_{axis}'] for axis in 'xyz'], axis=1)
    return columns | {'stamps_ns': _stamps_ns(columns)}


def _stamps_ns(columns: dict[str, Any]) -> np.ndarray:
    return np.array([parse_stamp(text) for text in columns['stamp']], dtype=np.int64)
