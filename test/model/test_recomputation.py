"""Frames held by their image alone come back in full when they are wanted."""

from dataclasses import replace

from cached_stream import host_bytes
from lively_network import frame, lively
import numpy as np
import pytest
from r3_ros.core.config import ModelConfig, R3Config
from r3_ros.core.datatypes import Intrinsics, ModelInfo
from r3_ros.core.errors import FrameError, ModelError
from r3_ros.core.parameter_fields import updated
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.r3_predictor import R3Predictor
from r3_ros.streaming.engine import Engine
import torch

CONFIG = ModelConfig(name='r3', image_size=154, depth=False)
#: Of a frame of 154 x 98 pixels: four layers in float32, and its half of the pairs; its image.
ENTRY_BYTES = 2 * 4 * 192 * (1 + 7 * 11) * 4 + 384 * 4
IMAGE_BYTES = 154 * 98 * 3


@pytest.fixture(scope='module')
def network():
    return lively()


def predictor(network, slots=40, host=0, images=100, per_frame=4):
    """Return a predictor with so many slots, and host memory for entries and images."""
    budget = CacheBudget(slots * ENTRY_BYTES, host * ENTRY_BYTES + images * IMAGE_BYTES)
    info, device = ModelInfo('r3'), torch.device('cpu')
    return R3Predictor(network, info, CONFIG, budget, device, per_frame)


def edges(prediction):
    return {e.source_id: e.T_source_target for e in prediction.edges}


def assert_same_edges(first, second, atol=2e-4):
    assert first.keys() == second.keys()
    for source, pose in first.items():
        np.testing.assert_allclose(pose, second[source], atol=atol, rtol=0)


@torch.inference_mode()
def entry(seen, frame_id):
    cache, _ = seen._memory.context([frame_id])
    return [t.clone() for kv in cache.key_values for t in (kv.keys, kv.values)]


def to_image(seen, *frame_ids):
    """Let frames go but for their images, as a full memory does."""
    for frame_id in frame_ids:
        pixels = seen._memory.image(frame_id)
        seen._memory.hold_image(frame_id, pixels)
        assert not seen._memory.in_full(frame_id)


def fed(network, *numbers, **options):
    seen = predictor(network, **options)
    for n, number in enumerate(numbers):
        seen.predict(frame(number), numbers[:n])
    return seen


# --- What comes back ---


def test_a_frame_that_attends_what_it_attended_is_what_it_was(network):
    seen = fed(network, 0, 1, 2, 3)
    before = entry(seen, 2)
    to_image(seen, 2)
    back = edges(seen.predict(frame(4), [0, 1, 2, 3]))
    for kept, again in zip(before, entry(seen, 2), strict=True):
        torch.testing.assert_close(again, kept, atol=1e-5, rtol=0)
    straight = edges(fed(network, 0, 1, 2, 3).predict(frame(4), [0, 1, 2, 3]))
    assert_same_edges(back, straight)


def test_the_reference_frame_is_what_it_was_whatever_is_there(network):
    seen = fed(network, 0, 1, 2)
    before = entry(seen, 0)
    to_image(seen, 0)
    seen.predict(frame(3), [0, 2])
    for kept, again in zip(before, entry(seen, 0), strict=True):
        torch.testing.assert_close(again, kept, atol=0, rtol=0)


def test_a_frame_attends_those_that_it_attended_and_no_others(network):
    entries = []
    for others in ([], [4, 5]):
        seen = fed(network, 0, 1, 2, 3)
        for number in (4, 5):
            seen.predict(frame(number), [0, 3])
        to_image(seen, 2)
        seen.predict(frame(6), [1, 2, *others])
        entries.append(entry(seen, 2))
    for first, second in zip(*entries, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_so_many_come_back_for_a_frame_and_the_others_for_the_next(network):
    seen = fed(network, *range(6), per_frame=2)
    to_image(seen, 1, 2, 3, 4)
    sources = [set(edges(seen.predict(frame(n), range(6)))) for n in (6, 7, 8)]
    assert sources == [{0, 1, 2, 5}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}]


def test_what_is_not_finite_stays_away(network):
    seen = fed(network, 0, 1, 2)
    to_image(seen, 1)
    describe, calls = network.describe, []

    def spoilt(images):
        calls.append(len(calls))
        described = describe(images)
        bad = len(calls) == 2  # after the new frame, the one from its image
        return replace(described, tokens=described.tokens * torch.nan) if bad else described

    network.describe = spoilt
    try:
        assert set(edges(seen.predict(frame(3), [0, 1, 2]))) == {0, 2}
    finally:
        del network.describe
    assert set(edges(seen.predict(frame(4), [0, 1, 2]))) == {0, 1, 2}


# --- Frames of another run ---


