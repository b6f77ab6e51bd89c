"""Folders and videos: every frame with its own stamp, and everything that can be wrong."""

import os

import cv2
import numpy as np
import pytest
from r3_ros.core.errors import CalibrationError, SourceError
from r3_ros.input import folder_layouts
from r3_ros.input.folder_layouts import find_images
from r3_ros.input.open_source import open_source
import scripted
from sequences import CAMERA_YAML, HEIGHT, stamp, WIDTH, write_folder, write_video


def read(path, **options):
    with open_source(path, **options) as source:
        return source, list(source)


def test_every_frame_of_a_folder_with_exact_stamps(tmp_path):
    source, frames = read(write_folder(tmp_path / 'seq'))
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(12)]
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, scripted.pattern_image(WIDTH, HEIGHT, shade=i))
    assert (source.name, source.length, source.skipped) == ('seq', 12, 0)
    assert source.camera.intrinsics == scripted.intrinsics(WIDTH, HEIGHT)
    assert not source.warnings


def test_a_calibration_given_goes_before_the_one_in_the_folder(tmp_path):
    other = tmp_path / 'other.yaml'
    other.write_text(CAMERA_YAML.replace('51.2', '77.0'))
    source, _ = read(write_folder(tmp_path / 'seq'), camera=other)
    assert source.camera.K[0, 0] == 77.0
    with pytest.raises(CalibrationError, match=r'gone\.yaml'):
        open_source(tmp_path / 'seq', camera=tmp_path / 'gone.yaml')


def test_without_times_images_come_in_natural_order_at_a_stated_rate(tmp_path):
    for i in (10, 9, 1, 2):
        cv2.imwrite(str(tmp_path / f'frame{i}.png'), np.full((8, 8, 3), i, np.uint8))
    source, frames = read(tmp_path)
    assert [frame.image[0, 0, 0] for frame in frames] == [1, 2, 9, 10]
    assert np.diff([frame.stamp_ns for frame in frames]).tolist() == [33333333, 33333334, 33333333]
    assert 'no times' in source.warnings[0]
    assert source.camera is None


def test_hidden_files_are_no_images(tmp_path):
    for name in ('1.png', '._1.png', '2.png'):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    assert [path.name for path in find_images(tmp_path)] == ['1.png', '2.png']


def test_bare_times_go_to_the_images_in_order(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=3)
    (folder / 'timestamps.txt').write_text('0.5\n1.5\n2.25\n')
    _, frames = read(folder)
    assert [frame.stamp_ns for frame in frames] == [500_000_000, 1_500_000_000, 2_250_000_000]


