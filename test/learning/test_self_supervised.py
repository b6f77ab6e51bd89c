"""Videos without truth: followed points against exact ones, losses by hand, what they teach."""

import csv
from dataclasses import replace
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

import networks  # noqa: E402
from r3_ros.commands.cli import main  # noqa: E402
from r3_ros.core.datatypes import Intrinsics  # noqa: E402
from r3_ros.core.errors import ConfigError, SourceError  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.input.network_input import fov_of  # noqa: E402
from r3_ros.learning.synth.dataset import camera_yaml  # noqa: E402
from r3_ros.learning.synth.path import make_path  # noqa: E402
from r3_ros.learning.synth.renderer import render_radiance  # noqa: E402
from r3_ros.learning.synth.sensor import Sensor, SensorOptions  # noqa: E402
from r3_ros.learning.synth.world import World  # noqa: E402
from r3_ros.learning.training.clips import camera_numbers, camera_rays, UnlabelledClips  # noqa: E402
from r3_ros.learning.training.initial_weights import new_network  # noqa: E402
from r3_ros.learning.training.losses import relative_motions  # noqa: E402
from r3_ros.learning.training.processes import TrainingProcess  # noqa: E402
from r3_ros.learning.training.self_supervised import evaluate_unlabelled  # noqa: E402
from r3_ros.learning.training.trainer import Trainer, WEIGHTS  # noqa: E402
from r3_ros.learning.training.training_settings import LossSettings  # noqa: E402
from r3_ros.learning.training.video_tracks import (  # noqa: E402
    common_points,
    FrameObservations,
    PointTracker,
    static_points,
)
from r3_ros.learning.training.videos import MixedClips, Video  # noqa: E402
from r3_ros.model.camera_head import Pairs  # noqa: E402
from r3_ros.model.weights.checkpoint import load_network, save_network  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from training_source import MadeUp, SETTINGS, small_network  # noqa: E402

CPU = torch.device('cpu')
pytestmark = pytest.mark.usefixtures('one_torch_thread')
WIDTH, HEIGHT, FRAMES, RATE_HZ = 336, 252, 36, 15.0


# A recording of which everything is known


