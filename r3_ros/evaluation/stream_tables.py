"""Errors of predictors on groups of sequences, as tables in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    depth = DepthErrors.joined(depths)
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
    parts = [
        '## Poses\n\n' + _table(rows, _POSES),
        '## Depth\n\n' + _table([r for r in rows if r.depth_pictures], _DEPTH),
        '## Confidence\n\n' + _confidence(rows),
    ]
    if rows:
        parts.insert(0, f'## {rows[0].predictor} against the others\n\n' + _against(rows))
    return '\n\n'.join(parts) + '\n'


#: Title of a column, and its cell.
_Column = tuple[str, Callable[[GroupErrors], str]]


def _with_median(mean: float, median: float) -> str:
    return NOTHING if math.isnan(mean) else f'{mean:.2f} ({median:.2f})'


def _number(value: float, places: str) -> str:
    return NOTHING if math.isnan(value) else format(value, places)


def _ate(row: GroupErrors) -> str:
    if not row.ate_streams:
        return NOTHING
    missing = '' if row.ate_streams == row.streams else f' ({row.ate_streams} of {row.streams})'
    return _number(row.ate_percent, '.2f') + missing


_FIRST: tuple[_Column, ...] = (
    ('sequences', lambda r: r.group if r.streams == 1 else f'{r.group}, {r.streams} streams'),
    ('predictor', lambda r: r.predictor),
)
_POSES: tuple[_Column, ...] = (
    *_FIRST,
    ('posed (%)', lambda r: f'{100 * r.posed:.0f}' if r.posed else NOTHING),
    ('ATE (% of the path)', _ate),
    (
        'rotation (deg per pair)',
        lambda r: _with_median(r.rotation_deg, r.rotation_median_deg),
    ),
    ('direction (deg)', lambda r: _with_median(r.direction_deg, r.direction_median_deg)),
    ('step (ms)', lambda r: _number(r.step_ms, '.0f')),
)
_DEPTH: tuple[_Column, ...] = (
    *_FIRST,
    ('AbsRel', lambda r: _number(r.abs_rel, '.3f')),
    ('AbsRel, one scale', lambda r: _number(r.abs_rel_one_scale, '.3f')),
    ('within 1.25 (%)', lambda r: _number(100 * r.delta_125, '.1f')),
    ('pixels (%)', lambda r: _number(100 * r.coverage, '.0f')),
    ('images', lambda r: str(r.depth_pictures)),
)


def _table(rows: Sequence[GroupErrors], columns: Sequence[_Column]) -> str:
    if not rows:
        return 'nothing to compare'
    lines = ['| ' + ' | '.join(title for title, _ in columns) + ' |']
    lines.append('| --- |' + ' --- |' * (len(columns) - 1))
    lines += ['| ' + ' | '.join(cell(row) for _, cell in columns) + ' |' for row in rows]
    return '\n'.join(lines)


def _against(rows: Sequence[GroupErrors]) -> str:
    """Return a table that compares the first predictor with each of the others."""
    first = rows[0].predictor
    lines = [
        '| sequences | against | ATE | rotation | direction | AbsRel |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    own = {row.group: row for row in rows if row.predictor == first}
    for other in rows:
        if other.predictor != first:
            cells = [cell(other) for _, cell in _FIRST]
            for name in ('ate_percent', 'rotation_deg', 'direction_deg', 'abs_rel'):
                ours, theirs = getattr(own[other.group], name), getattr(other, name)
                known = math.isfinite(ours) and math.isfinite(theirs)
                cells.append(('better' if ours < theirs else 'worse') if known else NOTHING)
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _confidence(rows: Sequence[GroupErrors]) -> str:
    """Return a table of errors by confidence quintile, a row for each kind of error."""
    lines = [
        '| sequences | predictor | error | least confident fifth to most | falls |',
        '| --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        for what, quintiles, places in (
            ('depth (AbsRel)', row.depth_quintiles, '.3f'),
            ('rotation (deg)', row.rotation_quintiles, '.2f'),
            ('direction (deg)', row.direction_quintiles, '.1f'),
        ):
            if quintiles:
                values = ', '.join(format(value, places) for value in quintiles)
                verdict = 'yes' if falls(quintiles) else 'no'
                first = ' | '.join(cell(row) for _, cell in _FIRST)
                lines.append(f'| {first} | {what} | {values} | {verdict} |')
    return '\n'.join(lines) if len(lines) > 2 else 'nothing to compare'
