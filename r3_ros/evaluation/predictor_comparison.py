"""Runs predictors on many sequences and writes a folder.

- ``evaluation.md``: tables; ``evaluation.json``: the numbers, also of each sequence;
- ``figures/``: depth and trajectories of the first sequences of each group;
- ``streams/SEQUENCE/PREDICTOR.tum`` and ``.ply``: poses as first estimated, and maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
import math
from pathlib import Path
import re
from typing import Any

from ..core.atomic_files import atomic_write
from ..core.config import R3Config
from ..core.datatypes import ModelInfo
from ..core.parameter_fields import flattened
from ..core.trajectory_file import write_tum
from ..factory import load_engine
from ..maps.cloud import Cloud
from ..maps.cloud_file import write_points
from ..offline.run_files import machine, versions, write_json
from .comparison_figures import draw_depths, draw_trajectories
from .posed_sequences import PosedSequence
from .stream_results import constant_velocity, run_predictor, StreamResult
from .stream_tables import group_errors, grouped_errors, tables_text

#: Marks a folder as an evaluation.
TABLES = 'evaluation.md'
_FIGURES = 'figures'
_DRAWN_PER_GROUP = 3


def compare_predictors(
    sequences: Iterable[PosedSequence],
    predictors: Mapping[str, R3Config],
    folder: Path,
    max_frames: int | None = None,
    report: Callable[[str], object] = print,
) -> str:
    """Run every predictor on every sequence and write the folder.

    :param predictors: by their names in the tables.
    :param report: called with the main errors of each stream.
    :returns: the tables as text.
    :raises R3Error: a predictor or a sequence cannot be used.
    """
    results: list[StreamResult] = []
    models: dict[str, ModelInfo] = {}
    drawn: Counter[str] = Counter()
    for sequence in sequences:
        of_sequence = []
        for name, config in predictors.items():
            engine = load_engine(config)
            try:
                models[name] = engine.predictor.info
                of_sequence.append(run_predictor(sequence, name, engine, max_frames))
            finally:
                engine.close()
            report(_line(of_sequence[-1]))
        baseline = constant_velocity(sequence, of_sequence[0].stamps_ns)
        of_sequence += [baseline] if baseline is not None else []
        stem = file_name(sequence.name)
        _write_stream(folder / 'streams' / stem, of_sequence)
        if drawn[sequence.group] < _DRAWN_PER_GROUP:
            figures = folder / _FIGURES
            figures.mkdir(exist_ok=True)
            draw_depths(figures / f'{stem}_depth.png', sequence, of_sequence)
            draw_trajectories(figures / f'{stem}_trajectories.png', sequence, of_sequence)
            drawn[sequence.group] += 1
        # Maps of hundreds of streams would not fit into memory.
        results += [replace(r, cloud=Cloud.empty(), depth_maps={}) for r in of_sequence]
    return _write(folder, results, predictors, models)


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
    folder.mkdir(parents=True)
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
