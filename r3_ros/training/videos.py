"""Clips of videos without truth, in a share of the steps of a training on labelled clips.

A video is read once, when it is opened: its points are followed at its own rate and a size where
that is exact, and pictures are kept at the size that the network sees, in a temporary file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import math
from pathlib import Path
import tempfile
from typing import BinaryIO

import cv2
import numpy as np
import torch

from ..errors import ConfigError, SourceError
from ..input.camera_model import Rectifier
from ..input.network_input import fov_of
from ..input.open_source import open_source
from ..input.source import Source
from .clips import Clips, UnlabelledClips
from .config import picture_sizes, TrainingSettings
from .procedural import draw_frames, plan_step, StepPlan
from .recordings import middle_part, nearest_size
from .scenes import RATE_HZ, Split
from .trainer import ClipSource, Say
from .video_tracks import common_points, Follower, LEAST_POINTS, Sighting, standing_still

_LEAST_FRAMES = 16
#: Pictures are followed at up to so many times the size that the network sees.
_FOLLOWED_SIZE = 3.0
#: A frame is kept this share of the time between frames of worlds after the one before.
_EARLIEST = 0.9


class Video:
    """One video or folder of pictures, read and followed.

    :ivar size: (width, height) of the pictures that are kept.
    :ivar fov: (2,) radians, vertical then horizontal; 0 where the camera is not calibrated.
    :ivar about: lines for people: what was read, and what was wrong with it.
    """

    def __init__(self, path: Path, sizes: Sequence[tuple[int, int]]) -> None:
        """Read all of it.

        :param sizes: (width, height) that may be learned at: the one with the nearest aspect is
            taken, and the pictures are cut to it.
        :raises SourceError: it cannot be read, is too short, changes its size or shows nothing
            that can be followed.
        """
        self._sightings: list[Sighting] = []
        with open_source(path) as source, tempfile.TemporaryFile(prefix='r3_video_') as file:
            self._read(source, sizes, file)
            points = self._points(path)
            camera = f'{math.degrees(self.fov[1]):.0f} degrees' if self.fov.all() else 'unknown'
            self.about = [
                f'{source.name}: {len(self._sightings)} frames of {self.size[0]}x{self.size[1]}, '
                f'{points:.0f} points in each, field of view {camera}',
                *source.warnings,
            ]
            # The file goes when the map goes.
            width, height = self.size
            shape = (len(self._sightings), height, width, 3)
            self._pictures = np.memmap(file, np.uint8, 'r', shape=shape)

    def __len__(self) -> int:
        """Return how many frames were kept."""
        return len(self._sightings)

    def _points(self, path: Path) -> float:
        """Return how many points a picture shows on average.

        :raises SourceError: there is too little of anything.
        """
        if len(self._sightings) < _LEAST_FRAMES:
            raise SourceError(
                f'{path}: {len(self._sightings)} pictures at {RATE_HZ:g} a second, '
                f'{_LEAST_FRAMES} are needed'
            )
        points = float(np.mean([len(seen.number) for seen in self._sightings]))
        if points < LEAST_POINTS:
            raise SourceError(
                f'{path}: {points:.0f} points of a picture can be followed, {LEAST_POINTS} are '
                'needed: it is too dark, too blurred or too empty'
            )
        return points

    def _read(
        self, source: Source, sizes: Sequence[tuple[int, int]], file: BinaryIO
    ) -> None:  # fmt: skip
        follower, first, last_ns = Follower(), None, 0
        for frame in source:
            if first is None:
                first = frame.image.shape
                self._prepare(source, first, sizes)
            elif frame.image.shape != first:
                raise SourceError(
                    f'{source.name}: pictures of {first[1]}x{first[0]} and of '
                    f'{frame.image.shape[1]}x{frame.image.shape[0]}: take one size a video'
                )
            image = self._rectifier.rectify(frame.image) if self._rectifier else frame.image
            x, y, w, h = self._part
            part = image[y : y + h, x : x + w]
            gray = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
            seen = follower.add(cv2.resize(gray, self._followed, interpolation=cv2.INTER_AREA))
            if self._sightings and frame.stamp_ns - last_ns < _EARLIEST * 1e9 / RATE_HZ:
                continue
            last_ns = frame.stamp_ns
            self._sightings.append(seen)
            picture = cv2.resize(part, self.size, interpolation=cv2.INTER_AREA)
            try:
                file.write(picture.tobytes())
                file.flush()
            except OSError as error:
                raise SourceError(
                    f'the pictures of {source.name} do not fit into {tempfile.gettempdir()} '
                    f'({error.strerror}): let TMPDIR name a folder with room'
                ) from error

    def _prepare(
        self, source: Source, shape: tuple[int, ...], sizes: Sequence[tuple[int, int]]
    ) -> None:
        """Decide on sizes, and find the camera."""
        height, width = shape[:2]
        self.size = nearest_size(sizes, width / height)
        self._part = middle_part(width, height, self.size)
        share = np.clip(self._part[2] / self.size[0], 1.0, _FOLLOWED_SIZE)
        self._followed = (round(self.size[0] * share), round(self.size[1] * share))
        self._rectifier, self.fov = None, np.zeros(2, np.float32)
        if source.camera is not None:
            self._rectifier = Rectifier(source.camera.scaled_to(width, height))
            K = self._rectifier.intrinsics.cropped(*self._part).resized(*self.size)
            self.fov = np.array(fov_of(K), np.float32)

    def pictures(self, frames: np.ndarray) -> np.ndarray:
        """Return (S, h, w, 3) uint8 RGB."""
        return self._pictures[frames]

    def tracks(
        self, frames: np.ndarray, count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return points that stand still and that at least two of the frames show.

        :param frames: (S,) in any order.
        :param count: how many are drawn; where there are fewer, the rest are seen nowhere.
        :returns: pixels (S, count, 2) float32 in the pictures as they are kept, and (S, count)
            bool where they are seen.
        """
        order = np.unique(frames)
        pixel, visible = common_points([self._sightings[f] for f in order])
        still = np.flatnonzero(standing_still(pixel, visible))
        chosen = rng.permutation(still)[:count]
        place = np.searchsorted(order, frames)
        share = np.array(self.size, np.float32) / np.array(self._followed, np.float32)
        out = np.zeros((len(frames), count, 2), np.float32)
        seen = np.zeros((len(frames), count), bool)
        out[:, : len(chosen)] = (pixel[place][:, chosen] + 0.5) * share - 0.5
        seen[:, : len(chosen)] = visible[place][:, chosen]
        return out * seen[..., None], seen


