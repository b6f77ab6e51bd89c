"""Videos without truth as recordings: poses and depth against the truth, what is refused."""

import csv
import shutil

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

import networks  # noqa: E402
from r3_ros.commands.cli import main  # noqa: E402
from r3_ros.core.errors import ConfigError, SourceError  # noqa: E402
from r3_ros.core.trajectory_file import read_tum  # noqa: E402
from r3_ros.evaluation.depth_errors import read_depth  # noqa: E402
from r3_ros.input.folder_source import FolderSource  # noqa: E402
from r3_ros.input.network_input import area_geometry  # noqa: E402
from r3_ros.learning.training.initial_weights import new_network  # noqa: E402
from r3_ros.learning.training.recordings import Recording  # noqa: E402
from r3_ros.learning.training.trainer import WEIGHTS  # noqa: E402
from r3_ros.learning.training.video_labels import labelled_videos  # noqa: E402
from r3_ros.model.weights.checkpoint import load_network, save_network  # noqa: E402
import sequences  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_torch_thread')
FRAMES = 40
#: Where the wall and the box of the textured sequence are, metres.
WALL, BOX = 3.0, 1.5


@pytest.fixture(scope='module')
def walk(tmp_path_factory):
    return sequences.write_textured_folder(tmp_path_factory.mktemp('videos') / 'walk', FRAMES)


@pytest.fixture(scope='module')
def labels(walk, tmp_path_factory):
    """Return the recording made of the walk, without its truth, and the lines printed."""
    video = tmp_path_factory.mktemp('without_truth') / 'walk'
    shutil.copytree(walk, video, ignore=shutil.ignore_patterns('groundtruth.txt'))
    lines = []
    (folder,) = labelled_videos([video], tmp_path_factory.mktemp('out') / 'videos', lines.append)
    return folder, '\n'.join(lines)


def true_depth(number, shape):
    """Return the depth of a frame of the walk at the pixels of a smaller image, NaN at edges."""
    x = 0.02 * number
    left, columns = int(200 - 280 * x / BOX), (np.arange(shape[1]) + 0.5) * 320 / shape[1]
    rows = (np.arange(shape[0]) + 0.5) * 240 / shape[0]

    def box(margin):
        across = (columns > max(left, 0) - margin) & (columns < left + 110 + margin)
        return ((rows > 60 - margin) & (rows < 180 + margin))[:, None] & across

    return np.where(box(-10), BOX, np.where(box(10), np.nan, WALL))


def test_poses_and_depth_agree_with_the_truth_up_to_one_scale(walk, labels):
    folder, said = labels
    estimate, truth = (read_tum(place / 'groundtruth.txt') for place in (folder, walk))
    assert len(estimate) > 0.8 * FRAMES and f'{len(estimate)} frames written' in said
    numbers = np.searchsorted(truth.stamps_ns, estimate.stamps_ns)
    assert np.array_equal(truth.stamps_ns[numbers], estimate.stamps_ns)
    # The camera moves along x without a turn, so its world is the true one but for scale.
    centres, true = (poses[:, :3, 3] - poses[0, :3, 3] for poses in
                     (estimate.T_world_camera, truth.T_world_camera[numbers]))  # fmt: skip
    scale = true[-1, 0] / centres[-1, 0]
    assert np.abs(scale * centres - true).max() < 0.01
    assert np.abs(estimate.T_world_camera[:, :3, :3] - np.eye(3)).max() < 0.01
    entries, ratios = FolderSource(folder).entries, []
    for number, (_, image) in zip(numbers, entries, strict=True):
        depth = read_depth(folder / 'depth' / f'{image.stem}.png')
        ratio = scale * depth / true_depth(number, depth.shape)
        ratios.append(ratio[np.isfinite(ratio) & (depth > 0)])
        assert len(ratios[-1]) > 0.3 * depth.size
    ratios = np.concatenate(ratios)
    assert abs(np.median(ratios) - 1) < 0.03
    assert np.mean(np.abs(ratios - 1) < 0.06) > 0.9


def test_labels_are_read_as_a_recording(walk, labels):
    folder, _ = labels
    recording, true = Recording(folder), Recording(walk)
    geometry = area_geometry(320, 240, 112)
    assert recording.intrinsics(geometry) == true.intrinsics(geometry)
    image, depth = recording.image(3, geometry)
    stamps = [stamp_ns for stamp_ns, _ in FolderSource(walk).entries]
    number = stamps.index(FolderSource(folder).entries[3][0])
    expected, _ = true.image(number, geometry)
    assert np.abs(image.astype(float) - expected).mean() < 6  # JPEG
    assert 1 < np.median(depth[depth > 0]) < 20


