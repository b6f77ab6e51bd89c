"""Clips of a user's own posed recordings, mixed with procedural ones.

A recording is a folder with images, true poses (``groundtruth.txt``, or as its layout has them),
a calibration and, if measured, ``depth/`` (16-bit PNG, millimetres, named like its image). The end
of each recording is held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from ...core.datatypes import Intrinsics
from ...core.errors import SourceError
from ...evaluation.depth_errors import read_depth
from ...evaluation.trajectory_errors import match_stamps
from ...input.camera_model import Rectifier
from ...input.folder_source import FolderSource
from ...input.image_decoding import decode_eight_bit
from ...input.network_input import fov_of
from .cached_clips import CachedClips
from .clips import camera_numbers, camera_rays, Clips
from .procedural import draw_frames
from .schedule import plan_step, StepPlan
from .training_settings import image_sizes, TrainingSettings
from .training_worlds import Split

#: Share of a recording, at its end, that is kept for validation.
_HELD_OUT = 0.15
#: Images with a pose that a recording needs.
LEAST_FRAMES = 16
_TOLERANCE_S = 0.02


class Recording:
    """The images, poses and calibration of one folder.

    :ivar paths: images with a pose; ``T_world_camera``: (F, 4, 4).
    :raises SourceError: one of them is missing, or too few images have a pose.
    """

    def __init__(self, folder: Path) -> None:
        source = FolderSource(folder)
        if source.camera is None:
            raise SourceError(f'{folder} has no camera.yaml: to learn from it, calibrate it')
        found = source.truth()
        if found is None:
            raise SourceError(
                f'{folder} has no groundtruth.txt: to learn from it without truth, name it with '
                '--video'
            )
        truth, _ = found
        stamps = np.array([stamp for stamp, _ in source.entries])
        own, other = match_stamps(stamps, truth.stamps_ns, _TOLERANCE_S)
        if len(own) < LEAST_FRAMES:
            raise SourceError(
                f'{folder}: {len(own)} images have a pose within {_TOLERANCE_S} s, '
                f'{LEAST_FRAMES} are needed'
            )
        self.paths = [source.entries[i][1] for i in own]
        self.T_world_camera = truth.T_world_camera[other]
        self._depth, self._depth_unit_m = folder / 'depth', source.depth_unit_m
        first = decode_eight_bit(self.paths[0].read_bytes())
        self._camera = source.camera.scaled_to(first.shape[1], first.shape[0])
        self._rectifier = Rectifier(self._camera) if self._camera.is_distorted else None

    @property
    def held_out_from(self) -> int:
        """Return the first frame that is kept for validation."""
        return int(len(self.paths) * (1 - _HELD_OUT))

    @property
    def aspect(self) -> float:
        """Return width over height of the images."""
        return self._camera.width / self._camera.height

    def image(self, frame: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return (h, w, 3) uint8 and depth (h, w) float32 metres, 0 where unknown.

        :raises SourceError: the image or its depth cannot be read.
        """
        path = self.paths[frame]
        image = decode_eight_bit(path.read_bytes())
        depth = np.zeros(image.shape[:2], np.float32)
        file = self._depth / f'{path.stem}.png'
        if self._rectifier is not None:
            # Depth of distorted images is not used: it is not rectified.
            image = self._rectifier.rectify(image)
        elif file.is_file():
            depth = read_depth(file, self._depth_unit_m)
        crop = middle_part(image.shape[1], image.shape[0], size)
        part = image[crop[1] : crop[1] + crop[3], crop[0] : crop[0] + crop[2]]
        resized = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        return resized, _nearest(depth, image, crop, size)

    def intrinsics(self, size: tuple[int, int]) -> Intrinsics:
        """Return the intrinsics of the images that :meth:`image` returns."""
        K = self._camera.intrinsics if self._rectifier is None else self._rectifier.intrinsics
        return K.cropped(*middle_part(K.width, K.height, size)).resized(*size)


def nearest_size(sizes: Sequence[tuple[int, int]], aspect: float) -> tuple[int, int]:
    """Return the (width, height) whose aspect is nearest to ``aspect``, width over height."""
    return min(sizes, key=lambda s: abs(np.log(s[0] / s[1] / aspect)))


