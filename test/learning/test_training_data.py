"""Clips to learn from: exact truth, the same for the same step, scenes kept apart."""

from dataclasses import fields, replace
import shutil

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from r3_ros.core.datatypes import Intrinsics  # noqa: E402
from r3_ros.core.errors import ConfigError, SourceError  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.evaluation.depth_errors import read_depth  # noqa: E402
from r3_ros.input.network_input import area_geometry, r3_geometry  # noqa: E402
from r3_ros.learning.synth.dataset import SequenceOptions, write_sequence  # noqa: E402
from r3_ros.learning.synth.optics import (  # noqa: E402
    band_rows,
    with_fog,
    with_shiny_floor,
)
from r3_ros.learning.synth.path import make_path  # noqa: E402
from r3_ros.learning.synth.renderer import render_radiance  # noqa: E402
from r3_ros.learning.synth.world import World  # noqa: E402
from r3_ros.learning.training.clips import camera_numbers, camera_rays  # noqa: E402
from r3_ros.learning.training.initial_weights import new_network  # noqa: E402
from r3_ros.learning.training.procedural import (  # noqa: E402
    Degradation,
    draw_degradation,
    draw_frames,
    draw_intrinsics,
    expose,
    render_clip,
)
from r3_ros.learning.training.recordings import RecordedClips, Recording  # noqa: E402
from r3_ros.learning.training.schedule import plan_step  # noqa: E402
from r3_ros.learning.training.training_settings import (  # noqa: E402
    image_sizes,
    load_settings,
    TrainingSettings,
)
from r3_ros.learning.training.training_worlds import make_training_world, Split  # noqa: E402

CPU = torch.device('cpu')
SMALL = updated(
    TrainingSettings(),
    {
        'data.kinds': 'corridor',
        'joint.sizes': '56x42 42x56',
        'joint.frames_per_step': 8,
        'matching.steps': 0,
        'data.clip_frames': 5,
        'data.path_frames': 40,
        'data.coarseness': 14.0,
        'data.moving': 1.0,
        'data.effects': 0.0,
    },
)


@pytest.fixture(scope='module')
def place():
    return make_training_world(SMALL.data, 3, Split.TRAINING, 0, CPU)


@pytest.fixture(scope='module')
def clip(place):
    return drawn_clip(place, 5)


def drawn_clip(place, seed, effects=0.0):
    """Render five frames of 84 x 70 pixels."""
    rng = np.random.default_rng(seed)
    frames = draw_frames(rng, len(place.path.time_s), 5)
    return render_clip(place, rng, frames, draw_intrinsics(rng, 84, 70), effects)


def same(first, second):
    pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(first)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else same(a, b) for a, b in pairs)


def test_a_clip_agrees_with_itself_through_depth_rays_and_poses(clip):
    """Points of the first frame lie, moved by the true poses, where the others see them."""
    B, S, H, W = clip.shape
    assert clip.images.dtype == torch.uint8
    assert clip.fov.shape == (B, 2)
    assert torch.allclose(clip.T_world_camera[0, 0], torch.eye(4), atol=1e-6)
    points = (clip.depth[..., None] * clip.rays[:, None]).double()
    still = ~clip.moving[0, 0]
    world = points[0, 0][still]
    checked = 0
    for s in range(1, S):
        T = torch.linalg.inv(clip.T_world_camera[0, s].double())
        at = world @ T[:3, :3].T + T[:3, 3]
        rays = clip.rays[0].double()
        fx = (W - 1) / (rays[0, -1, 0] - rays[0, 0, 0])
        fy = (H - 1) / (rays[-1, 0, 1] - rays[0, 0, 1])
        u = ((at[:, 0] / at[:, 2] - rays[0, 0, 0]) * fx).round().long()
        v = ((at[:, 1] / at[:, 2] - rays[0, 0, 1]) * fy).round().long()
        inside = (u >= 0) & (u < W) & (v >= 0) & (v < H) & (at[:, 2] > 0.1)
        seen = clip.depth[0, s, v[inside], u[inside]]
        close = (seen - at[inside, 2]).abs() < 0.05 * at[inside, 2]
        if inside.sum() > 500:
            checked += 1
            assert close.float().mean() > 0.6  # the rest is hidden
    assert checked


def test_rays_are_those_of_the_camera():
    rays = camera_rays(torch.tensor([[10.0, 20, 2, 1]]), 3, 4)[0]
    assert rays[1, 2].tolist() == [0, 0, 1]
    assert rays[2, 0].tolist() == pytest.approx([-0.2, 0.05, 1])


