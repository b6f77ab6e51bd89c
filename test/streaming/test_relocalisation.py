"""A session that goes on with a saved map: found again at the right place, or not at all."""

from dataclasses import replace
import importlib.util
import sys

import numpy as np
from paths import DATA, needs, ROOT
import pytest
from r3_ros.core.datatypes import Edge, TrackingState
from r3_ros.core.errors import MapError, MapProblem
from r3_ros.core.geometry import inverse, make_T, R_BODY_OPTICAL
from r3_ros.core.trajectory_file import read_tum
from r3_ros.maps.keyframe_images import encode_image, KeyframeImages
from r3_ros.maps.reading import read_map
from r3_ros.maps.writing import write_map
from r3_ros.streaming.map_snapshot import MapPlacement, saved_map, take_map_snapshot
from r3_ros.streaming.pose_resolution import EdgeNoise, HeldPose
from r3_ros.streaming.relocalisation.search import Relocalisation, scale_of_edges, Vicinity
from scipy.spatial.transform import Rotation
from scripted import circle, frames, intrinsics, Script, ScriptedPredictor, START_NS, truth
from small_engine import engine_of

INITIALIZING, TRACKING = TrackingState.INITIALIZING, TrackingState.TRACKING
T_MAP_WORLD = make_T(R_BODY_OPTICAL, np.array([1.0, 2.0, 0.5]))
PLACEMENT = MapPlacement(T_MAP_WORLD, make_T(R_BODY_OPTICAL, np.zeros(3)), 'map', 'base', 'cam')


def stepped(engine, shown, images=None):
    estimates = []
    for frame in shown:
        estimates.append(engine.step(frame))
        if images is not None:
            images.note(frame.image, estimates[-1])
    return estimates


def saved_of(engine, images):
    snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
    return saved_map(snapshot, PLACEMENT, engine.config.map.voxel_size)


def mapped(count=60, **options):
    """Return a map of the first part of the circle, and the session that it is of."""
    engine, images = engine_of(Script(), **options), KeyframeImages()
    estimates = stepped(engine, frames(count), images)
    return saved_of(engine, images), engine, estimates


def later(count, start=60):
    """Return frames that follow a pause, as of a process started again."""
    return list(frames(start + count))[start:]


def error(estimate):
    off = estimate.T_world_camera - truth(circle(), estimate.stamp_ns)
    return float(np.linalg.norm(off[:3, 3]))


def test_a_camera_is_found_in_the_saved_world_and_mapping_goes_on(tmp_path):
    saved, before, _ = mapped()
    write_map(tmp_path / 'map', saved)
    saved = read_map(tmp_path / 'map')
    engine = engine_of(Script())
    session_id = engine.session.session_id
    loaded, images = engine.load_map(saved), KeyframeImages()
    images.update(loaded.images)
    assert engine.session.session_id == session_id + 1 and engine.is_relocalising
    assert [k.frame_id for k in engine.predictor.restored] == engine.session.bank.ids()
    for known in engine.predictor.restored:
        T = truth(circle(), known.stamp_ns)
        np.testing.assert_allclose(known.T_world_camera, T, atol=1e-7)
        assert known.intrinsics == intrinsics(64, 48)
    estimates = stepped(engine, later(30), images)
    first = next(n for n, e in enumerate(estimates) if e.T_world_camera is not None)
    assert first == engine.config.relocalise.min_frames - 1
    assert all(e.state is INITIALIZING for e in estimates[:first])
    assert 'looking for the place in the loaded map' in estimates[0].reason
    assert all(e.state is TRACKING for e in estimates[first:])
    assert [e.map_revision for e in estimates[first - 1 : first + 1]] == [0, 1]
    assert max(error(e) for e in estimates[first:]) < 1e-6
    assert estimates[first].T_previous_camera is None
    assert not engine.is_relocalising
    # What is saved now holds both.
    again = saved_of(engine, images)
    assert {*saved.keyframes.stamps_ns[:1]} <= {*again.keyframes.stamps_ns.tolist()}
    assert len(again.trajectory) == len(saved.trajectory) + 30 - first
    assert again.images.keys() == set(again.keyframes.ids.tolist())
    T_map_base = again.trajectory.T_map_base @ PLACEMENT.T_base_optical
    for stamp_ns, T in zip(again.trajectory.stamps_ns.tolist(), T_map_base, strict=True):
        np.testing.assert_allclose(T, T_MAP_WORLD @ truth(circle(), stamp_ns), atol=1e-6)
    assert set(again.keyframes.segments.tolist()) == {0, 1}
    assert len(again.points) > len(saved.points)
    first_new = engine.session.first_frame
    across = (again.edges.source_ids < first_new) & (again.edges.target_ids >= first_new)
    assert across.any(), 'the two are held together'


