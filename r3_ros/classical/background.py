"""Background work whose results arrive at a fixed step, so that runs repeat exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ..core.threads import thread_name

T = TypeVar('T')


class Background(Generic[T]):
    """One thread that runs jobs in order.

    A result is taken a fixed number of steps after its job was queued, never earlier, and taking
    waits until it is ready: results do not depend on the speed of the machine.
    """

    def __init__(self, what: str):
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=thread_name(what))
        self._pending: deque[tuple[int, Future[T]]] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, due_step: int, job: Callable[[], T]) -> None:
        """Queue a job whose result is taken at ``due_step``; due steps never decrease."""
        self._pending.append((due_step, self._executor.submit(job)))

    def take(self, step: int) -> list[T]:
        """Return the results due at this step; an exception of a job is raised here."""
        results = []
        while self._pending and self._pending[0][0] <= step:
            results.append(self._pending.popleft()[1].result())
        return results

    def close(self) -> None:
        """Drop jobs not begun and wait for the thread to end."""
        self._pending.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)
