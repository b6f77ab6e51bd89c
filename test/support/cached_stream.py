"""A stream through a small network with a frame memory, and the fixtures that it needs."""

from networks import sample_images, shared_network
import pytest
from r3_ros.model.cache.frame_memory import CacheBudget, FrameMemory
import torch

COUNT = 12


@pytest.fixture(scope='module')
def network():
    return shared_network('r3')


@pytest.fixture(scope='module')
def described(network):
    with torch.inference_mode():
        images = sample_images(COUNT)
        return [network.describe(images[:, n : n + 1]) for n in range(COUNT)]


@pytest.fixture(scope='module')
def entry_bytes(network, described):
    with torch.inference_mode():
        memory = FrameMemory(CacheBudget(2**30, 0))
        memory.keep(0, network.predict(described[0]).cache)
    return memory.entry_bytes


def host_bytes(memory):
    """Return the bytes of host memory that entries and images take."""
    images = sum(image.nbytes for image in memory._images.values())
    return images + sum(part.nbytes for entry in memory._on_host.values() for part in entry)


def schedule(n):
    """Return the frames that frame n attends to: the first, the newest, and a wandering one."""
    return sorted({0, n - 1, n - 2, (5 * n + 2) % 7} & set(range(n)))


@torch.inference_mode()
def stream(network, described, memory, forget=None):
    """Predict frames with a memory; return translations and depths, by pair and frame."""
    pairs, depths = {}, []
    for n in range(len(described)):
        seen = schedule(n) if n else []
        context, places = memory.context(seen)
        prediction = network.predict(described[n], context, reference=n == 0)
        for row, i in zip(places, seen, strict=True):
            pairs[i, n] = prediction.pairs.translation[0, row, 0].clone()
        depths.append(prediction.depth.clone())
        memory.keep(n, prediction.cache if context is None else None)
        if forget is not None:
            memory.forget(forget(n))
    return pairs, torch.cat(depths, dim=1)


def assert_same(first, second, atol=2e-4):
    assert first[0].keys() == second[0].keys()
    for pair, translation in first[0].items():
        torch.testing.assert_close(translation, second[0][pair], atol=atol, rtol=0)
    torch.testing.assert_close(first[1].log(), second[1].log(), atol=atol, rtol=0)
