"""Descriptor search: laws of the NumPy index, and its CuPy twin against it."""

import numpy as np
import pytest
from r3_ros.config import R3Config, updated
from r3_ros.errors import ModelError
from r3_ros.factory import load_engine
from r3_ros.kernels import CupyDescriptorIndex, descriptor_index, NumpyDescriptorIndex

SIZE = 32


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lacks_device():
    try:
        import cupy
    except ImportError:
        return 'CuPy is not installed'
    try:
        return '' if cupy.cuda.runtime.getDeviceCount() else 'there is no CUDA device'
    except Exception as error:
        return f'CUDA cannot be used: {error}'


NO_DEVICE = lacks_device()
KINDS = [
    NumpyDescriptorIndex,
    pytest.param(
        CupyDescriptorIndex,
        marks=pytest.mark.skipif(bool(NO_DEVICE), reason=NO_DEVICE or 'a device is there'),
    ),
]


@pytest.fixture(params=KINDS)
def index(request):
    return request.param(8, SIZE)


def test_an_empty_index_finds_nothing(index):
    slots, scores = index.search(unit_vectors(1)[0], 5)
    assert len(slots) == len(scores) == 0
    assert np.isneginf(index.similarities(unit_vectors(1)[0])).all()


def test_what_was_put_in_is_found_best_first(index):
    vectors = unit_vectors(5)
    for slot, vector in zip((7, 3, 0, 4, 1), vectors, strict=True):
        index.put(slot, vector)
    query = unit_vectors(1, seed=9)[0]
    slots, scores = index.search(query, 3)
    expected = sorted(zip(vectors @ query, (7, 3, 0, 4, 1), strict=True), reverse=True)[:3]
    assert [int(slot) for slot in slots] == [slot for _, slot in expected]
    np.testing.assert_allclose(scores, [score for score, _ in expected], atol=1e-6)
    assert len(index.search(query, 100)[0]) == 5
    assert index.search(vectors[1], 1)[0][0] == 3


def test_a_slot_can_be_emptied_and_filled_again(index):
    a, b = unit_vectors(2)
    index.put(2, a)
    index.remove(2)
    assert len(index.search(a, 3)[0]) == 0
    index.put(2, b)
    assert index.similarities(b)[2] == pytest.approx(1.0, abs=1e-6)
    assert index.similarities(a)[2] == pytest.approx(float(a @ b), abs=1e-6)


def test_the_index_keeps_no_view_of_what_it_was_given(index):
    vector = unit_vectors(1)[0]
    index.put(0, vector)
    query = vector.copy()
    vector[:] = 0.0
    assert index.similarities(query)[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.skipif(bool(NO_DEVICE), reason=NO_DEVICE or 'a device is there')
def test_the_twins_agree():
    vectors, queries = unit_vectors(100), unit_vectors(20, seed=1)
    twins = NumpyDescriptorIndex(128, SIZE), CupyDescriptorIndex(128, SIZE)
    for twin in twins:
        for slot, vector in enumerate(vectors):
            twin.put(slot, vector)
        for slot in range(0, 100, 7):
            twin.remove(slot)
    for query in queries:
        (slots, scores), (cuda_slots, cuda_scores) = (twin.search(query, 10) for twin in twins)
        np.testing.assert_array_equal(slots, cuda_slots)
        np.testing.assert_allclose(scores, cuda_scores, atol=1e-6)


def test_the_device_decides_the_kind():
    assert isinstance(descriptor_index(4, SIZE), NumpyDescriptorIndex)
    assert isinstance(descriptor_index(4, SIZE, 'cpu'), NumpyDescriptorIndex)


@pytest.mark.skipif(not NO_DEVICE, reason='a CUDA device is there')
def test_a_missing_device_is_an_error_and_not_a_slower_run():
    with pytest.raises(ModelError, match='model.device'):
        load_engine(updated(R3Config(), {'model.device': 'cuda'}))
