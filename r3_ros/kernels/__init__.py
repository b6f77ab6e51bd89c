"""Searches that run on the host or, through CuPy, on a CUDA device: one interface, two twins.

The only package that imports CuPy, in functions, where a device is asked for. The NumPy twins are
the reference.
"""

from .cupy_retrieval import CupyRetrievalIndex
from .descriptor_index import (
    CupyDescriptorIndex,
    descriptor_index,
    DescriptorIndex,
    NumpyDescriptorIndex,
)
from .numpy_retrieval import NumpyRetrievalIndex
from .retrieval import EXCLUDED, Found, Query, RetrievalIndex, Weights
from .view_overlap import picture_bounds, View

__all__ = [
    'CupyDescriptorIndex',
    'CupyRetrievalIndex',
    'DescriptorIndex',
    'EXCLUDED',
    'Found',
    'NumpyDescriptorIndex',
    'NumpyRetrievalIndex',
    'Query',
    'RetrievalIndex',
    'View',
    'Weights',
    'descriptor_index',
    'picture_bounds',
    'retrieval_index',
]


def retrieval_index(capacity: int, size: int, device: str = 'cpu') -> RetrievalIndex:
    """Return the index for a device: ``cpu`` or ``cuda``."""
    kind = CupyRetrievalIndex if device.startswith('cuda') else NumpyRetrievalIndex
    return kind(capacity, size)
