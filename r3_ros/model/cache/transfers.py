"""Frames on their way into slots, layer by layer, while the network computes.

A thread copies, all frames' first layer before any frame's second, on a stream of its own. The
network waits for the layer that it is about to attend and no other: first for the thread to have
queued the copies, then, on the device, for these; the host never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import ModelError, R3Error
from ...runtime import thread_name
from ..device_errors import device_error


class Lane(Protocol):
    """Where copies run beside the computation."""

    def begin(self) -> None:
        """Let what is queued on the lane from now on follow all that was computed before."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Queue what the calling thread does inside on the lane."""
        yield

    def mark(self) -> Any:
        """Return a mark of all that is queued on the lane."""

    def wait(self, mark: Any) -> None:
        """Let what the calling thread queues from now on follow a mark."""


class HostLane:
    """Memory of the host: a copy is done when the call returns."""

    def begin(self) -> None:
        """Do nothing."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def mark(self) -> Any:
        """Return nothing."""
        return None

    def wait(self, mark: Any) -> None:
        """Do nothing."""


class CudaLane:
    """A CUDA stream of its own."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """Make the stream.

        :param cuda: stands for ``torch.cuda`` where there is none.
        """
        self._device = device
        self._cuda = cuda
        self._stream = cuda.Stream(device)

    def begin(self) -> None:
        """Let copies follow what is queued on the calling thread's stream."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make the stream the calling thread's."""
        with self._cuda.stream(self._stream):
            yield

    def mark(self) -> Any:
        """Return an event of the stream."""
        return self._stream.record_event()

    def wait(self, mark: Any) -> None:
        """Let the calling thread's stream wait for an event."""
        self._cuda.current_stream(self._device).wait_event(mark)


def lane_for(device: torch.device) -> Lane:
    """Return the lane of a device."""
    return CudaLane(device) if device.type == 'cuda' else HostLane()


def copy(target: Tensor, source: Tensor) -> None:
    """Copy; between device and pinned memory without waiting for it."""
    target.copy_(source, non_blocking=True)


@dataclass
class Arrival:
    """One frame on its way in.

    :ivar target: views of its slot, by layer.
    :ivar source: its tensors, by layer.
    :ivar leaves: a frame that was in the slot and goes out into the memory of the source.
    """

    frame_id: int
    slot: int
    target: list[list[Tensor]]
    source: list[list[Tensor]]
    leaves: int | None = None
    exchanged: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def copy_layer(self, layer: int, copier: Callable[[Tensor, Tensor], None]) -> None:
        """Bring in one layer."""
        for view, tensor in zip(self.target[layer], self.source[layer], strict=True):
            if self.leaves is None:
                copier(view, tensor)
                continue
            kept = view.clone()
            try:
                copier(view, tensor)
            except BaseException:
                copy(view, kept)
                raise
            copy(tensor, kept)
            self.exchanged.append((view, tensor))

    def undo(self) -> None:
        """Give a frame that was to leave its slot back."""
        for view, tensor in reversed(self.exchanged):
            kept = view.to('cpu', copy=True)  # the device may have no memory left
            copy(view, tensor)
            tensor.copy_(kept)
        self.exchanged.clear()


class Pending:
    """Frames that are on their way."""

    def __init__(self, lane: Lane, layers: int, arrivals: Sequence[Arrival]) -> None:
        """Begin with nothing copied."""
        self.arrivals = arrivals
        self._lane = lane
        self._marks: list[Future[Any]] = [Future() for _ in range(layers)]

    def run(self, copier: Callable[[Tensor, Tensor], None]) -> None:
        """Copy everything; an error is raised in the waiting callers, and no frame has moved."""
        with torch.inference_mode(), self._lane.running():
            try:
                for layer, mark in enumerate(self._marks):
                    for arrival in self.arrivals:
                        arrival.copy_layer(layer, copier)
                    mark.set_result(self._lane.mark())
            except BaseException as error:
                self._fail(error)

    def ready(self, layer: int) -> None:
        """Let what is computed from now on see a layer.

        :raises ModelError: it could not be brought in.
        :raises DeviceMemoryError: the device had no memory left for the copies.
        :raises DeviceLostError: the device is gone.
        """
        self._lane.wait(self._marks[layer].result())

    def settle(self) -> R3Error | None:
        """Wait for the thread and return what went wrong; then no frame has moved."""
        error = self._marks[-1].exception()
        return error if isinstance(error, R3Error) else None

    def _fail(self, error: BaseException) -> None:
        reported: R3Error | None = device_error(error)
        try:
            for arrival in self.arrivals:
                arrival.undo()
        except RuntimeError as another:
            reported = reported or device_error(another)
        if reported is None and not isinstance(error, ModelError):
            what = str(error) if isinstance(error, R3Error) else f'{type(error).__name__}: {error}'
            reported = ModelError(f'remembered frames could not be brought back: {what}')
        if reported is not None:
            reported.__cause__ = error
        for mark in self._marks:
            if not mark.done():
                mark.set_exception(reported or error)


class Transfers:
    """The thread that copies. One owner."""

    def __init__(self, lane: Lane, copier: Callable[[Tensor, Tensor], None] = copy) -> None:
        """Start no thread before there is something to do."""
        self.lane = lane
        self._copier = copier
        self._mover = ThreadPoolExecutor(1, thread_name_prefix=thread_name('frames'))

    def start(self, layers: int, arrivals: Sequence[Arrival]) -> Pending:
        """Bring frames in, after what has been queued on the lane."""
        pending = Pending(self.lane, layers, arrivals)
        if arrivals:
            self._mover.submit(pending.run, self._copier)
        else:
            pending.run(self._copier)  # slots were exchanged, and that is to be waited for
        return pending

    def close(self) -> None:
        """End the thread."""
        self._mover.shutdown()
