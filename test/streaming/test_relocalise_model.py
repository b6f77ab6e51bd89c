"""A map of the classical predictor, in which another network finds the camera."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip('torch')

from classical_scene import draw, frame_of, room, wander  # noqa: E402
from lively_network import lively  # noqa: E402
from r3_ros.classical.classical_predictor import ClassicalPredictor  # noqa: E402
from r3_ros.classical.odometry import Odometry  # noqa: E402
from r3_ros.commands.cli import main  # noqa: E402
from r3_ros.core.config import ClassicalConfig, ModelConfig, R3Config  # noqa: E402
from r3_ros.core.datatypes import ModelInfo, TrackingState  # noqa: E402
from r3_ros.core.errors import CheckpointError, ConfigError, ModelError  # noqa: E402
from r3_ros.core.geometry import inverse, make_T, rotation_angle, similarity  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.core.resize_geometry import as_rgb  # noqa: E402
from r3_ros.core.trajectory_file import read_tum  # noqa: E402
from r3_ros.core.truth_file import read_truth  # noqa: E402
from r3_ros.factory import load_engine, load_relocaliser  # noqa: E402
from r3_ros.maps.keyframe_images import KeyframeImages  # noqa: E402
from r3_ros.model.cache.frame_memory import CacheBudget  # noqa: E402
from r3_ros.model.multi_view_predictor import MultiViewPredictor  # noqa: E402
from r3_ros.model.r3_predictor import R3Predictor  # noqa: E402
from r3_ros.model.weights.catalogue import find_weights  # noqa: E402
from r3_ros.offline.run_files import UNPLACED  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from r3_ros.streaming.map_snapshot import saved_map, take_map_snapshot  # noqa: E402
from r3_ros.streaming.relocalisation.locator import fit_places  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from scripted import circle, PERIOD_NS, Script, ScriptedPredictor, START_NS, truth  # noqa: E402
from scripted_pairs import pair_predictor, PairScript, ScriptedPoints, ScriptedPoses  # noqa: E402
from scripted_views import numbered_frames, room_walk, ScriptedViews, ViewScript  # noqa: E402
from small_engine import engine_of  # noqa: E402
import torch  # noqa: E402

#: Frames of the map, and of the stream that comes back.
MAPPED, SHOWN = 24, 24
POSES = wander(3 * (MAPPED + SHOWN))[::3]
#: Distance of the wall, which is in all images.
FAR = 6.0
FEW_PAIRS = {'stream.recent_keyframes': 3, 'stream.retrieved_keyframes': 2}


def way(stamp_ns):
    return POSES[round((stamp_ns - START_NS) / PERIOD_NS)]


def shown(first, last, wallpaper):
    """Give frames of a room; their numbers are in the blue of a corner, for scripted networks."""
    panels = room(wallpaper)
    for index in range(first, last):
        frame = frame_of(draw(panels, POSES[index])[0], index)
        image = as_rgb(frame.image)
        image[:40, :40, 2] = index
        yield replace(frame, image=image)


def classical():
    return ClassicalPredictor(ClassicalConfig(), with_depth=False)


def keep(images, frame, estimate):
    """Keep the image of a keyframe without loss, for the numbers in it."""
    if estimate.is_keyframe:
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        images[estimate.frame_id] = cv2.imencode('.png', bgr)[1].tobytes()


@pytest.fixture(scope='module')
def saved():
    engine, images = Engine(classical(), R3Config()), KeyframeImages()
    for frame in shown(0, MAPPED, wallpaper=0):
        keep(images, frame, engine.step(frame))
    engine.drain()
    snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
    engine.close()
    return saved_map(snapshot, UNPLACED, R3Config().map.voxel_size)


def resumed(saved, network, count=SHOWN, calibrated=True):
    """Go on in the map, in the room with other wallpaper: the classical predictor is lost."""
    engine = Engine(classical(), updated(R3Config(), FEW_PAIRS), relocaliser=network)
    engine.load_map(saved)
    estimates = []
    for frame in shown(MAPPED, MAPPED + count, wallpaper=9):
        frame = frame if calibrated else replace(frame, intrinsics=None)
        estimates.append(engine.step(frame))
    engine.drain()
    engine.close()
    return engine, estimates


def unit_of(saved):
    """Return the length of the map's unit, by the poses of its keyframes."""
    T = inverse(saved.facts.T_map_world) @ saved.keyframes.T_map_optical
    true = np.array([POSES[round(stamp / 66_666_667)] for stamp in saved.keyframes.stamps_ns])
    own = T[:, :3, 3]
    return float((own * true[:, :3, 3]).sum() / (own**2).sum())


