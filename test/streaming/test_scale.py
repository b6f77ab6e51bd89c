"""Metres per map unit: how they are measured, pooled, kept and followed."""

import json
import math

from metric_ruler import METRES, Ruler
import numpy as np
import pytest
from r3_ros.core.config import R3Config, ScaleConfig
from r3_ros.core.datatypes import DepthMap
from r3_ros.core.errors import ConfigError
from r3_ros.core.geometry import inverse, make_T, similarity
from r3_ros.core.parameter_fields import updated
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.scale.estimator import depth_ratios, ScaleEstimator
from r3_ros.streaming.scale.odometry_buffer import OdometryBuffer
from scipy.spatial.transform import Rotation
import scripted
from scripted import PERIOD_NS, SECOND_NS, START_NS


def noisy(count, sigma=0.02, seed=0):
    """Return so many ratios around the truth."""
    return METRES * np.exp(np.random.default_rng(seed).normal(0.0, sigma, count))


def depth_map(depth, confidence=None, frame_id=0):
    height, width = depth.shape
    confidence = np.ones(depth.shape) if confidence is None else confidence
    return DepthMap(
        frame_id,
        depth.astype(np.float32),
        confidence.astype(np.float32),
        scripted.pattern_image(width, height),
        scripted.intrinsics(width, height),
    )


# The estimator


def test_the_scale_is_unknown_without_a_source_or_measurements():
    for source in ('none', 'model', 'odometry'):
        estimator = ScaleEstimator(ScaleConfig(source=source))
        view = estimator.view()
        assert estimator.metres_per_unit is None and view.metres_per_unit is None
        assert view.live_ratio is None and not view.locked and not view.is_metric
        assert view.awaited == (source != 'none') == bool(view.waits_for)


def test_a_fixed_scale_is_there_at_once_and_may_be_changed():
    estimator = ScaleEstimator(ScaleConfig(source='fixed', fixed=METRES))
    assert estimator.view().locked and estimator.view().metres_per_unit == METRES
    assert not estimator.update_config(ScaleConfig(source='fixed', fixed=METRES))
    assert estimator.update_config(ScaleConfig(source='fixed', fixed=3.0))
    assert estimator.metres_per_unit == 3.0 and estimator.view().live_ratio is None


@pytest.mark.parametrize('wrong', [(1.3, 4.0), (0.0, 0.7), (math.inf, math.inf)])
def test_odometry_gives_the_scale_within_a_percent_with_every_third_stretch_wrong(wrong):
    rng = np.random.default_rng(1)
    estimator = ScaleEstimator(ScaleConfig(source='odometry', lock=False))
    ratios = noisy(100)
    # One-sided, as slipping wheels are: a plain median would follow them.
    bad = rng.permutation(100)[:30]
    ratios[bad] *= rng.uniform(*wrong, 30) if math.isfinite(wrong[1]) else math.inf
    for ratio in ratios:
        estimator.add(0, 1.0, np.array([ratio]), metres=0.1)
    view = estimator.view()
    newest = view.metres_per_unit * view.live_ratio
    assert newest == pytest.approx(METRES, rel=0.01)


def test_odometry_needs_enough_motion_in_agreeing_stretches():
    def known_after(metres, ratios):
        estimator = ScaleEstimator(ScaleConfig(source='odometry', min_translation=2.0))
        for count, ratio in enumerate(ratios, start=1):
            if estimator.add(0, 1.0, np.array([ratio]), metres):
                return count
        return None

    assert known_after(0.125, np.full(50, METRES)) == 16
    assert known_after(1.0, np.full(50, METRES)) == 8  # fewer say too little of how they agree
    assert known_after(0.2, noisy(50, sigma=0.15)) > 12
    assert known_after(0.2, np.geomspace(0.1, 100.0, 50)) is None


def test_a_locked_scale_stays_and_the_live_ratio_shows_drift():
    estimator = ScaleEstimator(ScaleConfig(source='odometry'))
    for ratio in noisy(30):
        estimator.add(0, 1.0, np.array([ratio]), metres=0.2)
    locked = estimator.metres_per_unit
    assert estimator.view().locked and estimator.view().live_ratio == pytest.approx(1.0, abs=0.03)
    changed = [estimator.add(0, 1.0, np.array([r]), 0.2) for r in 1.2 * noisy(150, seed=3)]
    assert not any(changed) and estimator.metres_per_unit == locked
    assert estimator.view().live_ratio * locked == pytest.approx(1.2 * METRES, rel=0.01)


