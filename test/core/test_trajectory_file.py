"""TUM files: exact stamps, and what is refused."""

from hypothesis import given, strategies
import numpy as np
import pytest
from r3_ros.core.errors import SourceError, TransformError
from r3_ros.core.geometry import T_from_quat
from r3_ros.core.trajectory_file import parse_stamp, read_tum, stamp_text, write_tum


@given(strategies.integers(-(2**62), 2**62))
def test_stamps_survive_text_to_the_nanosecond(stamp_ns):
    assert parse_stamp(stamp_text(stamp_ns)) == stamp_ns


@pytest.mark.parametrize(
    ('text', 'stamp_ns'),
    [
        ('1403715273.262142999', 1_403_715_273_262_142_999),
        ('0.1', 100_000_000),
        ('7', 7_000_000_000),
        ('1.5e9', 1_500_000_000_000_000_000),
        ('-0.000000001', -1),
    ],
)
def test_stamps_are_read_without_a_float(text, stamp_ns):
    assert parse_stamp(text) == stamp_ns


@pytest.mark.parametrize('text', ['', 'now', 'nan', 'inf', '1.2.3', '0x10'])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match='not a time'):
        parse_stamp(text)


@pytest.mark.parametrize('text', ['1403636579763555584', '1e300', '-1e12'])
def test_nanoseconds_taken_for_seconds_are_refused(text):
    with pytest.raises(ValueError, match='divide nanoseconds by 1e9'):
        parse_stamp(text)


def test_a_byte_order_mark_is_no_part_of_the_first_stamp(tmp_path):
    path = tmp_path / 'a.tum'
    path.write_bytes(b'\xef\xbb\xbf1.5 0 0 0 0 0 0 1\n')
    assert read_tum(path).stamps_ns.tolist() == [1_500_000_000]


def test_poses_survive_a_file(tmp_path):
    rng = np.random.default_rng(1)
    stamps_ns = 1_700_000_000_000_000_001 + np.arange(20) * 33_333_333
    T = T_from_quat(rng.normal(size=(20, 3)) * 100, rng.normal(size=(20, 4)))
    write_tum(tmp_path / 'a.tum', stamps_ns, T)
    poses = read_tum(tmp_path / 'a.tum')
    np.testing.assert_array_equal(poses.stamps_ns, stamps_ns)
    np.testing.assert_allclose(poses.T_world_camera, T, atol=2e-9)


def test_no_poses_make_a_file_with_a_header_alone(tmp_path):
    write_tum(tmp_path / 'a', np.empty(0, np.int64), np.empty((0, 4, 4)))
    lines = (tmp_path / 'a').read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith('# timestamp')


def test_a_pose_that_is_not_finite_is_never_written(tmp_path):
    T = np.tile(np.eye(4), (2, 1, 1))
    T[1, 0, 3] = np.nan
    with pytest.raises(TransformError, match='not finite'):
        write_tum(tmp_path / 'a.tum', np.array([1, 2]), T)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'no poses'),
        ('# only a comment\n', 'no poses'),
        ('1 0 0 0 0 0 0\n', 'line 1.*7 fields'),
        ('1 0 0 0 0 0 0 one\n', 'line 1'),
        ('1 0 0 0 0 0 0 0\n', 'no rotation'),
        ('1 nan 0 0 0 0 0 1\n', 'not finite'),
        ('2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n', 'pose 2 is earlier.*sort'),
    ],
)
def test_broken_files_are_refused(tmp_path, content, message):
    path = tmp_path / 'a.tum'
    path.write_text(content)
    with pytest.raises(SourceError, match=message) as error:
        read_tum(path)
    assert str(path) in str(error.value)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(SourceError, match='cannot read'):
        read_tum(tmp_path / 'none.tum')
    (tmp_path / 'b.tum').write_bytes(b'\xff\xfe\x00\x81')
    with pytest.raises(SourceError, match='cannot read'):
        read_tum(tmp_path / 'b.tum')
