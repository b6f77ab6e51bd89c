"""What the CUDA kernel is given and what it answers, without CUDA.

One short buffer goes to the device for each query, one comes back. Where the arrays are and how
the kernel is started is for a subclass to say: CuPy on a device, a test on the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .retrieval import (
    BIAS,
    Found,
    MERIT,
    MERIT_HALF_LIFE_FRAMES,
    NOTED,
    Query,
    RECORD_SIZE,
    RecordTable,
    Terms,
)
from .view_overlap import (
    FAR_POINTS,
    FARTHEST,
    NEAR_POINTS,
    NEAREST,
    STEPS,
    View,
    VIEW_SIZE,
)

SOURCE_FILE = Path(__file__).with_name('retrieval.cu')
KERNEL_NAME = 'retrieve'
#: Threads of a block, and the greatest k.
BLOCK_THREADS = 256
#: Blocks that a multiprocessor runs at once; the compiler limits registers to it.
BLOCKS_PER_PROCESSOR = 4
#: Bonuses of one query, by the shared memory of a block.
MAX_BONUSES = 4096
#: Float16 numbers that a lane reads at once.
LANE_NUMBERS = 8
#: Keyframes of a block at least, where the bank is small.
_LEAST_ROWS = 8
_SCALARS = 8
HEADER_SIZE = 28
_SHARED_BYTES = 16 * BLOCK_THREADS + 32

MACROS = {
    'RECORD_SIZE': RECORD_SIZE,
    'VIEW_SIZE': VIEW_SIZE,
    'MERIT': MERIT,
    'NOTED': NOTED,
    'BIAS': BIAS,
    'HEADER_SIZE': HEADER_SIZE,
    'MERIT_HALF_LIFE': f'{MERIT_HALF_LIFE_FRAMES}f',
    'NEAREST': f'{NEAREST}f',
    'FARTHEST': f'{FARTHEST}f',
    'NEAR_POINTS': f'{NEAR_POINTS}f',
    'FAR_POINTS': f'{FAR_POINTS}f',
    'STEP_ACROSS': f'{STEPS[0]}f',
    'STEP_DOWN': f'{STEPS[1]}f',
    'STEP_IN_DEPTH': f'{STEPS[2]}f',
    'KEEP': BLOCK_THREADS,
    'BLOCKS_PER_PROCESSOR': BLOCKS_PER_PROCESSOR,
}


def compiler_options() -> tuple[str, ...]:
    """Return what the source must be compiled with, besides the architecture."""
    return ('--std=c++17', *(f'-D{name}={value}' for name, value in MACROS.items()))


def shared_bytes(vectors: int, bonuses: int) -> int:
    """Return the shared memory of a block."""
    return _SHARED_BYTES + 32 * vectors + 8 * bonuses


class KernelRetrievalIndex(RecordTable, ABC):
    """Keyframes searched by the kernel; descriptors are kept as float16."""

    def __init__(self, capacity: int, size: int) -> None:
        """Make room for ``capacity`` keyframes with descriptors of ``size`` numbers."""
        super().__init__(capacity, size)
        self._vectors = -(-size // LANE_NUMBERS)

    def put(self, slot: int, descriptor: np.ndarray, view: View | None = None) -> None:
        """Store a keyframe, replacing what was in the slot; its merit is 0."""
        row = np.zeros(LANE_NUMBERS * self._vectors, np.float16)
        row[: self.size] = descriptor
        self._put_record(slot, row[: self.size].astype(np.float64), view)
        self._write_descriptor(slot, row)
        self._write_records([slot])

    def remove(self, slot: int) -> None:
        """Empty a slot; it is not found any more."""
        self._remove_record(slot)
        self._write_records([slot])

    def set_views(self, slots: Sequence[int], views: Sequence[View]) -> None:
        """Note where keyframes look, after their poses or depths have changed."""
        if len(slots):
            self._set_views(slots, views)
            self._write_records(slots)

    def move(self, slots: Sequence[int] | np.ndarray, T_world_camera: np.ndarray) -> None:
        """Note (n, 4, 4) poses of keyframes; one without a view gets none."""
        if len(slots):
            self._move(slots, T_world_camera)
            self._write_records(slots)

    def set_merits(
        self,
        slots: Sequence[int] | np.ndarray,
        merits: Sequence[float] | np.ndarray,
        frame_id: int,
    ) -> None:
        """Note how well keyframes matched at a frame; 0 is neutral."""
        if len(slots):
            self._set_merits(slots, merits, frame_id)
            self._write_records(slots)

    def retrieve(self, query: Query, k: int) -> Found:
        """Return the at most ``k`` best keyframes.

        :raises ValueError: more are asked for, or have a bonus, than one launch can hold.
        """
        k = min(k, self._live)
        if k > BLOCK_THREADS or len(query.bonus) > MAX_BONUSES:
            raise ValueError(
                f'at most {BLOCK_THREADS} keyframes can be found at once and {MAX_BONUSES} '
                f'favoured, {k} and {len(query.bonus)} were asked for'
            )
        if self._live == 0:
            return Found(np.zeros(0, np.int64), np.zeros(0, np.float32), -np.inf)
        # One is looked for even if none is wanted: the greatest likeness is wanted always.
        asked = max(k, 1)
        packed = self._packed(self._terms(query), asked)
        answer = self._run(packed, asked, shared_bytes(self._vectors, len(query.bonus)))
        count = min(int(answer[1]), k)
        scores = answer[2 + asked : 2 + asked + count].view(np.float32)
        slots = answer[2 : 2 + count].astype(np.int64)
        return Found(slots, scores.copy(), float(answer[:1].view(np.float32)[0]))

    def _packed(self, terms: Terms, k: int) -> np.ndarray:
        """Return the query as the kernel reads it, float32 with a few integers among them."""
        tail = HEADER_SIZE + LANE_NUMBERS * self._vectors
        bonuses = len(terms.bonus)
        buffer = np.zeros(tail + 2 * bonuses, np.float32)
        integers = buffer.view(np.int32)
        overlap = terms.overlap if terms.view is not None else 0.0
        buffer[:5] = terms.similarity, terms.usual, overlap, terms.merit, terms.frame_id
        integers[5:7] = bonuses, k
        if terms.view is not None:
            buffer[_SCALARS : _SCALARS + VIEW_SIZE] = terms.view
        buffer[HEADER_SIZE : HEADER_SIZE + self.size] = terms.descriptor
        integers[tail : tail + bonuses] = list(terms.bonus.keys())
        buffer[tail + bonuses :] = list(terms.bonus.values())
        return buffer

    def _blocks(self, at_once: int) -> int:
        """Return how many blocks to start, where the device runs ``at_once`` of them."""
        return max(1, min(at_once, -(-self._rows // _LEAST_ROWS)))

    @abstractmethod
    def _write_descriptor(self, slot: int, row: np.ndarray) -> None:
        """Copy a padded float16 descriptor to its slot."""

    @abstractmethod
    def _write_records(self, slots: Sequence[int] | np.ndarray) -> None:
        """Copy the records of these slots."""

    @abstractmethod
    def _run(self, packed: np.ndarray, k: int, shared: int) -> np.ndarray:
        """Run the kernel over the slots in use and return its (2 + 2 k) int32 answer."""