class Film:
    """A room with two moving bodies, and where any of its points is in any frame."""

    def __init__(self):
        self.K = Intrinsics(270.0, 270.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT)
        world = World.generate(5, 'room', moving=2, coarseness=6.0)
        path = make_path(world, FRAMES, RATE_HZ, 5)
        self.T = path.T_world_camera
        times = torch.from_numpy(path.time_s)
        seen = render_radiance(world, torch.from_numpy(self.T), self.K, time_s=times)
        sensor = Sensor(SensorOptions(noise=2.0), world.exposure, RATE_HZ, 3)
        values = sensor.develop(seen.radiance, 0).permute(0, 2, 3, 1).numpy()
        self.images = (255 * values + 0.5).astype(np.uint8)
        self.depth, self.body = seen.depth.numpy(), seen.body.numpy()
        self._T_world_body = world.body_poses(times).numpy()

    def gray(self, frame):
        return cv2.cvtColor(self.images[frame], cv2.COLOR_RGB2GRAY)

    def is_flat(self, frame, pixel):
        """Say whether a pixel (2,) lies on one surface with its neighbours."""
        x, y = np.rint(pixel).astype(int)
        around = self.depth[frame, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        return around.min() > 0 and around.max() / around.min() < 1.05

    def exact(self, start, pixel, frames):
        """Follow a pixel (2,) of a frame: body, pixels (n, 2), and as if it stood still."""
        x, y = np.rint(pixel).astype(int)
        body = self.body[start, y, x]
        inverse = cv2.remap(
            1 / self.depth[start], *(np.float32([[v]]) for v in pixel), cv2.INTER_LINEAR
        )
        ray = np.linalg.inv(self.K.K) @ [*pixel, 1.0]
        world = self.T[start] @ np.append(ray / inverse[0, 0], 1)
        on_body = np.linalg.inv(self._T_world_body[start, body]) @ world
        return (
            body,
            np.array([self._project(k, self._T_world_body[k, body] @ on_body) for k in frames]),
            np.array([self._project(k, world) for k in frames]),
        )

    def _project(self, frame, point):
        at = self.K.K @ (np.linalg.inv(self.T[frame]) @ point)[:3]
        return at[:2] / at[2]


@pytest.fixture(scope='module')
def film():
    return Film()


@pytest.fixture(scope='module')
def observations(film):
    follower = PointTracker()
    return [follower.add(film.gray(k)) for k in range(FRAMES)]


@pytest.fixture(scope='module')
def folder(film, tmp_path_factory):
    """Write the film as a calibrated folder of images, with times."""
    out = tmp_path_factory.mktemp('film')
    write_images(out, film.images)
    lines = [f'{k / RATE_HZ:.6f} {k:03d}.png' for k in range(FRAMES)]
    (out / 'timestamps.txt').write_text('\n'.join(lines) + '\n')
    (out / 'camera.yaml').write_text(camera_yaml(film.K, 'film'))
    return out


def write_images(out, images):
    for k, image in enumerate(images):
        cv2.imwrite(str(out / f'{k:03d}.png'), image[..., ::-1])


# Following


def errors_of(film, observations):
    """Return rows (body, frames since it was found, pixels off) of every later observed."""
    first, rows = {}, []
    for frame, observed in enumerate(observations):
        for number, pixel in zip(observed.number, observed.pixel, strict=True):
            first.setdefault(number, (frame, pixel))
            start, at = first[number]
            if frame > start and film.is_flat(start, at):
                body, moved, _ = film.exact(start, at, [frame])
                rows.append((body, frame - start, np.linalg.norm(moved[0] - pixel)))
    return np.array(rows)


@pytest.mark.slow
def test_tracked_points_are_where_exact_ones_are(film, observations):
    assert all(np.array_equal(s.number, np.unique(s.number)) for s in observations)
    assert min(len(s.number) for s in observations) > 250
    body, age, off = errors_of(film, observations).T
    short = age <= 5
    assert np.median(off[short]) < 0.25 and np.percentile(off[short], 90) < 0.8
    assert np.median(off[age > 15]) < 1.0 and np.percentile(off[age > 15], 90) < 3.0
    # Bodies that move by themselves are followed like walls.
    assert (body > 0).sum() > 100
    assert np.median(off[(body > 0) & (age <= 10)]) < 1.0


@pytest.mark.slow
def test_what_moves_by_itself_is_left_out(film, observations):
    kept = {'still': [], 'moving': []}
    for start in range(0, 12, 3):
        frames = np.arange(start, FRAMES, 6)
        pixel, visible = common_points([observations[k] for k in frames])
        still = static_points(pixel, visible)
        for n in range(len(still)):
            seen = np.flatnonzero(visible[:, n])
            at = pixel[seen[0], n]
            if film.is_flat(frames[seen[0]], at):
                _, moved, held = film.exact(frames[seen[0]], at, frames[seen])
                way = np.linalg.norm(moved - held, axis=1).max()
                if way < 0.3 or way > 4:
                    kept['still' if way < 0.3 else 'moving'].append(still[n])
    assert len(kept['moving']) > 30 and len(kept['still']) > 1000
    assert np.mean(kept['still']) > 0.85
    assert np.mean(kept['moving']) < 0.3


def test_an_epipolar_geometry_that_proves_nothing_lets_all_stand():
    rng = np.random.default_rng(0)
    pixel = np.repeat(rng.uniform(0, 300, (1, 40, 2)), 3, axis=0).astype(np.float32)
    everywhere = np.ones((3, 40), bool)
    assert static_points(pixel, everywhere).all()  # a camera that stands still
    few = everywhere.copy()
    few[:, 10:] = False
    assert not static_points(pixel, few).any()  # ten points agree about anything


@pytest.mark.slow
def test_a_cut_ends_every_point_and_numbers_are_never_used_again(film):
    rng = np.random.default_rng(0)
    other = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8), (0, 0), 3)
    other = cv2.normalize(other, None, 0, 255, cv2.NORM_MINMAX)
    follower = PointTracker()
    before = [follower.add(film.gray(k)) for k in range(3)]
    after = [follower.add(other) for _ in range(2)]
    assert len(np.intersect1d(before[0].number, before[2].number)) > 200
    survived = np.intersect1d(before[2].number, after[0].number)
    assert len(survived) < 0.01 * len(before[2].number)
    assert len(np.intersect1d(after[0].number, after[1].number)) > 100
    follower.add(np.zeros_like(other))  # nothing to follow, nothing to find
    assert len(follower.add(np.zeros_like(other)).number) == 0


