"""The retrieval kernel, compiled for the host and run thread by thread (cuda_on_host.cpp)."""

import ctypes
from pathlib import Path
import shutil
import subprocess

import numpy as np
from r3_ros.kernels.kernel_retrieval import (
    BLOCK_THREADS,
    compiler_options,
    KERNEL_NAME,
    KernelRetrievalIndex,
    LANE_NUMBERS,
    SOURCE_FILE,
)
from r3_ros.kernels.retrieval import RECORD_SIZE

COMPILER = shutil.which('g++') or shutil.which('c++')
#: Few enough that every block has several keyframes, and the last one lists to merge.
BLOCKS = 3


def build(folder: Path) -> ctypes.CDLL:
    """Compile the kernel with the macros the device gets."""
    library = folder / 'kernel_on_host.so'
    macros = [option for option in compiler_options() if option.startswith('-D')]
    done = subprocess.run(
        [
            COMPILER,
            *('-std=c++17', '-O1', '-shared', '-fPIC', '-Wno-unknown-pragmas'),
            *macros,
            f'-DKERNEL_FILE="{SOURCE_FILE}"',
            f'-DKERNEL={KERNEL_NAME}',
            str(Path(__file__).with_name('cuda_on_host.cpp')),
            *('-o', str(library)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class HostKernelIndex(KernelRetrievalIndex):
    """What :class:`CupyRetrievalIndex` does, with the device's arrays in host memory."""

    library: ctypes.CDLL

    def __init__(self, capacity: int, size: int, blocks: int = BLOCKS) -> None:
        super().__init__(capacity, size)
        self._at_once = blocks
        self._descriptors = np.zeros((capacity, LANE_NUMBERS * self._vectors), np.float16)
        self._on_device = np.full((capacity, RECORD_SIZE), np.nan, np.float32)
        self._on_device[:] = self._records
        self._partial = np.zeros(BLOCK_THREADS * blocks, np.uint64)
        self._state = np.zeros(2, np.uint32)

    def _write_descriptor(self, slot, row):
        self._descriptors[slot] = row

    def _write_records(self, slots):
        self._on_device[list(slots)] = self._records[list(slots)]

    def _run(self, packed, k, shared):
        assert shared <= 48 << 10
        answer = np.full(2 + 2 * k, -1, np.int32)
        self._partial[:] = 0xFFFFFFFFFFFFFFFF
        blocks = self._blocks(self._at_once)
        stuck = self.library.launch_retrieve(
            blocks,
            BLOCK_THREADS,
            self._descriptors.ctypes.data_as(ctypes.c_void_p),
            self._on_device.ctypes.data_as(ctypes.c_void_p),
            self._rows,
            self._vectors,
            packed.ctypes.data_as(ctypes.c_void_p),
            self._partial.ctypes.data_as(ctypes.c_void_p),
            self._state.ctypes.data_as(ctypes.c_void_p),
            answer.ctypes.data_as(ctypes.c_void_p),
        )
        assert not stuck, 'threads of the kernel wait for one another for ever'
        assert not self._state.any(), 'the kernel did not leave its state as it found it'
        return answer