def test_points_and_record_are_where_they_were():
    saved, before, _ = mapped()
    engine = engine_of(Script())
    engine.load_map(saved)
    cloud = engine.session.map_view().cloud().moved(T_MAP_WORLD)
    assert len(cloud) == pytest.approx(len(saved.points), rel=0.02)
    low, high = saved.bounds
    np.testing.assert_allclose(cloud.points.min(axis=0), low, atol=0.05)
    np.testing.assert_allclose(cloud.points.max(axis=0), high, atol=0.05)
    view = engine.session.trajectory_view()
    np.testing.assert_array_equal(view.stamps_ns, saved.trajectory.stamps_ns)
    assert np.isnan(view.T_emitted).all(), 'nothing of it was published here'
    assert view.is_keyframe.sum() == len(saved.keyframes)
    assert len(view.since(engine.session.first_frame).frame_ids) == 0


@pytest.mark.slow
@pytest.mark.parametrize('factor', [0.4, 1.0, 3.0])
def test_another_unit_in_the_new_session(factor):
    """One camera sees no scale: the place is found in the unit of the map."""
    saved, _, _ = mapped()
    engine = engine_of(Script(new_unit=(0, factor)))
    engine.load_map(saved)
    estimates = stepped(engine, later(40))
    posed = [e for e in estimates if e.T_world_camera is not None]
    assert len(posed) >= 37
    assert max(error(e) for e in posed) < 1e-6
    newest = engine.session.bank.ids()[-1]
    assert engine.session.graph.held[newest].scale == pytest.approx(1.0 / factor)


def test_metres_come_with_the_map():
    saved, _, _ = mapped(scale__source='fixed', scale__fixed=2.0)
    assert saved.facts.metres_per_unit == 2.0
    engine = engine_of(Script())
    engine.load_map(saved)
    estimates = stepped(engine, later(10))
    assert engine.session.scale.view().source == 'fixed'
    assert estimates[-1].metres_per_unit == 2.0 and error(estimates[-1]) < 1e-6


def test_noise_is_averaged_over_the_keyframes():
    saved, _, _ = mapped()
    noise = {'translation_noise': 0.01, 'rotation_noise': 0.005, 'outlier_share': 0.2}
    engine = engine_of(Script(**noise, seed=3))
    engine.load_map(saved)
    posed = [e for e in stepped(engine, later(40)) if e.T_world_camera is not None]
    assert len(posed) > 25
    assert np.median([error(e) for e in posed]) < 0.02


class Elsewhere(ScriptedPredictor):
    """A place with the same descriptor, whose edges to the keyframes contradict one another."""

    def _spoiled(self, T):
        turn = Rotation.random(random_state=self._rng).as_matrix()
        return make_T(turn, self._rng.normal(size=3))


class OneLookAlike(ScriptedPredictor):
    """One keyframe, and those beside it no more, agree on a place, frame after frame."""

    def _edges(self, frame_id, T_room_camera, context):
        lone = sorted(i for i in context if i in self._saved)[:1]
        for edge in super()._edges(frame_id, T_room_camera, context):
            if edge.source_id in lone or edge.source_id not in self._saved:
                yield edge

    def restore(self, keyframes, landmarks):
        super().restore(keyframes, landmarks)
        self._saved = set(self._room)


@pytest.mark.parametrize('predictor', [Elsewhere, OneLookAlike])
def test_a_place_that_only_looks_the_same_is_never_taken(predictor):
    saved, _, _ = mapped()
    engine = engine_of(Script(), predictor=predictor, loop__new_segment_after=0)
    engine.load_map(saved)
    estimates = stepped(engine, later(100))
    assert all(e.T_world_camera is None and e.state is INITIALIZING for e in estimates)
    assert engine.is_relocalising and len(engine.session.trajectory_view().frame_ids) == 160


