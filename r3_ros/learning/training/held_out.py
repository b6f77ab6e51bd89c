"""Sequences through worlds that no training uses, with exact ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ...core.trajectory_file import NANOSECONDS, PoseList
from ...evaluation.posed_sequences import PosedSequence
from ...input.camera_model import CameraModel
from ...input.source import RawFrame, Source
from .procedural import draw_frames, draw_intrinsics, render_clip
from .training_settings import TrainingSettings
from .training_worlds import make_training_world, RATE_HZ, Split

#: The size of images from a camera; predictors resize them.
_SIZE = (480, 360)
#: Surfaces are finer than in training, where images are small.
_COARSENESS = 1.5
GROUPS = {Split.HELD_OUT_SEEDS: 'held-out seeds', Split.HELD_OUT_KINDS: 'held-out kinds'}


def held_out_stream(
    settings: TrainingSettings, split: Split, number: int, frames: int
) -> PosedSequence:
    """Render the sequence of a number; worlds, paths, cameras and degradation as in training.

    :param settings: their ``seed`` decides the worlds, their ``data`` the distribution.
    :raises ConfigError: no path fits into any of the worlds tried.
    """
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    path_frames = max(settings.data.path_frames, frames)
    data = replace(settings.data, coarseness=_COARSENESS, path_frames=path_frames)
    place = make_training_world(data, settings.seed, split, number, device)
    rng = np.random.default_rng((settings.seed, int(split), number, 53))
    chosen = draw_frames(rng, len(place.path.time_s), frames, onward=True)
    K = draw_intrinsics(rng, *_SIZE)
    clip = render_clip(place, rng, chosen, K, data.effects)
    # Some sequences follow their path backwards; stamps increase all the same.
    seconds = np.abs(chosen - chosen[0]) / RATE_HZ
    stamps_ns = np.round(seconds * NANOSECONDS).astype(np.int64)
    stamps = stamps_ns.tolist()
    name = f'{GROUPS[split]} {number} ({place.world.kind}, {place.style})'
    camera = CameraModel(K.width, K.height, K.K, 'plumb_bob', ())
    images = clip.images[0].permute(0, 2, 3, 1).cpu().numpy()
    depths = clip.depth[0].cpu().numpy()
    return PosedSequence(
        name,
        GROUPS[split],
        truth=PoseList(stamps_ns, place.path.T_world_camera[chosen]),
        open=lambda: _RenderedSource(name, camera, stamps, images),
        depth_stamps=stamps,
        depth=lambda stamp_ns: depths[stamps.index(stamp_ns)],
    )


class _RenderedSource(Source):
    def __init__(
        self, name: str, camera: CameraModel, stamps_ns: list[int], images: np.ndarray
    ) -> None:
        super().__init__(name, camera, len(images))
        self._frames = zip(stamps_ns, images, strict=True)

    def _read(self) -> Iterator[RawFrame]:
        return (RawFrame(stamp_ns, image) for stamp_ns, image in self._frames)