@pytest.mark.slow
def test_distorted_images_are_rectified_and_fast_ones_thinned(walk, tmp_path):
    video = tmp_path / 'video'
    shutil.copytree(walk, video)
    (video / 'timestamps.txt').unlink()  # 30 images a second are assumed
    with (video / 'camera.yaml').open('a') as file:
        file.write('distortion_model: plumb_bob\n')
        file.write('distortion_coefficients: {rows: 1, cols: 5, data: [0.02, 0, 0, 0, 0]}\n')
    (folder,) = labelled_videos([video], tmp_path / 'out', lambda line: None)
    source = FolderSource(folder)
    assert 16 <= len(source.entries) <= FRAMES // 2
    assert not source.camera.is_distorted
    recording = Recording(folder)
    assert recording.image(0, area_geometry(*recording.size, 112))[1].any()


def test_videos_that_teach_nothing_are_refused(walk, tmp_path):
    out = tmp_path / 'out'
    still, short = tmp_path / 'still', tmp_path / 'short'
    still.mkdir()
    image, rng = cv2.imread(str(walk / 'rgb' / '000000.png'))[:120, :160], np.random.default_rng(0)
    for number in range(20):
        noisy = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(still / f'{number:03d}.png'), noisy)
    with pytest.raises(SourceError, match='0% of its frames are tracked.* cut it to one scene'):
        labelled_videos([still], out, print)
    sequences.write_textured_folder(short, 12)
    with pytest.raises(SourceError, match='16 and 1 are needed'):
        labelled_videos([short], out, print)
    assert [path.name for path in out.iterdir()] == ['.lock']
    with pytest.raises(SourceError, match='does not exist'):
        labelled_videos([tmp_path / 'none'], out, print)
    with pytest.raises(ConfigError, match='same name'):
        labelled_videos([walk, tmp_path / 'other' / 'walk'], out, print)


@pytest.mark.slow
def test_weights_are_tuned_on_a_video_which_is_labelled_once(walk, tmp_path, capsys):
    video, weights = tmp_path / 'clip.mp4', tmp_path / 'first.safetensors'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'mp4v'), 15.0, (320, 240))
    for path in sorted((walk / 'rgb').iterdir()):
        writer.write(cv2.imread(str(path)))
    writer.release()
    save_network(new_network('r3-tiny', 3), weights)
    out = tmp_path / 'out'
    arguments = ['finetune', '--video', str(video), '--from', str(weights), '-o', str(out)]
    for setting in (
        'data.kinds=corridor', 'joint.sizes=42x28', 'data.clip_frames=3', 'data.clips=2',
        'joint.frames_per_step=3', 'data.clips_per_world=2', 'data.coarseness=16.0',
        'data.path_frames=40', 'data.recorded=1.0', 'joint.steps=2', 'report.log_every=1',
        'report.validation_clips=1',
    ):  # fmt: skip
        arguments += ['--set', setting]
    assert main([*arguments, '--device', 'cpu', '--until', '1']) == 0
    said = capsys.readouterr().out
    assert 'estimating poses and depth' in said and '1 of 2 steps taken' in said
    assert len(Recording(out / 'videos' / 'clip.mp4').paths) >= 16
    shutil.copy(walk / 'rgb' / '000000.png', video)  # can't be read as a video any more
    assert main([*arguments, '--device', 'cpu', '--resume']) == 0
    said = capsys.readouterr().out
    assert 'estimating' not in said and '2 of 2 steps taken' in said
    assert load_network(out / WEIGHTS).variant == 'r3-tiny'
    rows = list(csv.DictReader((out / 'progress.csv').open()))
    assert float(rows[-1]['loss_match']) > 0 and float(rows[-1]['loss_depth'])


def test_finetune_without_anything_to_learn_from_is_reported_in_a_line(tmp_path, capsys):
    weights = tmp_path / 'first.safetensors'
    save_network(networks.own_network('r3'), weights)
    assert main(['finetune', '--from', str(weights), '-o', str(tmp_path / 'out')]) == 2
    assert '--video' in capsys.readouterr().err
