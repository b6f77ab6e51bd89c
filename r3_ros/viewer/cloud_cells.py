"""Divides a cloud into compact parts, of which those that stay the same stay the same objects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..maps.cloud import Cloud

#: Number of cells along the longest side of a cloud, at most; half as many at least.
_MOST_ALONG = 12

#: Edge of a cell and its three coordinates.
Cell = tuple[float, ...]


def cells_of(cloud: Cloud, before: Mapping[Cell, Cloud]) -> dict[Cell, Cloud]:
    """Return the points of a cloud by cell; the order of the points in a cell stays.

    :param before: cells of an earlier version: where nothing has changed, its objects are
        returned, so that a viewer sends only the others.
    """
    if not len(cloud):
        return {}
    extent = float(np.ptp(cloud.points, axis=0).max())
    # A power of two, so that a map that grows a little keeps its cells.
    edge = float(2.0 ** np.ceil(np.log2(max(extent, 1e-6) / _MOST_ALONG)))
    places = np.floor(cloud.points / edge).astype(np.int64)
    first = places.min(axis=0)
    counts = places.max(axis=0) - first + 1
    numbers = np.ravel_multi_index(tuple((places - first).T), tuple(counts))
    order = np.argsort(numbers, kind='stable')
    occupied, starts = np.unique(numbers[order], return_index=True)
    cells = {}
    for number, rows in zip(occupied, np.split(order, starts[1:]), strict=True):
        key = (edge, *(int(n) for n in first + np.unravel_index(number, tuple(counts))))
        new, old = cloud.take(rows), before.get(key)
        cells[key] = old if old is not None and _are_equal(old, new) else new
    return cells


def _are_equal(first: Cloud, second: Cloud) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ('points', 'colors', 'confidence')
    )
