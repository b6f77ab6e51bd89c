"""Retrieval of keyframes: the laws of the index, for the NumPy twin, the kernel and CuPy."""

from dataclasses import replace
from pathlib import Path
import sys

from cupy_on_host import build, COMPILER, CupyOnHost
import cv2
import numpy as np
import pytest
from r3_ros.classical.describe import describe
from r3_ros.config import R3Config, updated
from r3_ros.datatypes import Intrinsics
from r3_ros.errors import ModelError
from r3_ros.factory import load_engine
from r3_ros.kernels import (
    CupyRetrievalIndex,
    EXCLUDED,
    NumpyRetrievalIndex,
    picture_bounds,
    Query,
    retrieval_index,
    View,
    Weights,
)
from scipy.spatial.transform import Rotation

DATA = Path(__file__).parents[2] / 'shared' / 'data'
SIZE = 36
LENS = (-0.6, 0.5, -0.4, 0.45)


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


@pytest.fixture(scope='session')
def kernel(tmp_path_factory):
    """Return the kernel, compiled for the host."""
    if COMPILER is None:
        pytest.skip('there is no C++ compiler to build the kernel for the host')
    return build(tmp_path_factory.mktemp('kernel'))


@pytest.fixture
def cupy_on_host(kernel, monkeypatch):
    """Return what stands in for CuPy from now on."""
    stand_in = CupyOnHost(kernel)
    monkeypatch.setitem(sys.modules, 'cupy', stand_in)
    return stand_in


@pytest.fixture(params=['NumPy', 'kernel on the host', 'GPU'])
def make(request):
    """Return the kind of index: each law holds for every one."""
    if request.param == 'NumPy':
        return NumpyRetrievalIndex
    if request.param == 'GPU':
        if NO_DEVICE:
            pytest.skip(NO_DEVICE)
    else:
        request.getfixturevalue('cupy_on_host')
    return CupyRetrievalIndex


def unit_vectors(count, seed=0, size=SIZE):
    """Return unit vectors that float16 holds exactly."""
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def pose(rotation=(0, 0, 0), centre=(0, 0, 0)):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('xyz', rotation, degrees=True).as_matrix()
    T[:3, 3] = centre
    return T


def random_view(random):
    turned = random.normal(size=3) * 30
    return View(pose(turned, random.normal(size=3) * 0.7), LENS, random.uniform(0.5, 2.0))


def ranked(found):
    return [int(slot) for slot in found.slots]


# --- Descriptors ---


def test_an_empty_index_finds_nothing(make):
    found = make(8, SIZE).retrieve(Query(unit_vectors(1)[0]), 5)
    assert len(found.slots) == len(found.scores) == 0
    assert found.best_similarity == -np.inf


def test_what_was_put_in_is_found_best_first(make):
    index = make(8, SIZE)
    vectors = unit_vectors(5)
    for slot, vector in zip((7, 3, 0, 4, 1), vectors, strict=True):
        index.put(slot, vector)
    query = unit_vectors(1, seed=9)[0]
    expected = sorted(zip(vectors @ query, (7, 3, 0, 4, 1), strict=True), reverse=True)
    found = index.retrieve(Query(query), 3)
    assert ranked(found) == [slot for _, slot in expected[:3]]
    assert found.best_similarity == pytest.approx(expected[0][0], abs=1e-5)
    assert len(index.retrieve(Query(query), 100).slots) == 5
    assert ranked(index.retrieve(Query(vectors[1]), 1)) == [3]
    none = index.retrieve(Query(query), 0)
    assert len(none.slots) == 0 and none.best_similarity == found.best_similarity


def test_the_score_of_likeness_is_its_contrast_to_what_is_usual(make):
    index = make(8, SIZE)
    vectors = unit_vectors(6)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector)
    query = unit_vectors(1, seed=3)[0]
    usual = float((vectors @ query).mean())
    found = index.retrieve(Query(query), 6)
    expected = (vectors @ query - usual) / (1 - usual)
    np.testing.assert_allclose(found.scores, expected[found.slots], atol=1e-5)


def test_a_slot_can_be_emptied_and_filled_again(make):
    index = make(8, SIZE)
    a, b = unit_vectors(2)
    index.put(2, a)
    index.remove(2)
    assert ranked(index.retrieve(Query(a), 3)) == []
    index.put(2, b)
    assert index.retrieve(Query(b), 1).best_similarity == pytest.approx(b @ b, abs=1e-6)
    assert index.retrieve(Query(a), 1).best_similarity == pytest.approx(a @ b, abs=1e-6)


