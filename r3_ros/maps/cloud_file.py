"""Point clouds as files.

PLY: binary little endian, x y z red green blue confidence; PCD with packed colours; NPZ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.atomic_files import atomic_write
from ..core.errors import SourceError
from .cloud import Cloud, packed

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


def write_points(
    path: Path | str, cloud: Cloud, kind: str = 'ply', overwrite: bool = True
) -> None:
    """Write a cloud in one of ``map_layout.POINT_FORMATS``.

    :raises OutputError: the file exists (without ``overwrite``), or cannot be written.
    """
    with atomic_write(path, overwrite) as file:
        if kind == 'npz':
            np.savez(file, points=cloud.points, colors=cloud.colors, confidence=cloud.confidence)
        else:
            header, rows = _pcd(cloud) if kind == 'pcd' else _ply(cloud)
            file.write(header.encode('ascii') + rows.tobytes())


def _ply(cloud: Cloud) -> tuple[str, np.ndarray]:
    rows = np.empty(len(cloud), dtype=VERTEX)
    for k in range(3):
        rows['xyz'[k]] = cloud.points[:, k]
        rows[_COLORS[k]] = cloud.colors[:, k]
    rows['confidence'] = cloud.confidence
    return ply_header(len(rows)), rows


def _pcd(cloud: Cloud) -> tuple[str, np.ndarray]:
    rows = packed(cloud.points, cloud.colors, cloud.confidence)
    header = (
        'VERSION 0.7\nFIELDS x y z rgb confidence\nSIZE 4 4 4 4 4\nTYPE F F F F F\n'
        f'COUNT 1 1 1 1 1\nWIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n'
        f'POINTS {len(rows)}\nDATA binary\n'
    )
    return header, rows


def read_ply(path: Path | str) -> Cloud:
    """Read a cloud written by :func:`write_points` as PLY.

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
