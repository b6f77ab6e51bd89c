"""Parallel jobs: whole jobs in threads, each with single-threaded tensor operations.

Small tensor operations that are spread over cores mostly wait for one another; whole jobs do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import os
from typing import TypeVar

import torch

from ...core.threads import thread_name

_Argument = TypeVar('_Argument')
_Result = TypeVar('_Result')
_MOST_WORKERS = 8


def in_order(
    job: Callable[[_Argument], _Result], arguments: Iterable[_Argument], device: torch.device
) -> Iterator[_Result]:
    """Run ``job`` on every argument, on a GPU in two threads, and yield the results in order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    workers = 2 if device.type == 'cuda' else min(cores or 1, _MOST_WORKERS)
    with ThreadPoolExecutor(workers, thread_name('render'), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(job, arguments)