def test_the_index_keeps_no_view_of_what_it_was_given(make):
    index = make(8, SIZE)
    vector = unit_vectors(1)[0]
    index.put(0, vector)
    query = vector.copy()
    vector[:] = 0.0
    assert index.retrieve(Query(query), 1).best_similarity == pytest.approx(1.0, abs=1e-3)


def test_among_equals_the_lower_slot_comes_first(make):
    index = make(50, SIZE)
    vector = unit_vectors(1)[0]
    for slot in range(40):
        index.put(slot, vector)
    assert ranked(index.retrieve(Query(vector), 7)) == list(range(7))


def test_all_the_best_may_lie_side_by_side(make):
    """Keyframes of one place were made one after the other."""
    index = make(900, SIZE)
    likeness = np.linspace(0.99, 0.9, 900, dtype=np.float32)
    for slot, cosine in enumerate(likeness):
        vector = np.zeros(SIZE, np.float32)
        vector[0], vector[1] = cosine, np.sqrt(1 - cosine**2)
        index.put(slot, vector)
    query = np.eye(SIZE, dtype=np.float32)[0]
    assert len(set(ranked(index.retrieve(Query(query), 200))) ^ set(range(200))) <= 2


# --- Views ---


def test_a_view_is_found_by_where_it_looks(make):
    index = make(16, SIZE)
    vectors = unit_vectors(4)
    for slot, turned in enumerate((90, 5, 180, 40)):
        index.put(slot, vectors[slot], View(pose((0, turned, 0)), LENS, 1.0))
    query = Query(unit_vectors(1, seed=2)[0], Weights(0.0, 1.0), View(pose((0, 10, 0)), LENS, 1.0))
    found = index.retrieve(query, 2)
    assert ranked(found) == [1, 3]
    assert found.scores[0] > 0.8 > 0.5 > found.scores[1] > 0.1
    np.testing.assert_allclose(index.retrieve(query, 4).scores[2:], 0.0)


def test_without_a_predicted_view_only_likeness_counts(make):
    index = make(16, SIZE)
    vectors = unit_vectors(4)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector, View(pose((0, 30 * slot, 0)), LENS, 1.0))
    with_overlap = index.retrieve(Query(vectors[3], Weights(1.0, 5.0)), 4)
    alone = index.retrieve(Query(vectors[3], Weights(1.0, 0.0)), 4)
    assert ranked(with_overlap) == ranked(alone)
    assert ranked(alone)[0] == 3


def test_a_keyframe_that_has_moved_is_found_where_it_is_now(make):
    index = make(16, SIZE)
    vectors = unit_vectors(2)
    here, there = View(pose(), LENS, 1.0), View(pose(centre=(9, 0, 0)), LENS, 1.0)
    index.put(0, vectors[0], here)
    index.put(1, vectors[1], there)
    query = Query(vectors[0], Weights(0.0, 1.0), here)
    assert ranked(index.retrieve(query, 1)) == [0]
    index.set_views([0, 1], [there, here])
    assert ranked(index.retrieve(query, 1)) == [1]


def test_a_keyframe_without_a_view_overlaps_with_nothing(make):
    index = make(4, SIZE)
    vectors = unit_vectors(2)
    index.put(0, vectors[0])
    index.put(1, vectors[1], View(pose(), LENS, 1.0))
    found = index.retrieve(Query(vectors[0], Weights(0.0, 1.0), View(pose(), LENS, 1.0)), 2)
    assert ranked(found) == [1, 0]
    assert found.scores[1] == 0.0


# --- Merit and bonus ---


def test_merit_counts_and_fades(make):
    index = make(4, SIZE)
    vectors = unit_vectors(3)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector)
    index.set_merits([0, 2], [-0.5, 0.4], frame_id=100)
    query = Query(vectors[1], Weights(0.0, 0.0, 1.0), frame_id=100)
    found = index.retrieve(query, 3)
    assert ranked(found) == [2, 1, 0]
    np.testing.assert_allclose(found.scores, [0.4, 0.0, -0.5], atol=1e-6)
    later = index.retrieve(replace(query, frame_id=400), 3)
    np.testing.assert_allclose(later.scores, [0.2, 0.0, -0.25], atol=1e-6)
    index.put(2, vectors[2])
    assert index.retrieve(query, 3).scores[0] == 0.0
    # Asked as of an earlier frame, it is what it was.
    index.set_merits([0], [-0.5], frame_id=1_000_000)
    assert index.retrieve(query, 3).scores[2] == -0.5
    assert ranked(index.retrieve(Query(vectors[0]), 3))[0] == 0