def test_points_that_two_frames_share_by_number():
    one = FrameObservations(np.array([2, 5, 9]), np.array([[1, 1], [2, 2], [3, 3]], np.float32))
    two = FrameObservations(np.array([5, 7]), np.array([[4, 4], [5, 5]], np.float32))
    three = FrameObservations(np.array([5, 9]), np.array([[6, 6], [7, 7]], np.float32))
    pixel, visible = common_points([one, two, three])
    assert visible.tolist() == [[True, True], [True, False], [True, True]]
    assert pixel[:, 0, 0].tolist() == [2, 4, 6] and pixel[:, 1, 1].tolist() == [3, 0, 7]


# Videos


@pytest.mark.slow
def test_tracks_of_a_video_are_in_the_pixels_that_the_network_sees(film, folder):
    video = Video(folder, [(84, 70), (112, 84), (84, 112)])
    assert video.size == (112, 84) and len(video) == FRAMES
    small = film.K.resized(112, 84)
    assert video.fov.tolist() == pytest.approx(list(fov_of(small)), rel=1e-5)
    expected = cv2.resize(film.images[7], (112, 84), interpolation=cv2.INTER_AREA)
    assert np.array_equal(video.images(np.array([7]))[0], expected)
    frames = np.array([9, 3, 9, 15])  # any order, and one twice
    pixel, visible = video.tracks(frames, 200, np.random.default_rng(0))
    assert pixel.shape == (4, 200, 2) and visible.sum(1).min() > 60
    assert np.array_equal(pixel[0], pixel[2]) and not pixel[~visible].any()
    off = []
    for n in np.flatnonzero(visible[1] & visible[3]):
        at = (pixel[1, n] + 0.5) * 3 - 0.5  # in the film's own pixels
        if film.is_flat(3, at):
            _, _, held = film.exact(3, at, [15])
            off.append((held[0] + 0.5) / 3 - 0.5 - pixel[3, n])
    # Half a pixel of the small image would be seen at once.
    assert np.median(np.linalg.norm(off, axis=1)) < 0.15
    assert np.abs(np.median(off, axis=0)).max() < 0.08


@pytest.mark.slow
def test_a_fast_video_is_thinned_and_a_wide_one_cut(film, tmp_path):
    out = tmp_path / 'fast'
    out.mkdir()
    write_images(out, film.images)  # without times: 30 a second
    video = Video(out, [(84, 84)])
    assert len(video) == FRAMES // 2 and video.fov.tolist() == [0, 0]
    part = film.images[4][:, 42:-42]
    expected = cv2.resize(part, (84, 84), interpolation=cv2.INTER_AREA)
    assert np.array_equal(video.images(np.array([2]))[0], expected)