def test_an_unlocked_scale_follows_slowly():
    estimator = ScaleEstimator(ScaleConfig(source='odometry', lock=False))
    for ratio in noisy(30):
        estimator.add(0, 1.0, np.array([ratio]), metres=0.2)
    assert not estimator.view().locked
    steps = []
    for ratio in 1.2 * noisy(250, seed=3):
        before = estimator.metres_per_unit
        estimator.add(0, 1.0, np.array([ratio]), 0.2)
        steps.append(estimator.metres_per_unit / before)
    assert max(steps) < 1.03
    assert estimator.metres_per_unit == pytest.approx(1.2 * METRES, rel=0.01)


@pytest.mark.parametrize(('lock', 'follows'), [(True, False), (False, True)])
def test_a_number_set_by_hand_is_pulled_by_estimates_only_if_it_may(lock, follows):
    estimator = ScaleEstimator(ScaleConfig(source='odometry', lock=False))
    estimator.set_by_user(4.0, lock)
    view = estimator.view()
    assert (view.source, view.metres_per_unit, view.locked) == ('user', 4.0, lock)
    assert not view.awaited and view.waits_for == ''
    for ratio in noisy(40):
        estimator.add(0, 1.0, np.array([ratio]), 0.2)
    assert (estimator.metres_per_unit < 4.0) == follows
    assert estimator.view().source == ('odometry' if follows else 'user')
    assert estimator.view().live_ratio == pytest.approx(
        METRES / estimator.metres_per_unit, rel=0.01
    )


def test_a_scale_set_by_the_user_stays_until_the_parameter_itself_changes():
    estimator = ScaleEstimator(ScaleConfig(source='fixed', fixed=METRES))
    estimator.set_by_user(4.0, lock=False)
    assert not estimator.update_config(ScaleConfig(source='fixed', fixed=METRES, check_every=3))
    assert estimator.view().source == 'user' and estimator.metres_per_unit == 4.0
    assert estimator.update_config(ScaleConfig(source='fixed', fixed=3.0))
    assert estimator.view().source == 'fixed' and estimator.metres_per_unit == 3.0


def test_so_many_keyframes_are_pooled_by_pixel():
    estimator = ScaleEstimator(ScaleConfig(source='model', bootstrap_frames=3))
    few, many = METRES * np.full(200, 0.5), METRES * np.ones(1000)
    assert not estimator.add(0, 1.0, few)
    assert not estimator.add(5, 1.0, many)
    assert estimator.metres_per_unit is None and '2 of 3' in estimator.view().waits_for
    assert estimator.add(9, 1.0, few)
    # By keyframe the median would be half of it.
    assert estimator.metres_per_unit == pytest.approx(METRES)


@pytest.mark.parametrize('source', ['model', 'odometry'])
def test_the_scale_is_that_of_the_world_whatever_the_units_of_keyframes(source):
    """Closing a loop shows that later keyframes had shorter units: the past follows."""
    estimator = ScaleEstimator(ScaleConfig(source=source, bootstrap_frames=20))
    units = 0.99 ** np.arange(20)
    for keyframe, unit in enumerate(units):
        # Measurements are in each keyframe's own unit, whose drift is not known yet.
        estimator.add(keyframe, 1.0, METRES * unit * np.ones(100 if source == 'model' else 1), 0.2)
    wrong = estimator.metres_per_unit * estimator.view().live_ratio
    in_use = estimator.metres_per_unit
    assert wrong < 0.95 * METRES
    estimator.refer(dict(enumerate(units)))
    newest = in_use * estimator.view().live_ratio
    assert newest == pytest.approx(METRES)
    # The scale of the world's unit does not change by itself.
    assert estimator.metres_per_unit == in_use
    # A released keyframe keeps its last unit.
    estimator.refer({})
    assert in_use * estimator.view().live_ratio == pytest.approx(METRES)


# Ratios of one image


