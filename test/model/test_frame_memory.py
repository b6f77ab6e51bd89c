"""Cached frames on the device and in host memory: the tiers may not show in what is predicted."""

import copy

from cached_stream import (
    assert_same,
    COUNT,
    described,
    entry_bytes,
    host_bytes,
    network,
    schedule,
    stream,
)
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


@pytest.mark.parametrize('entries,host', [(40, 0), (13, 0), (6, 40), (5, 40)])
def test_tiers_do_not_show(network, described, entry_bytes, entries, host):
    memory = FrameMemory(CacheBudget(entries * entry_bytes, host * entry_bytes))
    streamed = stream(network, described, memory)
    # The order of the frames in memory is another: sums are rounded differently.
    assert_same(streamed, plain(network, described), atol=2e-5)
    assert len(memory) == COUNT and len(memory._on_device) <= entries


def test_nothing_changes_while_nothing_is_evicted(network, described, entry_bytes):
    runs = [
        stream(network, described, FrameMemory(CacheBudget(entries * entry_bytes, 0)))
        for entries in (COUNT + 1, 10 * COUNT)
    ]
    assert_same(*runs, atol=0.0)


def test_forgotten_frames_leave_room(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(10 * entry_bytes, 0))
    wanted = [set().union(*(schedule(m) for m in range(n + 1, COUNT))) for n in range(COUNT)]
    stream(network, described, memory, lambda n: set(range(n)) - wanted[n])
    assert len(memory) == 1


def test_entries_never_outgrow_the_budgets(network, described, entry_bytes):
    budget = CacheBudget(int(5.9 * entry_bytes), int(7.9 * entry_bytes))
    memory = FrameMemory(budget)

    def check(n):
        assert sum(part.nbytes for part in memory._slots._parts) == 5 * entry_bytes
        assert len(memory._on_device) == min(n + 1, 5)
        assert host_bytes(memory) == max(n + 1 - 5, 0) * entry_bytes
        return ()

    stream(network, described, memory, check)


@torch.inference_mode()
def test_a_context_is_read_in_place_and_its_frame_written_into_the_next_slot(
    network, described, entry_bytes
):
    memory = FrameMemory(CacheBudget(6 * entry_bytes, 0))
    stream(network, described[:4], memory)
    context, places = memory.context([2, 0])
    assert sorted(places) == [0, 1]
    keys = memory._slots._parts[0][0, 0]  # of the first block, (B, h, slots, P, d)
    assert context.key_values[0].keys.data_ptr() == keys.data_ptr()
    assert context.key_values[0].keys.flatten(2, 3).data_ptr() == keys.data_ptr()
    own = network.predict(described[5], context, reference=False).cache
    assert own.key_values[0].keys.data_ptr() == keys[:, :, 2].data_ptr()
    written = own.key_values[0].keys.clone()
    memory.keep(5, None)
    kept, _ = memory.context([5])
    torch.testing.assert_close(kept.key_values[0].keys, written, atol=0, rtol=0)


@torch.inference_mode()
def test_capacity_is_that_of_the_device_or_of_the_images(network, described, entry_bytes):
    image = np.zeros((42, 70, 3), np.uint8)
    for images, capacity in ((3, 4), (9, 9)):
        memory = FrameMemory(CacheBudget(5 * entry_bytes, images * image.nbytes))
        assert memory.capacity is None
        for n in range(capacity):
            memory.keep(n, network.predict(described[n]).cache, image)
        assert memory.capacity == len(memory) == capacity
        assert host_bytes(memory) <= images * image.nbytes
        assert memory.context([capacity - 1])[0].frames == 1


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
    assert memory.context([0])[0].key_values[0].keys.shape[3] == 1 + 4 * 3


@torch.inference_mode()
def test_a_halved_budget_holds_the_same_frames(network, described, entry_bytes):
    expected = plain(network, described)
    memory = FrameMemory(CacheBudget(10 * entry_bytes, 20 * entry_bytes))

    def shrink(n):
        if n == 7:
            memory.shrink()
            assert len(memory._on_device) == 4 and len(memory) == 8
            assert memory._device_capacity == 5
        return ()

    assert_same(stream(network, described, memory, shrink), expected)


@torch.inference_mode()
def test_shrinking_frees_memory_of_a_device_that_was_not_full(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(100 * entry_bytes, 20 * entry_bytes))
    for n in range(8):
        memory.keep(n, network.predict(described[n]).cache)
    memory.shrink()
    assert len(memory._on_device) == 3 and memory._device_capacity == 4
    assert all(memory.in_full(n) for n in range(8))


@torch.inference_mode()
def test_the_budget_is_never_less_than_a_context_needs(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(10 * entry_bytes, 20 * entry_bytes))
    memory.shrink()  # before the first frame: the budget alone
    pairs, _ = stream(network, described, memory)
    for _ in range(5):
        memory.shrink()
    # Four frames at the most were attended at once, and one more is the new one.
    assert memory._device_capacity == 5
    assert memory.context([0, 9, 10, 11])[0].frames == 4


@torch.inference_mode()
def test_shrinking_without_room_below_is_reported(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(20 * entry_bytes, 0))
    stream(network, described, memory)
    with pytest.raises(ModelError, match='max_host_mib'):
        memory.shrink()


@torch.inference_mode()
def test_nothing_is_lost_when_the_device_has_no_memory_left(network, described, entry_bytes):
    memory = FrameMemory(CacheBudget(5 * entry_bytes, 8 * entry_bytes))
    for n in range(7):
        memory.keep(n, network.predict(described[n]).cache)
    expected = features_of(memory, [0, 6])

    def full(slot, entry):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB')

    memory._slots.put, put = full, memory._slots.put
    away = next(n for n in range(7) if n not in memory._on_device)
    with pytest.raises(torch.OutOfMemoryError):
        memory.context([away, 6])
    assert all(memory.in_full(n) for n in range(7))
    memory._slots.put = put
    assert memory.context([away, 6])[0].frames == 2
    torch.testing.assert_close(features_of(memory, [0, 6]), expected, atol=0, rtol=0)


def features_of(memory, frame_ids):
    context, places = memory.context(frame_ids)
    return context.pair_features[0][:, places].clone()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_with_frames_in_host_memory(network, entry_bytes):
    if not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    on_gpu = copy.deepcopy(network).cuda()
    with torch.inference_mode():
        images = sample_images(COUNT).cuda()
        tokens = [on_gpu.describe(images[:, n : n + 1]) for n in range(COUNT)]
    roomy = stream(on_gpu, tokens, FrameMemory(CacheBudget(40 * entry_bytes, 0)))
    memory = FrameMemory(CacheBudget(5 * entry_bytes, 8 * entry_bytes))
    assert_same(stream(on_gpu, tokens, memory), roomy, atol=0)
    assert all(part.is_pinned() for entry in memory._on_host.values() for part in entry)