def test_a_bonus_keeps_what_is_resident_unless_another_is_clearly_better(make):
    index = make(64, SIZE)
    query = np.eye(SIZE, dtype=np.float32)[0]
    for slot, cosine in enumerate((0.50, 0.52, 0.60, 0.10)):
        vector = np.zeros(SIZE, np.float32)
        vector[0], vector[slot + 1] = cosine, np.sqrt(1 - cosine**2)
        index.put(slot, vector)
    resident = Query(query, bonus={0: 0.1, 3: 0.1})
    assert ranked(index.retrieve(Query(query), 2)) == [2, 1]
    assert ranked(index.retrieve(resident, 2)) == [2, 0]


def test_what_is_excluded_is_not_found_but_still_the_most_like(make):
    index = make(8, SIZE)
    vectors = unit_vectors(4)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector)
    found = index.retrieve(Query(vectors[1], bonus={1: EXCLUDED, 7: 1.0}), 4)
    assert 1 not in ranked(found) and len(found.slots) == 3
    assert found.best_similarity == pytest.approx(1.0, abs=1e-3)


# --- The twins ---


@pytest.mark.parametrize(
    'count,size,k', [(1, 8, 4), (60, SIZE, 10), (700, 20, 64), (1500, 16, 256), (300, 1536, 32)]
)
def test_the_twins_agree(make, count, size, k):
    random = np.random.default_rng(count)
    vectors = unit_vectors(count, size=size)
    twins = NumpyRetrievalIndex(count + 9, size), make(count + 9, size)
    for i, vector in enumerate(vectors):
        view = random_view(random) if i % 5 else None
        for twin in twins:
            twin.put(i + 4, vector, view)
    noted = list(range(4, count + 4, 3))
    merits = random.uniform(-0.5, 0.5, len(noted))
    for twin in twins:
        twin.set_merits(noted, merits, 90)
        for slot in range(7, count, 11):
            twin.remove(slot)
    for seed in range(3):
        query = Query(
            unit_vectors(1, seed=seed + 50, size=size)[0],
            Weights(1.0, 0.5, 0.3),
            random_view(random) if seed else None,
            frame_id=200,
            bonus={5: 0.4, 6: EXCLUDED, 8: 0.1, count + 8: 0.2},
        )
        expected, found = (twin.retrieve(query, k) for twin in twins)
        assert ranked(found) == ranked(expected)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        assert found.best_similarity == pytest.approx(expected.best_similarity, abs=1e-5)


