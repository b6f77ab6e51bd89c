"""MCAP files that end too early, as a recorder that was killed leaves them.

``rosbags`` reads closed files only. :class:`McapPath` is a path that it opens: a file that was
not closed looks as if its whole records were followed by an index and the end marks.
"""

from __future__ import annotations

import io
from pathlib import Path
import struct
from typing import Any, BinaryIO

_MAGIC = b'\x89MCAP0\r\n'
_FOOTER, _MESSAGE, _CHUNK, _MESSAGE_INDEX = 0x02, 0x05, 0x06, 0x07
_CHUNK_INDEX, _STATISTICS = 0x08, 0x0B
#: Opcode and length of a record.
_RECORD = struct.Struct('<BQ')
#: First and last time, size and checksum of the content, length of the compression's name.
_CHUNK_HEAD = struct.Struct('<QQQII')
#: Bytes of a chunk up to its content, with a name of some letters.
_MOST_HEAD = 80
_BLOCK = 1 << 20
_ALL_CHANNELS = set(range(1 << 16))


class McapPath:
    """A bag's path for ``rosbags`` (its protocol ``RPath``).

    :ivar cut: files that were not closed, of those opened so far.
    """

    def __init__(self, path: Path, cut: list[Path] | None = None) -> None:
        self._path = path
        self.cut: list[Path] = [] if cut is None else cut

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path, name)

    def __str__(self) -> str:
        return str(self._path)

    def __truediv__(self, name: Path | str) -> McapPath:
        return McapPath(self._path / name, self.cut)

    def open(self, *args: Any, **kwargs: Any) -> BinaryIO:
        """Open the file; one that was not closed is shown closed."""
        file = self._path.open(*args, **kwargs)
        if self._path.suffix != '.mcap' or _is_closed(file):
            return file
        if self._path not in self.cut:
            self.cut.append(self._path)
        whole, end = _whole_records(file)
        return io.BufferedReader(_Continued(file, whole, end))


def _is_closed(file: BinaryIO) -> bool:
    """Return whether the end marks are there, or the file is no MCAP at all."""
    begins = file.read(len(_MAGIC)) == _MAGIC
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - len(_MAGIC), 0))
    ends = file.read(len(_MAGIC)) == _MAGIC
    file.seek(0)
    return not begins or (ends and size > len(_MAGIC))


def _whole_records(file: BinaryIO) -> tuple[int, bytes]:
    """Return where the whole records end, and what closes the file behind them."""
    size = _size_without_zeros(file)
    position, rest = len(_MAGIC), b''
    chunks: list[tuple[bytes, int, int]] = []
    channels: list[set[int]] = []
    while True:
        file.seek(position)
        head = file.read(_MOST_HEAD)
        if position >= size or len(head) < _RECORD.size or head[0] in (0, _FOOTER):
            break
        opcode, length = _RECORD.unpack_from(head)
        after = position + _RECORD.size + length
        if opcode == _CHUNK:
            chunks.append((head, position, after - position))
            channels.append(set())
        if after > size:
            break
        if opcode == _MESSAGE_INDEX and channels:
            channels[-1].add(struct.unpack_from('<H', head, _RECORD.size)[0])
        position = after
    if channels and not channels[-1]:
        # Without its index the last chunk may be cut.
        head, start, length = chunks.pop()
        rest = _rest_of_chunk(file, head, start, min(length, size - start))
        if rest:
            chunks.append((rest[:_MOST_HEAD], start, len(rest)))
            position = start
        elif position > start:
            chunks.append((head, start, length))
        else:
            channels.pop()
    if channels:
        channels[-1] = _ALL_CHANNELS  # its index may be cut
    # Where others have no index either, the file is read in its own order.
    indices = [_chunk_index(*chunk, of) for chunk, of in zip(chunks, channels, strict=True)]
    return position, rest + _end(position + len(rest), indices if all(channels) else [])


def _size_without_zeros(file: BinaryIO) -> int:
    """Return the size up to the last byte that is not zero: a power failure leaves such ends."""
    end = file.seek(0, io.SEEK_END)
    while end:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        filled = len(file.read(end - start).rstrip(b'\0'))
        if filled:
            return start + filled
        end = start
    return 0


def _chunk_index(head: bytes, offset: int, length: int, channels: set[int]) -> bytes:
    """Return the index of a chunk.

    :param head: the beginning of the chunk.
    :param channels: that may be in it; where their messages are is left open.
    """
    start, end, size, _, name_length = _CHUNK_HEAD.unpack_from(head, _RECORD.size)
    name_end = _RECORD.size + _CHUNK_HEAD.size + name_length
    offsets = b''.join(struct.pack('<HQ', channel, 0) for channel in sorted(channels))
    content = (
        struct.pack('<QQQQI', start, end, offset, length, len(offsets))
        + offsets
        + struct.pack('<Q', 0)
        + head[_RECORD.size + _CHUNK_HEAD.size - 4 : name_end + 8]  # compression, size
        + struct.pack('<Q', size)
    )
    return _RECORD.pack(_CHUNK_INDEX, len(content)) + content


def _rest_of_chunk(file: BinaryIO, head: bytes, start: int, length: int) -> bytes:
    """Return the messages of a cut chunk as a whole one; nothing if it is compressed."""
    before = _RECORD.size + _CHUNK_HEAD.size + 8
    if len(head) < before or _CHUNK_HEAD.unpack_from(head, _RECORD.size)[4]:
        return b''
    file.seek(start + before)
    content = file.read(length - before)
    end, times = 0, []
    while end + _RECORD.size <= len(content):
        opcode, length = _RECORD.unpack_from(content, end)
        if not opcode or end + _RECORD.size + length > len(content):
            break
        if opcode == _MESSAGE:
            times.append(struct.unpack_from('<HIQ', content, end + _RECORD.size)[2])
        end += _RECORD.size + length
    if not times:
        return b''
    body = _CHUNK_HEAD.pack(min(times), max(times), end, 0, 0) + struct.pack('<Q', end)
    return _RECORD.pack(_CHUNK, len(body) + end) + body + content[:end]


def _end(position: int, indices: list[bytes]) -> bytes:
    """Return the summary and the end marks of a file whose records end at ``position``.

    The statistics count nothing and no channels are listed, so that the reader counts itself.
    """
    statistics = struct.pack('<QHIIIIQQI', *[0] * 9)
    summary = b''.join(indices) + _RECORD.pack(_STATISTICS, len(statistics)) + statistics
    footer = struct.pack('<QQI', position, 0, 0)
    return summary + _RECORD.pack(_FOOTER, len(footer)) + footer + _MAGIC


class _Continued(io.RawIOBase):
    """The first bytes of a file, followed by others."""

    def __init__(self, file: BinaryIO, first: int, rest: bytes) -> None:
        self._file, self._first, self._rest = file, first, rest
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}
        self._position = offset + start.get(whence, self._first + len(self._rest))
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position < self._first:
            self._file.seek(self._position)
            data = self._file.read(min(len(buffer), self._first - self._position))
        else:
            begin = self._position - self._first
            data = self._rest[begin : begin + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
