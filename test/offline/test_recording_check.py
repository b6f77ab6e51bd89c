"""What is wrong with a recording is found, and a good one is left alone."""

from dataclasses import replace
import re

from classical_scene import draw, INTRINSICS, room, wander
import cv2
import numpy as np
import pytest
from r3_ros.commands.cli import main
from r3_ros.core.datatypes import TrackingState
from r3_ros.core.errors import SourceError
from r3_ros.core.findings import Level
from r3_ros.offline import recording_check
from r3_ros.offline.recording_check import check_recording
from r3_ros.offline.stream_run import FrameRecord
from rolling_texture import rolling_image, texture

COUNT = 40
CAMERA = """\
image_width: {0.width}
image_height: {0.height}
camera_matrix: {{data: [{0.fx}, 0, {0.cx}, 0, {0.fy}, {0.cy}, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{data: [0, 0, 0, 0, 0]}}
"""


@pytest.fixture(scope='module')
def images():
    """Return images of a camera that walks along textured boards."""
    panels = room()
    return [draw(panels, T)[0] for T in wander(COUNT)]


def written(folder, images, stamps=None, camera=INTRINSICS):
    """Write a folder of images, ten a second unless there are stamps."""
    folder.mkdir()
    stamps = [n / 10 for n in range(len(images))] if stamps is None else stamps
    lines = []
    for n, (image, stamp) in enumerate(zip(images, stamps, strict=True)):
        cv2.imwrite(str(folder / f'{n:04d}.png'), image)
        lines.append(f'{stamp:.3f} {n:04d}.png')
    (folder / 'timestamps.txt').write_text('\n'.join(lines))
    if camera is not None:
        (folder / 'camera.yaml').write_text(CAMERA.format(camera))
    return folder


@pytest.fixture
def rolling():
    """Return images of a moving texture, ten a second, that take 60 ms each."""
    seen = texture()

    def at(times_s):
        return 15 * np.sin(4.0 * times_s), 12 * np.sin(5.0 * times_s + 1.0)

    return [rolling_image(seen, at, n / 10, 0.06) for n in range(110)]


@pytest.fixture
def tracks_all(monkeypatch):
    """Have the trial follow every frame: what is judged here are the images."""
    record = FrameRecord(
        0, 0, TrackingState.TRACKING, '', True, False, 1.0, 1.0, 1.0, 1, 0.0, 0.0
    )  # fmt: skip

    def tried(recording, length, with_intrinsics, on_frame):
        return recording_check._Trial([record] * length, '', INTRINSICS, 0.01)

    monkeypatch.setattr(recording_check, '_tried', tried)


def found(check, subject):
    """Return the one finding on a subject."""
    (finding,) = (finding for finding in check.findings if finding.subject == subject)
    return finding


def problems(check):
    return [finding.subject for finding in check.findings if finding.level is Level.PROBLEM]


def test_a_good_recording_should_work(tmp_path, images):
    stages = []
    check = check_recording(
        written(tmp_path / 'walk', images), on_frame=lambda stage, total: stages.append(stage)
    )
    assert check.works and check.verdict == 'should work'
    assert problems(check) == [] and check.changes == []
    assert '40 of 400x300 pixels in 3.9 s, 10 per second, no gaps' in found(check, 'frames').text
    assert '62 degrees wide' in found(check, 'calibration').text
    assert 'not measured' in found(check, 'rolling shutter').text
    assert stages.count('measuring') == stages.count('tracking') == COUNT


def test_a_rolling_shutter_is_found_with_its_readout_time(tmp_path, rolling, tracks_all):
    finding = found(
        check_recording(written(tmp_path / 'a', rolling, camera=None)), 'rolling shutter'
    )
    assert finding.level is Level.NOTE
    time_s = float(re.search(r'readout_time to ([0-9.]+)', finding.change)[1])
    assert abs(time_s - 0.06) < 0.006


def test_a_wrong_calibration_is_found(tmp_path):
    panels = room()
    # So many determine the focal length to 1.4 %.
    images = [draw(panels, T)[0] for T in wander(80)]
    wrong = replace(INTRINSICS, fx=430.0, fy=430.0)
    check = check_recording(written(tmp_path / 'walk', images, camera=wrong))
    assert problems(check) == ['focal length']
    assert '430 pixels' in found(check, 'focal length').text
    assert check.works and 'the calibration is wrong' in check.verdict


def covered(image, n):
    return np.full_like(image, 5) if 10 <= n < 16 else image


def hung(images):
    return [images[min(n, 15)] if n < 25 else image for n, image in enumerate(images)]


