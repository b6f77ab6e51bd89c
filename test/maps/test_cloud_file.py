"""Clouds in PLY files."""

import numpy as np
import pytest
from r3_ros.core.errors import SourceError
from r3_ros.maps.cloud import Cloud
from r3_ros.maps.cloud_file import read_ply, write_points


def cloud(count: int = 1000) -> Cloud:
    rng = np.random.default_rng(0)
    return Cloud(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3)).astype(np.uint8),
        rng.uniform(1, 9, count).astype(np.float32),
    )


@pytest.mark.parametrize('count', [0, 1, 1000])
def test_clouds_survive_a_file(tmp_path, count):
    original = cloud(count)
    write_points(tmp_path / 'a.ply', original)
    read = read_ply(tmp_path / 'a.ply')
    np.testing.assert_array_equal(read.points, original.points)
    np.testing.assert_array_equal(read.colors, original.colors)
    np.testing.assert_array_equal(read.confidence, original.confidence)


def test_the_header_is_what_viewers_expect(tmp_path):
    write_points(tmp_path / 'a.ply', cloud(7))
    data = (tmp_path / 'a.ply').read_bytes()
    header, _, body = data.partition(b'end_header\n')
    assert header.decode().splitlines() == [
        'ply',
        'format binary_little_endian 1.0',
        'element vertex 7',
        'property float x',
        'property float y',
        'property float z',
        'property uchar red',
        'property uchar green',
        'property uchar blue',
        'property float confidence',
    ]
    assert len(body) == 7 * 19


def test_a_cut_off_cloud_is_refused(tmp_path):
    write_points(tmp_path / 'a.ply', cloud())
    data = (tmp_path / 'a.ply').read_bytes()
    (tmp_path / 'a.ply').write_bytes(data[:-100])
    with pytest.raises(SourceError, match='no complete PLY'):
        read_ply(tmp_path / 'a.ply')