def middle_part(width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return x, y, width and height of the largest centred crop with the aspect of ``size``."""
    w = min(width, round(height * size[0] / size[1]))
    h = min(height, round(width * size[1] / size[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _nearest(
    depth: np.ndarray, image: np.ndarray, crop: tuple[int, int, int, int], size: tuple[int, int]
) -> np.ndarray:
    """Return depth at the centres of the resized pixels: averaging would mix near and far."""
    x = (crop[0] + (np.arange(size[0]) + 0.5) * crop[2] / size[0]) / image.shape[1]
    y = (crop[1] + (np.arange(size[1]) + 0.5) * crop[3] / size[1]) / image.shape[0]
    rows, columns = (y * depth.shape[0]).astype(int), (x * depth.shape[1]).astype(int)
    return depth[rows[:, None], columns]


class RecordedClips:
    """Clips of recordings in a share of the steps, those of procedural worlds in the others.

    :raises SourceError: one of the folders cannot be used.
    """

    def __init__(
        self, settings: TrainingSettings, folders: list[Path], worlds: CachedClips,
        device: torch.device, shard: int = 0,
    ) -> None:  # fmt: skip
        self._settings, self._worlds = settings, worlds
        self._device, self._shard = device, shard
        self._recordings = [Recording(folder) for folder in folders]

    def training(self, step: int) -> tuple[StepPlan, Clips]:
        """Return the clips of a step."""
        seed = self._settings.seed
        if np.random.default_rng((seed, step, 60)).uniform() >= self._settings.data.recorded:
            return self._worlds.training(step)
        chosen = np.random.default_rng((seed, step, 61)).integers(len(self._recordings))
        recording = self._recordings[int(chosen)]
        plan = self._fitted(plan_step(self._settings, step), recording)
        parts = []
        for k in range(plan.clips):
            rng = np.random.default_rng((seed, step, self._shard, k, 62))
            frames = draw_frames(rng, recording.held_out_from, plan.views)
            parts.append(self._clip(recording, frames, plan))
        return plan, Clips.joined(parts)

    def validation(self, split: Split, clips: int) -> list[Clips]:
        """Return clips of the held-out ends, as the split of held-out seeds."""
        if split is not Split.HELD_OUT_SEEDS:
            return []
        views = self._settings.data.clip_frames
        out = []
        for number in range(clips):
            recording = self._recordings[number % len(self._recordings)]
            plan = self._fitted(StepPlan(1, views, 14, 14, True), recording)
            rng = np.random.default_rng((self._settings.seed, number, 63))
            first = recording.held_out_from
            frames = first + draw_frames(rng, len(recording.paths) - first, views, onward=True)
            out.append(self._clip(recording, frames, plan))
        return out

    def _fitted(self, plan: StepPlan, recording: Recording) -> StepPlan:
        """Return the plan with the size whose aspect is nearest to the recording's."""
        sizes = image_sizes(self._settings.joint.sizes)
        width, height = nearest_size(sizes, recording.aspect)
        return replace(plan, width=width, height=height)

    def _clip(self, recording: Recording, frames: np.ndarray, plan: StepPlan) -> Clips:
        size = (plan.width, plan.height)
        loaded = [recording.image(int(f), size) for f in frames]
        images = np.stack([image for image, _ in loaded]).transpose(0, 3, 1, 2)
        depth = torch.from_numpy(np.stack([d for _, d in loaded])).to(self._device)
        intrinsics = recording.intrinsics(size)
        T = torch.from_numpy(recording.T_world_camera[frames])
        T = (torch.linalg.inv(T[:1]) @ T).to(self._device)
        return Clips(
            images=torch.from_numpy(np.ascontiguousarray(images)).to(self._device)[None],
            depth=depth[None],
            rays=camera_rays(camera_numbers(intrinsics, self._device), plan.height, plan.width),
            T_world_camera=T.float()[None],
            fov=torch.tensor([fov_of(intrinsics)], dtype=torch.float32, device=self._device),
            moving=torch.zeros_like(depth, dtype=torch.bool)[None],
        )
