"""The parts of a prediction are timed, each for itself, and afterwards nothing is."""

from types import SimpleNamespace

from lively_network import frame, lively
from networks import sample_images, shared_network
import pytest
from r3_ros.core.config import ModelConfig
from r3_ros.core.datatypes import ModelInfo
from r3_ros.model import part_times as module
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.part_times import part_times
from r3_ros.model.r3_predictor import R3Predictor
import torch
from torch import nn

CPU = torch.device('cpu')


@pytest.mark.parametrize(
    ('variant', 'own'), [(None, set()), ('r3-tiny', {'matching', 'solver'})], ids=['r3', 'r3_tiny']
)
def test_parts_of_a_network_are_found(variant, own):
    network = lively(variant)
    room = CacheBudget(2**26, 2**26)
    seen = R3Predictor(network, ModelInfo('r3'), ModelConfig(name='r3', image_size=154), room, CPU)
    seen.predict(frame(0), [])
    with part_times(network, CPU) as spent:
        seen.predict(frame(1), [0])
    assert set(spent) == {'transformer', 'depth head', 'camera head', *own}
    before = dict(spent)
    seen.predict(frame(2), [0, 1])
    assert spent == before
    assert 'forward' not in vars(network.head)


@pytest.mark.parametrize(('name', 'own'), [('da3', set()), ('vggt', {'point head'})])
def test_parts_of_networks_of_several_views_are_found(name, own):
    network = shared_network(name)
    features = network.encode(sample_images(2)[0])
    with part_times(network, CPU) as spent, torch.inference_mode():
        network.relate(features)
    assert set(spent) == {'transformer', 'depth head', 'camera head', *own}


def test_a_part_within_another_counts_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow(nn.Module):
        def pairs(self):
            now[0] += 1.0
            self.solve()
            now[0] += 2.0
            return 'pairs'

        def solve(self):
            now[0] += 4.0

    network = Slow()
    with module.part_times(network, CPU) as spent:
        assert network.pairs() == network.pairs() == 'pairs'
    assert spent == {'matching': 6000.0, 'solver': 8000.0}
