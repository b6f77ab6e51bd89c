"""A short stand-in for long descriptors, to choose which ones are worth comparing in full.

The main directions in which the remembered descriptors differ from their mean, found by subspace
iteration on a sample. What the mean itself contributes is kept exactly, as one more number, since
the descriptors of a network are mostly mean.
"""

from __future__ import annotations

import numpy as np

#: Numbers kept of a descriptor: the main directions, and its product with the mean.
PROJECTED_SIZE = 64
SAMPLE = 2048
_ROUNDS = 2


class Projection:
    """Maps (n, d) descriptors to (n, m) so that a product there is close to the one here."""

    def __init__(self, descriptors: np.ndarray) -> None:
        """Learn from (n, d) float32 descriptors, which are not kept: SAMPLE are enough."""
        sample = descriptors
        self._mean = sample.mean(axis=0)
        centred = sample - self._mean
        count = min(PROJECTED_SIZE - 1, *centred.shape)
        start = np.random.default_rng(0).standard_normal((centred.shape[1], count))
        basis = np.linalg.qr(start.astype(np.float32))[0]
        for _ in range(_ROUNDS):
            basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
        self._basis = np.ascontiguousarray(basis)
        self.size = count + 1

    def stored(self, descriptors: np.ndarray) -> np.ndarray:
        """Return the (n, size) float32 form of (n, d) descriptors to search among."""
        return np.column_stack(
            [(descriptors - self._mean) @ self._basis, descriptors @ self._mean]
        )

    def asked(self, descriptor: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the (size,) form of a query, and what to add to its products."""
        centred = descriptor - self._mean
        query = np.append(centred @ self._basis, np.float32(1.0))
        return query, float(self._mean @ centred)
