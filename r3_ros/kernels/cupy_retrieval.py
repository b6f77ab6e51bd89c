"""The CUDA twin: CuPy holds the arrays, compiles the kernel and starts it.

A search is a copy of some kilobytes in, one launch, a copy of some bytes out and one wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ModelError
from .kernel_retrieval import (
    BLOCK_THREADS,
    BLOCKS_PER_PROCESSOR,
    compiler_options,
    HEADER_SIZE,
    KERNEL_NAME,
    KernelRetrievalIndex,
    LANE_NUMBERS,
    MAX_BONUSES,
    SOURCE_FILE,
)

#: Pinned memory for what changes between two searches; more makes the host wait in between.
_STAGING_BYTES = 1 << 20
_STAGED_RECORDS = 1024


class CupyRetrievalIndex(KernelRetrievalIndex):
    """Keyframes in device memory."""

    def __init__(self, capacity: int, size: int) -> None:
        """Make room for ``capacity`` keyframes with descriptors of ``size`` numbers.

        :raises ModelError: CuPy is not installed, or finds no CUDA device.
        """
        super().__init__(capacity, size)
        self._cupy = cupy = _usable_cupy()
        module = cupy.RawModule(code=SOURCE_FILE.read_text(), options=compiler_options())
        self._kernel = module.get_function(KERNEL_NAME)
        processors = cupy.cuda.Device().attributes['MultiProcessorCount']
        self._at_once = BLOCKS_PER_PROCESSOR * processors
        self._stream = cupy.cuda.Stream(non_blocking=True)
        longest = HEADER_SIZE + LANE_NUMBERS * self._vectors + 2 * MAX_BONUSES
        with self._stream:
            self._descriptors = cupy.empty((capacity, LANE_NUMBERS * self._vectors), np.float16)
            self._on_device = cupy.asarray(self._records)
            self._query = cupy.empty(longest, np.float32)
            self._partial = cupy.empty(BLOCK_THREADS * self._at_once, np.uint64)
            self._state = cupy.zeros(2, np.uint32)
            self._answer = cupy.empty(2 + 2 * BLOCK_THREADS, np.int32)
        self._query_on_host = _pinned(cupy, longest, np.float32)
        self._staging = _pinned(cupy, _STAGING_BYTES, np.uint8)
        self._staged = 0
        self._answer_on_host = _pinned(cupy, 2 + 2 * BLOCK_THREADS, np.int32)

    def _write_descriptor(self, slot: int, row: np.ndarray) -> None:
        self._stage(self._descriptors[slot], row)

    def _write_records(self, slots: Sequence[int] | np.ndarray) -> None:
        # Runs of neighbours go together; most writes are of one slot or of the newest few.
        rows = np.unique(np.asarray(slots))
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
            for first in range(int(run[0]), int(run[-1]) + 1, _STAGED_RECORDS):
                span = slice(first, min(first + _STAGED_RECORDS, int(run[-1]) + 1))
                self._stage(self._on_device[span], self._records[span])

    def _run(self, packed: np.ndarray, k: int, shared: int) -> np.ndarray:
        count = len(packed)
        self._query_on_host[:count] = packed
        self._copy_in(self._query, self._query_on_host[:count])
        arguments = (
            self._descriptors,
            self._on_device,
            np.int32(self._rows),
            np.int32(self._vectors),
            self._query,
            self._partial,
            self._state,
            self._answer,
        )
        with self._stream:
            self._kernel(
                (self._blocks(self._at_once),), (BLOCK_THREADS,), arguments, shared_mem=shared
            )
        answer = self._answer_on_host[: 2 + 2 * k]
        self._answer.data.copy_to_host_async(answer.ctypes.data, answer.nbytes, self._stream)
        self._wait()
        return answer

    def _stage(self, target: Any, source: np.ndarray) -> None:
        """Copy to the device by way of pinned memory, which the device may read later."""
        if self._staged + source.nbytes > _STAGING_BYTES:
            self._wait()
        staged = self._staging[self._staged : self._staged + source.nbytes]
        staged[:] = source.reshape(-1).view(np.uint8)
        self._staged += source.nbytes
        self._copy_in(target, staged)

    def _wait(self) -> None:
        self._stream.synchronize()
        self._staged = 0

    def _copy_in(self, target: Any, source: np.ndarray) -> None:
        """Copy pinned memory to the device without waiting."""
        target.data.copy_from_host_async(source.ctypes.data, source.nbytes, self._stream)


def _usable_cupy() -> Any:
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"model.device is 'cuda' but CuPy cannot be used ({error}): install the CuPy that "
            'fits the CUDA version (cupy-cuda12x or cupy-cuda13x), or set model.device to '
            "'cpu'"
        ) from error
    return cupy


def _pinned(cupy: Any, count: int, dtype: Any) -> np.ndarray:
    """Return an array that the device can copy from and to while the host goes on."""
    memory = cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count)
