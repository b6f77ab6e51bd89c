"""The part of CuPy that retrieval uses, over host memory, with the kernel run thread by thread.

So the device's twin is tested whole where there is no device, and the launches, copies and waits
of a search are counted. The kernel is compiled for the host (cuda_on_host.cpp).
"""

from collections import Counter
from contextlib import AbstractContextManager
import ctypes
from pathlib import Path
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
from r3_ros.kernels.kernel_retrieval import (
    BLOCK_THREADS,
    compiler_options,
    KERNEL_NAME,
    SOURCE_FILE,
)

COMPILER = shutil.which('g++') or shutil.which('c++')
#: What a block may have without asking.
SHARED_BYTES = 48 << 10


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


class CupyOnHost:
    """What ``import cupy`` gives. Memory is full of ones where CuPy says nothing of it.

    :ivar counts: of ``launch``, ``copy in``, ``copy out`` and ``wait``.
    """

    def __init__(self, library: ctypes.CDLL, processors: int = 1) -> None:
        self._library = library
        self.counts: Counter[str] = Counter()
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(attributes={'MultiProcessorCount': processors}),
            Stream=lambda non_blocking: _Stream(self.counts),
            alloc_pinned_memory=lambda size: bytearray(b'\xff' * size),
            runtime=SimpleNamespace(getDeviceCount=lambda: 1),
        )

    def RawModule(self, code, options):
        assert KERNEL_NAME in code and options == compiler_options()
        return SimpleNamespace(get_function=lambda name: self._launch)

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xFF
        return _Array(array, self.counts)

    def zeros(self, shape, dtype):
        return _Array(np.zeros(shape, dtype), self.counts)

    def asarray(self, array):
        return _Array(array.copy(), self.counts)

    def _launch(self, grid, block, arguments, shared_mem):
        descriptors, records, rows, vectors, query, partial, state, answer = arguments
        assert block == (BLOCK_THREADS,) and shared_mem <= SHARED_BYTES
        self.counts['launch'] += 1
        address = [a.array.ctypes.data_as(ctypes.c_void_p) for a in (descriptors, records, query)]
        working = [a.array.ctypes.data_as(ctypes.c_void_p) for a in (partial, state, answer)]
        stuck = self._library.launch_retrieve(
            grid[0], block[0], *address[:2], int(rows), int(vectors), address[2], *working
        )
        assert not stuck, 'threads of the kernel wait for one another for ever'
        assert not state.array.any(), 'the kernel did not leave its state as it found it'


class _Array:
    """A device array: only copies reach it."""

    def __init__(self, array, counts):
        self.array = array
        self._counts = counts
        self.data = self

    def __getitem__(self, where):
        return _Array(self.array[where], self._counts)

    def copy_from_host_async(self, address, size, stream):
        assert size <= self.array.nbytes and isinstance(stream, _Stream)
        self._counts['copy in'] += 1
        ctypes.memmove(self.array.ctypes.data, address, size)

    def copy_to_host_async(self, address, size, stream):
        assert size <= self.array.nbytes and isinstance(stream, _Stream)
        self._counts['copy out'] += 1
        ctypes.memmove(address, self.array.ctypes.data, size)


class _Stream(AbstractContextManager):
    def __init__(self, counts):
        self._counts = counts

    def __exit__(self, *exception):
        return None

    def synchronize(self):
        self._counts['wait'] += 1
