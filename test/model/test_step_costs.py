"""What a step costs a device besides computing, counted on the host.

A device without numbers (meta) stands in for a GPU to count copies and waits, since a copy from
the host to itself is none. Launches and what reads the cache are counted on the CPU.
"""

from collections import Counter
from contextlib import contextmanager
import copy
from dataclasses import replace

from lively_network import frame, lively
import numpy as np
import pytest
from r3_ros.core.config import ModelConfig
from r3_ros.core.datatypes import ModelInfo
from r3_ros.core.errors import FrameError
from r3_ros.model.building import build_network
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.r3_predictor import R3Predictor
from r3_ros.model.step_graphs import StepGraphs
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONFIG = ModelConfig(name='r3', image_size=154)
ROOM = CacheBudget(device_bytes=2**26, host_bytes=2**26)
CONTEXT = 5


class Counted(TorchDispatchMode):
    """Counts what is computed, and copied between host and device.

    :ivar computed: calls that would launch something, by name.
    :ivar to_device: shapes of what was copied there; ``to_host`` likewise.
    :ivar read_cache: names and bytes written of calls that read a block of memory.
    """

    def __init__(self, cache=None):
        super().__init__()
        self.computed, self.to_device, self.to_host, self.read_cache = Counter(), [], [], []
        self._cache = cache

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        before = tensors_in((args, kwargs))
        devices = {x.device.type for x in before}
        if devices == {'meta'} and str(kwargs.get('device')) == 'cpu':
            self.to_host.append(tuple(before[0].shape))
            return torch.ones(before[0].shape, dtype=before[0].dtype)
        result = func(*args, **kwargs)
        after = tensors_in(result)
        if 'cpu' in devices and {x.device.type for x in after} == {'meta'}:
            self.to_device.append(tuple(after[0].shape))
        is_view = not name.endswith('_') and storages(before) & storages(after)
        if before and not is_view:
            self.computed[name] += 1
            if self._cache in storages(before):
                self.read_cache.append((name, sum(x.nbytes for x in after)))
        return result


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def storages(tensors):
    return {tensor.untyped_storage()._cdata for tensor in tensors}


@contextmanager
def counted(cache=None):
    with Counted(cache) as counts:
        yield counts


def predictor(network, device='cpu', **options):
    config = replace(CONFIG, **options)
    return R3Predictor(network, ModelInfo('r3'), config, ROOM, torch.device(device))


def step(seen, number, context):
    image = frame(number)
    seen.describe(image)
    return seen.predict(image, context)


def test_an_image_goes_in_once_and_each_answer_comes_out_once():
    with torch.device('meta'):
        network = build_network(lively().config).eval().requires_grad_(False)
    seen = predictor(network, 'meta')
    for n in range(CONTEXT + 1):
        with counted() as counts:
            prediction = step(seen, n, range(max(0, n - CONTEXT), n))
        pixels, patches = (98, 154, 3), 98 * 154
        assert counts.to_device == [pixels]
        # The descriptor, by which the context is chosen, and all that follows from the context.
        # There is no other wait: a tensor without numbers cannot be read.
        numbers = 2 + 2 * 192 + 9 * min(n, CONTEXT) + 2 * patches
        assert counts.to_host == [(192,), (numbers,)]
    assert len(prediction.edges) == CONTEXT and prediction.depths


def test_attention_reads_the_cache_where_it_is():
    seen = predictor(lively())
    for n in range(CONTEXT + 2):
        step(seen, n, range(max(0, n - CONTEXT), n))
        seen.forget([n - CONTEXT])
    slots = seen._memory._slots
    keys = slots._parts[0]
    with counted(cache=keys.untyped_storage()._cdata) as counts:
        n = CONTEXT + 2
        assert len(step(seen, n, range(n - CONTEXT, n)).edges) == CONTEXT
    blocks = keys.shape[0]
    calls = Counter(name for name, _ in counts.read_cache)
    attention = next(name for name in calls if 'attention' in name)
    # Of each block across frames the own keys and values are written; the newest frame moves into
    # the slot of the one that was forgotten.
    assert calls == {attention: blocks, 'copy_': 2 * blocks + 1}
    copied = sum(size for name, size in counts.read_cache if name == 'copy_')
    assert copied == 2 * keys[:, :, :, :, 0].nbytes


def test_a_step_launches_the_same_whatever_its_context():
    seen = predictor(lively())
    totals = []
    for n in range(CONTEXT + 1):
        with counted() as counts:
            step(seen, n, range(n))
        totals.append(sum(counts.computed.values()))
    assert len(set(totals[1:])) == 1, totals


class Repeated:
    """Stands in for a captured graph: the function again, into the same results."""

    def __init__(self):
        self.captures = 0

    def __call__(self, function):
        self.captures += 1
        result = function()

        def replay():
            for old, new in zip(
                tensors_in(parts(result)), tensors_in(parts(function())), strict=True
            ):
                old.copy_(new)

        return replay, result


def parts(result):
    """Return tokens, which are no tree of torch, as one."""
    return [vars(part) if hasattr(part, 'tokens') else part for part in result]


def test_graphs_of_a_step_give_what_its_operations_give():
    network, capture = lively(), Repeated()
    plain, graphed = predictor(network), predictor(network)
    graphed._graphs = StepGraphs(capture)
    for n in range(3 * CONTEXT):
        context = range(max(0, n - CONTEXT), n)
        expected, got = step(plain, n, context), step(graphed, n, context)
        for a, b in zip(expected.edges, got.edges, strict=True):
            np.testing.assert_array_equal(a.T_source_target, b.T_source_target)
        np.testing.assert_array_equal(expected.depths[0].depth, got.depths[0].depth)
        for seen in (plain, graphed):
            seen.forget([n - CONTEXT])
    # One of the parts before the context, and one for each number of frames in it.
    assert capture.captures == 1 + CONTEXT
    graphed.reset()
    assert step(graphed, 0, []).depths and capture.captures == 2 + CONTEXT


@pytest.mark.gpu
def test_cuda_graphs_give_what_their_operations_give():
    network = copy.deepcopy(lively()).cuda()
    plain, graphed = (predictor(network, 'cuda', cuda_graphs=on) for on in (False, True))
    for n in range(3 * CONTEXT):
        context = range(max(0, n - CONTEXT), n)
        expected, got = step(plain, n, context), step(graphed, n, context)
        for a, b in zip(expected.edges, got.edges, strict=True):
            np.testing.assert_allclose(a.T_source_target, b.T_source_target, atol=1e-3)
        if n == 2 * CONTEXT:
            graphed.shrink()
            plain.shrink()
        for seen in (plain, graphed):
            seen.forget([n - CONTEXT])


def test_a_graph_is_not_used_for_images_of_another_size():
    network = lively()
    seen = predictor(network)
    seen._graphs = StepGraphs(Repeated())
    for n in range(3):
        step(seen, n, range(n))
    image = frame(3, intrinsics=None, size=(160, 160))
    with pytest.raises(FrameError, match='does not fit the cached ones'):
        seen.predict(image, range(3))
    assert len(step(seen, 4, range(3)).edges) == 3
