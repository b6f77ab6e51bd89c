"""Finds threads that touch what a node's worker owns while that worker runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading
import traceback
from typing import Any

from r3_ros.ros.worker import StreamWorker
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.session import Session

_STACK_LINES = 6


class ThreadGuard:
    """Watches one engine and what belongs to it.

    The test may look at anything between two turns of the executor, which runs in its own thread:
    what counts is what the node's code does, inside :meth:`in_node`, and all other threads.

    :ivar violations: who touched what, and from where.
    """

    def __init__(self, engine: Engine) -> None:
        self.violations: list[str] = []
        self.stream: StreamWorker | None = None
        self._engine = engine
        self._test = threading.current_thread()
        self._in_node = False
        new_session = engine._new_session
        engine._new_session = lambda session_id: self._watched_session(new_session(session_id))
        self._watched_session(engine.session)
        for each in (engine, engine.predictor, engine.loops):
            self._watch(each)

    def follow(self, stream: StreamWorker | None) -> None:
        """Learn which worker owns the engine, once there is one."""
        if self.stream is None and stream is not None and stream.engine is self._engine:
            self.stream = stream
            self._watch(stream.pose_output)
            self._watch(stream.health, reads=False)

    def end(self) -> list[str]:
        """Let go of the worker, and return the violations."""
        self.stream = None
        return self.violations

    @contextmanager
    def in_node(self) -> Iterator[None]:
        """Count what the test's thread does meanwhile as done by the node."""
        self._in_node = True
        try:
            yield
        finally:
            self._in_node = False

    def _watched_session(self, session: Session) -> Session:
        parts = (session.map, session.bank, session.graph, session.scale, session.gate)
        for each in (*parts, session.trajectory, session.admission, session):
            self._watch(each)
        return session

    def _watch(self, thing: Any, reads: bool = True) -> None:
        kind, guard = type(thing), self

        class Watched(kind):
            if reads:

                def __getattribute__(self, name: str) -> Any:
                    guard._check(f'{kind.__name__}.{name}')
                    return super().__getattribute__(name)

            def __setattr__(self, name: str, value: Any) -> None:
                guard._check(f'{kind.__name__}.{name} =')
                super().__setattr__(name, value)

        Watched.__name__ = kind.__name__
        thing.__class__ = Watched

    def _check(self, what: str) -> None:
        worker = None if self.stream is None else self.stream._thread
        if worker is None or not worker.alive or worker.is_current:
            return
        thread = threading.current_thread()
        if thread is self._test and not self._in_node:
            return
        stack = ''.join(traceback.format_stack()[-_STACK_LINES:-2])
        self.violations.append(f'{thread.name} touches {what}:\n{stack}')
