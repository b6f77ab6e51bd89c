"""Two maps made one: where they overlap, exactly; where they do not, not at all."""

from dataclasses import replace

import numpy as np
from paths import DATA, needs
import pytest
from r3_ros.commands.cli import main
from r3_ros.core.config import R3Config
from r3_ros.core.errors import MapError, MergeError
from r3_ros.core.geometry import (
    inverse,
    inverse_similarity,
    make_T,
    R_BODY_OPTICAL,
    rigid_part,
    scale_of,
    similarity,
)
from r3_ros.core.trajectory_file import read_tum
from r3_ros.maps.keyframe_images import KeyframeImages
from r3_ros.maps.reading import read_map
from r3_ros.maps.writing import write_map
from r3_ros.offline.map_merging.locating import Located, MapGraph
from r3_ros.offline.map_merging.merging import merge_maps, merged_map
from r3_ros.streaming.loops.solver_job import Correction
from r3_ros.streaming.map_snapshot import MapPlacement, saved_map, take_map_snapshot
from r3_ros.streaming.pose_resolution import HeldPose
from scipy.spatial.transform import Rotation
from scripted import circle, frames, ROOM, Script, ScriptedPredictor, straight
from small_engine import engine_of
from surveyed_room import room_map

CONFIG = R3Config()
T_MAP_WORLD = make_T(R_BODY_OPTICAL, np.array([1.0, 2.0, 0.5]))


def mapped(start, end, script=None, placement=T_MAP_WORLD):
    """Return the map of some frames of the circle; the session begins with the first of them."""
    engine, images = engine_of(script or Script(), keyframe__max_interval=5), KeyframeImages()
    for frame in list(frames(end))[start:]:
        images.note(frame.image, engine.step(frame))
    T_base_optical = make_T(R_BODY_OPTICAL, np.array([0.0, 0.1, 0.0]))
    where = MapPlacement(placement, T_base_optical, 'map', 'base', 'camera')
    snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
    return saved_map(snapshot, where, engine.config.map.voxel_size)


@pytest.fixture(scope='module')
def first():
    return mapped(0, 100)


def predictor(**script):
    return ScriptedPredictor(Script(**script))


def expected(first_ns, stamps_ns, placement=T_MAP_WORLD):
    """Return where the camera is, in the map whose session began at ``first_ns``."""
    path = circle()
    T = np.stack([path(int(stamp_ns)) for stamp_ns in stamps_ns])
    return placement @ inverse(path(int(first_ns))) @ T


@pytest.mark.slow
@pytest.mark.parametrize('unit', [0.6, 1.0, 2.5])
def test_overlapping_sessions_become_one(first, unit, tmp_path):
    second = mapped(60, 160, Script(new_unit=(0, unit)))
    merge = merge_maps(first, second, predictor(new_unit=(0, 1.7)), CONFIG)
    assert merge.located == merge.agreeing >= 6
    assert merge.scale == pytest.approx(1.0 / unit, rel=1e-4)
    write_map(tmp_path / 'map', merge.saved)
    saved = read_map(tmp_path / 'map')
    start_ns = first.trajectory.stamps_ns[0]
    keyframes, count = saved.keyframes, len(first.keyframes)
    wanted = expected(start_ns, keyframes.stamps_ns)
    np.testing.assert_allclose(keyframes.T_map_optical, wanted, atol=1e-4)
    assert len(keyframes) == count + len(second.keyframes)
    np.testing.assert_array_equal(keyframes.ids[:count], first.keyframes.ids)
    assert keyframes.segments[0] == 0 and keyframes.segments[-1] == 1
    assert saved.images.keys() == set(keyframes.ids.tolist())
    assert saved.images[int(keyframes.ids[-1])] == second.images[int(second.keyframes.ids[-1])]
    # Every frame once, the overlap as well.
    assert len(saved.trajectory) == 160
    T = saved.trajectory.T_map_base @ saved.facts.T_base_optical
    np.testing.assert_allclose(T, expected(start_ns, saved.trajectory.stamps_ns), atol=1e-4)
    # Edges, those between the two included, say what the poses say.
    rows = np.searchsorted(keyframes.ids, [saved.edges.source_ids, saved.edges.target_ids])
    said = inverse(keyframes.T_map_optical[rows[0]]) @ keyframes.T_map_optical[rows[1]]
    np.testing.assert_allclose(saved.edges.T_source_target, said, atol=1e-3)
    across = (rows[0] < count) & (rows[1] >= count)
    assert across.sum() >= 12
    # The room is as large as it was.
    middle = T_MAP_WORLD[:3, 3] - [0.0, 0.5, 0.0]  # of the room, which the circle begins beside
    half = ROOM[[2, 0, 1]]
    np.testing.assert_allclose(saved.bounds, [middle - half, middle + half], atol=0.02)
    assert len(saved.points) < len(first.points) + len(second.points)


