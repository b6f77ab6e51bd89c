"""Reading ``.npz`` files of unknown origin: no pickles, and no array larger than declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy

from .map_layout import bad_format, Column, MOST_ARRAY_BYTES

_KNOWN_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: Flag of an encrypted member.
_ENCRYPTED = 0x1
#: Our own headers are shorter.
_MOST_HEADER_BYTES = 4096


def read_arrays(file: BinaryIO, name: str, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Return the arrays of a file, which must have exactly these names, types and shapes.

    Size, type and shape of each are checked before it is decompressed.

    :param name: of the file, for errors.
    :raises MapError: BAD_FORMAT.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            wanted = {f'{column}.npy' for column in columns}
            if len(archive.infolist()) != len(members) or members.keys() != wanted:
                raise bad_format(name, f'it must hold the arrays {", ".join(sorted(columns))}')
            return {
                column: _read_array(archive, members[f'{column}.npy'], name, column, expected)
                for column, expected in columns.items()
            }
    except (
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise bad_format(name, f'it is damaged ({error})') from error


def _read_array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, column: str, expected: Column
) -> np.ndarray:
    dtype, size = np.dtype(expected.dtype), expected.nbytes
    if size > MOST_ARRAY_BYTES:
        raise bad_format(name, f"'{column}' would take {size} bytes, more than a map may")
    header_bytes = member.file_size - size
    known = member.compress_type in _KNOWN_COMPRESSION and not member.flag_bits & _ENCRYPTED
    if not known or not 0 < header_bytes <= _MOST_HEADER_BYTES:
        raise bad_format(name, f"'{column}' must have the shape {expected.shape}")
    with archive.open(member) as stream:
        major, minor = npy.read_magic(stream)
        if (major, minor) != (1, 0):
            raise bad_format(name, f"'{column}' is in an unknown version of the format")
        shape, by_columns, found = npy.read_array_header_1_0(
            stream, max_header_size=_MOST_HEADER_BYTES
        )
        if shape != expected.shape or found != dtype or by_columns:
            raise bad_format(
                name,
                f"'{column}' must be {dtype} of shape {expected.shape}, it is {found} of {shape}",
            )
        # Not read(): a member may hold more than it declares.
        data = stream.read(size)
        if len(data) != size or stream.read(1):
            raise bad_format(name, f"'{column}' is not as long as declared")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