@pytest.mark.parametrize('kind', [ScriptedPoints, ScriptedPoses])
def test_noisy_pairs_in_any_unit_with_wrong_ones_find_the_camera(saved, kind):
    script = PairScript(way, noise=0.005, units=0.5, wrong_share=0.1, garbage_share=0.1)
    network = pair_predictor(kind(script))
    engine, estimates = resumed(saved, network)
    posed = [n for n, e in enumerate(estimates) if e.T_world_camera is not None]
    assert posed and posed == list(range(posed[0], SHOWN))
    assert 'segment 1 is not joined' in estimates[posed[0] - 1].reason
    assert all(estimates[n].state is TrackingState.TRACKING for n in posed)
    unit = unit_of(saved)
    for n in posed:
        T, true = estimates[n].T_world_camera, POSES[MAPPED + n]
        assert np.linalg.norm(unit * T[:3, 3] - true[:3, 3]) < 0.01 * FAR
        assert rotation_angle(T[:3, :3].T @ true[:3, :3]) < 0.01
    # The frames since the segment began are in the map, too, and the network holds nothing.
    record = engine.session.trajectory_view().since(engine.session.first_frame)
    assert np.isfinite(record.T_final[:, 0, 0]).sum() > len(posed)
    assert not len(network._features) and not engine.is_relocalising


@pytest.mark.parametrize('lie', [{'wrong_share': 1.0}, {'garbage_share': 1.0}])
def test_pairs_that_see_another_place_are_never_believed(saved, lie):
    network = pair_predictor(ScriptedPoints(PairScript(way, **lie)))
    engine, estimates = resumed(saved, network, count=10)
    assert all(e.T_world_camera is None for e in estimates)
    assert engine.is_relocalising and not engine.session.relocalisation.places


@pytest.mark.parametrize('variant', [None, 'r3-tiny'])
def test_a_network_with_made_up_weights_is_never_believed(saved, variant):
    config = ModelConfig(image_size=168, depth=False)
    budget = CacheBudget(1 << 26, 1 << 26)
    device = torch.device('cpu')
    network = R3Predictor(lively(variant), ModelInfo('made up'), config, budget, device)
    engine, estimates = resumed(saved, network, count=10)
    assert all(e.T_world_camera is None for e in estimates)
    assert not engine.session.relocalisation.places


def test_a_network_that_cannot_use_the_frames_says_so_and_the_stream_goes_on(saved):
    network = pair_predictor(ScriptedPoses(PairScript(way)))
    _, estimates = resumed(saved, network, count=5, calibrated=False)
    assert len(estimates) == 5
    assert all('scripted does not estimate the focal length' in e.reason for e in estimates)


class Anew(ScriptedPredictor):
    """Recognises nothing of a saved map, and has another unit than when the map was made."""

    def restore(self, keyframes, landmarks):
        super().restore(keyframes, landmarks)
        self.saved = self.held

    def _edges(self, frame_id, T_room_camera, context):
        context = [i for i in context if i not in self.saved]
        yield from super()._edges(frame_id, T_room_camera, context)


def test_a_network_of_several_views_finds_any_predictor_in_its_map():
    walk, shown = room_walk(60), list(numbered_frames(60))
    engine, images = engine_of(Script(), keyframe__max_keyframes=40), KeyframeImages()
    for frame in shown[:35]:
        keep(images, frame, engine.step(frame))
    snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
    saved = saved_map(snapshot, UNPLACED, 0.01)
    network = MultiViewPredictor(
        ScriptedViews(ViewScript(walk, noise=(0.002, 0.002), depth_noise=0.02)),
        ModelInfo('scripted'),
        ModelConfig(),
        CacheBudget(1 << 20, 1 << 26),
        torch.device('cpu'),
    )
    engine = Engine(Anew(Script(new_unit=(0, 2.5))), engine.config, relocaliser=network)
    engine.load_map(saved)
    estimates = [engine.step(frame) for frame in shown[30:]]
    posed = [e for e in estimates if e.T_world_camera is not None]
    assert len(posed) > 5
    for e in posed:
        goal = truth(circle(), e.stamp_ns)
        assert np.linalg.norm(e.T_world_camera[:3, 3] - goal[:3, 3]) < 0.01
    newest = engine.session.bank.ids()[-1]
    assert engine.session.graph.held[newest].scale == pytest.approx(0.4, rel=0.03)


