"""Frames on their way in while the network computes: order, the same answers, and failures."""

from contextlib import contextmanager
import copy as copying
from dataclasses import dataclass, field
import threading
import time

from cached_stream import assert_same, described, entry_bytes, network, stream
from networks import sample_images
import pytest
from r3_ros.core.errors import DeviceMemoryError, ModelError
from r3_ros.model.cache.frame_memory import CacheBudget, FrameMemory
from r3_ros.model.cache.slots import SlotKeyValues
from r3_ros.model.cache.transfers import (
    Arrival,
    copy,
    CopyStream,
    CudaCopyStream,
    Pending,
    Transfers,
)
import torch

__all__ = ['described', 'entry_bytes', 'network']

#: Far more than anything here takes.
LONG_S = 60


@pytest.fixture
def budget(entry_bytes):
    """Return a budget with which nearly every context has frames to copy in."""
    return CacheBudget(5 * entry_bytes, 8 * entry_bytes)


def contents(memory):
    """Return what is held of every frame, brought in one by one."""
    held = {}
    for frame_id in sorted(memory._used):
        cache = memory.context([frame_id]).cache
        for kv in cache.key_values:
            kv.ready()
        held[frame_id] = [t.clone() for kv in cache.key_values for t in (kv.keys, kv.values)]
        held[frame_id].append(cache.pair_features[0].clone())
    return held


def assert_contents(memory, expected):
    got = contents(memory)
    assert got.keys() == expected.keys()
    for frame_id, tensors in expected.items():
        for kept, again in zip(tensors, got[frame_id], strict=True):
            torch.testing.assert_close(again, kept, atol=0, rtol=0)


# --- Order ---


def test_a_layer_is_ready_once_it_is_copied_and_not_with_the_next():
    released = threading.Semaphore(0)

    def copier(target, source):
        assert released.acquire(timeout=LONG_S)
        copy(target, source)

    target = [[torch.zeros(3)], [torch.zeros(3)]]
    arrival = Arrival(0, 0, target, [[torch.full((3,), layer + 1.0)] for layer in range(2)])
    transfers = Transfers(CopyStream(), copier)
    pending = transfers.start(2, [arrival])
    released.release()
    pending.ready(0)
    assert target[0][0].tolist() == [1.0] * 3 and target[1][0].tolist() == [0.0] * 3
    waiting = threading.Thread(target=pending.ready, args=(1,))
    waiting.start()
    assert waiting.is_alive()  # nothing will let it go but the copy
    released.release()
    waiting.join(LONG_S)
    assert target[1][0].tolist() == [2.0] * 3 and pending.settle() is None
    transfers.close()


def test_no_layer_is_attended_before_all_its_copies(network, described, budget, monkeypatch):
    done, attended = [], []

    def copier(target, source):
        time.sleep(0.002)
        copy(target, source)
        done.append(target.data_ptr())

    followed_by = SlotKeyValues.followed_by

    def watched(self, other):
        frames = self.keys.shape[2]
        wanted = {buffer[:, :, n].data_ptr() for buffer in self._stored for n in range(frames)}
        attended.append(len(wanted & queued))
        assert wanted & queued <= set(done)
        return followed_by(self, other)

    monkeypatch.setattr(SlotKeyValues, 'followed_by', watched)
    queued: set[int] = set()
    transfers = Transfers(CopyStream(), copier)
    start = transfers.start

    def noted(layers, arrivals):
        done.clear()
        queued.clear()
        queued.update(view.data_ptr() for a in arrivals for part in a.target for view in part)
        return start(layers, arrivals)

    transfers.start = noted
    late = stream(network, described, FrameMemory(budget, transfers))
    assert sum(attended) > 20
    at_once = stream(network, described, FrameMemory(budget))
    assert_same(late, at_once, atol=0)


# --- Failures ---


class Failing:
    """A copier that fails once, at its n-th copy."""

    def __init__(self, at):
        self.left = at

    def __call__(self, target, source):
        self.left -= 1
        if self.left == 0:
            target.zero_()  # what a copy that breaks off leaves
            raise OSError('the cable is out')
        copy(target, source)


@pytest.mark.parametrize('at', [1, 4, 9, 17])
@torch.inference_mode()
def test_a_failed_copy_is_reported_and_nothing_is_lost(network, described, budget, at):
    copier = Failing(10**9)
    memory = FrameMemory(budget, Transfers(CopyStream(), copier))
    for n in range(7):
        context = memory.context(range(min(n, 2)))
        prediction = network.predict(described[n], context.cache, reference=n == 0, depth=False)
        memory.keep(n, prediction.cache)
    before = contents(memory)
    memory.context([5, 6])
    missing = [i for i in range(5) if i not in memory.resident][:2]
    assert len(missing) == 2
    copier.left = at
    context = memory.context([*missing, 6])
    with pytest.raises(
        ModelError, match=r'not be copied to the device: OSError: the cable is out'
    ):
        network.predict(described[7], context.cache, reference=False, depth=False)
    assert len(memory) == 7 and all(memory.in_full(n) for n in range(7))
    assert_contents(memory, before)
    again = memory.context([*missing, 6])
    memory.keep(7, network.predict(described[7], again.cache, reference=False).cache)
    assert len(memory) == 8


