"""Cached frames in slots, host memory and files: the tiers may not show in what is predicted."""

import os
from pathlib import Path
import signal
import subprocess
import sys

from networks import pictures, shared_network
import numpy as np
import pytest
from r3_ros.errors import ModelError, OutputError
from r3_ros.model.backbone import KeyValues
from r3_ros.model.cache_encoding import Float8
from r3_ros.model.frame_store import FrameStore
from r3_ros.model.memory import FrameMemory, Room
from r3_ros.model.network import FrameCache
import torch

COUNT = 12


@pytest.fixture(scope='module')
def network():
    return shared_network('r3')


@pytest.fixture(scope='module')
def described(network):
    with torch.inference_mode():
        images = pictures(COUNT)
        return [network.describe(images[:, n : n + 1]) for n in range(COUNT)]


@pytest.fixture(scope='module')
def entry_bytes(network, described):
    with torch.inference_mode():
        memory = FrameMemory(Room(2**30, 0))
        memory.keep(0, network.predict(described[0]).cache)
    return memory.entry_bytes


def schedule(n):
    """Return the frames that frame n attends to: the first, the newest, and a wandering one."""
    return sorted({0, n - 1, n - 2, (5 * n + 2) % 7} & set(range(n)))


@torch.inference_mode()
def stream(network, described, memory, forget=None):
    """Predict all frames with a memory; return translations and depths, by pair and frame."""
    pairs, depths = {}, []
    for n in range(COUNT):
        context = memory.context(schedule(n) if n else [])
        assert sorted(context.frame_ids) == (schedule(n) if n else [])
        prediction = network.predict(described[n], context.cache, reference=n == 0)
        for row, i in enumerate(context.frame_ids):
            pairs[i, n] = prediction.pairs.translation[0, row, 0].clone()
        depths.append(prediction.depth.clone())
        memory.keep(n, prediction.cache)
        if forget is not None:
            memory.forget(forget(n))
    return pairs, torch.cat(depths, dim=1)


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


def assert_same(first, second, atol=2e-4):
    assert first[0].keys() == second[0].keys()
    for pair, translation in first[0].items():
        torch.testing.assert_close(translation, second[0][pair], atol=atol, rtol=0)
    torch.testing.assert_close(first[1].log(), second[1].log(), atol=atol, rtol=0)


@pytest.mark.parametrize('slots,host', [(40, 0), (13, 0), (6, 40), (5, 40)])
def test_slots_and_host_memory_do_not_show(network, described, entry_bytes, slots, host):
    memory = FrameMemory(Room(slots * entry_bytes, host * entry_bytes))
    assert_same(stream(network, described, memory), plain(network, described))
    assert len(memory) == COUNT and len(memory.resident) <= slots


def test_files_do_not_show(network, described, entry_bytes, tmp_path):
    room = Room(5 * entry_bytes, 2 * entry_bytes, tmp_path, 40 * entry_bytes, 'net')
    memory = FrameMemory(room)
    assert_same(stream(network, described, memory), plain(network, described))
    stored = list(tmp_path.glob('frame_*'))
    assert len(stored) >= COUNT - 5 - 2
    memory.forget(range(COUNT))
    assert not list(tmp_path.glob('frame_*')) and len(memory) == 0


def test_nothing_changes_while_nothing_is_evicted(network, described, entry_bytes):
    runs = [
        stream(network, described, FrameMemory(Room(slots * entry_bytes, 0)))
        for slots in (COUNT + 1, 10 * COUNT)
    ]
    assert_same(*runs, atol=0.0)


def test_forgotten_frames_leave_room(network, described, entry_bytes):
    memory = FrameMemory(Room(10 * entry_bytes, 0))
    wanted = [set().union(*(schedule(m) for m in range(n + 1, COUNT))) for n in range(COUNT)]
    stream(network, described, memory, lambda n: set(range(n)) - wanted[n])
    assert len(memory) == 1


def test_buffers_never_outgrow_the_budget(network, described, entry_bytes):
    memory = FrameMemory(Room(int(6.9 * entry_bytes), 100 * entry_bytes))
    stream(network, described, memory)
    buffers = [b for layer in memory._slots.layers for b in layer] + [memory._slots.pair_sources]
    assert sum(b.numel() * b.element_size() for b in buffers) == 6 * entry_bytes


