"""Errors of predictors on groups of sequences, as JSON and as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import numpy as np

from .depth_errors import DepthErrors, finite_mean
from .step_errors import StepErrors
from .stream_results import StreamResult

NOTHING = '-'
QUINTILES = 5

#: Title, name in :func:`group_errors` and format of the columns of each table.
_NAMES = (('sequences', 'group', ''), ('streams', 'streams', ''), ('predictor', 'predictor', ''))
_POSES = (
    *_NAMES,
    ('posed', 'posed', '.0%'),
    ('ATE (% of the path)', 'ate_percent', '.2f'),
    ('with ATE', 'ate_streams', ''),
    ('rotation (deg)', 'rotation_deg', '.2f'),
    ('median', 'rotation_median_deg', '.2f'),
    ('direction (deg)', 'direction_deg', '.2f'),
    ('median', 'direction_median_deg', '.2f'),
    ('step (ms)', 'step_ms', '.0f'),
)
_DEPTH = (
    *_NAMES,
    ('AbsRel', 'abs_rel', '.3f'),
    ('AbsRel, one scale', 'abs_rel_one_scale', '.3f'),
    ('within 1.25', 'delta_125', '.1%'),
    ('pixels', 'coverage', '.0%'),
    ('images', 'depth_pictures', ''),
)
_CONFIDENCE = (
    *_NAMES,
    ('AbsRel of pixels', 'depth_quintiles', '.3f'),
    ('rotation (deg)', 'rotation_quintiles', '.2f'),
    ('direction (deg)', 'direction_quintiles', '.1f'),
)


def group_errors(results: Sequence[StreamResult]) -> dict[str, Any]:
    """Return the errors of one predictor on the sequences of one group; NaN where unknown.

    The names are those of evaluation.json, where ``pictures`` is the number of images:

    - ``posed``: share of the images with a tracked pose;
    - ``ate_percent``: mean over the streams of the root mean square position error after a
      similarity alignment, over the length of the path; ``ate_streams``: number of streams;
    - ``rotation_deg``: mean error of the steps between successive images,
      ``rotation_median_deg`` its median; ``direction_deg`` of the direction of translation;
    - ``abs_rel``: mean over images, each with its scale; ``abs_rel_one_scale``: one per stream;
    - ``coverage``: share of the pixels with a true depth that have an estimate;
    - ``depth_quintiles``: relative error by confidence quintile, the least confident first;
      ``rotation_quintiles``, ``direction_quintiles``: degrees of steps.
    """
    steps = StepErrors.joined([result.steps for result in results])
    ate = [r.trajectory.ate_percent for r in results if r.trajectory is not None]
    depth = DepthErrors(result.depth for result in results)
    frames = sum(len(result.stamps_ns) for result in results)
    return {
        'group': results[0].group,
        'predictor': results[0].predictor,
        'streams': len(results),
        'pictures': frames,
        'posed': sum(len(result.estimate) for result in results) / frames,
        'ate_percent': finite_mean(ate),
        'ate_streams': len(ate),
        'rotation_deg': finite_mean(steps.rotation_deg),
        'rotation_median_deg': _median(steps.rotation_deg),
        'direction_deg': finite_mean(steps.direction_deg),
        'direction_median_deg': _median(steps.direction_deg),
        'abs_rel': depth.abs_rel,
        'abs_rel_one_scale': finite_mean([r.depth.abs_rel_one_scale for r in results]),
        'delta_125': depth.delta_125,
        'coverage': depth.coverage,
        'depth_pictures': len(depth),
        'depth_quintiles': by_confidence(*depth.pixels),
        'rotation_quintiles': by_confidence(steps.confidence_rotation, steps.rotation_deg),
        'direction_quintiles': by_confidence(steps.confidence_translation, steps.direction_deg),
        'step_ms': finite_mean([result.step_ms for result in results]),
    }


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def grouped_errors(results: Sequence[StreamResult]) -> list[dict[str, Any]]:
    """Return the errors of every predictor on every group, in the order of the results."""
    keys = dict.fromkeys((result.group, result.predictor) for result in results)
    return [group_errors([r for r in results if (r.group, r.predictor) == key]) for key in keys]


def by_confidence(confidence: np.ndarray, error: np.ndarray) -> tuple[float, ...]:
    """Return the mean error of each confidence quintile, the least confident first.

    Values without error or confidence do not count.
    """
    known = np.isfinite(confidence) & np.isfinite(error)
    if known.sum() < QUINTILES:
        return ()
    ordered = error[known][np.argsort(confidence[known], kind='stable')]
    return tuple(float(part.mean()) for part in np.array_split(ordered, QUINTILES))


def tables_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return all tables of :func:`grouped_errors` as Markdown."""
    with_depth = [row for row in rows if row['depth_pictures']]
    quintiles = [name for _, name, _ in _CONFIDENCE[len(_NAMES) :]]
    with_confidence = [row for row in rows if any(row[name] for name in quintiles)]
    return (
        f'## Poses\n\n{_table(_POSES, rows)}\n'
        f'## Depth\n\n{_table(_DEPTH, with_depth)}\n'
        f'## Confidence\n\n{_table(_CONFIDENCE, with_confidence)}'
    )


def _table(columns: Sequence[tuple[str, str, str]], rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return 'nothing to compare\n'
    lines = [[_cell(row[name], places) for _, name, places in columns] for row in rows]
    lines = [[title for title, _, _ in columns], ['---'] * len(columns), *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return ''.join(f'| {" | ".join(line)} |\n' for line in padded)


def _cell(value: Any, places: str) -> str:
    if isinstance(value, tuple):
        return ', '.join(format(part, places) for part in value) or NOTHING
    is_unknown = isinstance(value, float) and math.isnan(value)
    return NOTHING if is_unknown else format(value, places)
