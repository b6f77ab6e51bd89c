"""Clips of videos without ground truth, in a share of the steps of a training on labelled clips.

A video is read once, when it is opened: points are tracked at its own rate and at a size that is
large enough for accurate tracking; images are kept at the network's size in a temporary file.
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

from ...core.errors import ConfigError, SourceError
from ...input.camera_model import Rectifier
from ...input.network_input import fov_of
from ...input.open_source import open_source
from ...input.source import Source
from .clips import Clips, UnlabelledClips
from .procedural import draw_frames
from .recordings import middle_part, nearest_size
from .schedule import plan_step, StepPlan
from .trainer import ClipSource, LogLine
from .training_settings import image_sizes, TrainingSettings
from .training_worlds import RATE_HZ, Split
from .video_tracks import (
    common_points,
    FrameObservations,
    LEAST_POINTS,
    PointTracker,
    static_points,
)

_LEAST_FRAMES = 16
#: Images are tracked at up to this multiple of the network's size.
_TRACKED_SIZE = 3.0
#: Least interval of kept frames, as a share of the frame interval of procedural worlds.
_EARLIEST = 0.9


class Video:
    """One video or folder of images, read and tracked.

    :param sizes: (width, height) of training images: the one with the nearest aspect is taken,
        and the images are cropped to it.
    :ivar size: (width, height) of the kept images.
    :ivar fov: (2,) radians, vertical then horizontal; 0 where the camera is not calibrated.
    :ivar about: lines for the user: what was read, and warnings.
    :raises SourceError: it cannot be read, is too short, changes its size or has too few points
        that can be tracked.
    """

    def __init__(self, path: Path, sizes: Sequence[tuple[int, int]]) -> None:
        self._observations: list[FrameObservations] = []
        with open_source(path) as source, tempfile.TemporaryFile(prefix='r3_video_') as file:
            self._read(source, sizes, file)
            points = self._mean_points(path)
            camera = f'{math.degrees(self.fov[1]):.0f} degrees' if self.fov.all() else 'unknown'
            self.about = [
                f'{source.name}: {len(self)} frames of {self.size[0]}x{self.size[1]}, '
                f'{points:.0f} points in each, field of view {camera}',
                *source.warnings,
            ]
            # The file is deleted when the map is released.
            shape = (len(self), self.size[1], self.size[0], 3)
            self._images = np.memmap(file, np.uint8, 'r', shape=shape)

    def __len__(self) -> int:
        return len(self._observations)

    def _mean_points(self, path: Path) -> float:
        """Return how many points a frame shows on average.

        :raises SourceError: there are too few frames or points.
        """
        if len(self) < _LEAST_FRAMES:
            raise SourceError(
                f'{path}: {len(self)} images at {RATE_HZ:g} a second, {_LEAST_FRAMES} are needed'
            )
        points = float(np.mean([len(seen.number) for seen in self._observations]))
        if points < LEAST_POINTS:
            raise SourceError(
                f'{path}: {points:.0f} points of an image can be tracked, {LEAST_POINTS} are '
                'needed: it is too dark, too blurred or too empty'
            )
        return points

    def _read(
        self, source: Source, sizes: Sequence[tuple[int, int]], file: BinaryIO
    ) -> None:  # fmt: skip
        tracker, first, last_ns = PointTracker(), None, 0
        for frame in source:
            if first is None:
                first = frame.image.shape
                self._prepare(source, first, sizes)
            elif frame.image.shape != first:
                raise SourceError(
                    f'{source.name}: images of {first[1]}x{first[0]} and of '
                    f'{frame.image.shape[1]}x{frame.image.shape[0]}: take one size a video'
                )
            image = self._rectifier.rectify(frame.image) if self._rectifier else frame.image
            x, y, w, h = self._part
            part = image[y : y + h, x : x + w]
            gray = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
            seen = tracker.add(cv2.resize(gray, self._tracked, interpolation=cv2.INTER_AREA))
            if self._observations and frame.stamp_ns - last_ns < _EARLIEST * 1e9 / RATE_HZ:
                continue
            last_ns = frame.stamp_ns
            self._observations.append(seen)
            try:
                file.write(cv2.resize(part, self.size, interpolation=cv2.INTER_AREA).tobytes())
                file.flush()
            except OSError as error:
                raise SourceError(
                    f'the images of {source.name} do not fit into {tempfile.gettempdir()} '
                    f'({error.strerror}): let TMPDIR name a folder with room'
                ) from error

    def _prepare(
        self, source: Source, shape: tuple[int, ...], sizes: Sequence[tuple[int, int]]
    ) -> None:
        """Decide on sizes and rectification."""
        height, width = shape[:2]
        self.size = nearest_size(sizes, width / height)
        self._part = middle_part(width, height, self.size)
        share = np.clip(self._part[2] / self.size[0], 1.0, _TRACKED_SIZE)
        self._tracked = (round(self.size[0] * share), round(self.size[1] * share))
        self._rectifier, self.fov = None, np.zeros(2, np.float32)
        if source.camera is not None:
            self._rectifier = Rectifier(source.camera.scaled_to(width, height))
            K = self._rectifier.intrinsics.cropped(*self._part).resized(*self.size)
            self.fov = np.array(fov_of(K), np.float32)

    def images(self, frames: np.ndarray) -> np.ndarray:
        """Return (S, h, w, 3) uint8 RGB."""
        return self._images[frames]

    def tracks(
        self, frames: np.ndarray, count: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return random static points that at least two of the frames show.

        :param frames: (S,) in any order.
        :param count: number of points; if there are fewer, the rest is visible in no frame.
        :returns: pixels (S, count, 2) float32 in the kept images, and (S, count) bool visibility.
        """
        order = np.unique(frames)
        pixel, visible = common_points([self._observations[f] for f in order])
        chosen = rng.permutation(np.flatnonzero(static_points(pixel, visible)))[:count]
        at = np.searchsorted(order, frames)
        share = np.array(self.size, np.float32) / np.array(self._tracked, np.float32)
        out = np.zeros((len(frames), count, 2), np.float32)
        seen = np.zeros((len(frames), count), bool)
        out[:, : len(chosen)] = (pixel[at][:, chosen] + 0.5) * share - 0.5
        seen[:, : len(chosen)] = visible[at][:, chosen]
        return out * seen[..., None], seen