def places(count=12, noise=0.0, step=0.1, seed=0):
    """Return frames in a segment, and where they are found in a map: half as large, turned."""
    rng = np.random.default_rng(seed)
    S_true = similarity(
        make_T(Rotation.from_euler('y', 40, degrees=True).as_matrix(), [3, 1, 2]), 0.5
    )
    S_own = np.tile(np.eye(4), (count, 1, 1))
    S_own[:, :3, 3] = np.cumsum(step * rng.normal(size=(count, 3)), axis=0)
    T_map = S_true @ S_own
    T_map[:, :3, :3] /= 0.5
    T_map[:, :3, 3] += noise * rng.normal(size=(count, 3))
    return S_own, T_map, S_true


def test_places_of_several_frames_tell_where_a_segment_lies():
    S_own, T_map, S_true = places(noise=0.002, step=0.3)
    T_map[3, :3, 3] += 1.0
    T_map[7, :3, :3] = T_map[7, :3, :3] @ Rotation.from_rotvec([0, 0.5, 0]).as_matrix()
    S, variances = fit_places(S_own, T_map)
    np.testing.assert_allclose(S, S_true, atol=0.01)
    assert 0.001**2 < variances[0] < 0.004**2


@pytest.mark.parametrize(
    ('options', 'order'),
    [
        ({'count': 5}, 1),
        ({'step': 0.0, 'noise': 0.01}, 1),  # the camera stands still: any scale fits
        ({'step': 0.01, 'noise': 0.01}, 1),
        ({}, -1),  # the way back
        ({'count': 60, 'noise': 0.2}, 1),
    ],
)
def test_places_in_doubt_tell_nothing(options, order):
    for seed in range(20):
        S_own, T_map, _ = places(**options, seed=seed)
        assert fit_places(S_own, T_map[::order]) is None


def test_a_relocaliser_is_refused_as_a_predictor_is(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    with pytest.raises(ConfigError, match=r"'relocalise.model'.*classical"):
        load_engine(updated(R3Config(), {'relocalise.model': 'classical'}))
    config = updated(R3Config(), {'relocalise.model': 'reloc3r'})
    tiny = find_weights('r3_tiny')
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path))
    with pytest.raises(ModelError, match=r'r3 weights .*relocalise\.checkpoint'):
        load_engine(config)
    config = updated(config, {'relocalise.checkpoint': str(tiny)})
    message = (
        'not for relocalise.model .*: change one of relocalise.checkpoint and relocalise.model'
    )
    with pytest.raises(CheckpointError, match=message):
        load_relocaliser(config)


@pytest.mark.slow  # renders a world, and runs a network on some dozen images
def test_r3_tiny_finds_a_camera_that_the_classical_predictor_does_not_find(tmp_path, monkeypatch):
    walk, again = tmp_path / 'walk', tmp_path / 'again'
    size = ['--width', '320', '--height', '240', '--depth-every', '0']
    assert main(['synth', str(walk), '--seed', '1', '--frames', '56', *size]) == 0
    again.mkdir()
    for name in ('rgb', 'camera.yaml', 'groundtruth.txt'):
        (again / name).symlink_to(walk / name)
    lines = (walk / 'timestamps.txt').read_text().splitlines()
    (again / 'timestamps.txt').write_text('\n'.join(lines[16:]))
    first, second = tmp_path / 'first', tmp_path / 'second'
    assert main(['run', str(walk), '-o', str(first), '--max-frames', '40']) == 0
    monkeypatch.setattr(Odometry, '_search', lambda *_: None)
    options = ['--set', 'relocalise.model=r3_tiny', '--map', str(first / 'map')]
    assert main(['run', str(again), '-o', str(second), *options]) == 0
    # Both are in the world of the map: one scale for all, and no alignment.
    before, found = (read_tum(folder / 'trajectory_final.tum') for folder in (first, second))
    true = read_truth(walk / 'groundtruth.txt')
    T_true = dict(
        zip(
            true.stamps_ns.tolist(),
            inverse(true.T_world_camera[0]) @ true.T_world_camera,
            strict=True,
        )
    )
    goal = np.array([T_true[n] for n in before.stamps_ns.tolist()])[:, :3, 3]
    own = before.T_world_camera[:, :3, 3]
    unit = (own * goal).sum() / (own**2).sum()
    path = np.linalg.norm(np.diff(true.T_world_camera[:, :3, 3], axis=0), axis=1).sum()
    assert len(found) > 10
    for n, T in zip(found.stamps_ns.tolist(), found.T_world_camera, strict=True):
        assert np.linalg.norm(unit * T[:3, 3] - T_true[n][:3, 3]) < 0.02 * path
        assert rotation_angle(T[:3, :3].T @ T_true[n][:3, :3]) < 0.02