@pytest.mark.slow
def test_drift_of_both_is_shared_out(first):
    noisy = mapped(0, 100, Script(turn_drift=0.01, translation_noise=0.001))
    other = mapped(60, 160, Script(turn_drift=0.01, translation_noise=0.001, seed=5))
    merge = merge_maps(noisy, other, predictor(), CONFIG)
    keyframes = merge.saved.keyframes
    wanted = expected(noisy.trajectory.stamps_ns[0], keyframes.stamps_ns)
    off = np.linalg.norm((keyframes.T_map_optical - wanted)[:, :3, 3], axis=1)
    count = len(noisy.keyframes)
    assert off[:count].max() < 0.05 and off[count:].max() < 0.1


@pytest.mark.slow
def test_a_merged_map_can_be_merged_again(first):
    second, third = mapped(60, 160), mapped(120, 200)
    once = merge_maps(first, second, predictor(), CONFIG).saved
    twice = merge_maps(once, third, predictor(), CONFIG).saved
    wanted = expected(first.trajectory.stamps_ns[0], twice.keyframes.stamps_ns)
    np.testing.assert_allclose(twice.keyframes.T_map_optical, wanted, atol=1e-3)
    assert len(twice.trajectory) == 200 and twice.keyframes.segments.max() == 2


@pytest.mark.slow
def test_different_places_are_refused(first):
    with pytest.raises(MergeError, match='different places'):
        merge_maps(first, mapped(60, 160), predictor(reach=0.0), CONFIG)
    # What the model says is consistent in each image, and nonsense between them.
    walk = mapped(60, 160)
    rng = np.random.default_rng(2)
    places = {
        int(stamp_ns): make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))
        for stamp_ns in walk.keyframes.stamps_ns
    }
    known = set(first.keyframes.stamps_ns.tolist())

    def nonsense(stamp_ns):
        return circle()(stamp_ns) if stamp_ns in known else places[stamp_ns]

    other = replace(walk, keyframes=replace(
        walk.keyframes, stamps_ns=walk.keyframes.stamps_ns + 1))  # fmt: skip
    places = {stamp_ns + 1: T for stamp_ns, T in places.items()}
    with pytest.raises(MergeError, match=r'only look alike|different places'):
        merge_maps(first, other, predictor(path=nonsense), CONFIG)


def test_a_few_wrong_places_among_many_do_no_harm(first):
    second = mapped(60, 160)
    merge = merge_maps(first, second, predictor(outlier_share=0.15), CONFIG)
    wanted = expected(first.trajectory.stamps_ns[0], merge.saved.keyframes.stamps_ns)
    np.testing.assert_allclose(merge.saved.keyframes.T_map_optical, wanted, atol=1e-2)


def test_a_map_that_is_another_shape_is_refused(first):
    """The images are found in the first map, but not in the order that the second map claims."""
    walk = mapped(60, 160)
    straightened = np.stack([straight(0.6)(int(s)) for s in walk.keyframes.stamps_ns])
    T = inverse(straightened[:-1]) @ straightened[1:]
    edges = replace(
        walk.edges,
        source_ids=walk.keyframes.ids[:-1],
        target_ids=walk.keyframes.ids[1:],
        T_source_target=T,
        confidences=np.ones((len(T), 2)),
    )
    bent = replace(
        walk, keyframes=replace(walk.keyframes, T_map_optical=straightened), edges=edges
    )
    with pytest.raises(MergeError):
        merge_maps(first, bent, predictor(), CONFIG)


@pytest.mark.slow
def test_metres_of_both_must_be_the_same(first):
    def metric(saved):
        return replace(
            saved, facts=replace(saved.facts, metres_per_unit=1.0, scale_source='fixed')
        )

    twice = mapped(60, 160, Script(new_unit=(0, 2.0)))
    with pytest.raises(MergeError, match=r'0\.50 metres'):
        merge_maps(metric(first), metric(twice), predictor(), CONFIG)
    assert merge_maps(metric(first), metric(mapped(60, 160)), predictor(), CONFIG).agreeing