@pytest.mark.slow
def test_videos_that_teach_nothing_are_reported(film, tmp_path):
    short, mixed = tmp_path / 'short', tmp_path / 'mixed'
    short.mkdir()
    mixed.mkdir()
    write_images(short, film.images[:20])
    with pytest.raises(SourceError, match='10 images at 15 a second, 16 are needed'):
        Video(short, [(84, 84)])
    write_images(mixed, [film.images[0], film.images[0][:100]])
    with pytest.raises(SourceError, match='336x252 and of 336x100'):
        Video(mixed, [(84, 84)])
    blank = tmp_path / 'blank'
    blank.mkdir()
    write_images(blank, [np.zeros((60, 80, 3), np.uint8)] * 40)
    with pytest.raises(SourceError, match='0 points of an image can be tracked, 16 are needed'):
        Video(blank, [(84, 84)])
    with pytest.raises(SourceError, match='does not exist'):
        Video(tmp_path / 'none', [(84, 84)])


# Losses


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def prediction_of(depth, translation, quaternion, fov, predicted=None):
    """Return leaves of a prediction of S frames, and the prediction."""
    S = depth.shape[1]
    if predicted is None:
        predicted = torch.ones(S, S, dtype=torch.bool).triu(1)
    leaves = {
        'depth': depth,
        'confidence': torch.full_like(depth, 2.0),
        'translation': translation,
        'quaternion': quaternion,
        'logit_translation': torch.zeros_like(translation[..., 0]),
        'logit_rotation': torch.zeros_like(translation[..., 0]),
        'fov': fov,
    }
    leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
    pairs = Pairs(*(leaves[k] for k in Pairs._fields if k != 'predicted'), predicted)
    return leaves, SimpleNamespace(
        pairs=pairs, fov=leaves['fov'], depth=leaves['depth'], confidence=leaves['confidence']
    )


def two_frames(further, step=(0.0, 0.0, 0.0)):
    """Two images of 2 x 2 pixels, 90 degrees wide, at depths 2 and ``further``; no rotation."""
    depth = torch.ones(1, 2, 2, 2, dtype=torch.float64) * double([2.0, further])[:, None, None]
    translation = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    translation[0, 0, 1] = double(step)
    quaternion = torch.zeros(1, 2, 2, 4, dtype=torch.float64)
    quaternion[..., 3] = 1
    return depth, translation, quaternion, torch.full((1, 2, 2), math.pi / 2, dtype=torch.float64)


