"""A safetensors file, read once from front to back into memory of our own.

The library checks the header; the bytes are then read instead of mapped, so that a file replaced
under a running program cannot crash it, and each goes where it stays: there is no second copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import json
import os
from pathlib import Path
import stat
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open, SafetensorError
import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint_keys import Shape, shown

#: Called with the bytes read so far and those of the whole file.
Progress = Callable[[int, int], None]

#: Types in which weights may be stored.
STORED_DTYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}

#: The largest header believed; the largest network known needs a hundredth of it.
_LARGEST_HEADER = 16 << 20
_LENGTH_BYTES = 8
#: Read, hashed and checked while it is in the processor's cache.
_CHUNK_BYTES = 1 << 20
#: torch shares out larger copies among threads, which wait for one another on a busy machine.
_SERIAL_COPY = 1 << 15
#: All bits of the exponent, which are set in infinities and NaN alone, and the type to read them.
_EXPONENTS = {
    torch.float32: (np.uint32, 0x7F800000),
    torch.float16: (np.uint16, 0x7C00),
    torch.bfloat16: (np.uint16, 0x7F80),
}

#: Turns a pickle into what is read here; torch is told to run no code from it.
CONVERT = (
    "python -c 'import sys, torch, safetensors.torch as s; "
    'd = torch.load(sys.argv[1], map_location="cpu", weights_only=True); '
    'd = d.get("state_dict", d.get("model", d)); '
    "s.save_file({k: v.clone().contiguous() for k, v in d.items()}, sys.argv[2])' "
    'OLD.pt NEW.safetensors'
)
_PICKLE = f'it is a pickle, which may run any code when loaded; convert it once: {CONVERT}'
#: First bytes of files that are taken for weights. Where they are read as the length of a header
#: it is beyond all measure, so no safetensors file begins like this.
_OTHER_FORMATS = {
    b'PK\x03\x04': _PICKLE,
    **{bytes([0x80, protocol]): _PICKLE for protocol in range(2, 6)},
    b'version ': 'it is a Git LFS pointer; fetch the file itself (git lfs pull)',
    b'<': 'it is a web page and no weights; fetch the file again',
}
_FETCH = 'fetch it again'


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as the header describes it; ``dtype`` in the words of the format."""

    key: str
    dtype: str
    shape: Shape
    size_bytes: int


class CheckpointFile:
    """An open file of weights whose header has been checked.

    :ivar header: the bytes before the first tensor.
    :ivar metadata: what its writer said of it; nothing here trusts it.
    :ivar tensors: in the order of their bytes, which follow one another without gaps.
    """

    def __init__(self, path: Path | str) -> None:
        """Open a file and check its header.

        :raises CheckpointError: it is missing, unreadable, damaged or of another format.
        """
        self.path = Path(path)
        try:
            self.file = self._opened()
            try:
                self._status = os.fstat(self.file.fileno())
                self.header = self._read_header()
                self._validate()
                self.metadata, self.tensors = self._described()
            except BaseException:
                self.file.close()
                raise
        except OSError as error:
            raise self.error(f'it cannot be read: {error.strerror or error}') from error

    def __enter__(self) -> CheckpointFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def size_bytes(self) -> int:
        """The size of the file when it was opened."""
        return self._status.st_size

    def error(self, what: str) -> CheckpointError:
        """Return an error that names this file."""
        return CheckpointError(f'cannot use {self.path} as weights: {what}')

    def has_changed(self) -> bool:
        """Say whether the open file was written to since it was opened."""
        now, then = os.fstat(self.file.fileno()), self._status
        return (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)

    def _opened(self) -> BinaryIO:
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            raise self.error('there is no such file; r3 weights get fetches it') from None
        if stat.S_ISDIR(mode):
            raise self.error('it is a folder; name the .safetensors file in it')
        if not stat.S_ISREG(mode):
            raise self.error('it is no regular file')
        return open(self.path, 'rb', buffering=0)

    def _read_header(self) -> bytes:
        """Read as far as the first tensor, and no more than a header can be."""
        start = self.file.read(_LENGTH_BYTES)
        if not start:
            raise self.error(f'it is empty; {_FETCH}')
        length = int.from_bytes(start, 'little')
        if length > _LARGEST_HEADER:
            for magic, what in _OTHER_FORMATS.items():
                if start.startswith(magic):
                    raise self.error(what)
            raise self.error('it is no safetensors file, or its first bytes are damaged')
        if len(start) < _LENGTH_BYTES or self.size_bytes < _LENGTH_BYTES + length:
            raise self.error(f'it is cut off within its header; {_FETCH}')
        rest = bytearray(length)
        _read_into(self.file, memoryview(rest))
        return start + bytes(rest)

    def _validate(self) -> None:
        """Have the library check the header against itself and the size of the file."""
        try:
            with safe_open(self.path, framework='np'):
                pass
        except SafetensorError as error:
            reason = shown(str(error).rpartition('header: ')[2])
            raise self.error(f'it is cut off or damaged ({reason}); {_FETCH}') from error
        if self.has_changed() or not os.path.samestat(os.stat(self.path), self._status):
            raise self.error('it was replaced while it was being opened; try again')

    def _described(self) -> tuple[dict[str, str], tuple[StoredTensor, ...]]:
        """Return what the header describes, in which the library found no fault."""
        try:
            entries = json.loads(self.header[_LENGTH_BYTES:], object_pairs_hook=_unique)
        except ValueError as error:
            raise self.error(f'its header is damaged ({error}); {_FETCH}') from error
        metadata = entries.pop('__metadata__', None) or {}
        in_order = sorted((*entry['data_offsets'], key) for key, entry in entries.items())
        return metadata, tuple(
            StoredTensor(key, entries[key]['dtype'], tuple(entries[key]['shape']), end - begin)
            for begin, end, key in in_order
        )


