"""Parts of a step as CUDA graphs: hundreds of launches become one.

A graph repeats what was captured on the same memory, so a part has one graph for each shape of
what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch

T = TypeVar('T')


class Capture(Protocol):
    """Makes a function repeatable."""

    def __call__(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Run a function, and return what repeats it and its result."""


class StepGraphs:
    """Captures each part at its first use, and replays it from then on."""

    def __init__(self, capture: Capture | None = None) -> None:
        self._capture = capture or CudaCapture()
        self._captured: dict[Hashable, tuple[Callable[[], None], Any]] = {}

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """Return the result of a function; valid until the next call with this key.

        :param key: all that the function depends on but the content of tensors; these must be in
            the same memory at every call.
        """
        if key not in self._captured:
            self._captured[key] = self._capture(function)
        replay, result = self._captured[key]
        replay()
        return result

    def clear(self) -> None:
        """Drop all graphs and their memory: what they read is about to move."""
        self._captured.clear()


class CudaCapture:
    """Captures functions as CUDA graphs that share their memory, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Run a function twice and return its graph's replay and its result."""
        # Tables and workspaces of libraries are made beforehand, on a stream of their own as
        # captures are.
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            function()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = function()
        return graph.replay, result
