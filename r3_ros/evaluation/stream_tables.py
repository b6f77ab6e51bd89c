"""Errors of predictors on groups of sequences, as tables in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import math
from typing import Any

import numpy as np

from .depth_errors import DepthErrors, finite_mean
from .step_errors import StepErrors
from .stream_results import StreamResult

NOTHING = '-'
QUINTILES = 5


@dataclass(frozen=True)
class GroupErrors:
    """Errors of a predictor on a group of sequences; NaN where unknown.

    The names are those of evaluation.json, where ``pictures`` is the number of images.

    :ivar posed: share of the images with a tracked pose.
    :ivar ate_percent: mean over the streams of the root mean square position error after a
        similarity alignment, over the length of the path; ``ate_streams``: number of streams.
    :ivar rotation_deg: mean error of the steps between successive images,
        ``rotation_median_deg`` its median; ``direction_deg`` of the direction of translation.
    :ivar abs_rel: mean over images, each with its scale; ``abs_rel_one_scale``: one per stream.
    :ivar coverage: share of the pixels with a true depth that have an estimate.
    :ivar depth_quintiles: relative error by confidence quintile, the least confident first;
        ``rotation_quintiles``, ``direction_quintiles``: degrees of steps.
    """

    group: str
    predictor: str
    streams: int
    pictures: int
    posed: float
    ate_percent: float
    ate_streams: int
    rotation_deg: float
    rotation_median_deg: float
    direction_deg: float
    direction_median_deg: float
    abs_rel: float
    abs_rel_one_scale: float
    delta_125: float
    coverage: float
    depth_pictures: int
    depth_quintiles: tuple[float, ...]
    rotation_quintiles: tuple[float, ...]
    direction_quintiles: tuple[float, ...]
    step_ms: float

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, and whether errors fall with confidence."""
        names = ('depth', 'rotation', 'direction')
        verdicts = {f'{name}_falls': falls(getattr(self, f'{name}_quintiles')) for name in names}
        return asdict(self) | verdicts


def group_errors(results: Sequence[StreamResult]) -> GroupErrors:
    """Return the errors of one predictor on the sequences of one group."""
    steps = StepErrors.joined([result.steps for result in results])
    ate = [r.trajectory.ate_percent for r in results if r.trajectory is not None]
    depths = [result.depth for result in results if result.depth is not None]
    depth = DepthErrors(depths)
    frames = sum(len(result.stamps_ns) for result in results)
    return GroupErrors(
        group=results[0].group,
        predictor=results[0].predictor,
        streams=len(results),
        pictures=frames,
        posed=sum(len(result.estimate) for result in results) / frames,
        ate_percent=finite_mean(ate),
        ate_streams=len(ate),
        rotation_deg=finite_mean(steps.rotation_deg),
        rotation_median_deg=_median(steps.rotation_deg),
        direction_deg=finite_mean(steps.direction_deg),
        direction_median_deg=_median(steps.direction_deg),
        abs_rel=depth.abs_rel,
        abs_rel_one_scale=finite_mean([d.abs_rel_one_scale for d in depths]),
        delta_125=depth.delta_125,
        coverage=depth.coverage,
        depth_pictures=len(depth),
        depth_quintiles=by_confidence(*depth.pixels),
        rotation_quintiles=by_confidence(steps.confidence_rotation, steps.rotation_deg),
        direction_quintiles=by_confidence(steps.confidence_translation, steps.direction_deg),
        step_ms=finite_mean([result.step_ms for result in results]),
    )


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def grouped_errors(results: Sequence[StreamResult]) -> list[GroupErrors]:
    """Return the errors of every predictor on every group, in the order of the results."""
    keys = dict.fromkeys((result.group, result.predictor) for result in results)
    groups = list(dict.fromkeys(group for group, _ in keys))
    return [
        group_errors([r for r in results if (r.group, r.predictor) == key])
        for key in sorted(keys, key=lambda key: groups.index(key[0]))
    ]


def by_confidence(confidence: np.ndarray, error: np.ndarray) -> tuple[float, ...]:
    """Return the mean error of each confidence quintile, the least confident first.

    Values without error or confidence do not count.
    """
    known = np.isfinite(confidence) & np.isfinite(error)
    if known.sum() < QUINTILES:
        return ()
    ordered = error[known][np.argsort(confidence[known], kind='stable')]
    return tuple(float(part.mean()) for part in np.array_split(ordered, QUINTILES))


