"""The figure of ``r3 bench``: where the time of a frame goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .figures import new_figure

#: Stages with a smaller share of the time of all frames are added up.
_LEAST_SHARE = 0.01
_PREDICT = 'predict'
_MARKERS = {'median': '|', 'p95': '>', 'p99': 'x'}


def draw_stages(report: Mapping[str, Any]) -> Any:
    """Draw the mean, median, p95 and p99 of each stage, with the parts of a prediction.

    Means, since they add up to the whole.

    :param report: as ``r3 bench --json`` writes it.
    """
    stages = report['stages_ms']
    shown = {name: row for name, row in stages.items() if row['share'] >= _LEAST_SHARE}
    small = [row['mean'] for name, row in stages.items() if name not in shown]
    parts = report['predict_parts_ms'] or {}
    figure = new_figure(8.0, 1.6 + 0.34 * (len(shown) + len(parts) + bool(small)))
    axes = figure.add_subplot()
    labels: list[str] = []

    def bar(name: str, value: float, **style: Any) -> None:
        axes.barh(len(labels), value, color='C0', **style)
        labels.append(f'{name}  {value:.1f}')

    for name, row in shown.items():
        axes.plot([row['median'], row['p99']], [len(labels)] * 2, color='0.35', lw=1)
        for key, marker in _MARKERS.items():
            axes.plot(row[key], len(labels), marker, color='0.15', ms=7)
        bar(name, row['mean'])
        if name == _PREDICT:
            for part, value in parts.items():
                bar(f'of it {part}', value, alpha=0.45)
    if small:
        bar(f'{len(small)} others', sum(small))
    axes.barh(0, 0.0, color='C0', label='mean')
    if report['floor'] is not None:
        floor_ms = report['floor']['floor_ms']
        axes.axvline(floor_ms, color='tab:red', ls='--', label='floor of the network')
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlabel='ms per frame', title=_title(report))
    axes.grid(axis='x', alpha=0.3)
    for key, marker in _MARKERS.items():
        axes.plot([], [], marker, color='0.15', ms=7, label=key)
    axes.legend(fontsize=8, loc='lower right')
    return figure


def _title(report: Mapping[str, Any]) -> str:
    whole = report['whole_ms']
    return (
        f'{report["model"]} on {report["machine"]["cpu"]}: {report["fps"]:.1f} frames/s, '
        f'{whole["mean"]:.1f} ms per frame'
    )