def test_ratios_leave_out_the_sky_the_unsure_and_the_tails():
    depth = np.full((20, 30), 2.0)
    metres = np.full((20, 30), 2.0 * METRES, np.float32)
    confidence = np.full((20, 30), 3.0)
    metres[0] = np.nan  # sky
    depth[1] = np.nan
    depth[2] = 0.0
    metres[3:5, :5] = 40.0  # a tail of less than 5 %
    metres[5:12], confidence[5:12] = 9.0, 1.5
    ratios = depth_ratios(depth_map(depth, confidence), metres)
    np.testing.assert_allclose(ratios, METRES, rtol=1e-6)
    assert len(ratios) > 100


def test_an_image_with_few_pixels_to_compare_gives_no_scale():
    depth, metres = np.ones((20, 30)), np.full((20, 30), np.nan, np.float32)
    assert len(depth_ratios(depth_map(depth), metres)) == 0
    metres[0] = 2.0
    assert len(depth_ratios(depth_map(depth), metres)) == 0


def test_many_pixels_are_thinned_out_over_the_image():
    depth = np.ones((200, 300))
    metres = np.repeat(np.linspace(1.0, 3.0, 200, dtype=np.float32), 300).reshape(200, 300)
    ratios = depth_ratios(depth_map(depth), metres)
    assert len(ratios) == 4096 and np.median(ratios) == pytest.approx(2.0, rel=0.01)


# Odometry