def plain(image, n):
    noise = np.random.default_rng(n).normal(0, 2, image.shape)
    return np.clip(128 + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ('change', 'subject', 'text'),
    [
        (covered, 'images', 'the image is black (15 % of the images, longest from 1.0 to 1.5 s)'),
        (lambda i, n: i // 5, 'exposure', 'it is too dark (all images)'),
        (lambda i, n: 255 - i // 5, 'exposure', 'it is too bright (all images)'),
        (lambda i, n: i // (1 + n // 5 % 2), 'exposure', 'the exposure jumps (18 % of'),
        (
            lambda i, n: cv2.blur(i, (25, 1)) if n in (20, 21, 22) else i,
            'sharpness',
            'images are blurred (8 % of the images, longest from 2.0 to 2.2 s)',
        ),
        (lambda i, n: plain(i, n) if n > 29 else i, 'texture', 'little texture (25 % of the'),
    ],
)
def test_images_that_are_hard_to_track_are_found(
    tmp_path, images, tracks_all, change, subject, text
):
    changed = [change(image, n) for n, image in enumerate(images)]
    check = check_recording(written(tmp_path / 'walk', changed))
    assert problems(check) == [subject]
    assert text in found(check, subject).text and text in check.verdict
    assert check.changes[0] == found(check, subject).change != ''
    assert check.verdict.startswith('should work, with little reserve where')


def test_a_camera_that_hangs_is_found(tmp_path, images, tracks_all):
    check = check_recording(written(tmp_path / 'walk', hung(images)))
    assert problems(check) == ['images']
    assert 'the camera has sent the same image' in check.verdict


def test_images_that_repeat_now_and_then_are_named(tmp_path, images, tracks_all):
    doubled = [images[n - n % 2] for n in range(COUNT)]
    check = check_recording(written(tmp_path / 'walk', doubled))
    assert found(check, 'repeats').text.startswith('20 images are the same')
    assert problems(check) == []


def test_a_camera_that_does_not_move_is_found(tmp_path, images):
    noise = np.random.default_rng(0)
    still = [
        np.clip(images[0] + noise.normal(0, 2, images[0].shape), 0, 255).astype(np.uint8)
        for _ in range(12)
    ]
    check = check_recording(written(tmp_path / 'walk', still))
    assert not check.works and check.verdict.startswith('cannot work: it stands still')
    assert check.changes[0].startswith('move the camera sideways')


def test_a_cut_is_named_where_the_camera_is_lost(tmp_path, images):
    other = [draw(room(seed=50), T)[0] for T in wander(16)]
    check = check_recording(written(tmp_path / 'walk', [*images[:24], *other]))
    assert 'tracking' in problems(check)
    assert check.verdict.startswith('will lose the camera where it moves too fast')
    assert 'the first at 2.4 s' in check.verdict


def test_no_texture_cannot_work(tmp_path, images, capsys):
    folder = written(tmp_path / 'walk', [plain(image, n) for n, image in enumerate(images[:12])])
    assert main(['doctor', str(folder)]) == 1
    out = capsys.readouterr().out
    assert 'verdict: cannot work: there is little texture (all images)' in out
    assert '- keep textured surfaces in view' in out


@pytest.mark.parametrize(
    ('stamps', 'level', 'text'),
    [
        ([0, 0.1, 0.2, 0.3, 1.5, 1.6], Level.NOTE, 'largest of 1.20 s after 0.3 s'),
        ([0, 0.1, 0.1, 0.2, 0.2, 0.3], Level.PROBLEM, '2 stamps repeat or go back'),
        ([1.0] * 6, Level.PROBLEM, 'all at one time'),
    ],
)
def test_times_are_judged(tmp_path, images, tracks_all, stamps, level, text):
    finding = found(check_recording(written(tmp_path / 'w', images[:6], stamps)), 'frames')
    assert finding.level is level and text in finding.text and finding.change


def test_images_of_another_size_are_counted(tmp_path, images, tracks_all):
    check = check_recording(written(tmp_path / 'walk', [*images[:9], images[9][:200]]))
    assert found(check, 'size').level is Level.PROBLEM
    assert 'left out: 1 images have another size' in check.verdict


def test_images_that_cannot_be_decoded_are_counted(tmp_path, images, tracks_all):
    folder = written(tmp_path / 'walk', images[:10])
    (folder / '0003.png').write_bytes(b'no image')
    assert '1 images cannot be decoded' in check_recording(folder).verdict


def test_a_calibration_for_other_images_is_named_and_left_out(tmp_path, images, tracks_all):
    other = replace(INTRINSICS, width=400, height=400)
    folder = written(tmp_path / 'walk', images[:8], camera=other)
    finding = found(check_recording(folder), 'calibration')
    assert finding.level is Level.PROBLEM and 'another aspect ratio' in finding.text
    (folder / 'camera.yaml').write_text('camera_matrix: 3')
    assert found(check_recording(folder), 'calibration').level is Level.PROBLEM
    assert 'estimated as' in found(check_recording(folder, 'none'), 'focal length').text


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(SourceError, match='does not exist'):
        check_recording(tmp_path / 'gone')
    (tmp_path / '0.png').write_bytes(b'no image')
    assert main(['doctor', str(tmp_path)]) == 2
