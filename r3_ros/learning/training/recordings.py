"""Clips of a user's own posed recordings, mixed with procedural ones.

A recording is a folder with images, true poses (``groundtruth.txt``, or as its layout has them),
a calibration and, if measured, ``depth/`` (16-bit PNG, millimetres, named like its image). The end
of each recording is held out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...core.datatypes import Intrinsics
from ...core.errors import SourceError
from ...core.resize_geometry import Geometry
from ...core.trajectory_file import NANOSECONDS
from ...evaluation.depth_errors import read_depth
from ...evaluation.trajectory_errors import match_stamps
from ...input.camera_model import Rectifier
from ...input.folder_source import FolderSource
from ...input.image_decoding import decode_eight_bit
from ...input.network_input import fov_of
from ...model.network import PairNetwork
from ...model.r3_predictor import geometry_rule
from .augmentation import augmented
from .cached_clips import CachedClips, largest_size
from .clips import camera_numbers, camera_rays, Clips
from .procedural import draw_frames, LONGEST_STRIDE
from .schedule import plan_step, StepPlan
from .training_settings import StageSettings, TrainingSettings
from .training_worlds import RATE_HZ

#: Share of a recording, at its end, that is kept for validation, and its least number of frames.
_HELD_OUT, _LEAST_HELD_OUT = 0.15, 6
#: Images with a pose that a recording needs.
LEAST_FRAMES = 16
_TOLERANCE_S = 0.02
#: A camera whose positions stay within this, in the unit of the truth, does not move.
_LEAST_MOTION = 0.01


class Recording:
    """The images, poses and calibration of one folder.

    :ivar paths: images with a pose; ``T_world_camera``: (F, 4, 4).
    :raises SourceError: one of them is missing, or too few images have a pose.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            advice = 'name videos and bags with --video' if folder.exists() else 'check the name'
            raise SourceError(f'{folder} is not a folder of images with poses: {advice}')
        source = FolderSource(folder)
        if source.camera is None:
            raise SourceError(
                f'{folder} has no calibration (camera.yaml): calibrate it, or name it with '
                '--video, which estimates poses and focal length'
            )
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
        self.name = source.name
        self.paths = [source.entries[i][1] for i in own]
        self.T_world_camera = truth.T_world_camera[other]
        extent = float(np.ptp(self.T_world_camera[:, :3, 3], axis=0).max())
        if extent < _LEAST_MOTION:
            raise SourceError(
                f'{folder}: by its poses the camera moves by {extent:.2g} in all, less than '
                f'{_LEAST_MOTION}: nothing can be learned from a camera that stands still'
            )
        interval_s = float(np.median(np.diff(stamps[own]))) / NANOSECONDS
        self._longest_stride = max(1, round(LONGEST_STRIDE / RATE_HZ / max(interval_s, 1e-3)))
        self._depth, self._depth_unit_m = folder / 'depth', source.depth_unit_m
        first = decode_eight_bit(self.paths[0].read_bytes())
        camera = source.camera.scaled_to(first.shape[1], first.shape[0])
        self._rectifier = Rectifier(camera) if camera.is_distorted else None
        self._intrinsics = self._rectifier.intrinsics if self._rectifier else camera.intrinsics

    @property
    def held_out_from(self) -> int:
        """Return the first frame that is kept for validation."""
        return min(int(len(self.paths) * (1 - _HELD_OUT)), len(self.paths) - _LEAST_HELD_OUT)

    def draw_frames(self, rng: np.random.Generator, views: int) -> np.ndarray:
        """Return (views,) frames for training, at most as far apart in time as those of worlds."""
        return draw_frames(rng, self.held_out_from, views, longest=self._longest_stride)

    def draw_held_out(self, rng: np.random.Generator, views: int) -> np.ndarray:
        """Return (views,) frames for validation, at an even pace."""
        first = self.held_out_from
        length, longest = len(self.paths) - first, self._longest_stride
        return first + draw_frames(rng, length, views, onward=True, longest=longest)

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the images."""
        return self._intrinsics.width, self._intrinsics.height

    @property
    def summary(self) -> str:
        """Return what can be learned from it, as a line."""
        frames = len(self.paths)
        depths = 0 if self._rectifier else sum(self._depth_of(p).is_file() for p in self.paths)
        line = (
            f'{self.name}: {frames} images with a pose, the last {frames - self.held_out_from} '
            f'held out; depth of {depths}'
        )
        ignored = self._rectifier is not None and self._depth.is_dir()
        return f'{line} (not used: the images are distorted)' if ignored else line

    def image(self, frame: int, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        """Return (h, w, 3) uint8 and depth (h, w) float32 metres, 0 where unknown.

        :raises SourceError: the image or its depth cannot be read.
        """
        path = self.paths[frame]
        image = decode_eight_bit(path.read_bytes())
        depth = np.zeros(image.shape[:2], np.float32)
        if self._rectifier is not None:
            # Depth of distorted images is not used: it is not rectified.
            image = self._rectifier.rectify(image)
        elif self._depth_of(path).is_file():
            depth = read_depth(self._depth_of(path), self._depth_unit_m)
        return geometry.apply(image), _nearest(depth, geometry)

    def intrinsics(self, geometry: Geometry) -> Intrinsics:
        """Return the intrinsics of the images that :meth:`image` returns."""
        return geometry.to_network(self._intrinsics)

    def _depth_of(self, image: Path) -> Path:
        return self._depth / f'{image.stem}.png'


def _nearest(depth: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return depth at the centres of the resized pixels: averaging would mix near and far."""
    source_pixels = np.linalg.inv(geometry.pixels_network_source)
    size = (geometry.width, geometry.height), (geometry.source_width, geometry.source_height)
    columns, rows = (
        (
            (source_pixels[k, k] * np.arange(size[0][k]) + source_pixels[k, 2] + 0.5)
            * depth.shape[1 - k]
            / size[1][k]
        ).astype(int)
        for k in (0, 1)
    )
    return depth[rows[:, None], columns]


