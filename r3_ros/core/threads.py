"""A mailbox between threads, and a thread that repeats a job."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
import traceback
from typing import Generic, TypeVar

Item = TypeVar('Item')

#: Begins the names of all threads of the package, so that stuck ones can be found.
THREAD_PREFIX = 'r3_'


def thread_name(what: str) -> str:
    """Return the name of a thread of the package."""
    return f'{THREAD_PREFIX}{what}'


class Mailbox(Generic[Item]):
    """A bounded queue that drops the oldest item; with a capacity of 1 it keeps the newest.

    All methods may be called from any thread. Counters only grow.

    :ivar received: items put in.
    :ivar dropped: items replaced or pushed out before they were taken.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[Item] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._closed = False
        self._woken = False
        self.received = 0
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Put an item in; never blocks. After :meth:`close` the item is ignored."""
        with self._changed:
            if self._closed:
                return
            self.received += 1
            if len(self._items) == self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify()

    def get(self, timeout_s: float) -> Item | None:
        """Take the oldest item; None after ``timeout_s`` seconds, or when closed or woken."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed or self._woken, timeout_s)
            self._woken = False
            return self._items.popleft() if self._items and not self._closed else None

    def wake(self) -> None:
        """Make a waiting :meth:`get`, or the next one, return: its thread has other work."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def clear(self) -> int:
        """Drop the waiting items and return how many there were."""
        with self._changed:
            lost = len(self._items)
            self._items.clear()
            self.dropped += lost
            return lost

    def close(self) -> None:
        """Refuse further items and release a waiting :meth:`get`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class RepeatingThread:
    """A thread that repeats a job until stopped. Every exception of the job is reported.

    :param job: should return within a fraction of a second.
    :param on_error: called in the thread with each exception of the job, which is then repeated.
    """

    def __init__(
        self, what: str, job: Callable[[], None], on_error: Callable[[Exception], None]
    ) -> None:
        self._job = job
        self._on_error = on_error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=thread_name(what), daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Request the thread's end and wait; False if the job is still running afterwards."""
        self._stop.set()
        if self.alive and not self.is_current:
            self._thread.join(timeout_s)
        return not self.alive

    def join(self) -> None:
        """Wait until the thread has ended, however long its job takes."""
        self._thread.join()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._job()
            except Exception as error:  # any exception: otherwise the thread would end silently
                try:
                    self._on_error(error)
                except Exception:  # nor may a failing reporter
                    traceback.print_exc()