class MixedClips:
    """Clips of videos without truth in a share of the steps, labelled ones in the others.

    What step has which clips follows from the seed and the step alone.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        paths: Sequence[Path],
        labelled: ClipSource,
        device: torch.device,
        shard: int = 0,
        say: Say = lambda text: None,
    ) -> None:
        """Read the videos.

        :param labelled: where all other clips come from, and all of validation.
        :raises SourceError: one of the videos cannot be used.
        :raises ConfigError: their share of the steps or the points of a clip are 0.
        """
        if settings.data.unlabelled == 0:
            raise ConfigError(
                "parameter 'data.unlabelled' is 0: nothing would be learned from the videos; "
                'take a share of the steps above 0, or leave them out'
            )
        if settings.data.tracks == 0:
            raise ConfigError("parameter 'data.tracks' is 0: videos teach by points alone")
        self._settings, self._labelled = settings, labelled
        self._device, self._shard = device, shard
        sizes = picture_sizes(settings.data.sizes)
        self._videos = []
        for path in paths:
            say(f'reading {path}')
            video = Video(path, sizes)
            self._videos.append(video)
            say('\n'.join(video.about))

    def training(self, step: int) -> tuple[StepPlan, Clips | UnlabelledClips]:
        """Return the clips of a step."""
        seed = self._settings.seed
        if np.random.default_rng((seed, step, 70)).uniform() >= self._settings.data.unlabelled:
            return self._labelled.training(step)
        chosen = np.random.default_rng((seed, step, 71)).integers(len(self._videos))
        video = self._videos[int(chosen)]
        plan = plan_step(self._settings, step)
        plan = replace(plan, width=video.size[0], height=video.size[1])
        parts = []
        for k in range(plan.clips):
            rng = np.random.default_rng((seed, step, self._shard, k, 72))
            frames = draw_frames(rng, len(video), plan.views)
            parts.append(self._clip(video, frames, rng))
        return plan, UnlabelledClips.joined(parts)

    def validation(self, split: Split, clips: int, views: int) -> list[Clips]:
        """Return those of the labelled source: without truth nothing can be judged."""
        return self._labelled.validation(split, clips, views)

    def _clip(self, video: Video, frames: np.ndarray, rng: np.random.Generator) -> UnlabelledClips:
        pixel, visible = video.tracks(frames, self._settings.data.tracks, rng)
        images = np.ascontiguousarray(video.pictures(frames).transpose(0, 3, 1, 2))
        return UnlabelledClips(
            *(
                torch.from_numpy(part).to(self._device)[None]
                for part in (images, pixel, visible, video.fov)
            )
        )
