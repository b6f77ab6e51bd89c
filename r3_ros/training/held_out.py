"""Streams through worlds that no training learns from, with exact truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..evaluation.posed_sequences import RenderedSequence
from ..input.camera_model import CameraModel
from ..trajectory_file import NANOSECONDS, PoseList
from .config import TrainingSettings
from .procedural import draw_frames, draw_intrinsics, render_clip
from .scenes import make_scene, RATE_HZ, Split

#: Pictures as a camera delivers them; a network makes its own, smaller ones of these.
_SIZE = (480, 360)
#: Surfaces are finer than in training, where pictures are small.
_COARSENESS = 1.5
GROUPS = {Split.HELD_OUT_SEEDS: 'held-out seeds', Split.HELD_OUT_KINDS: 'held-out kinds'}


def held_out_stream(
    settings: TrainingSettings, split: Split, number: int, frames: int, device: torch.device
) -> RenderedSequence:
    """Render the stream of a number: kinds, paths, cameras and their troubles as in training.

    :param settings: their ``seed`` decides the worlds, their ``data`` what they are drawn from.
    :raises ConfigError: no path fits into any of the worlds tried.
    """
    path_frames = max(settings.data.path_frames, frames)
    data = replace(settings.data, coarseness=_COARSENESS, path_frames=path_frames)
    scene = make_scene(data, settings.seed, split, number, device)
    rng = np.random.default_rng((settings.seed, int(split), number, 53))
    chosen = draw_frames(rng, len(scene.path.time_s), frames, onward=True)
    K = draw_intrinsics(rng, *_SIZE)
    clip = render_clip(scene, rng, chosen, K, settings.data)
    # Some streams go through their path backwards; time does not.
    seconds = np.abs(chosen - chosen[0]) / RATE_HZ
    stamps_ns = np.round(seconds * NANOSECONDS).astype(np.int64)
    return RenderedSequence(
        name=f'{GROUPS[split]} {number} ({scene.world.kind}, {scene.style})',
        group=GROUPS[split],
        truth=PoseList(stamps_ns, scene.path.T_world_camera[chosen]),
        camera=CameraModel(K.width, K.height, K.K, 'plumb_bob', ()),
        images=clip.images[0].permute(0, 2, 3, 1).cpu().numpy(),
        depths=clip.depth[0].cpu().numpy(),
    )
