"""The progress of a training: rows on the terminal, CSV files, images of curves and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import io
import math
from pathlib import Path

import numpy as np

from ...core.atomic_files import atomic_write
from ...core.errors import SourceError
from ...evaluation.figures import new_figure, save_figure
from ...model.network import Prediction
from .clips import Clips

PROGRESS = 'progress.csv'
VALIDATION = 'validation.csv'
CURVES, EXAMPLES = 'curves.png', 'examples.png'
#: What is drawn, by column.
_CURVES = {
    'loss': 'loss',
    'rotation_deg': 'rotation of pairs (degrees)',
    'translation': 'translation of pairs (training: share of the scale; held out: of the step)',
    'abs_rel': 'depth (AbsRel)',
}
#: Example clips of each set.
_EACH = 3


class ProgressTable:
    """A CSV file that grows by rows, each with its step; the whole file is replaced every time.

    :param last_step: later rows, of a continuation that was given up, are dropped.
    :raises SourceError: the file is not such a table.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with open(path, encoding='utf-8', newline='') as file:
                self.rows = list(csv.DictReader(file))
            try:
                self.rows = [row for row in self.rows if int(row['step']) <= last_step]
            except (KeyError, TypeError, ValueError) as error:
                raise SourceError(
                    f'{path} is not a table of a training: move it away, it would be overwritten'
                ) from error

    def add(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows and write the file."""
        for row in rows:
            self.rows.append({key: _text(value) for key, value in row.items()})
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.path) as file:
            file.write(text.getvalue().encode())


def table_text(rows: Sequence[Mapping[str, object]], header: bool = True) -> str:
    """Return rows as aligned text, one line each under the names of their columns."""
    names = list(rows[0])
    lines = [[_text(row[name], 4) for name in names] for row in rows]
    widths = [max(len(name), 9, *(len(line[k]) for line in lines)) for k, name in enumerate(names)]
    body = ['  '.join(v.rjust(w) for v, w in zip(line, widths, strict=True)) for line in lines]
    if header:
        body.insert(0, '  '.join(n.rjust(w) for n, w in zip(names, widths, strict=True)))
    return '\n'.join(body)


def _text(value: object, digits: int = 6) -> str:
    return f'{value:.{digits}g}' if isinstance(value, float) else str(value)


def duration_text(seconds: float) -> str:
    """Return a duration as text: ``45 s``, ``12 min``, ``3.5 h``."""
    if not math.isfinite(seconds):
        return 'unknown'
    if seconds < 120:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 7200 else f'{seconds / 3600:.1f} h'


def draw_curves(folder: Path, tables: Sequence[ProgressTable]) -> None:
    """Draw the losses and errors of tables over the steps."""
    rows = [{'set': 'training'} | row for table in tables for row in table.rows]
    figure = new_figure(13, 7)
    for axes, (column, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
        for group in dict.fromkeys(row['set'] for row in rows):
            known = [row for row in rows if row['set'] == group and row.get(column)]
            steps, values = ([float(row[c]) for row in known] for c in ('step', column))
            axes.plot(steps, values, '.-', label=group)
        axes.set_title(title, fontsize='medium')
        axes.set(xlabel='step', ylim=(0, None))
        axes.grid(alpha=0.3)
    if rows:
        axes.legend(fontsize='small')
    save_figure(figure, folder / CURVES)


def draw_examples(folder: Path, examples: Sequence[tuple[Clips, Prediction]]) -> None:
    """Draw the last frames of some clips: image, true depth, depth, confidence."""
    rows = [
        (clips, prediction, b)
        for clips, prediction in examples
        for b in range(min(clips.shape[0], _EACH))
    ]
    figure = new_figure(9, 1.8 * len(rows))
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for row, (clips, prediction, b) in zip(axes, rows, strict=True):
        assert prediction.depth is not None and prediction.confidence is not None
        image = clips.images[b, -1].permute(1, 2, 0).cpu().numpy()
        true = clips.depth[b, -1].cpu().numpy()
        depth = prediction.depth[b, -1].float().cpu().numpy()
        known = true > 0
        scale = np.median(true[known] / depth[known]) if known.any() else 1.0
        nearness = [np.where(known, 1 / np.maximum(true, 1e-6), np.nan), 1 / (scale * depth)]
        limits = (0, np.nanquantile(nearness[0], 0.98) if known.any() else None)
        row[0].imshow(image)
        for place, values in zip(row[1:3], nearness, strict=True):
            place.imshow(values, vmin=limits[0], vmax=limits[1], cmap='turbo')
        row[3].imshow(np.log(prediction.confidence[b, -1].float().cpu().numpy()), cmap='gray')
    for place, title in zip(axes[0], ('image', 'true depth', 'depth', 'confidence'), strict=True):
        place.set_title(title)
    for place in axes.flat:
        place.axis('off')
    save_figure(figure, folder / EXAMPLES)