def test_a_broken_image_is_skipped_and_counted(tmp_path):
    folder = write_folder(tmp_path / 'seq', suffix='.jpg')
    images = find_images(folder)
    images[3].write_bytes(images[3].read_bytes()[:300])
    images[5].write_bytes(b'')
    images[7].unlink()
    (folder / 'timestamps.txt').write_text('\n'.join(f'{i}.0 rgb/{i:06d}.jpg' for i in range(12)))
    source, frames = read(folder)
    assert [frame.stamp_ns // 10**9 for frame in frames] == [0, 1, 2, 4, 6, 8, 9, 10, 11]
    assert source.skipped == 3
    for number, reason in ((3, 'cut off'), (5, 'empty'), (7, 'No such file')):
        assert any(f'{number:06d}.jpg' in w and reason in w for w in source.warnings)


def test_many_broken_images_do_not_flood_the_warnings(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=30)
    for path in find_images(folder)[1:]:
        path.write_bytes(b'no image')
    source, frames = read(folder)
    assert len(frames) == 1 and source.skipped == 29 and len(source.warnings) == 6


def test_a_folder_of_broken_images_alone_is_an_error(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=2)
    for path in find_images(folder):
        path.write_bytes(b'no image')
    with pytest.raises(SourceError, match='no frame that can be decoded.*000000'):
        read(folder)


@pytest.mark.parametrize(
    ('prepare', 'message'),
    [
        (lambda p: None, 'holds no images'),
        (lambda p: (p / 'notes.pdf').write_text('x'), 'holds no images'),
        (lambda p: (p / 'timestamps.txt').write_text('# nothing\n'), 'holds no images'),
        (lambda p: (p / 'timestamps.txt').write_text('noon a.jpg\n'), "line 1.*'noon'"),
        (lambda p: (p / 'timestamps.txt').write_text('1\n2\n'), '2 times for 0 images'),
        (lambda p: (p / 'timestamps.txt').write_text('1 a.jpg\n2\n'), 'some lines name'),
        (lambda p: (p / 'timestamps.txt').write_bytes(b'\xff\xfe\x00'), 'cannot read'),
    ],
)
def test_folders_that_are_no_sequence(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path)


def test_a_bag_folder_without_metadata_names_its_files(tmp_path):
    (tmp_path / 'walk_0.mcap').write_bytes(b'')
    with pytest.raises(SourceError, match=r'without its metadata.yaml.*walk_0\.mcap'):
        open_source(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
@pytest.mark.parametrize('kind', ['folder', 'video'])
def test_an_input_that_may_not_be_read_is_reported(tmp_path, kind):
    place = tmp_path / 'a'
    place.mkdir() if kind == 'folder' else place.write_bytes(b'x')
    place.chmod(0)
    with pytest.raises(SourceError, match='Permission denied'):
        open_source(place)
    place.chmod(0o700)


def test_an_error_of_the_system_is_reported(tmp_path, monkeypatch):
    def refuse(folder, pattern):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(folder_layouts, 'find_images', refuse)
    with pytest.raises(SourceError, match=f'cannot read {tmp_path}: Permission denied'):
        open_source(tmp_path)


def test_times_with_a_byte_order_mark(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=3)
    (folder / 'timestamps.txt').write_bytes(b'\xef\xbb\xbf0.5\n1.5\n2.25\n')
    assert [frame.stamp_ns for frame in read(folder)[1]] == [500_000_000, 1.5e9, 2.25e9]


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(SourceError, match='nowhere does not exist'):
        open_source(tmp_path / 'nowhere')


def test_a_topic_is_for_bags(tmp_path):
    with pytest.raises(SourceError, match='no bag'):
        open_source(write_folder(tmp_path / 'seq'), topic='/camera/image_raw')


def test_every_frame_of_a_video_at_its_own_time(tmp_path):
    source, frames = read(write_video(tmp_path / 'a.avi'))
    assert [frame.stamp_ns for frame in frames] == [i * 100_000_000 for i in range(20)]
    expected = scripted.pattern_image(WIDTH, HEIGHT, shade=7).astype(int)
    # Motion JPEG: near, not equal; red and blue swapped would differ by a hundred levels.
    assert np.abs(frames[7].image - expected).mean() < 12
    assert source.length == 20 and not source.warnings


def test_a_video_that_ends_early_is_used_and_said(tmp_path):
    whole = write_video(tmp_path / 'a.avi').read_bytes()
    cut = tmp_path / 'cut.avi'
    cut.write_bytes(whole[: len(whole) // 2])
    source, frames = read(cut)
    assert 0 < len(frames) < 20
    assert any('damaged' in w or 'ends early' in w for w in source.warnings)


@pytest.mark.parametrize('factor', [1.5, 100.0])
def test_a_number_of_frames_that_is_a_guess_is_no_damage(tmp_path, monkeypatch, factor):
    """Where the rate varies, the number is the duration at a rate that was seen once."""

    class Guessing:
        def __init__(self, path):
            self._real = real(path)

        def __getattr__(self, name):
            return getattr(self._real, name)

        def get(self, what):
            guessed = what in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)
            return self._real.get(what) * (factor if guessed else 1.0)

    real = cv2.VideoCapture
    video = write_video(tmp_path / 'a.mkv', count=20, rate_hz=10.0)
    monkeypatch.setattr(cv2, 'VideoCapture', Guessing)
    source, frames = read(video)
    assert [frame.stamp_ns for frame in frames] == [i * 100_000_000 for i in range(20)]
    assert not source.warnings and not source.skipped
    assert source.length == (30 if factor == 1.5 else None)


def test_a_video_without_an_index_that_ends_early_is_said(tmp_path):
    whole = write_video(tmp_path / 'a.mkv', count=40).read_bytes()
    cut = tmp_path / 'cut.mkv'
    cut.write_bytes(whole[: len(whole) // 2])
    source, frames = read(cut)
    assert 0 < len(frames) < 40
    assert '4.0 s' in source.warnings[0] and 'ends early' in source.warnings[0]


@pytest.mark.parametrize(
    ('content', 'message'), [(b'', 'empty'), (b'this is no video' * 100, 'no video')]
)
def test_files_that_are_no_video(tmp_path, content, message):
    (tmp_path / 'a.mp4').write_bytes(content)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / 'a.mp4')
