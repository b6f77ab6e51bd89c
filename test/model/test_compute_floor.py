"""The operations of a frame are counted, whatever implements attention."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from r3_ros.core.datatypes import ModelInfo
from r3_ros.model import compute_floor as module
import torch
from torch.nn.functional import conv2d, linear, scaled_dot_product_attention


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(module, '_SIDE', {'cpu': 64})
    monkeypatch.setattr(module, '_COPIED_BYTES', {'cpu': 1 << 16})


def test_products_convolutions_and_attention_are_counted_per_frame(small_machine):
    @torch.inference_mode()
    def three_frames():
        for _ in range(3):
            linear(torch.rand(4, 8), torch.rand(16, 8))
            conv2d(torch.rand(1, 3, 10, 10), torch.rand(5, 3, 3, 3), padding=1)
            heads = torch.rand(1, 2, 64, 32)
            scaled_dot_product_attention(heads, heads, heads)
        return 3

    predictor = SimpleNamespace(
        info=ModelInfo('some'),
        weight_bytes=1000,
        context_bytes=500,
        operation_by_operation=nullcontext,
    )
    floor = module.compute_floor(predictor, three_frames)
    products, attention = 4 * 8 * 16 + 100 * 5 * 27, 2 * (2 * 64 * 64 * 32)
    assert floor.flops == 2 * (products + attention)
    assert floor.flops_per_s > 0 and floor.bytes_per_s > 0


def test_the_floor_is_the_slower_of_computing_and_reading():
    computing = module.ComputeFloor(2e9, 1000, 0, 1e11, 1e10).against(60.0)
    assert computing['floor_ms'] == computing['compute_ms'] == pytest.approx(20.0)
    assert computing['ratio'] == pytest.approx(3.0)
    reading = module.ComputeFloor(2e3, 10**8, 9 * 10**8, 1e11, 1e10).against(300.0)
    assert reading['floor_ms'] == reading['memory_ms'] == pytest.approx(100.0)
    assert reading['ratio'] == pytest.approx(3.0)
