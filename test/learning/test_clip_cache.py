"""Clips rendered once: by several processes, in pieces, and read as they were rendered."""

from dataclasses import replace
import multiprocessing

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from r3_ros.core.errors import ConfigError, OutputError  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.learning.training.augmentation import augmented  # noqa: E402
from r3_ros.learning.training.cached_clips import CachedClips, largest_size  # noqa: E402
from r3_ros.learning.training.clip_cache import ClipCache  # noqa: E402
from r3_ros.learning.training.training_settings import TrainingSettings  # noqa: E402
from r3_ros.learning.training.training_worlds import Split  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_torch_thread')
CPU = torch.device('cpu')
SIZE = (56, 42)
SETTINGS = updated(
    TrainingSettings(),
    {
        'data.kinds': 'corridor', 'data.clips': 6, 'data.clips_per_world': 2,
        'data.clip_frames': 3, 'data.path_frames': 40, 'data.coarseness': 16.0,
        'data.moving': 0.0, 'data.effects': 0.0, 'joint.sizes': '56x42 42x28',
        'joint.frames_per_step': 6, 'matching.steps': 0, 'large.steps': 0,
    },
)  # fmt: skip


def quiet(text):
    pass


def cache_in(folder, clips=6, seed=0, data=SETTINGS.data):
    return ClipCache(folder, data, seed, Split.TRAINING, SIZE, clips)


def content(folder):
    return (folder / 'clips.bin').read_bytes()


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cache') / 'training_56x42'
    cache_in(folder).render(CPU, quiet)
    return folder


def render_in_a_process(folder):
    torch.set_num_threads(1)
    cache_in(folder).render(CPU, quiet)


def test_its_size_is_known_before_and_bounded(rendered):
    cache = cache_in(rendered)
    assert len(cache) == 6 and cache.missing == 0
    assert (rendered / 'clips.bin').stat().st_size == 6 * cache.record.itemsize
    # Images, depth in two bytes, what moves; poses and the camera.
    assert cache.record.itemsize == 3 * 56 * 42 * (3 + 2 + 1) + 3 * 64 + 16


def test_what_was_interrupted_continues_with_the_same_clips(rendered, tmp_path):
    folder = tmp_path / 'again'
    cache = cache_in(folder)
    real, calls = cache._render_world, []

    def stopped(number, device):
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(number, device)

    cache._render_world = stopped
    with pytest.raises(KeyboardInterrupt):
        cache.render(CPU, quiet)
    again = cache_in(folder)
    assert again.missing == 2
    said = []
    again.render(CPU, said.append)
    assert '2 worlds to be rendered' in said[0]
    assert content(folder) == content(rendered)


@pytest.mark.slow
def test_two_processes_share_the_worlds(rendered, tmp_path):
    context = multiprocessing.get_context('spawn')
    processes = [
        context.Process(target=render_in_a_process, args=(tmp_path / 'shared',)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert content(tmp_path / 'shared') == content(rendered)


def test_more_clips_are_added_and_other_settings_refused(rendered, tmp_path):
    folder = tmp_path / 'few'
    cache_in(folder, clips=2).render(CPU, quiet)
    more = cache_in(folder)
    assert more.missing == 2
    more.render(CPU, quiet)
    assert content(folder) == content(rendered)
    with pytest.raises(ConfigError, match='coarseness was 16.0 and is 15.0'):
        cache_in(folder, data=replace(SETTINGS.data, coarseness=15.0))
    with pytest.raises(ConfigError, match='seed was 0 and is 1'):
        cache_in(folder, seed=1)
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match='cannot write the cache'):
        cache_in(tmp_path / 'file')


def test_steps_are_drawn_anew_and_repeat(rendered):
    first, second = (CachedClips(SETTINGS, rendered.parent, CPU) for _ in range(2))
    plan, clips = first.training(7)
    first.training(8)
    plan_again, again = second.training(7)
    assert plan == plan_again and torch.equal(clips.images, again.images)
    assert clips.shape == (plan.clips, plan.views, plan.height, plan.width)
    other = CachedClips(SETTINGS, rendered.parent, CPU, shard=1).training(7)[1]
    assert not torch.equal(clips.depth, other.depth)


def test_a_smaller_size_is_cut_out_of_the_middle(rendered):
    source = CachedClips(SETTINGS, rendered.parent, CPU)
    steps = [source.training(step) for step in range(12)]
    assert {(plan.width, plan.height) for plan, _ in steps} == {(56, 42), (42, 28)}
    for plan, clips in steps:
        fx, fy, cx, cy = clips.camera.unbind(1)
        assert ((cx - (plan.width - 1) / 2).abs() < 2).all()
        assert ((cy - (plan.height - 1) / 2).abs() < 2).all()
        fov = torch.stack((plan.height / fy, plan.width / fx), dim=1) / 2
        torch.testing.assert_close(2 * torch.atan(fov), clips.fov)
    assert largest_size('56x42 42x70') == (56, 70)


def reprojection(clips):
    """Return the share of points of the first frame that the second shows at their depth."""
    B, _, H, W = clips.shape
    points = (clips.depth[..., None] * clips.rays[:, None])[:, 0].flatten(1, 2)
    T = torch.linalg.inv(clips.T_world_camera[:, 1]) @ clips.T_world_camera[:, 0]
    moved = points @ T[:, :3, :3].mT + T[:, None, :3, 3]
    fx, fy, cx, cy = (k[:, None] for k in clips.camera.unbind(1))
    u = (moved[..., 0] / moved[..., 2] * fx + cx).round().long()
    v = (moved[..., 1] / moved[..., 2] * fy + cy).round().long()
    inside = (u >= 0) & (u < W) & (v >= 0) & (v < H) & (moved[..., 2] > 0.1)
    seen = clips.depth[torch.arange(B)[:, None], 1, v.clamp(0, H - 1), u.clamp(0, W - 1)]
    close = (seen - moved[..., 2]).abs() < 0.05 * moved[..., 2]
    return (close & inside).sum() / inside.sum().clamp(min=1)


def test_changed_clips_agree_with_their_truth(rendered):
    plain = CachedClips(SETTINGS, rendered.parent, CPU).of_split(Split.TRAINING, 4)[0]
    assert reprojection(plain) > 0.6
    seen = set()
    for seed in range(4):
        changed = augmented(plain, np.random.default_rng(seed))
        assert changed.images.dtype == torch.float32 and 0 <= changed.images.min()
        assert changed.images.max() <= 1
        assert reprojection(changed) == pytest.approx(float(reprojection(plain)), abs=0.03)
        mirrored = ~(changed.depth == plain.depth).flatten(1).all(1)
        seen.update(mirrored.tolist())
        twice = changed.depth[mirrored].flip(-1)
        assert torch.equal(twice, plain.depth[mirrored])
    assert seen == {True, False}
