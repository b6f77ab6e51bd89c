"""Retrieval of keyframes: the laws of the index, on NumPy, on CuPy, and on a stand-in for CuPy."""

from collections import Counter
from dataclasses import replace
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from r3_ros import factory
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Intrinsics, ModelInfo
from r3_ros.core.errors import ModelError
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_engine, search_device
from r3_ros.streaming.keyframes.retrieval import EXCLUDED, Query, RetrievalIndex, RetrievalWeights
from r3_ros.streaming.keyframes.view_overlap import CameraView, image_bounds, view_overlaps
from scipy.spatial.transform import Rotation
from scripted import frames, ScriptedPredictor

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


class DeviceArray(np.ndarray):
    """An array that refuses, as CuPy's do, to be mixed with arrays of the host."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        arrays = [*inputs, *(out or ())]
        if any(type(array) is np.ndarray for array in arrays):
            raise TypeError(f'{ufunc.__name__}: an array of the host among those of the device')
        plain = [host(array) for array in inputs]
        if out:
            options['out'] = tuple(host(array) for array in out)
        result = getattr(ufunc, method)(*plain, **options)
        return result if result is None else on_device(result)

    def __array_function__(self, function, types, arguments, options):
        raise TypeError(f'numpy.{function.__name__} is called for an array of the device')

    def __setitem__(self, where, value):
        if type(value) is np.ndarray:
            raise TypeError('an array of the host is assigned to one of the device')
        host(self)[where] = host(value)

    def __float__(self):
        raise TypeError('a number is read from the device')


def host(array):
    return array.view(np.ndarray) if isinstance(array, DeviceArray) else array


def on_device(array):
    return np.asarray(array).view(DeviceArray)


class CupyOnHost(ModuleType):
    """What the search asks of CuPy, on the host. Counts the copies from the device."""

    def __init__(self):
        super().__init__('cupy')
        self.counts = Counter()
        self.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 1))

    def asarray(self, array):
        return on_device(np.array(array))

    def asnumpy(self, array):
        assert isinstance(array, DeviceArray)
        self.counts['copy out'] += 1
        return np.array(host(array))

    def __getattr__(self, name):
        def call(*arguments, **options):
            parts = [part for a in arguments for part in (a if isinstance(a, list) else [a])]
            assert not any(type(part) is np.ndarray for part in parts), f'cupy.{name}'
            plain = [[host(p) for p in a] if isinstance(a, list) else host(a) for a in arguments]
            return on_device(getattr(np, name)(*plain, **options))

        return call


@pytest.fixture
def cupy_on_host(monkeypatch):
    """Return what stands in for CuPy from now on."""
    stand_in = CupyOnHost()
    monkeypatch.setitem(sys.modules, 'cupy', stand_in)
    return stand_in


@pytest.fixture(params=['NumPy', 'CuPy on the host', 'GPU'])
def device(request):
    """Return where the index is: each law holds everywhere."""
    if request.param == 'NumPy':
        return 'cpu'
    if request.param == 'GPU':
        if NO_DEVICE:
            pytest.skip(NO_DEVICE)
    else:
        request.getfixturevalue('cupy_on_host')
    return 'cuda'


@pytest.fixture
def make(device):
    """Return what makes an index there."""
    return lambda capacity, size: RetrievalIndex(capacity, size, device)


def unit_vectors(count, seed=0, size=SIZE):
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def pose(rotation=(0, 0, 0), centre=(0, 0, 0)):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('xyz', rotation, degrees=True).as_matrix()
    T[:3, 3] = centre
    return T


def random_view(random):
    turned = random.normal(size=3) * 30
    return CameraView(pose(turned, random.normal(size=3) * 0.7), LENS, random.uniform(0.5, 2.0))


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


def test_the_score_of_similarity_is_its_contrast_to_what_is_usual(make):
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
    cosines = np.linspace(0.99, 0.9, 900, dtype=np.float32)
    for slot, cosine in enumerate(cosines):
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
        index.put(slot, vectors[slot], CameraView(pose((0, turned, 0)), LENS, 1.0))
    query = Query(
        unit_vectors(1, seed=2)[0],
        RetrievalWeights(0.0, 1.0),
        CameraView(pose((0, 10, 0)), LENS, 1.0),
    )
    found = index.retrieve(query, 2)
    assert ranked(found) == [1, 3]
    assert found.scores[0] > 0.8 > 0.5 > found.scores[1] > 0.1
    np.testing.assert_allclose(index.retrieve(query, 4).scores[2:], 0.0)


def test_without_a_predicted_view_only_similarity_counts(make):
    index = make(16, SIZE)
    vectors = unit_vectors(4)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector, CameraView(pose((0, 30 * slot, 0)), LENS, 1.0))
    with_overlap = index.retrieve(Query(vectors[3], RetrievalWeights(1.0, 5.0)), 4)
    alone = index.retrieve(Query(vectors[3], RetrievalWeights(1.0, 0.0)), 4)
    assert ranked(with_overlap) == ranked(alone)
    assert ranked(alone)[0] == 3


def test_a_keyframe_that_has_moved_is_found_where_it_is_now(make):
    index = make(16, SIZE)
    vectors = unit_vectors(2)
    here, there = CameraView(pose(), LENS, 1.0), CameraView(pose(centre=(9, 0, 0)), LENS, 1.0)
    index.put(0, vectors[0], here)
    index.put(1, vectors[1], there)
    query = Query(vectors[0], RetrievalWeights(0.0, 1.0), here)
    assert ranked(index.retrieve(query, 1)) == [0]
    index.set_view(0, there)
    index.set_view(1, here)
    assert ranked(index.retrieve(query, 1)) == [1]


def test_a_keyframe_without_a_view_overlaps_with_nothing(make):
    index = make(4, SIZE)
    vectors = unit_vectors(2)
    index.put(0, vectors[0])
    index.put(1, vectors[1], CameraView(pose(), LENS, 1.0))
    found = index.retrieve(
        Query(vectors[0], RetrievalWeights(0.0, 1.0), CameraView(pose(), LENS, 1.0)), 2
    )
    assert ranked(found) == [1, 0]
    assert found.scores[1] == 0.0


# --- Match score and bonus ---


def test_the_match_score_counts_and_fades(make):
    index = make(4, SIZE)
    vectors = unit_vectors(3)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector)
    index.set_match_scores([0, 2], [-0.5, 0.4], now=100)
    query = Query(vectors[1], RetrievalWeights(0.0, 0.0, 1.0), frame_id=100)
    found = index.retrieve(query, 3)
    assert ranked(found) == [2, 1, 0]
    np.testing.assert_allclose(found.scores, [0.4, 0.0, -0.5], atol=1e-6)
    later = index.retrieve(replace(query, frame_id=400), 3)
    np.testing.assert_allclose(later.scores, [0.2, 0.0, -0.25], atol=1e-6)
    index.put(2, vectors[2])
    assert index.retrieve(query, 3).scores[0] == 0.0
    # At an earlier frame it has not faded.
    index.set_match_scores([0], [-0.5], now=1_000_000)
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


def test_what_is_excluded_is_not_found_but_still_the_most_similar(make):
    index = make(8, SIZE)
    vectors = unit_vectors(4)
    for slot, vector in enumerate(vectors):
        index.put(slot, vector)
    found = index.retrieve(Query(vectors[1], bonus={1: EXCLUDED, 7: 1.0}), 4)
    assert 1 not in ranked(found) and len(found.slots) == 3
    assert found.best_similarity == pytest.approx(1.0, abs=1e-3)


# --- NumPy and CuPy ---


@pytest.mark.parametrize(
    'count,size,k', [(1, 8, 4), (60, SIZE, 10), (700, 20, 64), (1500, 16, 256), (300, 1536, 32)]
)
def test_the_device_answers_as_the_host(make, count, size, k):
    random = np.random.default_rng(count)
    vectors = unit_vectors(count, size=size)
    indices = RetrievalIndex(count + 9, size), make(count + 9, size)
    noted = list(range(4, count + 4, 3))
    match_scores = random.uniform(-0.5, 0.5, len(noted))
    views = [random_view(random) if i % 5 else None for i in range(count)]
    for index in indices:
        for i, vector in enumerate(vectors):
            index.put(i + 4, vector, views[i])
        index.set_match_scores(noted, match_scores, 90)
        for slot in range(7, count, 11):
            index.remove(slot)
    for seed in range(3):
        query = Query(
            unit_vectors(1, seed=seed + 50, size=size)[0],
            RetrievalWeights(1.0, 0.5, 0.3),
            random_view(random) if seed else None,
            frame_id=200,
            bonus={5: 0.4, 6: EXCLUDED, 8: 0.1, count + 8: 0.2},
        )
        expected, found = (index.retrieve(query, k) for index in indices)
        assert ranked(found) == ranked(expected)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        assert found.best_similarity == pytest.approx(expected.best_similarity, abs=1e-5)


def test_a_search_copies_once_from_the_device(cupy_on_host):
    index = RetrievalIndex(600, SIZE, 'cuda')
    random = np.random.default_rng(0)
    for slot, vector in enumerate(unit_vectors(500)):
        index.put(slot, vector, random_view(random))
    index.set_match_scores([0, 1, 2], [0.1, 0.2, 0.3], 9)
    assert not cupy_on_host.counts
    query = Query(unit_vectors(1)[0], RetrievalWeights(1, 1, 1), random_view(random), 10, {0: 0.1})
    index.retrieve(query, 32)
    assert cupy_on_host.counts == {'copy out': 1}


# --- Where it is searched ---


def config_for(device):
    return updated(R3Config(), {'model.device': device})


class On:
    """A predictor on a given device."""

    def __init__(self, device):
        self.info = ModelInfo('scripted', device=device)


def test_keyframes_are_searched_where_the_predictor_runs(cupy_on_host):
    assert search_device(config_for('auto'), On('cuda:0')).startswith('cuda')
    assert search_device(config_for('auto'), On('cpu')) == 'cpu'
    assert search_device(config_for('cpu'), On('cpu')) == 'cpu'


def test_the_engine_searches_on_the_gpu_of_its_predictor(cupy_on_host, monkeypatch):
    class OnGpu(ScriptedPredictor):
        info = ModelInfo('scripted', device='cuda:0')

    monkeypatch.setattr(factory, 'load_predictor', lambda config: OnGpu())
    engine = load_engine(R3Config())
    for frame in frames(4):
        cupy_on_host.counts.clear()
        engine.step(frame)
        assert cupy_on_host.counts['copy out'] <= 1
    engine.close()
    assert cupy_on_host.counts['copy out'] == 1


def test_without_cupy_a_predictor_on_the_gpu_runs_all_the_same(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'cupy', None)
    assert search_device(config_for('auto'), On('cuda:0')) == 'cpu'
    assert 'CuPy cannot be used' in caplog.text


def test_a_configured_device_that_is_missing_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cupy', None)
    with pytest.raises(ModelError, match='model.device'):
        RetrievalIndex(4, SIZE, 'cuda')
    with pytest.raises(ModelError, match='model.device'):
        load_engine(config_for('cuda'))


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
    return float(view_overlaps(a.packed(), b.packed()[None])[0])


def test_the_overlap_is_that_of_the_frusta():
    random = np.random.default_rng(3)
    errors = []
    for _ in range(60):
        a = CameraView(pose(), LENS, 1.0)
        turned, moved = random.normal(size=3) * (8, 15, 8), random.normal(size=3) * 0.3
        b = CameraView(pose(turned, moved), LENS, random.uniform(0.7, 1.5))
        exact = np.sqrt(dense_share(a, b) * dense_share(b, a))
        errors.append(overlap(a, b) - exact)
        assert overlap(a, b) == pytest.approx(overlap(b, a), abs=1e-5)
    assert np.abs(errors).max() < 0.1
    assert np.sqrt(np.mean(np.square(errors))) < 0.04


def test_the_overlap_of_special_views():
    here = CameraView(pose(), LENS, 1.0)
    assert overlap(here, here) == pytest.approx(1.0, abs=1e-5)
    assert overlap(here, CameraView(pose((0, 180, 0)), LENS, 1.0)) == 0.0
    facing = CameraView(pose((0, 180, 0), (0, 0, 2.2)), LENS, 1.0)
    assert overlap(here, facing) < 0.05, 'the same space, but from behind'
    far_behind = CameraView(pose(centre=(0, 0, 40)), LENS, 1.0)
    assert overlap(here, far_behind) == 0.0
    aside = [
        overlap(here, CameraView(pose(centre=(x, 0, 0)), LENS, 1.0)) for x in (0.1, 0.3, 0.6, 2.5)
    ]
    assert aside == sorted(aside, reverse=True) and aside[0] > 0.7 and aside[-1] < 0.05
    closer = overlap(here, CameraView(pose(centre=(0, 0, 0.8)), LENS, 0.2))
    assert 0.0 < closer < 0.5, 'a close-up of a part is no full overlap'


def test_the_borders_of_an_image_are_those_of_its_pixels():
    bounds = image_bounds(Intrinsics(100.0, 200.0, 39.5, 29.5, 80, 60))
    assert bounds == pytest.approx((-0.4, 0.4, -0.15, 0.15))
