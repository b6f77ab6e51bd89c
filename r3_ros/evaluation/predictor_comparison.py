"""Runs predictors on many sequences and writes a folder.

- ``evaluation.md``: tables; ``evaluation.json``: the numbers, also of each sequence;
- ``figures/``: depth and trajectories of the first sequences of each group;
- ``streams/SEQUENCE/PREDICTOR.tum`` and ``.ply``: poses as first estimated, and maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
import math
from pathlib import Path
import re
import socket
from typing import Any

import cv2

from ..core.atomic_files import atomic_write
from ..core.config import R3Config
from ..core.datatypes import ModelInfo
from ..core.errors import OutputError
from ..core.parameter_fields import flattened
from ..core.trajectory_file import write_tum
from ..factory import load_engine
from ..maps.cloud import Cloud
from ..maps.cloud_file import write_points
from ..offline.run_files import machine, versions, write_json
from .comparison_figures import draw_depths, draw_trajectories
from .posed_sequences import PosedSequence
from .ray_tasks import RaySettings, run_tasks
from .stream_results import constant_velocity, run_predictor, StreamResult
from .stream_tables import group_errors, grouped_errors, tables_text

#: Marks a folder as an evaluation.
TABLES = 'evaluation.md'
_FIGURES, _STREAMS = 'figures', 'streams'
_DRAWN_PER_GROUP = 3


@dataclass(frozen=True)
class _Task:
    """A sequence by its number; whether its figures are drawn."""

    number: int
    make: Callable[[], PosedSequence]
    is_drawn: bool


@dataclass(frozen=True)
class _Evaluated:
    """Results of all predictors on a sequence, without maps; the predictors by their names."""

    number: int
    results: list[StreamResult]
    models: dict[str, ModelInfo]


def compare_predictors(
    sequences: Sequence[tuple[str, Callable[[], PosedSequence]]],
    predictors: Mapping[str, R3Config],
    folder: Path,
    max_frames: int | None = None,
    settings: RaySettings | None = None,
) -> str:
    """Run every predictor on every sequence and write the folder.

    :param sequences: group of each, and what makes it.
    :param predictors: by their names in the tables.
    :param settings: of the Ray cluster that is open; None: all run in this process.
    :returns: the tables as text.
    :raises R3Error: a predictor or a sequence cannot be used.
    """
    for name in (_FIGURES, _STREAMS):
        (folder / name).mkdir()
    drawn: Counter[str] = Counter()
    tasks = []
    for number, (group, make) in enumerate(sequences):
        tasks.append(_Task(number, make, drawn[group] < _DRAWN_PER_GROUP))
        drawn[group] += 1
    evaluate = partial(
        _evaluated, predictors=dict(predictors), folder=folder, max_frames=max_frames
    )
    ended: dict[int, _Evaluated] = {}
    with closing(run_tasks(evaluate, tasks, settings, 'sequences', _lines)) as results:
        for each in results:
            ended[each.number] = each
    in_order = [ended[number] for number in range(len(tasks))]
    models = in_order[-1].models
    return _write(folder, [r for each in in_order for r in each.results], predictors, models)


def _evaluated(
    task: _Task, predictors: Mapping[str, R3Config], folder: Path, max_frames: int | None
) -> _Evaluated:
    """Run every predictor on a sequence; write its streams and figures."""
    if not (folder / _STREAMS).is_dir():
        raise OutputError(
            f'{folder} is not on {socket.gethostname()}: all nodes need the same paths'
        )
    # Reader, engine and predictor have threads of their own.
    cv2.setNumThreads(1)
    sequence = task.make()
    results: list[StreamResult] = []
    models: dict[str, ModelInfo] = {}
    for name, config in predictors.items():
        engine = load_engine(config)
        try:
            models[name] = engine.predictor.info
            results.append(run_predictor(sequence, name, engine, max_frames))
        finally:
            engine.close()
    baseline = constant_velocity(sequence, results[0].stamps_ns)
    results += [baseline] if baseline is not None else []
    stem = file_name(sequence.name)
    _write_stream(folder / _STREAMS / stem, results)
    if task.is_drawn:
        draw_depths(folder / _FIGURES / f'{stem}_depth.png', sequence, results)
        draw_trajectories(folder / _FIGURES / f'{stem}_trajectories.png', sequence, results)
    # Maps of hundreds of streams would not fit into memory.
    small = [replace(result, cloud=Cloud.empty(), depth_maps={}) for result in results]
    return _Evaluated(task.number, small, models)


def _lines(evaluated: _Evaluated) -> str:
    return '\n'.join(_line(r) for r in evaluated.results if r.predictor in evaluated.models)


def _line(result: StreamResult) -> str:
    errors = group_errors([result])
    parts = {
        'ate_percent': 'ATE {:.2f} %',
        'rotation_deg': 'rotation {:.2f} deg',
        'direction_deg': 'direction {:.1f} deg',
        'abs_rel': 'AbsRel {:.3f}',
    }
    known = [text.format(errors[k]) for k, text in parts.items() if math.isfinite(errors[k])]
    return f'{result.sequence}: {result.predictor}: {", ".join(known) or "nothing to compare"}'


def file_name(name: str) -> str:
    """Return a name as a valid file name."""
    return re.sub(r'[^A-Za-z0-9.-]+', '_', name).strip('_.') or 'sequence'


def _write_stream(folder: Path, results: Sequence[StreamResult]) -> None:
    folder.mkdir(exist_ok=True)  # of a worker that was lost
    for result in results:
        stem, poses = file_name(result.predictor), result.estimate
        if len(poses):
            write_tum(folder / f'{stem}.tum', poses.stamps_ns, poses.T_world_camera)
        if len(result.cloud):
            write_points(folder / f'{stem}.ply', result.cloud)


def _write(
    folder: Path,
    results: Sequence[StreamResult],
    predictors: Mapping[str, R3Config],
    models: Mapping[str, ModelInfo],
) -> str:
    rows = grouped_errors(results)
    text = tables_text(rows)
    with atomic_write(folder / TABLES) as file:
        file.write(_page(text, models, folder).encode())
    content: dict[str, Any] = {
        'groups': rows,
        'streams': [{'sequence': r.sequence} | group_errors([r]) for r in results],
        'predictors': {
            name: asdict(models[name]) | {'config': flattened(config)}
            for name, config in predictors.items()
        },
        'machine': machine(),
        'versions': versions(),
    }
    write_json(folder / 'evaluation.json', content)
    return text


def _page(tables: str, models: Mapping[str, ModelInfo], folder: Path) -> str:
    """Return the page: predictors, legend, tables and figures."""
    about = machine()
    lines = [f'# Evaluation\n\n{about["cpu"]}, {about["cores"]} cores.\n']
    for name, info in models.items():
        sha = info.checkpoint_sha256
        weights = f', weights {sha[:12]}' if sha else ''
        lines.append(f'- {name}: {info.name} on {info.device}, {info.precision}{weights}')
    names = sorted(path.name for path in (folder / _FIGURES).glob('*.png'))
    figures = '\n'.join(f'![{name}]({_FIGURES}/{name})\n' for name in names)
    return '\n'.join(lines) + f'\n\n{_LEGEND}\n\n{tables}\n## Figures\n\n{figures}'


_LEGEND = """\
posed: images with a tracked pose. ATE: root mean square position error after a similarity
alignment, over the length of the path; mean over streams. rotation, direction: error of the step
from an image to the next, and of the direction of its translation; mean and median. *constant
velocity* repeats the first true step and gives every pixel the same depth. AbsRel, within 1.25:
depth against the truth, a scale for each image (or one for each stream); pixels: share of those
with a truth. Confidence: mean error of each fifth, from the least confident to the most."""