def falls(quintiles: Sequence[float]) -> bool | None:
    """Return whether the error falls from each quintile to the next; None without any."""
    if not quintiles:
        return None
    return all(b < a for a, b in zip(quintiles[:-1], quintiles[1:], strict=True))


def tables_text(rows: Sequence[GroupErrors]) -> str:
    """Return all tables as Markdown."""
    with_depth = [row for row in rows if row.depth_pictures]
    parts = {
        'Poses': _table(_POSES, [_pose_cells(row) for row in rows]),
        'Depth': _table(_DEPTH, [_depth_cells(row) for row in with_depth]),
        'Confidence': _table(_CONFIDENCE, _confidence_rows(rows)),
    }
    if rows:
        title = f'{rows[0].predictor} against the others'
        parts = {title: _table(_AGAINST, _against_rows(rows))} | parts
    return '\n\n'.join(f'## {title}\n\n{table}' for title, table in parts.items()) + '\n'


#: Titles of the columns after the sequences.
_AGAINST = 'against | ATE | rotation | direction | AbsRel'
_POSES = (
    'predictor | posed (%) | ATE (% of the path) | rotation (deg per pair) | direction (deg) | '
    'step (ms)'
)
_DEPTH = 'predictor | AbsRel | AbsRel, one scale | within 1.25 (%) | pixels (%) | images'
_CONFIDENCE = 'predictor | error | least confident fifth to most | falls'


def _table(titles: str, rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return 'nothing to compare'
    lines = ['sequences | ' + titles, ' | '.join(['---'] * len(rows[0])), *map(' | '.join, rows)]
    return '\n'.join(f'| {line} |' for line in lines)


def _names(row: GroupErrors) -> list[str]:
    group = row.group if row.streams == 1 else f'{row.group}, {row.streams} streams'
    return [group, row.predictor]


def _number(value: float, places: str, note: str = '') -> str:
    return NOTHING if math.isnan(value) else format(value, places) + note


def _pose_cells(row: GroupErrors) -> list[str]:
    missing = '' if row.ate_streams == row.streams else f' ({row.ate_streams} of {row.streams})'
    return [
        *_names(row),
        f'{100 * row.posed:.0f}' if row.posed else NOTHING,
        _number(row.ate_percent, '.2f', missing),
        _number(row.rotation_deg, '.2f', f' ({row.rotation_median_deg:.2f})'),
        _number(row.direction_deg, '.2f', f' ({row.direction_median_deg:.2f})'),
        _number(row.step_ms, '.0f'),
    ]


def _depth_cells(row: GroupErrors) -> list[str]:
    return [
        *_names(row),
        _number(row.abs_rel, '.3f'),
        _number(row.abs_rel_one_scale, '.3f'),
        _number(100 * row.delta_125, '.1f'),
        _number(100 * row.coverage, '.0f'),
        str(row.depth_pictures),
    ]


def _against_rows(rows: Sequence[GroupErrors]) -> list[list[str]]:
    """Compare the first predictor with each of the others."""
    own = {row.group: row for row in rows if row.predictor == rows[0].predictor}
    table = []
    for other in rows:
        if other.predictor != rows[0].predictor:
            cells = _names(other)
            for name in ('ate_percent', 'rotation_deg', 'direction_deg', 'abs_rel'):
                ours, theirs = getattr(own[other.group], name), getattr(other, name)
                known = math.isfinite(ours) and math.isfinite(theirs)
                cells.append(('better' if ours < theirs else 'worse') if known else NOTHING)
            table.append(cells)
    return table


def _confidence_rows(rows: Sequence[GroupErrors]) -> list[list[str]]:
    """Return errors by confidence quintile, a row for each kind of error."""
    table = []
    for row in rows:
        for what, quintiles, places in (
            ('depth (AbsRel)', row.depth_quintiles, '.3f'),
            ('rotation (deg)', row.rotation_quintiles, '.2f'),
            ('direction (deg)', row.direction_quintiles, '.1f'),
        ):
            if quintiles:
                values = ', '.join(format(value, places) for value in quintiles)
                table.append([*_names(row), what, values, 'yes' if falls(quintiles) else 'no'])
    return table