@pytest.mark.slow
def test_held_out_worlds_are_of_other_seeds_and_kinds(place):
    held_out = make_training_world(SMALL.data, 3, Split.HELD_OUT_SEEDS, 0, CPU)
    other_kind = make_training_world(SMALL.data, 3, Split.HELD_OUT_KINDS, 0, CPU)
    assert place.world.kind == held_out.world.kind == 'corridor'
    assert other_kind.world.kind == 'hall'
    assert [s.world.seed % 3 for s in (place, held_out, other_kind)] == [0, 1, 2]


def test_step_plans_cover_views_sizes_and_both_ways_of_seeing():
    settings = updated(SMALL, {'data.clip_frames': 8, 'joint.frames_per_step': 16})
    plans = [plan_step(settings, step) for step in range(300)]
    assert {plan.views for plan in plans} == set(range(2, 9))
    assert {(plan.width, plan.height) for plan in plans} == {(56, 42), (42, 56)}
    assert 0.35 < np.mean([plan.causal for plan in plans]) < 0.65
    assert all(8 <= plan.clips * plan.views <= 16 for plan in plans)


def test_frames_go_on_turn_back_or_jump():
    rng = np.random.default_rng(0)
    drawn = [draw_frames(rng, 200, 8) for _ in range(300)]
    steps = [np.diff(frames) for frames in drawn]
    assert all(len(f) == 8 and f.min() >= 0 and f.max() < 200 for f in drawn)
    one_way = np.mean([(s >= 0).all() or (s <= 0).all() for s in steps])
    assert 0.5 < one_way < 0.9
    onward = [np.diff(draw_frames(rng, 200, 8, onward=True)) for _ in range(50)]
    assert all(len(set(s.tolist())) == 1 for s in onward)  # an even pace
    assert len({abs(s[0]) for s in onward}) > 3
    assert draw_frames(rng, 3, 5).tolist()  # fewer frames than views: some repeat


# Optics


@pytest.fixture(scope='module')
def view():
    world = World.generate(1, 'corridor', coarseness=14.0)
    T = torch.from_numpy(make_path(world, 1, 15.0, 1).T_world_camera)
    K = Intrinsics(40, 41, 34, 22, 70, 56)
    return world, T, K, render_radiance(world, T, K)


def test_fog_takes_light_by_distance(view):
    _, _, K, seen = view
    colour = torch.tensor([0.5, 0.6, 0.7])
    foggy = with_fog(seen, K, 0.4, colour)
    v, u = 30, 50
    ray = np.array([(u - K.cx) / K.fx, (v - K.cy) / K.fy, 1.0])
    share = np.exp(-0.4 * float(seen.depth[0, v, u]) * np.linalg.norm(ray))
    expected = share * seen.radiance[0, :, v, u] + (1 - share) * colour
    assert torch.allclose(foggy.radiance[0, :, v, u], expected, atol=1e-5)
    assert foggy.depth is seen.depth
    nothing = seen._replace(depth=torch.zeros_like(seen.depth))
    assert torch.allclose(with_fog(nothing, K, 0.4, colour).radiance[0, :, 3, 3], colour)


def test_a_shiny_floor_shows_what_is_above_it_and_nothing_else_changes(view):
    world, T, K, seen = view
    shiny = with_shiny_floor(world, seen, T, K, torch.zeros(1), 1.0)
    changed = (shiny.radiance - seen.radiance).abs().amax(1) > 1e-6
    rays = camera_rays(camera_numbers(K, CPU), K.height, K.width)[0]
    height = T[0, 2, 3] + (rays.double() @ T[0, 2, :3]) * seen.depth[0]
    assert changed.any()
    assert height[changed[0]].abs().max() < 0.01
    # A ray to the floor, mirrored there, must find the radiance that was mixed in.
    v, u = (int(i) for i in changed[0].nonzero()[-1])
    ray = T[0, :3, :3] @ rays[v, u].double()
    foot = T[0, :3, 3] + ray * seen.depth[0, v, u]
    mirrored = ray * torch.tensor([1.0, 1, -1])
    forward = mirrored / mirrored.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0, 1], dtype=torch.float64))
    right = right / right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 0], pose[:3, 2], pose[:3, 3] = right, forward, foot
    pose[:3, 1] = torch.linalg.cross(forward, right)
    above = render_radiance(world, pose[None], Intrinsics(900, 900, 3, 3, 7, 7))
    cosine = abs(float(ray[2])) / float(ray.norm())
    share = 0.06 + 0.94 * (1 - cosine) ** 5
    expected = torch.lerp(seen.radiance[0, :, v, u], above.radiance[0, :, 3, 3], share)
    assert torch.allclose(shiny.radiance[0, :, v, u], expected, atol=0.03)


# Exposure


CLEAR = Degradation(shutter=0.0, readout_s=0.0, shine=0.0, fog=0.0, tint=(0.9, 0.95, 1.0))


