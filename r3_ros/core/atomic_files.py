"""Files and folders written whole or not at all.

A file or folder is written in a hidden folder beside its target, ``.NAME.*.partial``, and renamed
to the target when it is complete, so a full disk or an interrupt leaves the old content or
nothing. Every failure is an :class:`OutputError` whose ``__cause__`` is the ``OSError``.

An overwritten folder is exchanged with the new one in one system call. File systems without that
call (NFS, for example) need two: after an interrupt between them the old folder is put back at
once, after a kill by the next write to the same target. A killed process leaves its hidden folder
behind; it can be deleted when nothing writes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
import errno
import os
from pathlib import Path
import shutil
import tempfile
from typing import BinaryIO

from .errors import OutputError

_SUFFIX = '.partial'
#: Of the old folder while the new one is renamed.
_REPLACED = '.replaced'
_EXISTS = 'it exists already; choose another name, or have it overwritten (r3: --overwrite)'
_ADVICE = {
    errno.ENOSPC: 'the disk is full; free some space or write elsewhere',
    errno.EDQUOT: 'the disk quota is used up; free some space or write elsewhere',
    errno.EACCES: 'permission denied; write to a folder of your own',
    errno.EPERM: 'permission denied; write to a folder of your own',
    errno.EROFS: 'the file system is read-only; write elsewhere',
    errno.EEXIST: _EXISTS,
    errno.ENOTEMPTY: _EXISTS,
    errno.EBUSY: 'it is the current folder or a mount point; name a folder inside it',
    errno.ENOTDIR: 'it, or a part of the path, is a file and not a folder',
    errno.EISDIR: 'it is a folder; name a file',
    errno.ENAMETOOLONG: 'the name is too long; choose a shorter one',
}
#: Arguments of renameat2(2): paths relative to the current folder; exchange both names.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def atomic_write(path: Path | str, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file that appears under its name once it is complete.

    :raises OutputError: it exists (without ``overwrite``), or cannot be written.
    """
    with atomic_path(path, overwrite) as temporary, open(temporary, 'wb') as file:
        yield file
        file.flush()


@contextmanager
def atomic_path(path: Path | str, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, for a file that other code writes.

    :raises OutputError: it exists (without ``overwrite``), or cannot be written.
    """
    path = _behind_links(path)
    with _as_output_error(path), _beside(path) as folder:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'is a folder')
        _refuse_existing(path, overwrite)
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        _refuse_existing(path, overwrite)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def atomic_directory(
    path: Path | str, overwrite: bool = False, marker: str = ''
) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``path`` once it is complete.

    An empty folder at ``path`` is always replaced.

    :param overwrite: replace a folder that has content.
    :param marker: name of a file that a folder must hold to be overwritten, so that a mistyped
        path does not delete an unrelated folder.
    :raises OutputError: it exists, lacks the marker, or cannot be written.
    """
    path = _behind_links(path)
    with _as_output_error(path), _beside(path) as folder:
        _put_back_after_kill(path)
        _refuse_directory(path, overwrite, marker)
        temporary = folder / (path.name or 'output')
        temporary.mkdir()
        yield temporary
        for item in [*temporary.rglob('*'), temporary]:
            _sync(item)
        _refuse_directory(path, overwrite, marker)
        if not (path.is_dir() and _exchange(temporary, path)):
            if path.is_dir():
                os.replace(path, folder / f'{path.name}{_REPLACED}')
            os.replace(temporary, path)
        _sync(path.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one call; return whether the system supports it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
    if call is None:
        return False
    names = os.fsencode(a), os.fsencode(b)
    return not call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)


def _put_back(folder: Path, path: Path) -> None:
    """Restore the old folder's name if nothing has it now."""
    # Not Path.exists, which raises where another user's folder cannot be looked into.
    old = folder / f'{path.name}{_REPLACED}'
    if os.path.exists(old) and not os.path.exists(path):
        os.replace(old, path)


def _put_back_after_kill(path: Path) -> None:
    """Restore the name of an old folder that a killed process left renamed."""
    for folder in path.absolute().parent.iterdir():
        if folder.name.startswith(f'.{path.name}.') and folder.name.endswith(_SUFFIX):
            _put_back(folder, path)


def _behind_links(path: Path | str) -> Path:
    """Return the target of a link, so that the link stays."""
    path = Path(path)
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a hidden folder on the file system of ``path``, deleted afterwards."""
    parent = path.absolute().parent
    if parent.exists() and not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, 'is a file')
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', suffix=_SUFFIX, dir=parent))
    try:
        yield folder
    finally:
        # If this fails, the folder stays, with the old content in it.
        _put_back(folder, path)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f'cannot write {path}: {advice}') from error


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and path.exists():
        raise FileExistsError(errno.EEXIST, 'exists already')


def _refuse_directory(path: Path, overwrite: bool, marker: str) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, 'is a file')
    if os.path.ismount(path) or path.resolve() == Path.cwd():
        raise OSError(errno.EBUSY, 'cannot be replaced')
    names = {item.name for item in path.iterdir()}
    if not names:
        return
    if not overwrite:
        raise FileExistsError(errno.EEXIST, 'has content')
    if marker and marker not in names:
        cause = FileExistsError(errno.EEXIST, 'folder of something else')
        raise OutputError(
            f'cannot overwrite {path}: it holds no {marker}, so it was not written by this '
            'command; choose another folder'
        ) from cause


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk before it is renamed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
