"""Searches that run on the host or, through CuPy, on a CUDA device: one interface, two twins.

The only package that imports CuPy, in functions, where a device is asked for. The NumPy twin is
the reference.
"""

from .cupy_retrieval import CupyRetrievalIndex
from .numpy_retrieval import NumpyRetrievalIndex
from .retrieval import EXCLUDED, Found, MERIT_HALF_LIFE_FRAMES, Query, RetrievalIndex, Weights
from .view_overlap import picture_bounds, View, view_overlaps

__all__ = [
    'CupyRetrievalIndex',
    'EXCLUDED',
    'Found',
    'MERIT_HALF_LIFE_FRAMES',
    'NumpyRetrievalIndex',
    'Query',
    'RetrievalIndex',
    'View',
    'Weights',
    'picture_bounds',
    'retrieval_index',
    'view_overlaps',
]


def retrieval_index(capacity: int, size: int, device: str = 'cpu') -> RetrievalIndex:
    """Return the index for a device: ``cpu`` or ``cuda``."""
    kind = CupyRetrievalIndex if device.startswith('cuda') else NumpyRetrievalIndex
    return kind(capacity, size)
