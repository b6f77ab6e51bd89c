"""Searches that run on the host or, through CuPy, on a CUDA device: one interface, two twins.

The NumPy twin is the reference; a test compares the two
where a device is present.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..errors import ModelError


class DescriptorIndex(Protocol):
    """Slots of unit descriptors, searched by cosine similarity."""

    def put(self, slot: int, descriptor: np.ndarray) -> None:
        """Store a (d,) unit vector in a slot, replacing what was there."""

    def remove(self, slot: int) -> None:
        """Empty a slot; it is not found any more."""

    def similarities(self, descriptor: np.ndarray) -> np.ndarray:
        """Return the (capacity,) float32 cosine of each slot, -inf for empty ones."""

    def search(self, descriptor: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return slots and cosines of the at most ``k`` most similar ones, best first."""


class _ArrayIndex:
    """The shared logic, over either array library."""

    def __init__(self, xp: Any, capacity: int, size: int) -> None:
        self._xp = xp
        self._descriptors = xp.zeros((capacity, size), dtype=xp.float32)
        self._bias = xp.full(capacity, -xp.inf, dtype=xp.float32)

    def put(self, slot: int, descriptor: np.ndarray) -> None:
        """Store a (d,) unit vector in a slot, replacing what was there."""
        self._descriptors[slot] = self._xp.asarray(descriptor, dtype=self._xp.float32)
        self._bias[slot] = 0.0

    def remove(self, slot: int) -> None:
        """Empty a slot; it is not found any more."""
        self._bias[slot] = -self._xp.inf

    def _scores(self, descriptor: np.ndarray) -> Any:
        query = self._xp.asarray(descriptor, dtype=self._xp.float32)
        return self._descriptors @ query + self._bias

    def _search(self, descriptor: np.ndarray, k: int) -> tuple[Any, Any]:
        scores = self._scores(descriptor)
        best = self._xp.argsort(-scores)[:k]
        return best, scores[best]


class NumpyDescriptorIndex(_ArrayIndex):
    """Descriptors in host memory."""

    def __init__(self, capacity: int, size: int) -> None:
        """Make room for ``capacity`` descriptors of ``size`` numbers."""
        super().__init__(np, capacity, size)

    def similarities(self, descriptor: np.ndarray) -> np.ndarray:
        """Return the (capacity,) float32 cosine of each slot, -inf for empty ones."""
        return np.asarray(self._scores(descriptor))

    def search(self, descriptor: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return slots and cosines of the at most ``k`` most similar ones, best first."""
        slots, scores = self._search(descriptor, k)
        found = np.isfinite(scores)
        return slots[found], scores[found]


class CupyDescriptorIndex(_ArrayIndex):
    """Descriptors in device memory; a search copies back two short arrays."""

    def __init__(self, capacity: int, size: int) -> None:
        """Make room for ``capacity`` descriptors of ``size`` numbers.

        :raises ModelError: CuPy is not installed, or finds no CUDA device.
        """
        try:
            import cupy

            cupy.cuda.runtime.getDeviceCount()
        except (ImportError, RuntimeError) as error:
            raise ModelError(
                f"model.device is 'cuda' but CuPy cannot be used ({error}): install the CuPy that "
                'fits the CUDA version (cupy-cuda12x or cupy-cuda13x), or set model.device to '
                "'cpu'"
            ) from error
        super().__init__(cupy, capacity, size)

    def similarities(self, descriptor: np.ndarray) -> np.ndarray:
        """Return the (capacity,) float32 cosine of each slot, -inf for empty ones."""
        return np.asarray(self._scores(descriptor).get())

    def search(self, descriptor: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return slots and cosines of the at most ``k`` most similar ones, best first."""
        slots, scores = (array.get() for array in self._search(descriptor, k))
        found = np.isfinite(scores)
        return slots[found], scores[found]


def descriptor_index(capacity: int, size: int, device: str = 'cpu') -> DescriptorIndex:
    """Return the index for a device: ``cpu`` or ``cuda``."""
    kind = CupyDescriptorIndex if device.startswith('cuda') else NumpyDescriptorIndex
    return kind(capacity, size)