def test_float16_on_the_device_keeps_the_order_of_all_that_differs(make):
    """The device holds descriptors in half precision: four digits of a cosine are right."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(400, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = make(400, 96)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector)
    query = vectors[17]
    found = index.retrieve(Query(query), 50)
    cosines = vectors @ query
    assert found.best_similarity == pytest.approx(1.0, abs=5e-4)
    assert np.diff(cosines[found.slots]).max() < 2e-4
    assert cosines[found.slots].min() > np.sort(cosines)[-50] - 2e-4


def test_more_than_one_launch_can_hold_is_an_error(cupy_on_host):
    index = CupyRetrievalIndex(400, 8)
    for slot in range(300):
        index.put(slot, unit_vectors(1, size=8)[0])
    with pytest.raises(ValueError, match='at most 256'):
        index.retrieve(Query(unit_vectors(1, size=8)[0]), 257)


@pytest.mark.parametrize('keyframes', [3, 500])
def test_a_search_is_one_launch_and_one_wait_whatever_the_bank(cupy_on_host, keyframes):
    index = CupyRetrievalIndex(600, SIZE)
    random = np.random.default_rng(0)
    for slot, vector in enumerate(unit_vectors(keyframes)):
        index.put(slot, vector, random_view(random))
    index.set_merits([0, 1, 2], [0.1, 0.2, 0.3], 9)
    assert cupy_on_host.counts['wait'] == cupy_on_host.counts['launch'] == 0
    cupy_on_host.counts.clear()
    query = Query(unit_vectors(1)[0], Weights(1, 1, 1), random_view(random), 10, {0: 0.1})
    index.retrieve(query, 32)
    assert cupy_on_host.counts == {'launch': 1, 'copy in': 1, 'copy out': 1, 'wait': 1}


def test_much_that_changes_at_once_reaches_the_device(cupy_on_host):
    index = CupyRetrievalIndex(30_000, 8)
    vector = unit_vectors(1, size=8)[0]
    for slot in (0, 14_000, 29_999):
        index.put(slot, vector)
    view = View(pose(), LENS, 1.0)
    index.set_views(range(30_000), [view] * 30_000)
    assert cupy_on_host.counts['wait'] >= 1, 'the staging memory was written over unread'
    np.testing.assert_array_equal(index._on_device.array, index._records)


def test_many_blocks_merge_into_the_same_answer(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cupy', CupyOnHost(kernel, processors=70))
    vectors = unit_vectors(2300, size=16)
    wide, exact = CupyRetrievalIndex(2300, 16), NumpyRetrievalIndex(2300, 16)
    for slot, vector in enumerate(vectors):
        wide.put(slot, vector)
        exact.put(slot, vector)
    assert len(wide._partial.array) == 280 * 256
    query = Query(unit_vectors(1, seed=5, size=16)[0])
    assert ranked(wide.retrieve(query, 6)) == ranked(exact.retrieve(query, 6))


def test_the_device_decides_the_kind():
    assert isinstance(retrieval_index(4, SIZE), NumpyRetrievalIndex)
    assert isinstance(retrieval_index(4, SIZE, 'cpu'), NumpyRetrievalIndex)


@pytest.mark.skipif(not NO_DEVICE, reason='a CUDA device is there')
def test_a_missing_device_is_an_error_and_not_a_slower_run():
    with pytest.raises(ModelError, match='model.device'):
        retrieval_index(4, SIZE, 'cuda')
    with pytest.raises(ModelError, match='model.device'):
        load_engine(updated(R3Config(), {'model.device': 'cuda'}))


# --- The fast search of large banks ---


def pictures_of_places(count, random):
    """Return descriptors of cut-outs of real pictures, from all sequences at hand."""
    paths = sorted(DATA.glob('*/rgb/*'))[::11]
    if not paths:
        pytest.skip('recorded sequences are not at hand')
    grays = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    descriptors = []
    for i in range(count):
        gray = grays[i % len(grays)]
        share = random.uniform(0.35, 1.0)
        height, width = (int(share * length) for length in gray.shape)
        y = random.integers(0, gray.shape[0] - height + 1)
        x = random.integers(0, gray.shape[1] - width + 1)
        descriptors.append(describe(gray[y : y + height, x : x + width]))
    return np.array(descriptors)


def test_the_fast_search_finds_what_the_exact_one_does():
    random = np.random.default_rng(0)
    descriptors = pictures_of_places(1600, random)
    fast, exact = (
        NumpyRetrievalIndex(len(descriptors), descriptors.shape[1], exact_up_to)
        for exact_up_to in (500, len(descriptors))
    )
    for slot, descriptor in enumerate(descriptors[:-20]):
        view = random_view(random)
        for index in (fast, exact):
            index.put(slot, descriptor, view)
    kept = []
    for n, descriptor in enumerate(descriptors[-20:]):
        query = Query(
            descriptor,
            Weights(1.0, 0.5, 0.2),
            random_view(random) if n % 2 else None,
            bonus={slot: 0.05 for slot in range(0, 900, 90)},
        )
        found, expected = (index.retrieve(query, 32) for index in (fast, exact))
        kept.append(len(set(ranked(found)) & set(ranked(expected))) / 32)
        assert found.best_similarity == expected.best_similarity
        assert ranked(found)[0] == ranked(expected)[0]
    assert np.mean(kept) > 0.99


def test_the_fast_search_follows_what_changes():
    random = np.random.default_rng(1)
    vectors = unit_vectors(700, seed=4)
    index = NumpyRetrievalIndex(800, SIZE, exact_up_to=100)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector, random_view(random))
    assert ranked(index.retrieve(Query(vectors[300]), 1)) == [300]
    index.remove(300)
    assert 300 not in ranked(index.retrieve(Query(vectors[300]), 50))
    index.put(300, vectors[5])
    assert ranked(index.retrieve(Query(vectors[5]), 2)) == [5, 300]
    place = View(pose((0, 170, 0), (50, 0, 0)), LENS, 1.0)
    index.set_views([44], [place])
    assert ranked(index.retrieve(Query(vectors[5], Weights(0.0, 1.0), place), 1)) == [44]
    index.set_merits([45], [0.5], 0)
    assert ranked(index.retrieve(Query(vectors[5], Weights(0.0, 0.0, 1.0)), 1)) == [45]
    assert ranked(index.retrieve(Query(vectors[5], bonus={610: 9.0}), 1)) == [610]


# --- Overlap of views ---


def dense_share(owner, observer, across=24, deep=20):
    """Return the share of a frustum that another camera sees, by many points and plain steps."""
    left, right, top, bottom = owner.bounds
    total = 0.0
    count = 0
    for z in np.linspace(0.7, 1.4, deep) * owner.depth:
        u, v = np.meshgrid(np.linspace(left, right, across), np.linspace(top, bottom, across))
        in_owner = np.stack([u * z, v * z, np.full_like(u, z)], axis=-1).reshape(-1, 3)
        in_world = in_owner @ owner.T_world_camera[:3, :3].T + owner.T_world_camera[:3, 3]
        T_observer_world = np.linalg.inv(observer.T_world_camera)
        x, y, depth = (in_world @ T_observer_world[:3, :3].T + T_observer_world[:3, 3]).T
        seen = (depth > 0.05 * observer.depth) & (depth < 3 * observer.depth)
        seen &= (x >= observer.bounds[0] * depth) & (x <= observer.bounds[1] * depth)
        seen &= (y >= observer.bounds[2] * depth) & (y <= observer.bounds[3] * depth)
        ours = in_world - owner.T_world_camera[:3, 3]
        theirs = in_world - observer.T_world_camera[:3, 3]
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        agreement = (ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-12)
        total += float((np.maximum(agreement, 0) * seen).sum())
        count += len(in_world)
    return total / count


def overlap(a, b):
    index = NumpyRetrievalIndex(1, SIZE)
    vector = unit_vectors(1)[0]
    index.put(0, vector, b)
    return float(index.retrieve(Query(vector, Weights(0.0, 1.0), a), 1).scores[0])


def test_the_overlap_is_that_of_the_frusta():
    random = np.random.default_rng(3)
    errors = []
    for _ in range(60):
        a = View(pose(), LENS, 1.0)
        turned, moved = random.normal(size=3) * (8, 15, 8), random.normal(size=3) * 0.3
        b = View(pose(turned, moved), LENS, random.uniform(0.7, 1.5))
        exact = np.sqrt(dense_share(a, b) * dense_share(b, a))
        errors.append(overlap(a, b) - exact)
        assert overlap(a, b) == pytest.approx(overlap(b, a), abs=1e-5)
    assert np.abs(errors).max() < 0.1
    assert np.sqrt(np.mean(np.square(errors))) < 0.04


def test_the_overlap_of_special_views():
    here = View(pose(), LENS, 1.0)
    assert overlap(here, here) == pytest.approx(1.0, abs=1e-5)
    assert overlap(here, View(pose((0, 180, 0)), LENS, 1.0)) == 0.0
    facing = View(pose((0, 180, 0), (0, 0, 2.2)), LENS, 1.0)
    assert overlap(here, facing) < 0.05, 'the same space, but from behind'
    far_behind = View(pose(centre=(0, 0, 40)), LENS, 1.0)
    assert overlap(here, far_behind) == 0.0
    aside = [overlap(here, View(pose(centre=(x, 0, 0)), LENS, 1.0)) for x in (0.1, 0.3, 0.6, 2.5)]
    assert aside == sorted(aside, reverse=True) and aside[0] > 0.7 and aside[-1] < 0.05
    closer = overlap(here, View(pose(centre=(0, 0, 0.8)), LENS, 0.2))
    assert 0.0 < closer < 0.5, 'a close-up of a part is no full overlap'


def test_the_borders_of_a_picture_are_those_of_its_pixels():
    bounds = picture_bounds(Intrinsics(100.0, 200.0, 39.5, 29.5, 80, 60))
    assert bounds == pytest.approx((-0.4, 0.4, -0.15, 0.15))