def test_odometry_is_interpolated_but_not_across_gaps():
    track = OdometryBuffer()
    for second, angle in ((0.0, 0.0), (0.2, 0.4), (3.0, 0.4)):
        turn = Rotation.from_euler('z', angle).as_matrix()
        assert track.add(round(second * SECOND_NS), make_T(turn, np.array([second, 0.0, 0.0])))
    T = track.at(SECOND_NS // 10)
    np.testing.assert_allclose(T[:3, 3], [0.1, 0.0, 0.0])
    np.testing.assert_allclose(T[:3, :3], Rotation.from_euler('z', 0.2).as_matrix(), atol=1e-12)
    assert track.at(-1) is None and track.at(SECOND_NS) is None and track.at(4 * SECOND_NS) is None
    assert track.reaches(3 * SECOND_NS) and not track.reaches(3 * SECOND_NS + 1)
    assert not track.add(SECOND_NS, np.eye(4)), 'out of order'
    assert not track.add(9 * SECOND_NS, np.full((4, 4), np.nan))
    track.clear()
    assert track.at(0) is None and not track.reaches(0)


def test_odometry_is_of_the_camera_wherever_that_sits():
    track = OdometryBuffer()
    track.T_base_camera = make_T(np.eye(3), np.array([0.5, 0.0, 0.0]))
    track.add(1, make_T(Rotation.from_euler('z', math.pi / 2).as_matrix(), np.zeros(3)))
    np.testing.assert_allclose(track.at(1)[:3, 3], [0.0, 0.5, 0.0], atol=1e-12)


def test_memory_of_odometry_is_bounded():
    track = OdometryBuffer(max_poses=100)
    for i in range(1000):
        track.add(i, np.eye(4))
    assert len(track._poses) <= 100 and track.at(999) is not None and track.at(10) is None


# In the engine


def engine_with(script=None, metric=None, **values):
    config = updated(R3Config(), {name.replace('__', '.'): v for name, v in values.items()})
    return Engine(scripted.ScriptedPredictor(script or scripted.Script()), config, metric=metric)


def drive(track, count, metres=METRES, path=None):
    """Fill in what exact wheels say of the scripted walk, at 20 Hz."""
    path = path or scripted.circle()
    for i in range(2 * count):
        stamp_ns = START_NS + i * PERIOD_NS // 2
        T = path(stamp_ns).copy()
        T[:3, 3] *= metres
        track.add(stamp_ns, T)


def test_by_default_nothing_is_measured_and_nothing_is_claimed():
    ruler = Ruler()
    engine = engine_with(metric=ruler, keyframe__max_interval=5)
    drive(engine.odometry, 30)
    for frame in scripted.frames(30):
        estimate = engine.step(frame)
        assert estimate.metres_per_unit is None
    assert not ruler.measured and estimate.map_revision == 0


def test_the_model_looks_at_keyframes_until_it_knows_and_seldom_after():
    ruler = Ruler(failures=(5,))
    engine = engine_with(
        metric=ruler,
        scale__source='model',
        scale__bootstrap_frames=3,
        scale__check_every=4,
        keyframe__max_interval=5,
        keyframe__novelty_threshold=0.0,
    )
    estimates = [engine.step(frame) for frame in scripted.frames(90)]
    keyframes = [e.frame_id for e in estimates if e.is_keyframe]
    # One of them failed; then every fourth.
    assert ruler.measured == keyframes[:4] + keyframes[7::4]
    known_from = keyframes[3]
    for e in estimates:
        known = e.frame_id >= known_from
        assert e.metres_per_unit == (pytest.approx(METRES, rel=1e-4) if known else None)
        assert e.map_revision == known, 'poses published before have another length now'
    assert engine.session.scale.view().live_ratio == pytest.approx(1.0, rel=1e-4)
    engine.close()
    assert ruler.closed


def test_check_every_zero_never_looks_again():
    ruler = Ruler()
    engine = engine_with(
        metric=ruler, scale__source='model', scale__bootstrap_frames=2, scale__check_every=0,
        keyframe__max_interval=5,
    )  # fmt: skip
    for frame in scripted.frames(60):
        engine.step(frame)
    assert len(ruler.measured) == 2


def test_depth_that_comes_after_the_last_frame_counts():
    engine = engine_with(
        scripted.Script(depth_delay=50), Ruler(), scale__source='model', scale__bootstrap_frames=2,
        keyframe__max_interval=5,
    )  # fmt: skip
    for frame in scripted.frames(20):
        assert engine.step(frame).metres_per_unit is None
    engine.drain()
    assert engine.session.scale.metres_per_unit == pytest.approx(METRES, rel=1e-4)


def test_late_odometry_gives_the_scale():
    engine = engine_with(scale__source='odometry', scale__min_translation=1.0)
    # 0.16 map units a second: 1 m of 2.5 m units takes 2.5 s.
    track, received = OdometryBuffer(), engine.odometry
    drive(track, 60)
    for i, frame in enumerate(scripted.frames(60)):
        estimate = engine.step(frame)
        late_ns = frame.stamp_ns - 3 * PERIOD_NS
        if i >= 3:
            received.add(late_ns, track.at(late_ns))
        if i < 20:
            assert estimate.metres_per_unit is None
    assert estimate.metres_per_unit == pytest.approx(METRES, rel=0.01)
    assert estimate.map_revision == 1


@pytest.mark.slow
def test_a_robot_that_stands_still_gives_no_scale():
    engine = engine_with(scale__source='odometry')
    for i in range(200):
        engine.odometry.add(START_NS + i * PERIOD_NS, np.eye(4))
    for frame in scripted.frames(150):
        estimate = engine.step(frame)
    assert estimate.metres_per_unit is None
    assert '0.00 m' in engine.session.scale.view().waits_for


def test_motion_across_a_loss_is_no_stretch():
    """While the camera was lost, wheels went on: the two do not belong together."""
    engine = engine_with(
        scripted.Script(blackouts=range(30, 50)),
        scale__source='odometry', scale__lock=False,
    )  # fmt: skip
    drive(engine.odometry, 120)
    for frame in scripted.frames(120):
        estimate = engine.step(frame)
    assert estimate.metres_per_unit == pytest.approx(METRES, rel=0.01)


def test_a_corrected_unit_reaches_what_was_measured_before():
    """The predictor's unit shrinks from frame to frame; a Sim(3) correction then shows it."""
    engine = engine_with(
        metric=Ruler(), scale__source='model', scale__bootstrap_frames=4, loop__enabled=False,
        keyframe__max_interval=5, keyframe__novelty_threshold=0.0,
    )  # fmt: skip
    for frame in scripted.frames(18):
        engine.step(frame)
    session = engine.session
    before = session.scale.view()
    graph = session.graph
    moves = {
        i: graph.held[i].T_world_camera
        @ similarity(np.eye(4), 0.8)
        @ inverse(graph.held[i].T_world_camera)
        for i in graph.held
    }
    graph.correct(moves, {})
    session.scale.measure(session.bank, graph, (), None, (), None)
    after = session.scale.view()
    # Things are as large as they were, and of fewer world units now: one of those is longer.
    assert after.live_ratio == pytest.approx(before.live_ratio / 0.8)
    assert after.metres_per_unit == before.metres_per_unit


def test_a_new_session_starts_without_a_scale():
    engine = engine_with(metric=Ruler(), scale__source='model', scale__bootstrap_frames=1)
    frames = list(scripted.frames(3))
    assert engine.step(frames[0]).metres_per_unit == pytest.approx(METRES, rel=1e-4)
    engine.reset()
    assert engine.session.scale.metres_per_unit is None


def test_a_fixed_scale_changed_while_running_is_a_new_revision():
    engine = engine_with(scale__source='fixed', scale__fixed=2.0)
    frames = list(scripted.frames(2))
    assert engine.step(frames[0]).metres_per_unit == 2.0
    assert engine.session.map_revision == 0
    engine.update_config(updated(engine.config, {'scale.fixed': 3.0}))
    estimate = engine.step(frames[1])
    assert estimate.metres_per_unit == 3.0 and estimate.map_revision == 1


def test_a_scale_set_by_hand_is_a_new_revision_and_is_kept_over_resets():
    engine = engine_with()
    assert engine.session.map_revision == 0
    engine.set_scale(METRES, lock=True)
    engine.set_scale(METRES, lock=True)
    assert engine.session.map_revision == 1, 'the same number again changes nothing'
    engine.reset()
    assert engine.session.scale.view().source == 'user'
    assert engine.session.scale.metres_per_unit == METRES
    for wrong in (0.0, -1.0, math.nan, math.inf, 1e-5, 1e5):
        with pytest.raises(ConfigError, match='0.0001 to 10000'):
            engine.set_scale(wrong, lock=True)
    assert engine.session.scale.metres_per_unit == METRES


def test_a_measured_scale_that_is_locked_is_not_set_by_hand():
    engine = engine_with(scale__source='odometry')
    drive(engine.odometry, 60)
    for frame in scripted.frames(50):
        engine.step(frame)
    measured = engine.session.scale.metres_per_unit
    assert measured == pytest.approx(METRES, rel=0.01)
    with pytest.raises(ConfigError, match="'odometry', is locked. Set scale.lock to false"):
        engine.set_scale(4.0, lock=True)
    assert engine.session.scale.metres_per_unit == measured
    engine.update_config(updated(engine.config, {'scale.lock': False}))
    engine.set_scale(4.0, lock=True)
    assert engine.session.scale.view().metres_per_unit == 4.0
    # What estimates have taken over is measured anew in a new session.
    engine.set_scale(4.0, lock=False)
    for frame in scripted.frames(60):
        if frame.stamp_ns > engine.session.last_stamp_ns:
            engine.step(frame)
    assert engine.session.scale.view().source == 'odometry'
    engine.reset()
    assert engine.session.scale.metres_per_unit is None


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match='compares depths'):
        updated(R3Config(), {'scale.source': 'model', 'model.depth': False})


