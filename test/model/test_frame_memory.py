"""Cached frames in slots and host memory: the tiers may not show in what is predicted."""

from cached_stream import assert_same, COUNT, described, entry_bytes, network, schedule, stream
from networks import sample_images
import numpy as np
import pytest
from r3_ros.core.errors import ModelError
from r3_ros.model.cache.frame_memory import CacheBudget, FrameMemory
from r3_ros.model.network import FrameCache
import torch

__all__ = ['described', 'entry_bytes', 'network']


@torch.inference_mode()
def plain(network, described):
    """Predict the same with caches that are joined anew for each frame."""
    pairs, depths, entries = {}, [], []
    for n in range(COUNT):
        cache = FrameCache.join([entries[i] for i in schedule(n)]) if n else None
        prediction = network.predict(described[n], cache, reference=n == 0)
        for row, i in enumerate(schedule(n) if n else []):
            pairs[i, n] = prediction.pairs.translation[0, row, 0]
        depths.append(prediction.depth)
        entries.append(prediction.cache)
    return pairs, torch.cat(depths, dim=1)


@pytest.mark.parametrize('slots,host', [(40, 0), (13, 0), (6, 40), (5, 40)])
def test_slots_and_host_memory_do_not_show(network, described, entry_bytes, slots, host):
    memory = FrameMemory(CacheBudget(slots * entry_bytes, host * entry_bytes))
    assert_same(stream(network, described, memory), plain(network, described))
    assert len(memory) == COUNT and len(memory.resident) <= slots


def test_nothing_changes_while_nothing_is_evicted(network, described, entry_bytes):
    runs = [
        stream(network, described, FrameMemory(CacheBudget(slots * entry_bytes, 0)))
        for slots in (COUNT + 1, 10 * COUNT)
    ]
    assert_same(*runs, atol=0.0)


def test_forgotten_frames_leave_room(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(10 * entry_bytes, 0))
    wanted = [set().union(*(schedule(m) for m in range(n + 1, COUNT))) for n in range(COUNT)]
    stream(network, described, memory, lambda n: set(range(n)) - wanted[n])
    assert len(memory) == 1


def test_buffers_never_outgrow_the_budget(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(int(6.9 * entry_bytes), 100 * entry_bytes))
    stream(network, described, memory)
    buffers = [b for layer in memory._slots.layers for b in layer] + memory._slots.pair_features
    assert sum(b.numel() * b.element_size() for b in buffers) == 6 * entry_bytes


def test_the_new_frame_is_written_once_and_context_is_not_copied(network, described, entry_bytes):
    with torch.inference_mode():
        memory = FrameMemory(CacheBudget(8 * entry_bytes, 0))
        for n in range(4):
            context = memory.context(range(n))
            memory.keep(n, network.predict(described[n], context.cache, reference=n == 0).cache)
        context = memory.context(range(4))
        seen = context.cache.key_values[0].keys
        assert seen.data_ptr() == memory._slots.layers[0][0].data_ptr()
        own = network.predict(described[4], context.cache, reference=False).cache
        slot = memory._slots.tensors_of(4)[0]
        torch.testing.assert_close(slot, own.key_values[0].keys, atol=0, rtol=0)
        memory.keep(4, own)
        assert memory.resident[4] == 4


@torch.inference_mode()
def test_capacity_is_that_of_the_slots_or_of_the_images(network, described, entry_bytes):
    image = np.zeros((42, 70, 3), np.uint8)
    for images, capacity in ((3, 4), (9, 9)):
        memory = FrameMemory(CacheBudget(5 * entry_bytes, images * image.nbytes))
        assert memory.capacity is None
        for n in range(capacity):
            memory.keep(n, network.predict(described[n]).cache, image)
        assert memory.capacity == len(memory) == capacity
        assert memory.host.image_bytes <= images * image.nbytes
        assert memory.context([capacity - 1]).frame_ids == (capacity - 1,)


@torch.inference_mode()
def test_budgets_that_do_not_suffice_are_reported(network, described, entry_bytes):
    entry = network.predict(described[0]).cache
    with pytest.raises(ModelError, match=r'at least two.*memory\.max_gpu_mib'):
        FrameMemory(CacheBudget(entry_bytes, 0)).keep(0, entry)
    memory = FrameMemory(CacheBudget(3 * entry_bytes, 0))
    for n in range(3):
        memory.keep(n, entry)
    with pytest.raises(ModelError, match=r'3 context frames.*memory\.max_gpu_mib'):
        memory.context([0, 1, 2])
    with pytest.raises(ModelError, match=r'memory\.max_host_mib'):
        memory.keep(3, entry)
    with pytest.raises(KeyError, match='77'):
        memory.context([77])


@torch.inference_mode()
def test_a_size_may_follow_another_after_clearing(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(6 * entry_bytes, 0))
    memory.keep(0, network.predict(described[0]).cache)
    memory.clear()
    other = network.describe(sample_images(1, size=(56, 42)))
    memory.keep(0, network.predict(other).cache)
    assert memory.context([0]).cache.key_values[0].keys.shape[3] == 1 + 4 * 3


@torch.inference_mode()
def test_halved_slots_hold_the_same_frames(network, described, entry_bytes):
    expected = plain(network, described)
    memory = FrameMemory(CacheBudget(10 * entry_bytes, 20 * entry_bytes))

    def shrink(n):
        if n == 7:
            held = set(memory._used)
            memory.shrink()
            assert len(memory.resident) == 4 and set(memory._used) == held
            assert memory._slots.layers[0][0].shape[2] == 5
        return ()

    assert_same(stream(network, described, memory, shrink), expected)


@torch.inference_mode()
def test_slots_are_never_fewer_than_a_context_needs(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(10 * entry_bytes, 20 * entry_bytes))
    memory.shrink()  # before the first frame: the budget alone
    pairs, _ = stream(network, described, memory)
    for _ in range(5):
        memory.shrink()
    # Four frames at the most were attended at once, and one slot more is for the new one.
    assert memory._slots.layers[0][0].shape[2] == 5
    assert memory.context([0, 9, 10, 11]).frame_ids


@torch.inference_mode()
def test_shrinking_without_room_below_is_reported(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(20 * entry_bytes, 0))
    stream(network, described, memory)
    with pytest.raises(ModelError, match='max_host_mib'):
        memory.shrink()
