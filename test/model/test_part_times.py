"""The parts of a prediction are timed, each for itself, and afterwards nothing is."""

import time

from lively_network import frame, lively
import pytest
from r3_ros.core.config import ModelConfig
from r3_ros.core.datatypes import ModelInfo
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


def test_a_part_within_another_counts_once():
    class Slow(nn.Module):
        def pairs(self):
            time.sleep(0.01)
            self.solve()
            return 'pairs'

        def solve(self):
            time.sleep(0.03)

    network = Slow()
    with part_times(network, CPU) as spent:
        assert network.pairs() == 'pairs'
    assert spent['solver'] >= 30.0
    assert 10.0 <= spent['matching'] < spent['solver']
