"""Parallel jobs: whole jobs in threads, each with single-threaded tensor operations.

Small tensor operations that are spread over cores mostly wait for one another, above all on a
busy machine; whole jobs do not. Results come in order, so they do not depend on the number of
cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Run ``job`` on every argument, a few ahead, and yield the results in order.

    :param device: on a GPU two threads are used.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    workers = 2 if device.type == 'cuda' else min(cores or 1, _MOST_WORKERS)
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(
        workers, thread_name('render'), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            for argument in arguments:
                waiting.append(pool.submit(job, argument))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
