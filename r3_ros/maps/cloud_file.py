"""Point clouds as PLY files: binary little endian, x y z red green blue confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.atomic_files import atomic_write
from ..core.errors import SourceError
from .cloud import Cloud

_COLORS = ('red', 'green', 'blue')
VERTEX = np.dtype(
    [(axis, '<f4') for axis in 'xyz'] + [(c, 'u1') for c in _COLORS] + [('confidence', '<f4')]
)
_KINDS = {'<f4': 'float', '|u1': 'uchar'}


def ply_header(count: int) -> str:
    """Return the header of a file with ``count`` points."""
    lines = ['ply', 'format binary_little_endian 1.0', f'element vertex {count}']
    for name in VERTEX.names or ():
        lines.append(f'property {_KINDS[VERTEX[name].str]} {name}')
    return '\n'.join([*lines, 'end_header\n'])


def write_ply(path: Path | str, cloud: Cloud, overwrite: bool = True) -> None:
    """Write a cloud.

    :raises OutputError: the file exists (without ``overwrite``), or cannot be written.
    """
    with atomic_write(path, overwrite) as file:
        file.write(ply_header(len(cloud)).encode('ascii'))
        vertices = np.empty(len(cloud), dtype=VERTEX)
        for k in range(3):
            vertices['xyz'[k]] = cloud.points[:, k]
            vertices[_COLORS[k]] = cloud.colors[:, k]
        vertices['confidence'] = cloud.confidence
        file.write(vertices.tobytes())


def read_ply(path: Path | str) -> Cloud:
    """Read a cloud written by :func:`write_ply`.

    :raises SourceError: missing, cut off, or of another layout.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f'cannot read the cloud {path}: {error}') from error
    return parse_ply(data, str(path))


def parse_ply(data: bytes, name: str) -> Cloud:
    """Return the cloud of a file's content.

    :param name: of the file, for the error.
    :raises SourceError: cut off, or of another layout.
    """
    header, separator, body = data.partition(b'end_header\n')
    count = len(body) // VERTEX.itemsize
    if header + separator != ply_header(count).encode('ascii'):
        raise SourceError(f'{name} is no complete PLY file in the layout that r3 writes')
    vertices = np.frombuffer(body, dtype=VERTEX, count=count)
    return Cloud(
        np.stack([vertices[name] for name in 'xyz'], axis=1),
        np.stack([vertices[name] for name in _COLORS], axis=1),
        vertices['confidence'].copy(),
    )
