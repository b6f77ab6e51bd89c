"""Clips of procedural worlds, rendered once into a file and read by memory map.

A folder holds the clips of one split and image size::

    settings.json   everything the clips depend on
    clips.bin       the clips as records of fixed size, those of world n after those of world n - 1
    worlds.bin      a byte per world, 1 once all its clips are in the file

A world is a function of its number, so several processes may render into one folder, and an
interrupted rendering continues: each locks the byte of the world it works on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import fcntl
import json
import math
import os
from pathlib import Path
import time
from typing import BinaryIO

import numpy as np
import torch

from ...core.atomic_files import atomic_write
from ...core.errors import ConfigError, OutputError
from .clips import Clips
from .procedural import draw_intrinsics, render_clip
from .progress import duration_text
from .training_settings import DataSettings
from .training_worlds import make_training_world, Split, TrainingWorld

#: Settings of the data that the clips depend on; more clips may be added to a folder.
_RENDERED = (
    'clips_per_world', 'clip_frames', 'least_stride', 'most_stride', 'path_frames', 'coarseness',
    'variety', 'moving', 'effects',
)  # fmt: skip
#: Farthest depth that float16 holds, metres; beyond it depth counts as unknown.
_FARTHEST_M = 6e4
#: Share of the clips that run backwards along the path.
_BACKWARDS = 0.3
#: Seconds between looks at worlds that other processes render.
_POLL_S = 1.0


class ClipCache:
    """The clips of one split at one size.

    :param clips: how many clips there are in all; a larger number than before adds worlds.
    :raises ConfigError: the folder holds clips of other settings.
    :raises OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        data: DataSettings,
        seed: int,
        split: Split,
        size: tuple[int, int],
        clips: int,
    ) -> None:
        self._data, self._seed, self._split, self._size = data, seed, split, size
        self._per_world = data.clips_per_world if split is Split.TRAINING else 4
        self._worlds = math.ceil(clips / self._per_world)
        self.folder = folder
        width, height = size
        frames = data.clip_frames
        self.record = np.dtype(
            [
                ('images', 'u1', (frames, height, width, 3)),
                ('depth', 'f2', (frames, height, width)),
                ('moving', '?', (frames, height, width)),
                ('T_world_camera', 'f4', (frames, 4, 4)),
                ('camera', 'f4', (4,)),  # fx, fy, cx, cy
            ]
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._check_settings()
            for name, count in (('clips.bin', len(self) * self.record.itemsize),
                                ('worlds.bin', self._worlds)):  # fmt: skip
                with open(folder / name, 'ab') as file:
                    if file.tell() < count:
                        file.truncate(count)
        except OSError as error:
            raise OutputError(f'cannot write the cache of clips {folder}: {error}') from error
        shape = (len(self),)
        self._clips = np.memmap(folder / 'clips.bin', self.record, 'r+', shape=shape)
        self._rendered = np.memmap(folder / 'worlds.bin', np.uint8, 'r+', shape=(self._worlds,))

    def __len__(self) -> int:
        return self._worlds * self._per_world

    @property
    def frames(self) -> int:
        """Number of frames of a clip."""
        return self._data.clip_frames

    @property
    def missing(self) -> int:
        """Number of worlds that are not rendered yet."""
        return int(self._worlds - np.count_nonzero(self._rendered))

    def read(self, clips: np.ndarray, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return the fields of some frames (B, S) of clips (B,); ``camera`` is (B, 4)."""
        records = self._clips[clips]
        row = np.arange(len(clips))[:, None]
        fields = {name: records[name][row, frames] for name in self.record.names or ()
                  if name != 'camera'}  # fmt: skip
        return {**fields, 'camera': records['camera']}

    def render(self, device: torch.device, log_line: Callable[[str], None] = print) -> None:
        """Render what is missing; worlds that other processes render are waited for.

        :raises ConfigError: a world has no room for a path.
        """
        start, done, reported = time.monotonic(), 0, -math.inf
        if not self.missing:
            return
        size_gb = len(self) * self.record.itemsize / 1e9
        log_line(
            f'{self.folder}: {self._worlds} worlds, {len(self)} clips of {self._data.clip_frames} '
            f'frames, {size_gb:.2f} GB; {self.missing} worlds to be rendered'
        )
        with open(self.folder / 'worlds.bin', 'r+b') as file:
            while self.missing:
                before = done
                for number in np.flatnonzero(self._rendered == 0):
                    with _claimed(file, int(number)) as mine:
                        if mine and not self._rendered[number]:
                            self._render_world(int(number), device)
                            done += 1
                    elapsed = time.monotonic() - start
                    if elapsed - reported > 60 and done:
                        reported = elapsed
                        left = duration_text(elapsed / done * self.missing)
                        log_line(f'{self.missing} worlds to be rendered, about {left}')
                if self.missing and done == before:
                    time.sleep(_POLL_S)

    def _render_world(self, number: int, device: torch.device) -> None:
        place = make_training_world(self._data, self._seed, self._split, number, device)
        rng = np.random.default_rng((self._seed, int(self._split), number, 54))
        width, height = self._size
        first = number * self._per_world
        for k in range(self._per_world):
            K = draw_intrinsics(rng, width, height)
            frames = self._draw_frames(place, rng)
            clip = render_clip(place, rng, frames, K, self._data.effects)
            self._clips[first + k] = _record(clip, (K.fx, K.fy, K.cx, K.cy))
        self._clips.flush()
        self._rendered[number] = 1
        self._rendered.flush()

    def _draw_frames(self, place: TrainingWorld, rng: np.random.Generator) -> np.ndarray:
        """Draw the frames of a clip on the path: a stride, with jitter in training."""
        data, views = self._data, self._data.clip_frames
        length = len(place.path.time_s)
        longest = min(data.most_stride, (length - 1) // max(views - 1, 1))
        low, high = math.log(min(data.least_stride, longest)), math.log(longest)
        stride = round(math.exp(rng.uniform(low, high)))
        start = int(rng.integers(0, length - (views - 1) * stride))
        frames = start + stride * np.arange(views)
        jitter = rng.integers(-(stride // 3), stride // 3 + 1, size=views)
        backwards = rng.uniform() < _BACKWARDS
        if self._split is Split.TRAINING:
            frames = np.clip(frames + jitter, 0, length - 1)
        return frames[::-1].copy() if backwards else frames

    def _check_settings(self) -> None:
        """Write what the clips depend on, or compare with what was written."""
        held_out = self._split is Split.HELD_OUT_KINDS
        settings = {
            'seed': self._seed,
            'split': int(self._split),
            'size': list(self._size),
            'kinds': self._data.held_out_kinds if held_out else self._data.kinds,
            **{name: getattr(self._data, name) for name in _RENDERED},
        }
        path = self.folder / 'settings.json'
        if not path.exists():
            with atomic_write(path) as file:
                file.write(json.dumps(settings, indent=1).encode())
            return
        before = json.loads(path.read_text())
        differ = [
            f'{name} was {before.get(name)!r} and is {value!r}'
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if differ:
            raise ConfigError(
                f'{self.folder} holds clips of other settings: {"; ".join(differ)}. Take the same '
                'ones, or another --cache'
            )


def _record(clip: Clips, camera: tuple[float, ...]) -> tuple[np.ndarray | tuple[float, ...], ...]:
    """Return the fields of a record of one clip."""
    depth = torch.where(clip.depth < _FARTHEST_M, clip.depth, 0.0)
    return (
        clip.images[0].permute(0, 2, 3, 1).cpu().numpy(),
        depth[0].cpu().numpy(),
        clip.moving[0].cpu().numpy(),
        clip.T_world_camera[0].cpu().numpy(),
        camera,
    )


@contextmanager
def _claimed(file: BinaryIO, byte: int) -> Iterator[bool]:
    """Lock a byte against other processes; yields whether it was free.

    The system releases the lock of a process that ends.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte, os.SEEK_SET)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte, os.SEEK_SET)
