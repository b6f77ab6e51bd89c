"""Copies of cached frames into slots, layer by layer, while the network computes.

A thread queues the copies on a stream of its own, the first layer of all frames before any second
layer. Before the network attends to a layer it waits for the thread to queue the copies of this
layer, and the device for the copies themselves; the host never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ModelError, R3Error
from ...core.threads import thread_name
from ..device_errors import device_error


class CopyStream:
    """The stream of the copies. Here that of the host, where a copy is done when it returns."""

    def follow_computation(self) -> None:
        """Order later copies after all computations queued by the calling thread."""

    def selected(self) -> AbstractContextManager[object]:
        """Queue the calling thread's operations on this stream."""
        return nullcontext()

    def record(self) -> Any:
        """Return an event after all copies queued so far."""

    def wait(self, event: Any) -> None:
        """Order later computations of the calling thread after an event."""


class CudaCopyStream(CopyStream):
    """A CUDA stream."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """Create the stream.

        :param cuda: replaces ``torch.cuda`` in tests.
        """
        self._device = device
        self._cuda = cuda
        self._stream = cuda.Stream(device)

    def follow_computation(self) -> None:
        """See :class:`CopyStream`."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))

    def selected(self) -> AbstractContextManager[object]:
        """See :class:`CopyStream`."""
        return self._cuda.stream(self._stream)

    def record(self) -> Any:
        """See :class:`CopyStream`."""
        return self._stream.record_event()

    def wait(self, event: Any) -> None:
        """See :class:`CopyStream`."""
        self._cuda.current_stream(self._device).wait_event(event)


def copy(target: Tensor, source: Tensor) -> None:
    """Copy; asynchronously between device and pinned memory."""
    target.copy_(source, non_blocking=True)


@dataclass
class Arrival:
    """The copy of one frame into a slot.

    :ivar target: views of its slot, by layer; ``source``: its tensors.
    :ivar leaves: the frame that was in the slot and moves to the memory of the source.
    """

    frame_id: int
    slot: int
    target: list[list[Tensor]]
    source: list[list[Tensor]]
    leaves: int | None = None
    exchanged: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def copy_layer(self, layer: int, copier: Callable[[Tensor, Tensor], None]) -> None:
        """Copy one layer."""
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
        """Restore the frame that was in the slot."""
        for view, tensor in reversed(self.exchanged):
            kept = view.to('cpu', copy=True)  # the device may have no memory left
            copy(view, tensor)
            tensor.copy_(kept)
        self.exchanged.clear()


class Pending:
    """The frames being copied."""

    def __init__(self, stream: CopyStream, layers: int, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        self._stream = stream
        self._events: list[Future[Any]] = [Future() for _ in range(layers)]

    def run(self, copier: Callable[[Tensor, Tensor], None]) -> None:
        """Copy everything. On an error no frame moves, and waiting callers raise it."""
        with torch.inference_mode(), self._stream.selected():
            try:
                for layer, event in enumerate(self._events):
                    for arrival in self.arrivals:
                        arrival.copy_layer(layer, copier)
                    event.set_result(self._stream.record())
            except BaseException as error:
                self._fail(error)

    def ready(self, layer: int) -> None:
        """Order later computations after the copies of a layer.

        :raises ModelError: they failed.
        :raises DeviceMemoryError: the device had no memory left for them.
        :raises DeviceLostError: the device is lost.
        """
        self._stream.wait(self._events[layer].result())

    def settle(self) -> R3Error | None:
        """Wait for the thread and return its error; on an error no frame has moved."""
        error = self._events[-1].exception()
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
            reported = ModelError(f'cached frames could not be copied to the device: {what}')
        if reported is not None:
            reported.__cause__ = error
        for event in self._events:
            if not event.done():
                event.set_exception(reported or error)


class Transfers:
    """The copying thread. Used by one thread."""

    def __init__(
        self, stream: CopyStream, copier: Callable[[Tensor, Tensor], None] = copy
    ) -> None:
        self.stream = stream
        self._copier = copier
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=thread_name('frames'))

    def start(self, layers: int, arrivals: Sequence[Arrival]) -> Pending:
        """Copy frames in, after the copies already queued."""
        pending = Pending(self.stream, layers, arrivals)
        if arrivals:
            self._executor.submit(pending.run, self._copier)
        else:
            pending.run(self._copier)  # records events after the exchange of slots
        return pending

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()