def test_the_new_frame_is_written_once_and_context_is_not_copied(network, described, entry_bytes):
    with torch.inference_mode():
        memory = FrameMemory(Room(8 * entry_bytes, 0))
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


def test_capacity_counts_all_tiers(network, described, entry_bytes, tmp_path):
    room = Room(5 * entry_bytes, 3 * entry_bytes, tmp_path, 8 * entry_bytes)
    memory = FrameMemory(room)
    assert memory.capacity is None
    with torch.inference_mode():
        memory.keep(0, network.predict(described[0]).cache)
        files = memory.capacity - 4 - 3
        assert 5 <= files < 8  # each has a header, too
        for n in range(1, memory.capacity):
            memory.keep(n, network.predict(described[n % COUNT]).cache)
        assert memory.context([n]).frame_ids == (n,)
    assert len(memory) == memory.capacity
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= room.store_bytes


@torch.inference_mode()
def test_budgets_that_do_not_suffice_are_told(network, described, entry_bytes):
    entry = network.predict(described[0]).cache
    with pytest.raises(ModelError, match=r'at least two.*memory\.max_gpu_mib'):
        FrameMemory(Room(entry_bytes, 0)).keep(0, entry)
    memory = FrameMemory(Room(3 * entry_bytes, 0))
    for n in range(3):
        memory.keep(n, entry)
    with pytest.raises(ModelError, match=r'3 context frames.*memory\.max_gpu_mib'):
        memory.context([0, 1, 2])
    with pytest.raises(ModelError, match=r'memory\.store_folder'):
        memory.keep(3, entry)
    with pytest.raises(KeyError, match='77'):
        memory.context([77])


@torch.inference_mode()
def test_a_size_may_follow_another_after_clearing(network, described, entry_bytes):
    memory = FrameMemory(Room(6 * entry_bytes, 0))
    memory.keep(0, network.predict(described[0]).cache)
    memory.clear()
    other = network.describe(pictures(1, size=(56, 42)))
    memory.keep(0, network.predict(other).cache)
    assert memory.context([0]).cache.key_values[0].keys.shape[3] == 1 + 4 * 3


# --- Files ---


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(1, 2, 1, 5, 4, generator=generator),
        torch.rand(3, generator=generator).bfloat16(),
    ]


def test_what_was_stored_is_there_for_the_next(tmp_path):
    store = FrameStore(tmp_path, 'a', 2**20)
    store.write(7, tensors())
    store.close()
    again = FrameStore(tmp_path, 'a', 2**20)
    assert again.ids() == [7] and 7 in again
    for kept, tensor in zip(again.read(7), tensors(), strict=True):
        assert kept.dtype == tensor.dtype
        torch.testing.assert_close(kept, tensor, atol=0, rtol=0)
    again.close()
    assert FrameStore(tmp_path, 'b', 2**20).ids() == []


def test_a_folder_has_one_owner(tmp_path):
    store = FrameStore(tmp_path, 'a', 2**20)
    with pytest.raises(OutputError, match='another process'):
        FrameStore(tmp_path, 'a', 2**20)
    store.close()
    FrameStore(tmp_path, 'a', 2**20).close()


def test_the_budget_of_the_disk_holds(tmp_path):
    store = FrameStore(tmp_path, 'a', 20_000)
    for n in range(2):
        store.write(n, tensors(n))
    with pytest.raises(OutputError, match=r'memory\.max_store_mib'):
        for n in range(2, 60):
            store.write(n, tensors(n))
    assert sum(p.stat().st_size for p in tmp_path.glob('frame_*')) <= 20_000


def test_damaged_and_foreign_files_are_not_seen(tmp_path):
    store = FrameStore(tmp_path, 'a', 2**20)
    for n in range(3):
        store.write(n, tensors(n))
    store.close()
    path = tmp_path / 'frame_000000001.safetensors'
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / 'notes.txt').write_text('mine')
    again = FrameStore(tmp_path, 'a', 2**20)
    assert again.ids() == [0, 2]
    (tmp_path / 'frame_000000002.safetensors').unlink()
    with pytest.raises(ModelError, match='cannot be read'):
        again.read(2)
    again.clear()
    assert (tmp_path / 'notes.txt').exists() and not list(tmp_path.glob('frame_*'))


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match=r'memory\.store_folder'):
        FrameStore(tmp_path / 'file' / 'below', 'a', 2**20)


