"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from r3_ros.cloud import Cloud
from r3_ros.cloud_file import read_ply
from r3_ros.errors import OutputError, SourceError
from r3_ros.export import atomic_directory, atomic_path, atomic_write, write_ply

FULL_DISK = Path('/dev/full')


def cloud(count: int = 1000) -> Cloud:
    rng = np.random.default_rng(0)
    return Cloud(
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3)).astype(np.uint8),
        rng.uniform(1, 9, count).astype(np.float32),
    )


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / 'new' / 'a.bin'
    with atomic_write(path) as file:
        file.write(b'half')
        file.flush()
        assert not path.exists()
        file.write(b' and half')
    assert path.read_bytes() == b'half and half'
    assert os.listdir(path.parent) == ['a.bin']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b'new')
        raise error
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a.bin']


def test_an_existing_file_is_refused_unless_overwritten(tmp_path):
    path = tmp_path / 'a.bin'
    path.write_bytes(b'old')
    with pytest.raises(OutputError, match='exists already') as refusal:
        with atomic_write(path, overwrite=False) as file:
            file.write(b'new')
    assert refusal.value.__cause__.errno == errno.EEXIST
    assert path.read_bytes() == b'old'


@pytest.mark.parametrize(
    ('code', 'message'),
    [
        (errno.ENOSPC, 'disk is full'),
        (errno.EDQUOT, 'quota'),
        (errno.EACCES, 'permission denied'),
        (errno.EROFS, 'read-only'),
        (errno.EIO, 'error'),
    ],
)
def test_errors_of_the_system_say_what_to_do(tmp_path, code, message):
    path = tmp_path / 'a.bin'
    with pytest.raises(OutputError, match=message) as refusal, atomic_write(path):
        raise OSError(code, os.strerror(code))
    assert str(path) in str(refusal.value)
    assert refusal.value.__cause__.errno == code
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not FULL_DISK.exists(), reason='no /dev/full on this system')
def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    """The write itself fails, as late as the flush of the buffer."""
    with pytest.raises(OutputError, match='disk is full'), atomic_path(tmp_path / 'a') as path:
        with open(FULL_DISK, 'wb') as file:
            path.write_bytes(b'half of it')
            file.write(bytes(100))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match='permission denied'), atomic_write(tmp_path / 'a'):
        pass
    tmp_path.chmod(0o700)


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(OutputError, match='folder'), atomic_write(tmp_path / 'file' / 'a'):
        pass


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    with pytest.raises(OutputError, match='it is a folder'), atomic_write(tmp_path):
        pass


def test_a_folder_appears_when_it_is_complete(tmp_path):
    target = tmp_path / 'out'
    with atomic_directory(target) as folder:
        (folder / 'deep').mkdir()
        (folder / 'deep' / 'a').write_text('x')
        assert not target.exists()
    assert (target / 'deep' / 'a').read_text() == 'x'
    assert os.listdir(tmp_path) == ['out']


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / 'out'
    target.mkdir()
    (target / 'marker').write_text('old')
    with pytest.raises(KeyboardInterrupt):
        with atomic_directory(target, overwrite=True, marker='marker') as folder:
            (folder / 'marker').write_text('new')
            raise KeyboardInterrupt
    assert (target / 'marker').read_text() == 'old'
    assert os.listdir(tmp_path) == ['out']


def test_a_folder_with_content_needs_overwrite_and_the_marker(tmp_path):
    target = tmp_path / 'out'
    target.mkdir()
    with atomic_directory(target) as folder:  # an empty one is free to take
        (folder / 'photos').write_text('precious')
    with pytest.raises(OutputError, match='exists already'), atomic_directory(target):
        pass
    with pytest.raises(OutputError, match='holds no summary.json'):
        with atomic_directory(target, overwrite=True, marker='summary.json'):
            pass
    assert (target / 'photos').read_text() == 'precious'
    with atomic_directory(target, overwrite=True, marker='photos') as folder:
        (folder / 'new').write_text('')
    assert os.listdir(target) == ['new']


def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = []
    for place, message in [('.', 'current folder'), (tmp_path, 'current folder')]:
        with pytest.raises(OutputError, match=message), atomic_directory(place):
            begun.append(place)
    (tmp_path / 'mounted').mkdir()
    monkeypatch.setattr(os.path, 'ismount', lambda path: Path(path).name == 'mounted')
    with pytest.raises(OutputError, match='mount point'), atomic_directory('mounted'):
        begun.append('mounted')
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match='is a file and not a folder'):
        with atomic_directory('file', overwrite=True):
            begun.append('file')
    assert not begun and sorted(os.listdir()) == ['file', 'mounted']


def test_a_link_is_followed_and_kept(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    for name in ('folder', 'file'):
        (tmp_path / name).symlink_to(tmp_path / 'elsewhere' / name)
    (tmp_path / 'elsewhere' / 'folder').mkdir()
    with atomic_directory(tmp_path / 'folder') as folder:
        (folder / 'a').write_text('')
    with atomic_write(tmp_path / 'file') as file:  # a link to nothing yet
        file.write(b'b')
    assert (tmp_path / 'folder').is_symlink() and (tmp_path / 'file').is_symlink()
    assert os.listdir(tmp_path / 'elsewhere' / 'folder') == ['a']
    assert (tmp_path / 'elsewhere' / 'file').read_bytes() == b'b'


@pytest.mark.parametrize('count', [0, 1, 1000])
def test_clouds_survive_a_file(tmp_path, count):
    original = cloud(count)
    write_ply(tmp_path / 'a.ply', original)
    read = read_ply(tmp_path / 'a.ply')
    np.testing.assert_array_equal(read.points, original.points)
    np.testing.assert_array_equal(read.colors, original.colors)
    np.testing.assert_array_equal(read.confidence, original.confidence)


def test_the_header_is_what_viewers_expect(tmp_path):
    write_ply(tmp_path / 'a.ply', cloud(7))
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
    write_ply(tmp_path / 'a.ply', cloud())
    data = (tmp_path / 'a.ply').read_bytes()
    (tmp_path / 'a.ply').write_bytes(data[:-100])
    with pytest.raises(SourceError, match='no whole PLY'):
        read_ply(tmp_path / 'a.ply')