# The network


def test_the_metric_network_gets_the_focal_length_of_its_own_input():
    torch = pytest.importorskip('torch')
    from networks import shared_network
    from r3_ros.input.network_input import da3_geometry
    from r3_ros.model.metric_predictor import MetricPredictor

    network = shared_network('metric')
    predictor = MetricPredictor(network, torch.device('cpu'))
    geometry = da3_geometry(112, 84, process_res=56)
    predictor._geometry = lambda width, height: geometry
    image = depth_map(np.ones((84, 112)))
    metres = predictor.metres(image)
    assert metres.shape == (84, 112) and metres.dtype == np.float32
    # Twice the focal length, the same image: everything is twice as far.
    zoomed = scripted.intrinsics(112, 84)
    zoomed = type(zoomed)(2 * zoomed.fx, 2 * zoomed.fy, zoomed.cx, zoomed.cy, 112, 84)
    farther = predictor.metres(DepthMap(0, image.depth, image.confidence, image.image, zoomed))
    np.testing.assert_allclose(farther, 2 * metres, rtol=1e-6)
    # Half as large as the image: half its focal length, and each result for two by two pixels.
    small = geometry.apply(image.image)
    with torch.inference_mode():
        answer = network(torch.from_numpy(small).permute(2, 0, 1)[None])
    expected = answer.depth[0].numpy() * 0.5 * scripted.intrinsics(112, 84).fx / 300
    expected[answer.sky[0].numpy() >= 0.3] = np.nan
    np.testing.assert_allclose(metres, np.kron(expected, np.ones((2, 2))), rtol=1e-5)