def test_a_predictor_that_can_start_anew_maps_until_it_sees_the_old_place():
    """Its segment is joined as after a loss, and all of it is in the map then."""
    saved, _, _ = mapped()
    script = Script(reach=0.7, new_unit=(0, 2.0))
    engine = engine_of(script, loop__new_segment_after=10, keyframe__max_keyframes=60)
    half_way = later(160, start=100)
    engine.load_map(saved)
    estimates = stepped(engine, half_way)
    posed = [n for n, e in enumerate(estimates) if e.T_world_camera is not None]
    assert posed and estimates[posed[0] - 1].segment_id == 1
    assert all(e.state is INITIALIZING for e in estimates[: posed[0]])
    assert max(error(estimates[n]) for n in posed) < 1e-3
    final = engine.session.trajectory_view().since(engine.session.first_frame)
    known = np.isfinite(final.T_final[:, 0, 0])
    assert known.sum() > len(posed), 'the frames before are known, too, now'


def test_an_initial_pose_narrows_the_search():
    saved, _, _ = mapped(count=120)
    right, wrong = truth(circle(), later(1)[0].stamp_ns), truth(circle(), START_NS)
    engine = engine_of(Script())
    poses = engine.load_map(saved, Vicinity(right, radius=0.4)).T_world_camera
    estimates = stepped(engine, later(5))
    assert estimates[-1].T_world_camera is not None
    related = engine.predictor.contexts[0]
    far = [np.linalg.norm((poses[i] - right)[:3, 3]) for i in related]
    assert max(far) <= 0.8
    engine.load_map(saved, Vicinity(wrong, radius=0.1))
    assert all(e.T_world_camera is None for e in stepped(engine, later(20)))
    assert engine.narrow_search(Vicinity(truth(circle(), later(1, 90)[0].stamp_ns), radius=0.5))
    assert stepped(engine, later(5, 88))[-1].T_world_camera is not None
    assert not engine.narrow_search(Vicinity(wrong, radius=0.1))


@pytest.mark.parametrize(
    ('spoil', 'problem', 'message'),
    [
        (lambda m: replace(m, facts=replace(m.facts, model_name='r3')),
         MapProblem.CHECKPOINT_MISMATCH, "made by model 'r3'"),
        (lambda m: replace(m, images={}), MapProblem.BAD_FORMAT, 'include_images'),
        (lambda m: replace(m, images={**m.images, int(m.keyframes.ids[1]): b'\xff\xd8\xff'}),
         MapProblem.BAD_FORMAT, 'image of keyframe'),
    ],
)  # fmt: skip
def test_a_map_that_cannot_be_used_leaves_the_session_alone(spoil, problem, message):
    saved, _, _ = mapped()
    engine = engine_of(Script())
    stepped(engine, frames(10))
    session = engine.session
    with pytest.raises(MapError, match=message) as caught:
        engine.load_map(spoil(saved))
    assert caught.value.problem is problem and engine.session is session
    assert error(stepped(engine, later(1, 10))[0]) < 1e-6


@pytest.mark.slow
def test_a_map_with_more_keyframes_than_fit_is_thinned():
    saved, _, _ = mapped(count=200, keyframe__max_keyframes=60, keyframe__max_interval=3)
    assert len(saved.keyframes) > 40
    engine = engine_of(Script(), keyframe__max_keyframes=8)
    loaded = engine.load_map(saved)
    assert len(loaded.images) == len(engine.session.bank) == 8
    assert len(engine.session.trajectory_view().frame_ids) == len(saved.trajectory)


def test_scale_of_edges_is_that_of_most_and_unknown_of_one_place():
    held = {i: HeldPose(make_T(np.eye(3), np.array([i, i % 2, 0.0]))) for i in range(6)}
    frame = make_T(Rotation.from_rotvec([0, 0.3, 0]).as_matrix(), np.array([2.0, 0.5, -3.0]))

    def edge(i, factor=2.5):
        T = inverse(held[i].T_world_camera) @ frame
        T[:3, 3] /= factor
        return Edge(i, 9, T, 1.0, 1.0)

    assert scale_of_edges([edge(i) for i in range(6)], held) == pytest.approx(2.5)
    mixed = [edge(i) for i in range(5)] + [edge(5, 0.5)]
    assert scale_of_edges(mixed, held) == pytest.approx(2.5, rel=0.05)
    assert scale_of_edges([edge(0)], held) is None
    held[1] = held[0]
    assert scale_of_edges([edge(0), edge(1)], held) is None