@pytest.mark.slow
def test_a_rolling_shutter_changes_images_and_no_truth(place):
    frames, K = np.array([4, 9, 30]), Intrinsics(60.0, 60.0, 41.5, 34.5, 84, 70)
    still = expose(place, frames, K, CLEAR)
    for degradation in (CLEAR, replace(CLEAR, shutter=0.5, shine=0.7, fog=0.5)):
        before = expose(place, frames, K, degradation)
        rolled = expose(place, frames, K, replace(degradation, readout_s=0.03))
        again = expose(place, frames, K, replace(degradation, readout_s=0.03))
        assert torch.equal(rolled.radiance, again.radiance)
        for seen in (before, rolled):
            assert torch.equal(seen.depth, still.depth) and torch.equal(seen.body, still.body)
        apart = (rolled.radiance - before.radiance).abs().mean((0, 1, 3))
        # The truth is of the middle rows' time.
        assert apart[34:36].mean() < 0.5 * min(apart[:4].mean(), apart[-4:].mean())


def test_rows_are_exposed_where_the_path_is_at_their_time(place):
    """Also with a mirroring floor and blur: as a whole exposure at the time of the band."""
    K = Intrinsics(60.0, 60.0, 41.5, 34.5, 84, 70)
    degradation = replace(CLEAR, shutter=0.4, shine=0.8, readout_s=0.06)
    rolled = expose(place, np.array([20]), K, degradation)
    # The same path with one more pose on it: where it is when the first band is exposed.
    rows, path = band_rows(70), place.path
    at = path.time_s[20] + ((rows - 1) / 2 - 34.5) / 70 * 0.06
    poses = np.insert(path.T_world_camera, 20, path.interpolated(np.array([at])), axis=0)
    moved = replace(path, T_world_camera=poses, time_s=np.insert(path.time_s, 20, at))
    whole = expose(
        replace(place, path=moved), np.array([20]), K, replace(degradation, readout_s=0)
    )
    assert torch.allclose(rolled.radiance[:, :, :rows], whole.radiance[:, :, :rows], atol=1e-4)
    assert not torch.allclose(rolled.radiance[:, :, -8:], whole.radiance[:, :, -8:], atol=2e-3)


def test_degradation_is_drawn_as_often_as_set_and_repeat():
    def drawn(effects):
        return [
            draw_degradation(np.random.default_rng(k), np.random.default_rng(-k % 997), effects)
            for k in range(400)
        ]

    assert drawn(0.7) == drawn(0.7)
    share = {
        name: np.mean([getattr(t, name) > 0 for t in drawn(1.0)])
        for name in ('shutter', 'readout_s', 'shine', 'fog')
    }
    expected = {'shutter': 0.4, 'readout_s': 0.3, 'shine': 0.25, 'fog': 0.2}
    assert share == pytest.approx(expected, abs=0.08)
    none = drawn(0.0)
    assert not any(t.shutter or t.readout_s or t.shine or t.fog for t in none)
    assert all(t.readout_s <= 0.03 for t in drawn(1.0))


@pytest.mark.slow
def test_strong_effects_leave_the_truth_alone_and_repeat(place):
    different = 0
    for seed in range(6):
        plain, clip = drawn_clip(place, seed), drawn_clip(place, seed, effects=1.0)
        assert same(clip, drawn_clip(place, seed, effects=1.0))
        assert torch.equal(clip.depth, plain.depth)
        different += not torch.equal(clip.images, plain.images)
    assert different >= 4


# Settings


def test_settings_are_read_and_wrong_ones_reported(tmp_path):
    file = tmp_path / 'settings.yaml'
    file.write_text('seed: 4\ndata: {clip_frames: 6}\nmatching: {steps: 2}\n')
    settings = load_settings(file, {'joint.steps': 9})
    assert (settings.seed, settings.data.clip_frames, settings.joint.steps) == (4, 6, 9)
    stages = [(stage.name, stage.first, stage.end) for stage in settings.stages]
    assert stages == [('matching', 0, 2), ('joint', 2, 11), ('large', 11, 5011)]
    assert [settings.stage_at(step).name for step in (1, 2, 11, 9999)] == [
        'matching', 'joint', 'large', 'large',
    ]  # fmt: skip
    other = load_settings(file, {'variant': 'r3-small', 'large.steps': 0})
    assert [stage.name for stage in other.stages] == ['joint']
    assert image_sizes('168x126 126x168') == [(168, 126), (126, 168)]
    for changes, said in (
        ({'data.kinds': 'room castle'}, 'castle'),
        ({'data.kinds': 'room hall'}, 'must not be trained on'),
        ({'joint.sizes': '100x100'}, 'multiples of 14'),
        ({'joint.sizes': ''}, 'empty'),
        ({'data.least_stride': 13}, 'most_stride'),
        ({'matching.steps': 0, 'joint.steps': 0, 'large.steps': 0}, 'no steps'),
        ({'variant': 'da3-small'}, 'r3-tiny'),
        ({'joint.learning_rate': -1.0}, 'learning_rate'),
        ({'data.typo': 1}, 'unknown'),
    ):
        with pytest.raises(ConfigError, match=said):
            load_settings(file, changes)