def test_images_of_another_run_give_what_their_frames_gave(network):
    straight = edges(fed(network, 0, 1, 2).predict(frame(9), [0, 1, 2]))
    restored = predictor(network)
    for n in range(3):
        restored.hold_image(n, frame(n).image, neighbours=range(n))
    assert len(restored._memory) == 3 and restored.capacity is None
    assert_same_edges(edges(restored.predict(frame(9), [0, 1, 2])), straight)
    restored.forget([0, 1, 2])
    assert len(restored._memory) == 1


def test_images_as_the_network_saw_them_are_taken_as_they_are(network):
    seen, restored = fed(network, 0), predictor(network)
    restored.hold_image(0, seen._memory.image(0))
    np.testing.assert_array_equal(restored._memory.image(0), seen._memory.image(0))


def test_images_of_another_size_are_refused(network):
    restored = predictor(network)
    restored.hold_image(0, frame(0).image)
    with pytest.raises(FrameError, match=r'154x112 pixels.*154x98.*model\.image_size'):
        restored.predict(frame(1, size=(120, 160), intrinsics=None), [0])
    with pytest.raises(FrameError, match='red green blue'):
        restored.hold_image(1, np.zeros((100, 100, 4), np.uint8))


def test_images_without_room_are_refused(network):
    restored = predictor(network, images=2)
    for n in range(2):
        restored.hold_image(n, frame(n).image)
    with pytest.raises(ModelError, match=r'3 frames.*memory\.max_host_mib'):
        restored.hold_image(2, frame(2).image)
    assert len(restored._memory) == 2


# --- A memory that lets entries go ---


def wandering(n):
    """Return a context that needs frames old and new."""
    return sorted({0, n - 1, n - 2, (n * 7) % n, (n * 5 + 3) % n} & set(range(n))) if n else []


@pytest.mark.slow
@pytest.mark.parametrize('slots,host', [(6, 0), (6, 3)])
def test_a_small_memory_keeps_its_budget_and_gives_the_same_twice(network, slots, host):
    runs = []
    for _ in range(2):
        seen = predictor(network, slots, host, images=12)
        memory, poses = seen._memory, []
        for n in range(12):
            poses.append(edges(seen.predict(frame(n), wandering(n))))
            assert set(poses[-1]) == set(wandering(n))
            assert host_bytes(memory) <= host * ENTRY_BYTES + 12 * IMAGE_BYTES
            assert len(memory._on_device) <= slots
        in_full = [n for n in range(12) if memory.in_full(n)]
        assert slots <= len(in_full) <= slots + host and len(memory) == 12
        runs.append(poses)
    for first, second in zip(*runs, strict=True):
        assert_same_edges(first, second, atol=0)


def test_a_context_that_does_not_fit_is_reported_before_anything_is_lost(network):
    seen = fed(network, 0, 1, 2, 3, slots=4)
    to_image(seen, 0, 1)
    with pytest.raises(ModelError, match=r'4 context frames.*memory\.max_gpu_mib'):
        seen.predict(frame(4), [0, 1, 2, 3])
    assert seen._memory.in_full(2) and seen._memory.in_full(3)
    assert set(edges(seen.predict(frame(4), [0, 2, 3]))) == {0, 2, 3}


def test_the_capacity_is_that_of_images(network):
    assert fed(network, 0, slots=6, host=0, images=50).capacity == 50
    assert fed(network, 0, slots=6, host=0, images=2).capacity == 5


def test_frames_without_room_for_a_image_are_held_while_they_fit(network):
    seen = fed(network, *range(5), slots=6, images=2)
    assert set(edges(seen.predict(frame(5), range(5)))) == set(range(5))


def test_a_stream_with_more_keyframes_than_entries(network):
    changes = {
        'keyframe.overlap_threshold': 0.0,
        'keyframe.novelty_threshold': 0.0,
        'keyframe.max_interval': 1,
        'stream.recent_frames': 2,
        'stream.recent_keyframes': 2,
        'stream.retrieved_keyframes': 2,
        'tracking.lost_ratio': 0.0,
        'tracking.low_confidence_ratio': 0.0,
    }
    seen = predictor(network, slots=8, host=1, images=5, per_frame=2)
    engine = Engine(seen, updated(R3Config(), changes))
    related = set()
    # Back over the same images: what was dropped is wanted again.
    for n in [*range(12), *reversed(range(9))]:
        estimate = engine.step(replace(frame(n), frame_id=-1))
        assert estimate.T_world_camera is not None
        related |= set(estimate.context_ids)
        assert host_bytes(seen._memory) <= ENTRY_BYTES + 5 * IMAGE_BYTES
    assert seen.capacity == 15 and len(engine.session.bank) == 15 - 2 - 1
    assert related >= set(range(9))
    engine.reset()
    assert len(seen._memory) == 0 and host_bytes(seen._memory) == 0


def test_a_camera_of_another_shape_starts_after_a_reset(network):
    seen = fed(network, 0, 1)
    seen.reset()
    K = Intrinsics(150.0, 150.0, 80.0, 60.0, 160, 120)
    assert seen.predict(frame(1, size=(120, 160), intrinsics=K), []).intrinsics == K
