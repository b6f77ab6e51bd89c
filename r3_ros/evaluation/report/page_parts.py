"""Parts of a self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
import math
from typing import Any

from ..figures import encoded

#: Fine enough for a screen of twice the usual density.
_DPI = 170
#: At most.
_TILES_IN_ROW = 7


def page(title: str, content: Iterable[str]) -> str:
    """Return a whole page; ``title`` is plain text, ``content`` HTML."""
    style = (resources.files(__package__) / 'style.css').read_text(encoding='utf-8')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)} - r3_ros</title><style>{style}</style></head><body><main>'
        + ''.join(content)
        + '</main></body></html>\n'
    )


def section(title: str, *content: str) -> str:
    """Return HTML under a heading."""
    return f'<h2>{title}</h2>{"".join(content)}'


def panel(content: str) -> str:
    """Return HTML in a box."""
    return f'<section class="panel">{content}</section>'


def note(text: str) -> str:
    """Return HTML as a remark, nothing if it is empty."""
    return f'<p class="note">{text}</p>' if text else ''


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Return HTML of values in large type, with meaning and mood: ``good``, ``bad`` or ``''``."""
    cells = ''.join(
        f'<div class="tile {mood}"><b>{value}</b><span>{meaning}</span></div>'
        for value, meaning, mood in values
    )
    # Rows of the same length, on a wide page.
    columns = math.ceil(len(values) / math.ceil(len(values) / _TILES_IN_ROW))
    return f'<div class="tiles" style="--columns: {columns}">{cells}</div>'


def charts(*panels: str) -> str:
    """Return panels side by side, below one another on a narrow screen."""
    return f'<div class="charts">{"".join(panels)}</div>'


def chart(title: str, figure: Any, text: str = '', kind: str = 'png') -> str:
    """Return a titled figure of matplotlib; ``jpeg`` keeps point clouds small."""
    image = figure_image(figure, title, kind)
    return panel(f'<h3>{escape(title)}</h3>{image}{note(text)}')


def figure_image(figure: Any, alt: str, kind: str = 'png') -> str:
    """Return a figure of matplotlib as an HTML element."""
    return embedded(encoded(figure, _DPI, kind), alt, kind)


def embedded(data: bytes, alt: str, kind: str = 'png') -> str:
    """Return an encoded image as an HTML element."""
    text = base64.b64encode(data).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{text}">'


def table(rows: Iterable[str], head: str = '') -> str:
    """Return rows as a table that scrolls sideways where it is too wide."""
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def row(cells: Sequence[str], numbers: Sequence[int] = (), tag: str = 'td') -> str:
    """Return a row of a table; ``numbers``: indices of cells that are aligned as numbers."""
    kinds = (' class="number"' if i in numbers else '' for i in range(len(cells)))
    parts = (
        f'<{tag}{kind}>{escape(text)}</{tag}>' for text, kind in zip(cells, kinds, strict=True)
    )
    return f'<tr>{"".join(parts)}</tr>'


def number(value: float | None, places: int) -> str:
    """Return a number with so many decimals."""
    return 'unknown' if value is None else f'{value:.{places}f}'


def thousands(value: int) -> str:
    """Return a whole number with spaces between groups of three digits."""
    return f'{value:,}'.replace(',', '\u202f')
