"""Saved maps that were damaged, or made by an attacker: drawn at random from a good one."""

from __future__ import annotations

from collections.abc import Callable
import io
import os
from pathlib import Path
import shutil
import zipfile

from malformed import Malformed, NUMBERS, png_that_claims
import numpy as np
import yaml

#: Unpacked size of the archives that unpack to far more than they should hold.
_BOMB_BYTES = 256 * 2**20
#: What the manifest may say in place of anything.
VALUES = (None, -1, 2**63, *NUMBERS[6:8], '', 'x' * 10_000, [], {}, [[[]]], True)


class MalformedMaps:
    """Draws damaged copies of a map folder; the same seed draws the same.

    :param good: a folder that can be loaded.
    :param outside: a file that no loaded map may read.
    """

    def __init__(self, good: Path, outside: Path, rng: np.random.Generator) -> None:
        """Look at what there is to damage."""
        self._good, self._outside, self._rng = good, outside, rng
        self._draw = Malformed(rng, 0)
        self._bomb = _npz_bytes(bomb=np.zeros(_BOMB_BYTES, dtype=np.uint8))
        self._ways: tuple[Callable[[Path], str], ...] = (
            self._cut_off, self._patch, self._remove, self._link, self._block, self._nothing,
            self._folder_instead, self._array, self._pickle, self._unpacks_to_much,
            self._claims_much, self._manifest_value, self._manifest_key, self._manifest_bomb,
            self._ply_count, self._tum_line, self._image,
        )  # fmt: skip

    def make(self, target: Path) -> str:
        """Write a damaged copy; return in words what is wrong with it."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._good, target)
        way = self._ways[self._rng.integers(0, len(self._ways))]
        return way(target)

    # Files of any kind.

    def _file(self, folder: Path, pattern: str = '*') -> Path:
        files = sorted(p for p in folder.rglob(pattern) if p.is_file())
        return files[self._rng.integers(0, len(files))]

    def _cut_off(self, folder: Path) -> str:
        path = self._file(folder)
        data = path.read_bytes()
        path.write_bytes(data[: self._rng.integers(0, max(len(data), 1))])
        return f'{path.name} cut off'

    def _patch(self, folder: Path) -> str:
        path = self._file(folder)
        path.write_bytes(self._draw.patched(path.read_bytes()))
        return f'{path.name} patched'

    def _remove(self, folder: Path) -> str:
        path = self._file(folder)
        path.unlink()
        return f'{path.name} removed'

    def _link(self, folder: Path) -> str:
        path = self._file(folder)
        path.unlink()
        path.symlink_to(self._outside if self._rng.random() < 0.7 else path)
        return f'{path.name} is a link'

    def _block(self, folder: Path) -> str:
        path = self._file(folder)
        path.unlink()
        os.mkfifo(path)
        return f'{path.name} is a pipe that nobody writes to'

    def _folder_instead(self, folder: Path) -> str:
        path = self._file(folder)
        path.unlink()
        path.mkdir()
        return f'{path.name} is a folder'

    def _nothing(self, folder: Path) -> str:
        shutil.rmtree(folder)
        folder.mkdir()
        return 'an empty folder'

    # Arrays.

    def _array(self, folder: Path) -> str:
        """Spoil the numbers, the shape or the type of one array."""
        path = self._file(folder, '*.npz')
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        name = list(arrays)[self._rng.integers(0, len(arrays))]
        array = arrays[name]
        kind = self._rng.integers(0, 5)
        if kind == 0 and array.size and array.dtype.kind == 'f':
            array = array.copy()
            array.flat[self._rng.integers(0, array.size)] = NUMBERS[self._rng.integers(0, 8)]
        elif kind == 1:
            array = array[..., :-1] if array.ndim else array[None]
        elif kind == 2:
            array = array.astype('U8')
        elif kind == 3:
            array = np.concatenate([array, array]) if array.ndim else array
        elif array.size and array.dtype.kind in 'iu':
            array = np.full_like(array, np.iinfo(array.dtype).max)
        else:
            del arrays[name]
            path.write_bytes(_npz_bytes(**arrays))
            return f'{path.name} lacks {name}'
        path.write_bytes(_npz_bytes(**arrays | {name: array}))
        return f'{name} of {path.name} spoilt'

    def _pickle(self, folder: Path) -> str:
        """Hide an object in an array: whoever unpickles it runs code."""
        path = self._file(folder, '*.npz')
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        name = list(arrays)[self._rng.integers(0, len(arrays))]
        trap = np.array([_Trap(self._outside)], dtype='O')
        path.write_bytes(_npz_bytes(**arrays | {name: trap}))
        return f'{name} of {path.name} is a pickle'

    def _unpacks_to_much(self, folder: Path) -> str:
        path = self._file(folder, '*.npz')
        path.write_bytes(self._bomb)
        return f'{path.name} unpacks to {_BOMB_BYTES >> 20} MiB'

    def _claims_much(self, folder: Path) -> str:
        """Write arrays whose headers promise far more than there is."""
        path = self._file(folder, '*.npz')
        with np.load(path) as archive:
            names = archive.files
        with zipfile.ZipFile(path, 'w') as file:
            for name in names:
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {'descr': '<f8', 'fortran_order': False, 'shape': (2**40, 4, 4)}
                )
                file.writestr(f'{name}.npy', header.getvalue() + b'\0' * 128)
        return f'{path.name} claims 2^40 rows'

    # The manifest.

    def _manifest_value(self, folder: Path) -> str:
        path, content = self._manifest(folder)
        group, key = self._key(content)
        group[key] = VALUES[self._rng.integers(0, len(VALUES))]
        path.write_text(yaml.safe_dump(content))
        return f'{key} in the manifest is {str(group[key])[:20]!r}'

    def _manifest_key(self, folder: Path) -> str:
        path, content = self._manifest(folder)
        group, key = self._key(content)
        del group[key]
        path.write_text(yaml.safe_dump(content))
        return f'the manifest lacks {key}'

    def _manifest_bomb(self, folder: Path) -> str:
        path = folder / 'manifest.yaml'
        lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x, x]']
        lines += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 10)}]' for n in range(1, 9)]
        path.write_text('\n'.join(lines))
        return 'a manifest that doubles and doubles'

    def _manifest(self, folder: Path) -> tuple[Path, dict]:
        path = folder / 'manifest.yaml'
        return path, yaml.safe_load(path.read_text())

    def _key(self, content: dict) -> tuple[dict, str]:
        group = content
        while True:
            key = list(group)[self._rng.integers(0, len(group))]
            if not isinstance(group[key], dict) or not group[key]:
                return group, key
            group = group[key]

    # The rest.

    def _ply_count(self, folder: Path) -> str:
        path = self._file(folder, '*.ply')
        head, _, body = path.read_bytes().partition(b'element vertex ')
        count, _, rest = body.partition(b'\n')
        path.write_bytes(head + b'element vertex 9' + count + b'99999999\n' + rest)
        return f'{path.name} claims ever so many points'

    def _tum_line(self, folder: Path) -> str:
        path = self._file(folder, '*.tum')
        lines = path.read_text().splitlines()
        at = int(self._rng.integers(0, len(lines)))
        wrong = ('nan ' * 8, '1 2 3', 'x', '0 ' * 8, '1e999 ' * 8)
        lines[at] = wrong[self._rng.integers(0, len(wrong))]
        path.write_text('\n'.join(lines))
        return f'line {at} of {path.name} spoilt'

    def _image(self, folder: Path) -> str:
        images = sorted((folder / 'keyframes').glob('*'))
        path = images[self._rng.integers(0, len(images))]
        data = (b'', b'no image', png_that_claims(100_000), png_that_claims(2**31 - 1))
        path.write_bytes(data[self._rng.integers(0, len(data))])
        return f'{path.name} is no image'


class _Trap:
    """Writes to a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Path, str]]:
        return Path.write_text, (self._path, 'sprung')


def _npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
