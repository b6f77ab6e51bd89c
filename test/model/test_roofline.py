"""Counts without numbers are those of a network that runs; limits of devices follow from them."""

import pytest
from r3_ros.model.building import made_up_network
from r3_ros.model.compute_floor import counted_flops
from r3_ros.model.network import FrameCache
from r3_ros.model.roofline import count_step, Device, StepCounts
from r3_ros.model.variants import VARIANTS
import torch


@torch.inference_mode()
def test_what_is_counted_is_what_a_step_computes():
    counts = count_step('r3-tiny', 'fp32', 2, 112)
    network = made_up_network(VARIANTS['r3-tiny'], torch.float32, torch.device('cpu'))
    images = torch.rand(1, 1, 3, counts.height, counts.width)
    entry = network.predict(network.describe(images)).cache
    with counted_flops() as counter:
        network.predict(network.describe(images), FrameCache.join([entry, entry]))
    assert counts.flops == counter.get_total_flops() > 0
    assert counts.entry_bytes == entry.nbytes
    assert counts.weight_bytes == sum(p.nbytes for p in network.parameters())


def test_a_network_of_several_views_computes_its_context_again():
    one, three = (count_step('da3-small', 'bf16', context, 112) for context in (1, 3))
    assert (one.width, one.height) == (112, 84)
    assert 1.8 < three.flops / one.flops < 2.2  # four frames over two


def test_the_limit_is_the_slower_of_computing_and_reading():
    counts = StepCounts('some', 100, 100, 4, flops=10**9, weight_bytes=10**6, entry_bytes=10**6)
    computing = counts.floor(Device('slow', 'fp32', 1e11, 1e12, ''))
    assert computing.floor_ms == pytest.approx(10.0)
    reading = counts.floor(Device('narrow', 'fp32', 1e13, 1e9, ''))
    assert reading.floor_ms == pytest.approx(5.0)  # weights and four frames