WRITER = """
import sys
import torch
from r3_ros.model.backbone import KeyValues
from r3_ros.model.cache_encoding import Float8
from r3_ros.model.frame_store import FrameStore
store = FrameStore(sys.argv[1], 'a', 2**30)
n = 0
while True:
    store.write(n, [torch.full((300_000,), float(n))])
    n += 1
    print(n, flush=True)
"""


def test_a_killed_process_leaves_whole_files_only(tmp_path):
    folder = tmp_path / 'store'
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1])}
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, '-c', WRITER, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(5):
            written = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait()
        store = FrameStore(folder, 'a', 2**30)
        assert len(store) >= written
        for n in store.ids():
            (tensor,) = store.read(n)
            np.testing.assert_array_equal(tensor.numpy(), np.full(300_000, n, np.float32))
        store.close()


@torch.inference_mode()
def test_halved_slots_hold_the_same_frames(network, described, entry_bytes):
    expected = plain(network, described)
    memory = FrameMemory(Room(10 * entry_bytes, 20 * entry_bytes))

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
    memory = FrameMemory(Room(10 * entry_bytes, 20 * entry_bytes))
    memory.shrink()  # before the first frame: the budget alone
    pairs, _ = stream(network, described, memory)
    for _ in range(5):
        memory.shrink()
    # Four frames at the most were attended at once, and one slot more is for the new one.
    assert memory._slots.layers[0][0].shape[2] == 5
    assert memory.context([0, 9, 10, 11]).frame_ids


@torch.inference_mode()
def test_shrinking_without_room_below_is_told(network, described, entry_bytes):
    memory = FrameMemory(Room(20 * entry_bytes, 0))
    stream(network, described, memory)
    with pytest.raises(ModelError, match='max_host_mib'):
        memory.shrink()


# --- A byte for each number ---


@torch.inference_mode()
def test_a_byte_for_each_number_is_near_and_small(network, described, entry_bytes):
    entry = network.predict(described[0]).cache
    encoding = Float8()
    for kv in entry.key_values:
        stored = encoding.encode(kv)
        assert stored[0].dtype == stored[3].dtype == torch.float8_e4m3fn
        back = encoding.decode(stored, torch.float32)
        for kept, again in ((kv.keys, back.keys), (kv.values, back.values)):
            # Three binary digits behind the point: half a step is at most a 16th.
            assert (again - kept).abs().max() <= kept.abs().max() / 8
            assert 0 < (again - kept).norm() / kept.norm() < 0.03
    memory = FrameMemory(Room(2**30, 0, float8=True))
    memory.keep(0, entry)
    heads, layers = entry.key_values[0].keys.shape[1], len(entry.key_values)
    # Here in float32, of which a quarter is left; scales and means beside it.
    aside = 2 * layers * heads * (4 + 4 * 64)
    pairs = entry.pair_sources.numel() * 4
    assert memory.entry_bytes == (entry_bytes - pairs) // 4 + aside + pairs


@pytest.mark.parametrize('slots,host', [(40, 0), (5, 40), (5, 2)])
def test_tiers_do_not_show_in_a_byte_each(network, described, entry_bytes, slots, host, tmp_path):
    with torch.inference_mode():
        probe = FrameMemory(Room(2**30, 0, float8=True))
        probe.keep(0, network.predict(described[0]).cache)
    small = probe.entry_bytes
    room = Room(slots * small, host * small, tmp_path, 2**24, 'net', float8=True)
    got = stream(network, described, FrameMemory(room))
    straight = stream(network, described, FrameMemory(Room(2**30, 0, float8=True)))
    assert_same(got, straight)
    exact = plain(network, described)
    assert_same(got, exact, atol=0.3)
    spread = torch.stack([a - exact[0][pair] for pair, a in got[0].items()]).norm(dim=-1)
    size = torch.stack(list(exact[0].values())).norm(dim=-1)
    assert 0 < (spread.mean() / size.mean()) < 0.03


def test_numbers_that_are_all_the_same_and_large_ones_stay_finite():
    for value in (0.0, 3.0, 1e30):
        x = torch.full((1, 2, 1, 4, 64), value)
        x[..., 0, :] = -value  # the camera's token
        back = Float8().decode(Float8().encode(KeyValues(x, x)), torch.float32)
        torch.testing.assert_close(back.keys, x, rtol=0.1, atol=1e-6)
