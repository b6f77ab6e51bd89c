"""The clips of a training from caches, which are rendered when they are first needed.

What a step gets depends on (seed, step, device) alone, so a training that continues gets the same
clips as one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .augmentation import augmented
from .clip_cache import ClipCache
from .clips import camera_rays, Clips
from .schedule import plan_step, StepPlan
from .training_settings import image_sizes, Stage, TrainingSettings
from .training_worlds import Split

#: Clips that are validated at once.
_BATCH = 8


class CachedClips:
    """Draws clips of procedural worlds.

    :param folder: of the caches, one for each split and size; several trainings may share it.
    :param shard: number of this device.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        folder: Path,
        device: torch.device,
        shard: int = 0,
        log_line: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._settings, self._folder = settings, folder
        self._device, self._shard = device, shard
        self._log_line = log_line
        self._caches: dict[tuple[Split, tuple[int, int]], ClipCache] = {}

    def render(self) -> None:
        """Render all clips of the training and of its validation."""
        for stage in self._settings.stages:
            self._training(stage)
        self.validation(self._settings.report.validation_clips)

    def training(self, step: int) -> tuple[StepPlan, Clips]:
        """Return the clips of a step."""
        plan = plan_step(self._settings, step)
        cache = self._training(self._settings.stage_at(step))
        rng = np.random.default_rng((self._settings.seed, step, self._shard, 51))
        chosen = rng.integers(len(cache), size=plan.clips)
        frames = np.stack([_draw_views(rng, cache, plan.views) for _ in chosen])
        clips = _clips(cache.read(chosen, frames), (plan.width, plan.height), self._device)
        return plan, augmented(clips, rng)

    def validation(self, clips: int) -> dict[str, list[Clips]]:
        """Return batches of clips of both held-out splits, always the same, by name."""
        splits = (Split.HELD_OUT_SEEDS, Split.HELD_OUT_KINDS)
        names = [split.name.lower().replace('_', ' ') for split in splits]
        return {name: self.of_split(s, clips) for name, s in zip(names, splits, strict=True)}

    def of_split(self, split: Split, clips: int) -> list[Clips]:
        """Return batches of clips of a split, always the same."""
        size = largest_size(self._settings.joint.sizes)
        cache = self._cache(split, size, clips)
        views = np.arange(self._settings.data.clip_frames)
        out = []
        for first in range(0, clips, _BATCH):
            chosen = np.arange(first, min(first + _BATCH, clips))
            arrays = cache.read(chosen, np.tile(views, (len(chosen), 1)))
            out.append(_clips(arrays, size, self._device))
        return out

    def _training(self, stage: Stage) -> ClipCache:
        size = largest_size(stage.settings.sizes)
        return self._cache(Split.TRAINING, size, self._settings.data.clips)

    def _cache(self, split: Split, size: tuple[int, int], clips: int) -> ClipCache:
        """Return a complete cache."""
        if (split, size) not in self._caches:
            folder = self._folder / f'{split.name.lower()}_{size[0]}x{size[1]}'
            data, seed = self._settings.data, self._settings.seed
            cache = ClipCache(folder, data, seed, split, size, clips)
            cache.render(self._device, self._log_line)
            self._caches[split, size] = cache
        return self._caches[split, size]


def largest_size(sizes: str) -> tuple[int, int]:
    """Return the width and height of an image from which all sizes can be cut out."""
    widths, heights = zip(*image_sizes(sizes), strict=True)
    return max(widths), max(heights)


def _draw_views(rng: np.random.Generator, cache: ClipCache, views: int) -> np.ndarray:
    """Draw the frames of a clip: forwards, backwards or, of three and more, in any order."""
    frames = np.sort(rng.choice(cache.frames, views, replace=False))
    order = rng.uniform()
    if order < 0.15:
        return rng.permutation(frames)
    return frames[::-1] if order < 0.5 else frames


def _clips(arrays: dict[str, np.ndarray], size: tuple[int, int], device: torch.device) -> Clips:
    """Return the middle of the frames (B, S, ...) of a cache as clips of a size."""
    H, W = arrays['depth'].shape[2:]
    left, top = (W - size[0]) // 2, (H - size[1]) // 2
    rows, columns = slice(top, top + size[1]), slice(left, left + size[0])

    def tensor(name: str) -> Tensor:
        values = arrays[name]
        if values.ndim > 3 and name != 'T_world_camera':
            values = values[:, :, rows, columns]
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    camera = arrays['camera'] - np.array([0, 0, left, top], np.float32)
    T = tensor('T_world_camera')
    fx, fy = camera[:, 0], camera[:, 1]
    fov = np.stack((2 * np.arctan(size[1] / 2 / fy), 2 * np.arctan(size[0] / 2 / fx)), axis=1)
    return Clips(
        images=tensor('images').permute(0, 1, 4, 2, 3),
        depth=tensor('depth').float(),
        rays=camera_rays(torch.from_numpy(camera).to(device), size[1], size[0]),
        T_world_camera=torch.linalg.inv(T[:, :1]) @ T,
        fov=torch.from_numpy(fov).to(device),
        moving=tensor('moving'),
    )