# Recordings


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recordings') / 'walk'
    options = SequenceOptions(
        seed=4, kind='corridor', frames=24, width=80, height=60, coarseness=14.0, depth_every=1
    )
    write_sequence(options, folder)
    return folder


@pytest.mark.slow
def test_clips_of_a_recording_agree_with_themselves(recording):
    settings = updated(SMALL, {'data.recorded': 1.0, 'data.clip_frames': 4})
    network = new_network('r3-tiny', 0)
    again = Recording(recording)
    source = RecordedClips(settings, [Recording(recording), again], network, None, CPU)
    plan, clips = source.training(3)
    assert clips.shape[2:] == (plan.height, plan.width) == (42, 56)
    assert same(clips, source.training(3)[1])
    held_out = source.validation(2)
    assert [len(clips) for clips in held_out.values()] == [2, 2]
    assert list(held_out) == ['end of walk', 'end of walk (2)']


def test_images_of_a_recording_are_those_that_the_network_gets(recording):
    """Also where the network crops: depth and intrinsics go with the pixels."""
    opened = Recording(recording)
    for geometry in (area_geometry(80, 60, 56), r3_geometry(80, 60, 42, square_ok=True)):
        image, depth = opened.image(5, geometry)
        assert image.shape == (*depth.shape, 3) == (geometry.height, geometry.width, 3)
        true = read_depth(recording / 'depth' / f'{opened.paths[5].stem}.png')
        T = geometry.pixels_network_source
        for row, column in ((3, 4), (20, 30)):
            u, v = ((column - T[0, 2]) / T[0, 0], (row - T[1, 2]) / T[1, 1])
            assert depth[row, column] == true[int(v + 0.5), int(u + 0.5)]


def test_frames_of_a_slow_recording_are_not_farther_apart_in_time(recording, tmp_path):
    def longest_gap(folder):
        opened, rng = Recording(folder), np.random.default_rng(0)
        drawn = [opened.draw_frames(rng, 2) for _ in range(200)]
        return max(abs(int(b) - int(a)) for a, b in drawn)

    slow = tmp_path / 'slow'
    shutil.copytree(recording, slow)
    for name in ('timestamps.txt', 'groundtruth.txt'):
        lines = [line.split() for line in (slow / name).read_text().splitlines()]
        lines = [[str(5 * float(line[0])), *line[1:]] for line in lines if line[0] != '#']
        (slow / name).write_text('\n'.join(map(' '.join, lines)) + '\n')
    assert longest_gap(slow) <= 3 < longest_gap(recording)


def test_held_out_frames_are_never_learned_from(recording):
    opened = Recording(recording)
    rng = np.random.default_rng(0)
    learned = np.concatenate([opened.draw_frames(rng, 4) for _ in range(200)])
    held_out = np.concatenate([opened.draw_held_out(rng, 4) for _ in range(200)])
    assert learned.max() == opened.held_out_from - 1 < held_out.min()
    assert held_out.max() < len(opened.paths)


def test_folders_that_teach_nothing_are_reported(recording, tmp_path):
    for missing, said in (('camera.yaml', 'calibrate'), ('groundtruth.txt', 'groundtruth')):
        copy = tmp_path / missing
        shutil.copytree(recording, copy)
        (copy / missing).unlink()
        with pytest.raises(SourceError, match=said):
            Recording(copy)
    copy = tmp_path / 'short'
    shutil.copytree(recording, copy)
    lines = (copy / 'groundtruth.txt').read_text().splitlines()
    (copy / 'groundtruth.txt').write_text('\n'.join(lines[:6]) + '\n')
    with pytest.raises(SourceError, match='16 are needed'):
        Recording(copy)
    still = tmp_path / 'still'
    shutil.copytree(recording, still)
    poses = [line.split() for line in (still / 'groundtruth.txt').read_text().splitlines()]
    poses = [[p[0], '1', '2', '3', *p[4:]] for p in poses if p[0] != '#']
    (still / 'groundtruth.txt').write_text('\n'.join(map(' '.join, poses)) + '\n')
    with pytest.raises(SourceError, match='stands still'):
        Recording(still)
    with pytest.raises(SourceError, match='check the name'):
        Recording(tmp_path / 'nothing')
    with pytest.raises(SourceError, match='--video'):
        Recording(still / 'camera.yaml')