@torch.inference_mode()
def test_a_device_without_memory_is_reported_as_such(network, described, budget):
    def copier(target, source):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB')

    memory = FrameMemory(budget, Transfers(CopyStream(), copier))
    for n in range(7):
        memory.keep(n, network.predict(described[n]).cache)
    context = memory.context([0, 6])
    with pytest.raises(DeviceMemoryError, match='no memory left'):
        network.predict(described[7], context.cache, reference=False, depth=False)
    memory.forget([0])
    assert len(memory) == 6 and all(memory.in_full(n) for n in range(1, 7))


# --- The device's side ---


@dataclass
class FakeCuda:
    """Streams and events that write down what is asked of them."""

    log: list = field(default_factory=list)
    events: int = 0

    class Stream:
        def __init__(self, cuda, name):
            self.cuda, self.name = cuda, name

        def wait_stream(self, other):
            self.cuda.log.append(('wait', self.name, other.name))

        def wait_event(self, event):
            self.cuda.log.append(('wait', self.name, event))

        def record_event(self):
            self.cuda.events += 1
            self.cuda.log.append(('record', self.name, self.cuda.events))
            return self.cuda.events

    def __post_init__(self):
        self.here = threading.local()

    def make(self, device):
        return self.Stream(self, 'copies')

    def current_stream(self, device):
        return getattr(self.here, 'stream', None) or self.Stream(self, 'network')

    @contextmanager
    def stream(self, stream):
        before = getattr(self.here, 'stream', None)
        self.here.stream = stream
        try:
            yield
        finally:
            self.here.stream = before


def cuda_stream(cuda):
    class Module:
        Stream = staticmethod(cuda.make)
        current_stream = staticmethod(cuda.current_stream)
        stream = staticmethod(cuda.stream)

    return CudaCopyStream(torch.device('cuda', 0), Module)


def test_the_network_waits_on_the_device_for_the_layer_it_attends(
    network, described, budget, monkeypatch
):
    cuda = FakeCuda()

    def copier(target, source):
        cuda.log.append(('copy', cuda.current_stream(None).name, target.data_ptr()))
        copy(target, source)

    followed_by = SlotKeyValues.followed_by

    def watched(self, other):
        first = [buffer[:, :, n].data_ptr() for buffer in self._stored for n in range(4)]
        cuda.log.append(('attend', cuda.current_stream(None).name, first))
        return followed_by(self, other)

    monkeypatch.setattr(SlotKeyValues, 'followed_by', watched)
    memory = FrameMemory(budget, Transfers(cuda_stream(cuda), copier))
    result = stream(network, described, memory)
    memory.close()
    monkeypatch.setattr(SlotKeyValues, 'followed_by', followed_by)
    assert_same(result, stream(network, described, FrameMemory(budget)), atol=0)
    log = cuda.log
    copies = [n for n, entry in enumerate(log) if entry[0] == 'copy']
    assert len(copies) > 20 and all(log[n][1] == 'copies' for n in copies)
    followed = 0
    for n in copies:
        begun = max(m for m in range(n) if log[m][:2] == ('wait', 'copies'))
        assert log[begun] == ('wait', 'copies', 'network')
        reads = (m for m in range(n, len(log)) if log[m][0] == 'attend' and log[n][2] in log[m][2])
        attending = next(reads, None)
        if attending is None:
            continue  # the half of pairs, which is read last
        followed += 1
        assert log[attending][1] == 'network'
        events = [e[2] for e in log[n:attending] if e[:2] == ('record', 'copies')]
        waits = [e[2] for e in log[n:attending] if e[:2] == ('wait', 'network')]
        assert set(events) & set(waits)  # of an event after the copy, before it is attended
    assert followed > 20


def test_a_device_that_only_moves_frames_is_waited_for_as_well():
    cuda = FakeCuda()
    pending = Pending(cuda_stream(cuda), 2, [])
    pending.run(copy)
    pending.ready(1)
    assert ('wait', 'network', cuda.events) in cuda.log


@pytest.mark.gpu
def test_a_gpu_gives_the_same_with_frames_on_their_way(network, entry_bytes, budget):
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    on_gpu = copying.deepcopy(network).cuda()
    with torch.inference_mode():
        images = sample_images(12).cuda()
        tokens = [on_gpu.describe(images[:, n : n + 1]) for n in range(12)]
    roomy = stream(on_gpu, tokens, FrameMemory(CacheBudget(40 * entry_bytes, 0)))
    memory = FrameMemory(budget)
    assert_same(stream(on_gpu, tokens, memory), roomy)
    assert isinstance(memory._transfers.stream, CudaCopyStream)
    assert all(t.is_pinned() for entry in memory.host.entries.values() for t in entry)
    memory.close()
