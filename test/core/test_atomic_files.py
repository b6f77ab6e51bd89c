"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path
import signal
import sys

import pytest
from r3_ros.core import atomic_files
from r3_ros.core.atomic_files import atomic_directory, atomic_path, atomic_write
from r3_ros.core.errors import OutputError

FULL_DISK = Path('/dev/full')


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
    for name in ('n' * 300, 'n' * 250):
        with pytest.raises(OutputError, match='the name is too long'), atomic_directory(name):
            begun.append(name)
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


# --- Overwriting a folder, cut off anywhere ---


@pytest.fixture(params=['one call', 'two renames'])
def swap(request, monkeypatch):
    """Overwrite by the system's exchange, and as where there is none."""
    if request.param == 'two renames':
        monkeypatch.setattr(atomic_files, '_exchange', lambda a, b: False)
    return request.param


def old_folder(tmp_path, name='out'):
    target = tmp_path / name
    target.mkdir()
    (target / 'marker').write_text('old')
    return target


def overwrite(target):
    with atomic_directory(target, overwrite=True, marker='marker') as folder:
        (folder / 'marker').write_text('new')


@pytest.mark.parametrize('name', ['out', 'replaced', '.out.x.partial'])
def test_a_folder_is_overwritten_and_nothing_is_left(tmp_path, swap, name):
    target = old_folder(tmp_path, name)
    overwrite(target)
    assert (target / 'marker').read_text() == 'new'
    assert os.listdir(tmp_path) == [name]


class Interrupts:
    """Raises at the n-th line that atomic_files runs, as a signal may."""

    def __init__(self, at):
        self.at, self.lines = at, 0

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != atomic_files.__file__:
            return None
        if event == 'line':
            self.lines += 1
            if self.lines == self.at:
                raise SystemExit(143)
        return self


def interrupted_overwrite(target, at):
    """Return whether the overwrite was interrupted at its line ``at``, or was over before."""
    tracer, before = Interrupts(at), sys.gettrace()
    sys.settrace(tracer)
    try:
        overwrite(target)
    except SystemExit:
        return True
    finally:
        sys.settrace(before)
    assert tracer.lines < at
    return False


def test_an_interrupt_at_any_line_leaves_one_whole_folder(tmp_path, swap):
    """Also in the clean-up, where what is left over hides in a folder of its own."""
    at, found = 1, set()
    while True:
        place = tmp_path / str(at)
        place.mkdir()
        target = old_folder(place)
        interrupted = interrupted_overwrite(target, at)
        found.add((target / 'marker').read_text())
        assert all(name == 'out' or name.startswith('.out.') for name in os.listdir(place))
        if not interrupted:
            break
        at += 1
    assert found == {'old', 'new'} and at > 30


def test_a_second_interrupt_while_the_old_folder_is_put_back_does_not_delete_it(
    tmp_path, monkeypatch
):
    target = old_folder(tmp_path)
    monkeypatch.setattr(atomic_files, '_exchange', lambda a, b: False)
    rename = os.replace

    def replace(a, b):
        if b == target:
            raise SystemExit(143)
        rename(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', replace)
        with pytest.raises(SystemExit):
            overwrite(target)
    assert not target.exists()
    overwrite(target)  # finds the old folder, which must have its marker to be replaced
    assert (target / 'marker').read_text() == 'new'


def test_what_a_kill_between_two_renames_hides_is_put_back(tmp_path, monkeypatch):
    target = old_folder(tmp_path)
    monkeypatch.setattr(atomic_files, '_exchange', lambda a, b: False)
    rename = os.replace

    def replace(a, b):
        if b == target:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(a, b)

    child = os.fork()
    if not child:
        os.replace = replace
        overwrite(target)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not target.exists()
    # Without permission to overwrite nothing is written, but what was there is back.
    with pytest.raises(OutputError, match='exists already'), atomic_directory(target):
        pass
    assert (target / 'marker').read_text() == 'old'


def test_a_hidden_folder_that_holds_no_old_one_is_left_alone(tmp_path):
    hidden = tmp_path / '.out.abc.partial' / 'out'
    hidden.mkdir(parents=True)
    with atomic_directory(tmp_path / 'out') as folder:
        (folder / 'a').write_text('')
    assert hidden.is_dir() and os.listdir(tmp_path / 'out') == ['a']
