"""Reads the files of a run for the report."""

from __future__ import annotations

import csv
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import SourceError
from ...core.trajectory_file import parse_stamp, PoseList, read_tum
from ...maps.cloud import Cloud
from ...maps.cloud_file import read_ply
from ...offline.run_files import FRAMES, load_summary, MAP, TRAJECTORY_FINAL
from ..run_evaluation import EVALUATION, EVALUATION_PLOT


@dataclass(frozen=True, eq=False)
class RunData:
    """One run.

    :ivar frames: columns of frames.csv; text as lists of str, numbers as (N,) float64.
    :ivar trajectory: poses after corrections; None if no frame had one.
    :ivar truth_figure: evaluation.png, if the run was evaluated.
    """

    summary: dict[str, Any]
    frames: dict[str, Any]
    stamps_ns: np.ndarray
    trajectory: PoseList | None
    cloud: Cloud
    evaluation: dict[str, Any] | None
    truth_figure: bytes

    @property
    def seconds(self) -> np.ndarray:
        return (self.stamps_ns - self.stamps_ns[0]) / 1e9


def load_run(folder: Path) -> RunData:
    """Read the folder of a run.

    :raises SourceError: it is no run, or a file is damaged.
    """
    try:
        return _loaded(folder)
    except (KeyError, IndexError, OSError, ValueError) as error:
        raise SourceError(
            f'a file in {folder} is damaged ({type(error).__name__}: {error}); run r3 run again'
        ) from error


def _loaded(folder: Path) -> RunData:
    frames = read_table(folder / FRAMES)
    if not len(frames['stamp']):
        raise SourceError(f'{folder / FRAMES} holds no frames')
    try:
        trajectory: PoseList | None = read_tum(folder / TRAJECTORY_FINAL)
    except SourceError:
        trajectory = None
    has_evaluation = (folder / EVALUATION).is_file()
    return RunData(
        summary=load_summary(folder),
        frames=frames,
        stamps_ns=np.array([parse_stamp(text) for text in frames['stamp']], dtype=np.int64),
        trajectory=trajectory,
        cloud=read_ply(folder / MAP) if (folder / MAP).is_file() else Cloud.empty(),
        evaluation=json.loads((folder / EVALUATION).read_text()) if has_evaluation else None,
        truth_figure=(folder / EVALUATION_PLOT).read_bytes() if has_evaluation else b'',
    )


def read_table(path: Path) -> dict[str, Any]:
    """Read a CSV file with a header; columns of numbers become arrays.

    Stamps stay text, as a double cannot represent them.

    :raises SourceError: missing or without a header.
    """
    try:
        with open(path, newline='', encoding='utf-8') as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise SourceError(f'cannot read {path}: {error}') from error
    if not rows:
        raise SourceError(f'{path} is empty')
    columns: dict[str, Any] = {}
    for i, name in enumerate(rows[0]):
        values = [row[i] for row in rows[1:]]
        try:
            columns[name] = values if name == 'stamp' else np.array([float(v) for v in values])
        except ValueError:
            columns[name] = values
    return columns
