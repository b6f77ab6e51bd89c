"""Cache entries in files, one a frame: a killed process leaves whole files or none.

A file appears under its name once it is complete. What is found in a folder is read only if it
belongs to the same network and picture size.
"""

from __future__ import annotations

from collections.abc import Sequence
import fcntl
from pathlib import Path
import re
import shutil

from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..atomic_files import atomic_path
from ..errors import ModelError, OutputError

SUFFIX = '.safetensors'
_LOCK = '.lock'
_HALF_WRITTEN = re.compile(r'\.frame_\d+\.safetensors\..*\.partial')
_NAME = re.compile(r'frame_(\d{9,})\.safetensors')
#: Header and padding of a file, beyond the numbers themselves.
_OVERHEAD_BYTES = 8192


class FrameStore:
    """A folder of entries. One owner."""

    def __init__(self, folder: Path | str, belongs_to: str, max_bytes: int) -> None:
        """Open a folder, made if it is not there, with what is readable in it.

        :param belongs_to: names network, precision and picture size; entries of another one are
            not seen.
        :param max_bytes: the folder never holds more.
        :raises OutputError: the folder cannot be made or read, or another process uses it.
        """
        self._folder = Path(folder)
        self._belongs_to = belongs_to
        self._max_bytes = max_bytes
        self._sizes: dict[int, int] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self._folder / _LOCK, 'a')
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = sorted(self._folder.iterdir())
        except BlockingIOError as error:
            self._lock.close()
            raise OutputError(
                f'another process has its frames in {folder}: give each its own '
                'memory.store_folder'
            ) from error
        except OSError as error:
            raise OutputError(
                f'cannot use {folder} as memory.store_folder: {error.strerror}'
            ) from error
        for path in found:
            if _HALF_WRITTEN.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)  # a process was killed while writing it
            match = _NAME.fullmatch(path.name)
            if match and self._is_ours(path):
                self._sizes[int(match[1])] = path.stat().st_size

    def __contains__(self, frame_id: int) -> bool:
        """Tell whether a frame is stored."""
        return frame_id in self._sizes

    def __len__(self) -> int:
        """Return the number of frames stored."""
        return len(self._sizes)

    def ids(self) -> list[int]:
        """Return the frames that are stored."""
        return sorted(self._sizes)

    @property
    def bytes_used(self) -> int:
        """Size of all entries."""
        return sum(self._sizes.values())

    def room_for(self, entry_bytes: int) -> int:
        """Return the number of entries of one size that :meth:`write` takes in all."""
        return self._max_bytes // (entry_bytes + _OVERHEAD_BYTES)

    def write(self, frame_id: int, tensors: Sequence[Tensor]) -> None:
        """Store an entry's tensors.

        :raises OutputError: the disk is full, the folder is gone, or the budget is spent.
        """
        size = sum(t.numel() * t.element_size() for t in tensors) + _OVERHEAD_BYTES
        if self.bytes_used + size > self._max_bytes:
            raise OutputError(
                f'the frames in {self._folder} have reached memory.max_store_mib: allow more, or '
                'take fewer keyframe.max_keyframes'
            )
        path = self._path(frame_id)
        with atomic_path(path) as temporary:
            named = {f'{n:03d}': tensor.contiguous() for n, tensor in enumerate(tensors)}
            try:
                save_file(named, temporary, {'belongs_to': self._belongs_to})
            except SafetensorError as error:
                raise OutputError(f'cannot write {path}: {error}') from error
        self._sizes[frame_id] = path.stat().st_size

    def read(self, frame_id: int, part: slice = slice(None)) -> list[Tensor]:
        """Return an entry's tensors; threads may read at once.

        :param part: which of them.
        :raises ModelError: the file is gone or damaged.
        """
        path = self._path(frame_id)
        try:
            with safe_open(path, 'pt') as file:
                return [file.get_tensor(name) for name in sorted(file.keys())[part]]
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f'a frame that was stored cannot be read: {path}: {error}; leave '
                'memory.store_folder alone while a stream runs'
            ) from error

    def remove(self, frame_id: int) -> None:
        """Delete an entry; unknown ids are ignored."""
        if self._sizes.pop(frame_id, None) is not None:
            self._path(frame_id).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all entries, those of other networks too; other files are left alone."""
        self._sizes.clear()
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have the folder; what is stored stays."""
        self._lock.close()

    def _path(self, frame_id: int) -> Path:
        return self._folder / f'frame_{frame_id:09d}{SUFFIX}'

    def _is_ours(self, path: Path) -> bool:
        try:
            with safe_open(path, 'pt') as file:
                return (file.metadata() or {}).get('belongs_to') == self._belongs_to
        except (OSError, SafetensorError):
            return False  # not one of ours, or damaged by other hands
