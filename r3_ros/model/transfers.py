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

from ..errors import ModelError, R3Error
from ..runtime import thread_name
from .device_errors import device_error


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

    def finish(self) -> None:
        """Wait until all that is queued is done: the host is about to read it."""


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

    def finish(self) -> None:
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

    def finish(self) -> None:
        """Wait for the stream alone."""
        self._stream.synchronize()


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
    :ivar source: its tensors, by layer; asked for once each, and may wait for a file.
    :ivar leaves: a frame that was in the slot and goes out into the memory of the source.
    """

    frame_id: int
    slot: int
    target: list[list[Tensor]]
    source: Callable[[int], list[Tensor]]
    leaves: int | None = None
    exchanged: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def copy_layer(self, layer: int, copier: Callable[[Tensor, Tensor], None]) -> None:
        """Bring in one layer."""
        for view, tensor in zip(self.target[layer], self.source(layer), strict=True):
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
        """Copy everything; an error is told to who waits, and leaves frames where they were."""
        with torch.inference_mode(), self._lane.running():
            try:
                for layer, mark in enumerate(self._marks):
                    for arrival in self.arrivals:
                        arrival.copy_layer(layer, copier)
                    mark.set_result(self._lane.mark())
            except BaseException as error:
                self._fail(error)  # raised by who waits

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
        told: R3Error | None = device_error(error)
        try:
            for arrival in self.arrivals:
                arrival.undo()
        except RuntimeError as another:
            told = told or device_error(another)
        if told is None and not isinstance(error, ModelError):
            what = str(error) if isinstance(error, R3Error) else f'{type(error).__name__}: {error}'
            told = ModelError(f'remembered frames could not be brought back: {what}')
        if told is not None:
            told.__cause__ = error
        for mark in self._marks:
            if not mark.done():
                mark.set_exception(told or error)


class Transfers:
    """The thread that copies, and those that read files ahead. One owner."""

    #: Files are read at once: they are large, and a disk answers several at a time.
    _READERS = 4

    def __init__(self, lane: Lane, copier: Callable[[Tensor, Tensor], None] = copy) -> None:
        """Start no thread before there is something to do."""
        self.lane = lane
        self._copier = copier
        self._mover = ThreadPoolExecutor(1, thread_name_prefix=thread_name('frames'))
        self._readers = ThreadPoolExecutor(
            self._READERS, thread_name_prefix=thread_name('frame_files')
        )

    def start(self, layers: int, arrivals: Sequence[Arrival]) -> Pending:
        """Bring frames in, after what has been queued on the lane."""
        pending = Pending(self.lane, layers, arrivals)
        if arrivals:
            self._mover.submit(pending.run, self._copier)
        else:
            pending.run(self._copier)  # places were changed, and that is to be waited for
        return pending

    def read(
        self, read: Callable[[int, int], list[Tensor]], frame_ids: Sequence[int], layers: int
    ) -> dict[int, Callable[[int], list[Tensor]]]:
        """Begin to read files, in the order in which they are wanted.

        :param read: gives one layer of a frame.
        :returns: by frame, what gives a layer once it is read.
        """
        parts = {
            (frame_id, layer): self._readers.submit(read, frame_id, layer)
            for layer in range(layers)
            for frame_id in frame_ids
        }

        def source(frame_id: int) -> Callable[[int], list[Tensor]]:
            return lambda layer: parts.pop((frame_id, layer)).result()

        return {frame_id: source(frame_id) for frame_id in frame_ids}

    def close(self) -> None:
        """End the threads."""
        self._mover.shutdown()
        self._readers.shutdown(cancel_futures=True)