class WeightStream:
    """The bytes of a file from its first tensor to its end, hashed on their way."""

    def __init__(self, file: CheckpointFile, progress: Progress | None = None) -> None:
        self._file = file
        self._progress = progress
        self._digest = hashlib.sha256(file.header)
        self._done_bytes = len(file.header)
        self._scratch = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)
        self._converted = torch.empty(_CHUNK_BYTES, dtype=torch.uint8)

    def skip(self, stored: StoredTensor) -> None:
        """Go past the next tensor.

        :raises CheckpointError: it cannot be read.
        """
        for start in range(0, stored.size_bytes, _CHUNK_BYTES):
            self._fill(self._scratch[: stored.size_bytes - start])

    def read(self, stored: StoredTensor, target: Tensor) -> None:
        """Read the next tensor into one of its shape, of any type and on any device.

        :param target: contiguous.
        :raises CheckpointError: it cannot be read, or a value is not finite (any more).
        """
        dtype, flat = STORED_DTYPES[stored.dtype], target.view(-1)
        step = _CHUNK_BYTES // max(dtype.itemsize, target.dtype.itemsize)
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step]
            values = _first(self._scratch, part.numel(), dtype)
            self._fill(values.view(torch.uint8))
            converted = values
            if dtype != target.dtype:
                converted = _first(self._converted, part.numel(), target.dtype)
                _copy(values, converted)
            if not is_finite(converted):
                raise self._not_finite(stored, values, target.dtype)
            _copy(converted, part)

    def finish(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal.

        :raises CheckpointError: the file is no longer the one that was opened.
        """
        if self._file.file.read(1) or self._file.has_changed():
            raise self._changed()
        return self._digest.hexdigest()

    def _fill(self, room: Tensor) -> None:
        """Read the next bytes into a flat tensor of bytes."""
        view = room.numpy().data
        try:
            complete = _read_into(self._file.file, view)
        except OSError as error:
            raise self._file.error(f'it cannot be read: {error.strerror or error}') from error
        if not complete:
            raise self._changed()
        self._digest.update(view)
        self._done_bytes += len(view)
        if self._progress:
            self._progress(self._done_bytes, self._file.size_bytes)

    def _changed(self) -> CheckpointError:
        return self._file.error('it was changed while it was being read; try again')

    def _not_finite(
        self, stored: StoredTensor, values: Tensor, dtype: torch.dtype
    ) -> CheckpointError:
        if is_finite(values):
            what = f'a value too large for {str(dtype).removeprefix("torch.")}; use another type'
        else:
            what = f'a value that is not finite, so it is damaged; {_FETCH}'
        return self._file.error(f'{shown(stored.key)} holds {what}')


def is_finite(values: Tensor) -> bool:
    """Say whether all numbers of a contiguous tensor on the CPU are finite."""
    if not values.numel():
        return True
    kind, exponent = _EXPONENTS[values.dtype]
    bits = values.view(-1).view(torch.uint8).numpy().view(kind)
    magnitudes = bits & (2 ** (8 * bits.itemsize - 1) - 1)
    return int(magnitudes.max()) < exponent


def _first(scratch: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return the beginning of some bytes as numbers."""
    return scratch[: count * dtype.itemsize].view(dtype)


def _copy(source: Tensor, target: Tensor) -> None:
    """Copy flat numbers, on the CPU in pieces that torch leaves to one thread."""
    step = _SERIAL_COPY if target.device.type == 'cpu' else source.numel()
    for start in range(0, source.numel(), step):
        target[start : start + step].copy_(source[start : start + step])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, in which a name may be there twice."""
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError('a name is there twice')
    return names


def _read_into(file: BinaryIO, view: memoryview) -> bool:
    """Fill a view from an unbuffered file; False if the file ends before."""
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            return False
        view = view[count:]
    return True