class RecordedClips:
    """Clips of recordings in a share of the steps, those of procedural worlds in the others.

    Their images have the size that the network gives them when it is used.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        recordings: list[Recording],
        network: PairNetwork,
        worlds: CachedClips,
        device: torch.device,
        shard: int = 0,
    ) -> None:
        self._settings, self._recordings, self._worlds = settings, recordings, worlds
        self._network, self._device, self._shard = network, device, shard

    def training(self, step: int) -> tuple[StepPlan, Clips]:
        """Return the clips of a step."""
        seed = self._settings.seed
        if np.random.default_rng((seed, step, 60)).uniform() >= self._settings.data.recorded:
            return self._worlds.training(step)
        chosen = np.random.default_rng((seed, step, 61)).integers(len(self._recordings))
        recording = self._recordings[int(chosen)]
        plan, stage = plan_step(self._settings, step), self._settings.stage_at(step)
        parts = []
        for k in range(plan.clips):
            rng = np.random.default_rng((seed, step, self._shard, k, 62))
            frames = recording.draw_frames(rng, plan.views)
            parts.append(self._clip(recording, frames, stage.settings))
        _, _, height, width = parts[0].shape
        clips = augmented(Clips.joined(parts), rng)
        return replace(plan, width=width, height=height), clips

    def validation(self, clips: int) -> dict[str, list[Clips]]:
        """Return clips of the held-out end of each recording, and those of worlds."""
        views = self._settings.data.clip_frames
        sets: dict[str, list[Clips]] = {}
        for index, recording in enumerate(self._recordings):
            seed = self._settings.seed, index
            rngs = [np.random.default_rng((*seed, k, 63)) for k in range(clips)]
            name = f'end of {recording.name}'
            sets[name if name not in sets else f'{name} ({index + 1})'] = [
                self._clip(recording, recording.draw_held_out(rng, views), self._settings.joint)
                for rng in rngs
            ]
        if self._settings.data.recorded < 1:
            sets |= self._worlds.validation(clips)
        return sets

    def _clip(self, recording: Recording, frames: np.ndarray, stage: StageSettings) -> Clips:
        geometry = geometry_rule(self._network, max(largest_size(stage.sizes)))(*recording.size)
        loaded = [recording.image(int(f), geometry) for f in frames]
        images = np.stack([image for image, _ in loaded]).transpose(0, 3, 1, 2)
        depth = torch.from_numpy(np.stack([d for _, d in loaded])).to(self._device)
        intrinsics = recording.intrinsics(geometry)
        T = torch.from_numpy(recording.T_world_camera[frames])
        T = (torch.linalg.inv(T[:1]) @ T).to(self._device)
        return Clips(
            images=torch.from_numpy(np.ascontiguousarray(images)).to(self._device)[None],
            depth=depth[None],
            rays=camera_rays(
                camera_numbers(intrinsics, self._device), geometry.height, geometry.width
            ),
            T_world_camera=T.float()[None],
            fov=torch.tensor([fov_of(intrinsics)], dtype=torch.float32, device=self._device),
            moving=torch.zeros_like(depth, dtype=torch.bool)[None],
        )