class MixedClips:
    """Clips of videos without ground truth in a share of the steps, labelled ones in the others.

    The choice depends on the seed and the step alone.

    :param labelled: the source of all other clips, and of all validation clips.
    :raises SourceError: one of the videos cannot be used.
    :raises ConfigError: their share of the steps or the number of tracks is 0.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        paths: Sequence[Path],
        labelled: ClipSource,
        device: torch.device,
        shard: int = 0,
        log_line: LogLine = lambda text: None,
    ) -> None:
        if settings.data.unlabelled == 0:
            raise ConfigError(
                "parameter 'data.unlabelled' is 0: nothing would be learned from the videos; "
                'take a share of the steps above 0, or leave them out'
            )
        self._settings, self._labelled = settings, labelled
        self._device, self._shard = device, shard
        self._videos = []
        for path in paths:
            log_line(f'reading {path}')
            self._videos.append(Video(path, image_sizes(settings.joint.sizes)))
            log_line('\n'.join(self._videos[-1].about))

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

    def validation(self, split: Split, clips: int) -> list[Clips]:
        """Return those of the labelled source: validation needs ground truth."""
        return self._labelled.validation(split, clips)

    def _clip(self, video: Video, frames: np.ndarray, rng: np.random.Generator) -> UnlabelledClips:
        pixel, visible = video.tracks(frames, self._settings.data.tracks, rng)
        images = np.ascontiguousarray(video.images(frames).transpose(0, 3, 1, 2))
        parts = (images, pixel, visible, video.fov)
        return UnlabelledClips(*(torch.from_numpy(p).to(self._device)[None] for p in parts))