def test_maps_of_another_model_or_without_images_are_refused(first):
    foreign = replace(first, facts=replace(first.facts, model_name='r3'))
    with pytest.raises(MapError, match="made by model 'r3'"):
        merge_maps(first, foreign, predictor(), CONFIG)
    with pytest.raises(MergeError, match='include_images'):
        merge_maps(first, replace(first, images={}), predictor(), CONFIG)


def test_landmarks_points_and_edges_follow_their_keyframes():
    """A known similarity brings a map back onto another; what was seen stays where it was seen."""
    first = room_map()
    S = similarity(
        make_T(Rotation.from_rotvec([0.1, 0.2, -0.4]).as_matrix(), np.array([1.0, -2.0, 0.3])), 1.6
    )
    back = inverse_similarity(S)
    keyframes = replace(
        first.keyframes, T_map_optical=rigid_part(back @ first.keyframes.T_map_optical)
    )
    T = first.edges.T_source_target.copy()
    T[:, :3, 3] /= scale_of(S)
    marks = first.landmarks
    second = replace(
        first,
        keyframes=keyframes,
        edges=replace(first.edges, T_source_target=T),
        points=first.points.moved(back),
        landmarks=replace(marks, positions=marks.positions @ back[:3, :3].T + back[:3, 3]),
        trajectory=replace(
            first.trajectory,
            stamps_ns=first.trajectory.stamps_ns + 10**12,
            T_map_base=rigid_part(
                back @ first.trajectory.T_map_base @ first.facts.T_base_optical
            ) @ inverse(first.facts.T_base_optical),
        ),
    )  # fmt: skip
    a = MapGraph.of(first, 2)
    b = MapGraph.of(second, int(a.ids[-1]) + 1)
    moves = {**dict.fromkeys(a.ids.tolist(), np.eye(4)), **dict.fromkeys(b.ids.tolist(), S)}
    segments = {**dict.fromkeys(a.ids.tolist(), 0), **dict.fromkeys(b.ids.tolist(), 1)}
    correction = Correction(moves, segments, {}, [], (1, 0))
    nobody: list[Located] = [Located(int(b.ids[0]), HeldPose(np.eye(4)), ())]
    merged = merged_map(a, b, correction, nobody)
    count = len(first.keyframes)
    np.testing.assert_allclose(
        merged.keyframes.T_map_optical[count:], first.keyframes.T_map_optical, atol=1e-9
    )
    np.testing.assert_allclose(
        merged.landmarks.positions[len(marks) :], marks.positions, atol=1e-9
    )
    np.testing.assert_array_equal(merged.landmarks.pixels[len(marks.pixels) :], marks.pixels)
    assert set(merged.landmarks.frame_ids) <= set(merged.keyframes.ids)
    edges = len(first.edges)
    np.testing.assert_allclose(
        merged.edges.T_source_target[edges:], first.edges.T_source_target, atol=1e-9
    )
    np.testing.assert_allclose(
        merged.trajectory.T_map_base[-60:], first.trajectory.T_map_base, atol=1e-9
    )
    # Both clouds are the same one now: a point a voxel is left of the two.
    assert len(merged.points) < 1.3 * len(first.points)


@pytest.mark.slow
@needs(DATA / 'redkitchen_7scenes')
def test_two_halves_of_a_kitchen(tmp_path, capsys):
    """Real images, 60 of them in both maps; benchmarks/merge_maps.py measures the accuracy."""
    source = DATA / 'redkitchen_7scenes'
    stamps = [s for s in (source / 'timestamps.txt').read_text().splitlines() if s[0] != '#']
    for name, part in (('a', stamps[:120]), ('b', stamps[60:180])):
        folder = tmp_path / name
        (folder / 'rgb').mkdir(parents=True)
        for line in part:
            image = line.split()[1]
            (folder / image).symlink_to((source / image).resolve())
        (folder / 'timestamps.txt').write_text('\n'.join(part))
        (folder / 'camera.yaml').write_text((source / 'camera.yaml').read_text())
        assert main(['run', str(folder), '-o', str(tmp_path / f'out_{name}')]) == 0
    out = tmp_path / 'merged'
    words = ['map', 'merge', str(tmp_path / 'out_a'), str(tmp_path / 'out_b'), '-o', str(out)]
    assert main(words) == 0
    reported = capsys.readouterr().out
    assert f'keyframes of {tmp_path / "out_b"} are located in' in reported
    counts = [
        len(read_tum(folder / 'trajectory.tum').stamps_ns)
        for folder in (out, tmp_path / 'out_a', tmp_path / 'out_b')
    ]
    assert counts[0] > max(counts[1:])
    # Nothing is overwritten unasked.
    assert main(words) == 2
