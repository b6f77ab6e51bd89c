"""Folders and videos: every frame with its own stamp, and everything that can be wrong."""

from fractions import Fraction
import os

import av
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


def test_twelve_bits_in_files_of_sixteen_are_spread_over_eight(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=2)
    for path in find_images(folder):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) << 4)
    source, (first, _) = read(folder)
    grey = cv2.imread(str(find_images(folder)[0]), cv2.IMREAD_UNCHANGED) >> 4
    np.testing.assert_array_equal(first.image, grey)
    assert '0 to 4095' in source.warnings[0]


def test_images_are_in_the_order_of_their_times(tmp_path):
    folder = write_folder(tmp_path / 'seq')
    lines = (folder / 'timestamps.txt').read_text().splitlines()
    (folder / 'timestamps.txt').write_text('\n'.join(lines[5:] + lines[:5]))
    _, frames = read(folder)
    assert [frame.stamp_ns for frame in frames] == [stamp(i) for i in range(12)]


def test_a_compressed_recording_is_named_so(tmp_path):
    (tmp_path / 'walk.mcap.zstd').write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r'walk\.mcap\.zstd is compressed: decompress it'):
        open_source(tmp_path / 'walk.mcap.zstd')


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


def write_mp4(path, codec='mpeg4', count=20, times=None, **options):
    """Write a video at 10 Hz, or at some times in tenths of a second."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, 10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        stream.options = options
        for i, tenths in enumerate(times or range(count)):
            image = scripted.pattern_image(WIDTH, HEIGHT, shade=i)
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = tenths, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_that_vary_in_rate_keep_their_times(tmp_path):
    tenths = [0, 1, 2, 5, 6, 9, 14, 15, 20, 21]
    source, frames = read(write_mp4(tmp_path / 'a.mkv', times=tenths))
    assert [frame.stamp_ns for frame in frames] == [t * 100_000_000 for t in tenths]
    assert not source.warnings and not source.skipped


def test_a_trimmed_video_is_whole(tmp_path):
    """Cut without coding it anew, an MP4 hides the frames before the cut (an edit list)."""
    whole = write_mp4(tmp_path / 'a.mp4', count=40, g='20')
    with av.open(str(whole)) as given, av.open(str(tmp_path / 'cut.mp4'), 'w') as cut:
        stream = cut.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.pts is not None:
                # Times below zero are hidden.
                packet.pts -= 12 * packet.duration
                packet.dts -= 12 * packet.duration
                packet.stream = stream
                cut.mux(packet)
    source, frames = read(tmp_path / 'cut.mp4')
    assert len(frames) == source.length == 28 and not source.warnings and not source.skipped
    expected = scripted.pattern_image(WIDTH, HEIGHT, shade=12).astype(int)
    assert np.abs(frames[0].image - expected).mean() < 12


def test_a_video_with_a_damaged_part_says_so(tmp_path):
    whole = bytearray(write_mp4(tmp_path / 'a.mp4', count=40, g='10').read_bytes())
    index = whole.find(b'moov')
    whole[index // 2 : index - 16] = bytes(index - 16 - index // 2)
    (tmp_path / 'a.mp4').write_bytes(whole)
    source, frames = read(tmp_path / 'a.mp4')
    assert 0 < len(frames) < 40 and source.skipped == 40 - len(frames)
    assert any('damaged' in w or 'Invalid data' in w for w in source.warnings)


def test_a_video_is_turned_upright(tmp_path):
    upright = write_mp4(tmp_path / 'a.mp4', count=2).read_bytes()
    one, zero = (1 << 16).to_bytes(4, 'big'), bytes(4)
    least, w = (-(1 << 16)).to_bytes(4, 'big', signed=True), (1 << 30).to_bytes(4, 'big')
    matrix = one + zero + zero + zero + one + zero + zero + zero + w
    quarter = zero + one + zero + least + zero + zero + zero + zero + w
    track = upright.index(b'tkhd')
    (tmp_path / 'b.mp4').write_bytes(upright[:track] + upright[track:].replace(matrix, quarter, 1))
    (tmp_path / 'camera.yaml').write_text(CAMERA_YAML)
    with pytest.raises(CalibrationError, match='turns its images by -90 degrees to 48x64'):
        read(tmp_path / 'b.mp4', camera=tmp_path / 'camera.yaml')
    (first, _), (turned, _) = read(tmp_path / 'a.mp4')[1], read(tmp_path / 'b.mp4')[1]
    np.testing.assert_array_equal(turned.image, np.rot90(first.image, -1))


def test_a_long_last_frame_and_a_longer_sound_are_no_damage(tmp_path):
    held = write_mp4(tmp_path / 'held.mp4', times=[0, 1, 2, 3])
    with av.open(str(held)) as given, av.open(str(tmp_path / 'a.mp4'), 'w') as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        packets = [p for p in given.demux(video=0) if p.pts is not None]
        packets[-1].duration *= 30
        for packet in packets:
            packet.stream = stream
            out.mux(packet)
    with av.open(str(tmp_path / 'a.mkv'), 'w') as out:
        stream, sound = out.add_stream('mpeg4', 10), out.add_stream('pcm_s16le', 8000)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        for i in range(4):
            image = scripted.pattern_image(WIDTH, HEIGHT, shade=i)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.int16), 's16', 'mono')
        silence.sample_rate = 8000
        out.mux(sound.encode(silence))
        for one in (stream, sound):
            out.mux(one.encode())
    for name in ('a.mp4', 'a.mkv'):
        source, frames = read(tmp_path / name)
        assert len(frames) == 4 and not source.warnings and not source.skipped


def test_av1_is_decoded(tmp_path):
    try:
        video = write_mp4(tmp_path / 'a.mp4', 'libsvtav1', preset='12')
    except (ValueError, av.FFmpegError):
        pytest.skip('this FFmpeg cannot write AV1')
    source, frames = read(video)
    assert len(frames) == 20 and not source.warnings


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