def test_missing_metric_weights_say_what_asks_for_them(monkeypatch, tmp_path):
    pytest.importorskip('torch')
    from r3_ros.core.errors import ModelError
    from r3_ros.factory import load_engine

    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path))
    monkeypatch.setattr('r3_ros.model.weights.catalogue._find_in_hub_cache', lambda weights: None)
    with pytest.raises(ModelError, match="r3 weights get da3metric_large.*scale.source 'model'"):
        load_engine(updated(R3Config(), {'scale.source': 'model'}))


# Recordings


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """Return a function that runs ``r3 run`` on a scripted recording and returns its folder."""
    from r3_ros import factory
    from r3_ros.commands.cli import main
    from sequences import write_folder

    monkeypatch.setattr(factory, 'load_predictor', lambda config: scripted.ScriptedPredictor())
    monkeypatch.setattr(factory, 'load_metric_depth', lambda config: Ruler())
    folder = write_folder(tmp_path / 'seq', count=60)

    def run(*arguments, status=0):
        out = tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        settings = [part for a in arguments if '=' in a for part in ('--set', a)]
        plain = [a for a in arguments if '=' not in a]
        given = ['run', str(folder), '-o', str(out), '--save-depth', *plain, *settings]
        assert main([*given, '--set', 'keyframe.max_interval=5']) == status
        return out

    return run


def lengths_of(out):
    from r3_ros.core.trajectory_file import read_tum
    from r3_ros.maps.cloud_file import read_ply

    lengths = [
        np.linalg.norm(read_tum(out / name).T_world_camera[-1, :3, 3])
        for name in ('trajectory.tum', 'trajectory_final.tum')
    ]
    lengths.append(float(np.ptp(read_ply(out / 'map.ply').points, axis=0).max()))
    depths = [np.load(path)['depth'] for path in sorted((out / 'depth').iterdir())]
    return np.array([*lengths, depths[0].mean(), depths[-1].mean()])


def summary_of(out):
    return json.loads((out / 'summary.json').read_text())


@pytest.mark.slow
def test_files_of_a_run_are_in_metres_from_the_first_frame_on(recording, tmp_path, capsys):
    from r3_ros.core.trajectory_file import write_tum

    plain = recording()
    units = lengths_of(plain)
    assert summary_of(plain)['length_unit'] == 'map units'
    assert summary_of(plain)['scale']['metres_per_unit'] is None
    capsys.readouterr()
    stamps_ns = [START_NS + i * PERIOD_NS // 2 for i in range(120)]
    T = np.array([scripted.circle()(stamp_ns) for stamp_ns in stamps_ns])
    T[:, :3, 3] *= METRES
    write_tum(tmp_path / 'wheels.tum', np.array(stamps_ns), T)
    for arguments in (
        ['scale.source=fixed', f'scale.fixed={METRES}'],
        ['scale.source=model', 'scale.bootstrap_frames=3'],
        ['scale.source=odometry', '--odometry', str(tmp_path / 'wheels.tum')],
    ):
        out = recording(*arguments)
        np.testing.assert_allclose(lengths_of(out), METRES * units, rtol=0.01)
        summary = summary_of(out)
        scale, source = summary['scale'], arguments[0].split('=')[1]
        assert summary['length_unit'] == 'm' and scale['source'] == source and scale['locked']
        assert scale['metres_per_unit'] == pytest.approx(METRES, rel=0.01)
        if source == 'fixed':
            assert scale['live_ratio'] is None
        else:
            assert scale['live_ratio'] == pytest.approx(1.0, abs=0.01)
        assert summary['path_length'] == pytest.approx(
            METRES * summary_of(plain)['path_length'], rel=0.01
        )
        assert 'm of path' in (out / 'report.html').read_text()
        assert 'lengths in metres: 2.5 m' in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_without_a_measured_scale_reports_it_and_stays_in_map_units(recording, capsys):
    plain = lengths_of(recording())
    out = recording('scale.source=model', 'scale.bootstrap_frames=100')
    np.testing.assert_array_equal(lengths_of(out), plain)
    assert summary_of(out)['length_unit'] == 'map units'
    assert summary_of(out)['scale']['metres_per_unit'] is None
    assert 'not metres: scale not known' in capsys.readouterr().err


def test_odometry_and_its_file_go_together(recording, capsys):
    recording('scale.source=odometry', status=2)
    recording('--odometry', 'wheels.tum', status=2)
    assert capsys.readouterr().err.count('go together') == 2