def two_clips(fov=0.0):
    """Two points of two frames: one at the first pixel, one that the second frame does not see."""
    pixel = double([[[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    visible = torch.tensor([[[True, True], [True, False]]])
    images = torch.zeros(1, 2, 3, 2, 2, dtype=torch.uint8)
    return UnlabelledClips(images, pixel, visible, torch.full((1, 2), fov, dtype=torch.float64))


def test_unlabelled_losses_by_hand():
    # p_0 = (-1, -1, 2) and p_1 = 1.05 p_0; three observations make the scale.
    _, prediction = prediction_of(*two_frames(2.1))
    judged = evaluate_unlabelled(prediction, two_clips(), LossSettings())
    length = math.sqrt(6)
    off = 0.05 * length / ((length + length + 1.05 * length) / 3)
    assert off < 0.05  # quadratic
    assert judged.parts['unlabelled_agreement'].item() == pytest.approx(2 * 0.5 * off**2)
    assert judged.parts['unlabelled_pose'].item() == pytest.approx(0.5 * off**2)
    assert judged.parts['unlabelled_fov'].item() == 0
    # A step of (-1, -1, 2) takes p_0 to 2 p_0: off by 0.95 lengths, where Huber is linear.
    _, prediction = prediction_of(*two_frames(2.1, (-1.0, -1.0, 2.0)))
    judged = evaluate_unlabelled(prediction, two_clips(), LossSettings())
    off *= 19
    assert judged.parts['unlabelled_pose'].item() == pytest.approx(0.05 * (off - 0.025))
    total = 10 * (judged.parts['unlabelled_agreement'] + judged.parts['unlabelled_pose'])
    assert judged.total.item() == pytest.approx(total.item())
    assert judged.name == 'loss_unlabelled' and judged.errors == {}
    # The step that makes both agree, whatever the unit.
    for unit in (1.0, 7.0):
        parts = two_frames(4.0 * unit, (-unit, -unit, 2.0 * unit))
        parts[0][:, 0] *= unit
        _, prediction = prediction_of(*parts)
        assert evaluate_unlabelled(prediction, two_clips(), LossSettings()).total.item() == (
            pytest.approx(0, abs=1e-12)
        )


def gradients(only, fov=0.0):
    leaves, prediction = prediction_of(*two_frames(2.5, (0.1, 0.2, 0.0)))
    weights = {'unlabelled_agreement': 0.0, 'unlabelled_pose': 0.0, 'fov': 0.0, only: 1.0}
    evaluate_unlabelled(prediction, two_clips(fov), LossSettings(**weights)).total.backward()
    found = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return leaves, found, {name for name, g in found.items() if g.abs().max() > 1e-12}


def test_poses_learn_from_anchors_and_nothing_else_does():
    leaves, found, learning = gradients('unlabelled_pose')
    assert learning == {'translation', 'quaternion'}
    # Down the gradient lies the step that is lacking: p_1 - p_0 = (-0.25, -0.25, 0.5).
    lacking = double([-0.25, -0.25, 0.5]) - leaves['translation'][0, 0, 1].detach()
    cosine = torch.nn.functional.cosine_similarity(-found['translation'][0, 0, 1], lacking, dim=0)
    assert cosine.item() == pytest.approx(1)
    assert not found['translation'][0, 1].any()  # pairs that were not predicted


def test_depths_and_poses_learn_to_agree_and_no_unit_is_preferred():
    leaves, found, learning = gradients('unlabelled_agreement')
    assert learning == {'depth', 'translation', 'quaternion'}
    # Fields of view are held: narrower rays would bring all points together.
    # Another unit for depths and steps alike changes nothing.
    along = sum((leaves[name] * found[name]).sum() for name in ('depth', 'translation'))
    size = sum((leaves[name] * found[name]).abs().sum() for name in ('depth', 'translation'))
    assert abs(along.item()) < 1e-9 * size.item()
    # Depths come together: the nearer first frame goes away, the second comes near.
    assert found['depth'][0, 0, 0, 0] < 0 < found['depth'][0, 1, 0, 0]
    # Pixels that no point is near stay as they are, but for the unit.
    assert not found['depth'][0, 1, 1, 1]


def test_fields_of_view_learn_where_the_camera_is_calibrated_alone():
    _, found, learning = gradients('fov')
    assert learning == set()
    _, found, learning = gradients('fov', fov=1.2)
    assert learning == {'fov'}
    assert (found['fov'] > 0).all()  # 90 degrees are too wide
    for loss in ('unlabelled_pose', 'unlabelled_agreement'):
        assert 'fov' not in gradients(loss, fov=1.2)[2]
    # Points lie on the calibrated rays then: half as wide, they are off by other lengths.
    _, prediction = prediction_of(*two_frames(2.1))
    narrow = evaluate_unlabelled(prediction, two_clips(2 * math.atan(0.5)), LossSettings())
    wide = evaluate_unlabelled(prediction, two_clips(), LossSettings())
    assert narrow.parts['unlabelled_pose'].item() != wide.parts['unlabelled_pose'].item()


def test_a_clip_in_which_nothing_was_followed_teaches_nothing():
    leaves, prediction = prediction_of(*two_frames(2.5, (0.1, 0.2, 0.0)))
    clips = two_clips()
    blind = replace(clips, visible=torch.zeros_like(clips.visible))
    judged = evaluate_unlabelled(prediction, blind, LossSettings())
    judged.total.backward()
    assert judged.total.item() == 0
    assert all(
        leaf.grad is None or not leaf.grad.any()  # and none is NaN
        for leaf in leaves.values()
    )


@pytest.mark.slow
def test_the_true_prediction_is_worth_more_than_others_on_tracks_of_opencv(film, folder):
    """What is asked for is true of the world, as far as OpenCV follows it."""
    video = Video(folder, [(112, 84)])
    frames = np.array([2, 8, 14, 20])
    pixel, visible = video.tracks(frames, 200, np.random.default_rng(1))
    images = torch.from_numpy(video.images(frames).transpose(0, 3, 1, 2).copy())
    clips = UnlabelledClips(
        images[None], torch.from_numpy(pixel)[None], torch.from_numpy(visible)[None],
        torch.from_numpy(video.fov)[None],
    )  # fmt: skip
    T = torch.from_numpy(film.T[frames])[None]
    R, t = relative_motions(T)
    quaternion = torch.from_numpy(Rotation.from_matrix(R.reshape(-1, 3, 3)).as_quat())
    quaternion = quaternion.reshape(1, 4, 4, 4).float()
    # Depth of the small images: the middle pixel of nine.
    depth = torch.from_numpy(film.depth[frames][:, 1::3, 1::3])[None]
    everyone = torch.ones(4, 4, dtype=torch.bool) ^ torch.eye(4, dtype=torch.bool)
    fov = clips.fov[:, None].expand(1, 4, 2)

    def worth(depth, t, quaternion):
        _, prediction = prediction_of(depth, t.float(), quaternion, fov, everyone)
        return evaluate_unlabelled(prediction, clips, LossSettings()).total.item()

    true = worth(depth, t, quaternion)
    bent = quaternion.clone()
    bent[..., 1] += 0.01  # about one degree
    flat = depth.mean((2, 3), keepdim=True).expand_as(depth)
    assert worth(5 * depth, 5 * t, quaternion) == pytest.approx(true, rel=1e-3)
    assert worth(depth, 1.3 * t, quaternion) > 1.1 * true
    assert worth(depth, t, bent) > 1.1 * true
    assert worth(flat, t, quaternion) > 2 * true
    rays = camera_rays(camera_numbers(film.K.resized(112, 84), CPU), 84, 112)[0]
    assert rays[0, 0, 0].item() == pytest.approx(
        -rays[0, -1, 0].item()
    )  # the centre is the middle


# Training


MIXED = updated(
    SETTINGS,
    {
        'joint.sizes': '42x28', 'data.clip_frames': 4, 'joint.frames_per_step': 6,
        'data.tracks': 32, 'data.unlabelled': 0.5, 'joint.steps': 8,
        'report.log_every': 1, 'report.validate_every': 0,
    },
)  # fmt: skip


@pytest.mark.slow
def test_clips_follow_from_seed_and_step_alone(folder):
    first, again = (MixedClips(MIXED, [folder], MadeUp(), CPU) for _ in range(2))
    of_videos = [isinstance(first.training(k)[1], UnlabelledClips) for k in range(40)]
    assert 0.3 < np.mean(of_videos) < 0.7
    step = of_videos.index(True)
    plan, clips = first.training(step)
    plan_again, clips_again = again.training(step)
    assert plan == plan_again and (plan.width, plan.height) == (42, 28)
    for name in ('images', 'pixel', 'visible', 'fov'):
        assert torch.equal(getattr(clips, name), getattr(clips_again, name)), name
    assert clips.images.shape == (plan.clips, plan.views, 3, 28, 42)
    assert clips.visible.any(1).sum(1).min() > 8
    _, elsewhere = MixedClips(MIXED, [folder], MadeUp(), CPU, shard=1).training(step)
    assert not torch.equal(elsewhere.images, clips.images)


@pytest.mark.slow
def test_a_training_with_videos_continues_to_the_last_bit(folder, tmp_path):
    def part(name, until, seed):
        source = MixedClips(MIXED, [folder], MadeUp(), CPU)
        trainer = Trainer(
            MIXED,
            source,
            TrainingProcess(CPU),
            tmp_path / name,
            lambda text: None,
            small_network(seed),
        )
        trainer.run(until=until)
        return dict(trainer.network.named_parameters())

    straight = part('straight', 8, 0)
    part('pieces', 4, 0)
    pieces = part('pieces', 8, 5)
    assert all(torch.equal(straight[name], pieces[name]) for name in straight)
    rows = list(csv.DictReader((tmp_path / 'straight' / 'progress.csv').open()))
    assert float(rows[-1]['loss']) and float(rows[-1]['loss_unlabelled']) > 0
    # A row repeats what its step did not ask: each of both is new in some rows.
    for name in ('loss', 'loss_unlabelled_pose'):
        assert 1 < len({row[name] for row in rows if row[name]}) < len(rows)


@pytest.mark.slow
def test_agreement_without_truth_is_learned(folder, tmp_path):
    settings = updated(MIXED, {'joint.steps': 30, 'joint.learning_rate': 5e-4})
    source = MixedClips(settings, [folder], MadeUp(), CPU)
    step = next(k for k in range(40) if isinstance(source.training(k)[1], UnlabelledClips))
    plan, clips = source.training(step)

    class Same(MadeUp):
        def training(self, step):
            return plan, clips

    trainer = Trainer(
        settings, Same(), TrainingProcess(CPU), tmp_path, lambda text: None, small_network()
    )

    def worth():
        with torch.no_grad():
            prediction = trainer.network(clips.images, causal=plan.causal)
            parts = evaluate_unlabelled(prediction, clips, settings.loss).parts
            return [parts[name].item() for name in ('unlabelled_agreement', 'unlabelled_pose')]

    before = worth()
    trainer.run()
    assert all(new < 0.2 * old for new, old in zip(worth(), before, strict=True))


def test_videos_without_any_labelled_steps_are_refused(folder):
    with pytest.raises(ConfigError, match="'data.unlabelled' is 1: without any labelled steps"):
        updated(MIXED, {'data.unlabelled': 1.0})
    with pytest.raises(ConfigError, match="'data.unlabelled' is 0"):
        MixedClips(updated(MIXED, {'data.unlabelled': 0.0}), [folder], MadeUp(), CPU)


@pytest.mark.slow
def test_weights_are_tuned_on_a_video(film, tmp_path, capsys):
    video, weights = tmp_path / 'clip.mp4', tmp_path / 'first.safetensors'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'mp4v'), 15.0, (WIDTH, HEIGHT))
    for image in film.images:
        writer.write(image[..., ::-1])
    writer.release()
    save_network(new_network('r3-tiny', 3), weights)
    arguments = ['finetune', '--video', str(video), '--weights', str(weights), '--device', 'cpu']
    for setting in (
        'data.kinds=corridor', 'joint.sizes=42x28', 'data.clip_frames=2', 'data.clips=2',
        'joint.frames_per_step=2', 'data.clips_per_world=2', 'data.coarseness=16.0',
        'data.path_frames=40', 'data.unlabelled=0.5', 'joint.steps=6', 'report.log_every=1',
        'report.validate_every=0',
    ):  # fmt: skip
        arguments += ['--set', setting]
    out = tmp_path / 'out'
    assert main([*arguments, '-o', str(out)]) == 0
    said = capsys.readouterr().out
    assert 'clip.mp4: 36 frames of 42x28' in said and 'field of view unknown' in said
    assert '6 of 6 steps taken' in said
    assert load_network(out / WEIGHTS).variant == 'r3-tiny'
    columns = csv.DictReader((out / 'progress.csv').open()).fieldnames
    assert {'loss', 'loss_unlabelled_agreement', 'loss_unlabelled_pose'} <= set(columns)


def test_what_finetune_cannot_use_is_reported_in_a_line(folder, tmp_path, capsys):
    weights = tmp_path / 'first.safetensors'
    save_network(networks.own_network('r3'), weights)
    out = ['--weights', str(weights), '-o', str(tmp_path / 'out')]
    assert main(['finetune', *out]) == 2
    assert '--video' in capsys.readouterr().err
    everything = ['--set', 'data.unlabelled=1']
    assert main(['finetune', '--video', str(folder), *out, *everything]) == 2
    error = capsys.readouterr().err
    assert 'without any labelled steps' in error and error.count('\n') == 1