def test_two_keyframes_that_show_more_than_all_others_do_not_hide_the_place():
    held = {i: HeldPose(make_T(np.eye(3), np.array([i, i % 2, 0.0]))) for i in range(6)}
    frame = make_T(np.eye(3), np.array([2.0, 0.5, -3.0]))

    def edges(scores, off=None):
        T = {i: inverse(held[i].T_world_camera) @ frame for i in held}
        if off is not None:
            T[off][:3, 3] += (4.0, 0.0, 0.0)
        return [Edge(i, 9, T[i], score, score) for i, score in enumerate(scores)]

    noise, scores = EdgeNoise(1.0), (1.6, 1.5, 0.4, 0.3, 0.3, 0.2)
    used, found = Relocalisation(held).locate(edges(scores), held, noise)
    assert found is not None and {0, 1, 2} <= {edge.source_id for edge in used}
    np.testing.assert_allclose(found.held.T_world_camera, frame, atol=1e-9)
    # A third one has to agree.
    assert Relocalisation(held).locate(edges(scores, off=2), held, noise)[1] is None


def test_the_image_of_each_keyframe_is_kept_and_no_other():
    engine, images = engine_of(Script(), keyframe__max_keyframes=6), KeyframeImages()
    for frame in frames(80):
        images.note(frame.image, engine.step(frame))
        assert set(images) == set(engine.session.bank.ids())
    image = encode_image(next(iter(frames(1))).image)
    assert image.startswith(b'\xff\xd8')


# --- The classical predictor, on recordings ---
# How accurate it is on them is measured by benchmarks/relocalisation.py.

KITCHEN, STREET, FOX = (DATA / name for name in ('redkitchen_7scenes', 'kitti00', 'fox_ngp'))


@pytest.fixture(scope='module')
def benchmark():
    path = ROOT / 'benchmarks' / 'relocalisation.py'
    spec = importlib.util.spec_from_file_location('relocalisation_benchmark', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def kitchen(benchmark, tmp_path_factory):
    """Map the first half of the kitchen by a process of its own."""
    folder = tmp_path_factory.mktemp('kitchen')
    benchmark.run(benchmark.part(KITCHEN, folder / 'half', 0.0, 0.5), folder / 'run')
    return folder / 'run'


@pytest.mark.slow
@needs(KITCHEN)
def test_the_second_half_of_a_recording_is_found_in_the_map_of_the_first(
    benchmark, kitchen, tmp_path
):
    rest = benchmark.part(KITCHEN, tmp_path / 'rest', 0.5, 1.0)
    benchmark.run(rest, tmp_path / 'run', '--map', str(kitchen / 'map'))
    found = benchmark.outcome(kitchen, tmp_path / 'run', read_tum(KITCHEN / 'groundtruth.txt'))
    assert found.found_after is not None


@pytest.mark.slow
@needs(KITCHEN)
@needs(STREET)
def test_another_place_is_never_taken_for_the_map(benchmark, kitchen, tmp_path):
    """A street, shown to the map of a kitchen."""
    street = benchmark.part(STREET, tmp_path / 'street', 0.0, 1.0, 60)
    benchmark.run(street, tmp_path / 'run', '--map', str(kitchen / 'map'))
    assert benchmark.outcome(kitchen, tmp_path / 'run', None).found_after is None


@pytest.mark.slow
@needs(FOX)
def test_the_next_repeat_of_a_pattern_is_never_taken_for_the_place(benchmark, tmp_path):
    """The frames after the cut show another repeat of the mapped wallpaper, 44 degrees away."""
    before = benchmark.part(FOX, tmp_path / 'before', 0.0, 0.62)
    benchmark.run(before, tmp_path / 'mapped')
    after = benchmark.part(FOX, tmp_path / 'after', 0.62, 1.0)
    benchmark.run(after, tmp_path / 'run', '--map', str(tmp_path / 'mapped' / 'map'))
    found = benchmark.outcome(
        tmp_path / 'mapped', tmp_path / 'run', read_tum(FOX / 'groundtruth.txt')
    )
    assert found.found_after is None or (found.turn < 22.0).all()
