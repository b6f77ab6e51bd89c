"""Every setting of a training, once: default, range and what it means.

A file of settings is YAML with the groups below; ``r3 train --list`` prints them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

from ...core.config_file import load_config
from ...core.errors import ConfigError
from ...core.parameter_fields import group, param, parameters, updated
from ...model.variants import CameraOutput, PATCH, VARIANTS
from ..synth.kinds import KINDS

_LARGE = 10**9


@dataclass(frozen=True)
class DataSettings:
    """Clips, drawn and rendered as they are needed."""

    kinds: str = param('room corridor street objects', 'kinds of world to learn from')
    held_out_kinds: str = param('hall', 'kinds of world for validation alone')
    sizes: str = param('168x126 168x98 126x168', 'sizes of the pictures, multiples of 14')
    least_views: int = param(2, 'frames of a clip, at least', 2, 100)
    most_views: int = param(24, 'frames of a clip, at most', 2, 100)
    frames_per_step: int = param(48, 'frames of all clips of a step on one device', 2, _LARGE)
    worlds: int = param(24, 'worlds alive at once on one device', 1, _LARGE)
    world_steps: int = param(240, 'steps after which a world is replaced', 1, _LARGE)
    path_frames: int = param(
        360, 'frames of the path through a world, at 15 per second', 30, 10_000
    )
    coarseness: float = param(3.0, 'size of texels against r3 synth', 1.0, 20.0)
    variety: float = param(0.3, 'share of surfaces with the looks of any kind', 0, 1)
    moving: float = param(0.4, 'share of worlds in which something moves', 0, 1)
    effects: float = param(
        0.5,
        'how often fog, shiny floors, motion blur, rolling shutters, JPEG, strong noise are drawn',
        0,
        1,
    )
    recorded: float = param(0.5, 'r3 finetune: share of steps that are of recordings', 0, 1)
    unlabelled: float = param(
        0.25, 'r3 finetune --video: share of steps that are of videos without truth', 0, 1
    )
    tracks: int = param(64, 'tracked points of a clip', 0, 4096)


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses; 0 leaves one out."""

    depth: float = param(1.0, 'confidence-weighted depth', 0, 1000)
    points: float = param(0.5, 'confidence-weighted points', 0, 1000)
    edges: float = param(0.5, 'steps of log depth between pixels', 0, 1000)
    rotation: float = param(2.0, 'relative rotations with their confidence', 0, 1000)
    translation: float = param(2.0, 'relative translations with theirs', 0, 1000)
    fov: float = param(1.0, 'fields of view', 0, 1000)
    agreement: float = param(0.2, 'tracks and point maps agree', 0, 1000)
    anchored_pose: float = param(0.2, 'poses carry static points home', 0, 1000)
    anchored_points: float = param(0.2, 'points are where held poses say', 0, 1000)
    # Huber's function is steep by 0.05 at most: with 10 these are half of an absolute error.
    unlabelled_agreement: float = param(
        10.0, 'videos without truth: followed points and point maps agree', 0, 1000
    )
    unlabelled_pose: float = param(
        10.0, 'videos without truth: poses carry points to where other frames have them', 0, 1000
    )
    alpha_depth: float = param(0.2, 'reward of confidence in depth and points', 0, 100)
    alpha_rotation: float = param(0.05, 'reward of confidence in rotation', 0, 100)
    alpha_translation: float = param(0.05, 'reward of confidence in translation', 0, 100)
    own_scale: bool = param(
        True, "a prediction is divided by its own scale; else by the truth's (metric data)"
    )


@dataclass(frozen=True)
class OptimiserSettings:
    """Steps, their size and what is kept of them."""

    steps: int = param(60_000, 'optimiser steps in all', 1, _LARGE)
    learning_rate: float = param(5e-4, 'at its highest', 0, 1)
    final_share: float = param(0.01, 'of the learning rate at the end', 0, 1)
    warm_up: int = param(1000, 'steps until the learning rate is at its highest', 0, _LARGE)
    weight_decay: float = param(0.05, 'of AdamW, on matrices alone', 0, 10)
    clip: float = param(1.0, 'largest norm of the gradient', 1e-6, 1e6)
    ema: float = param(0.999, 'share of the average that a step keeps', 0, 1)
    causal: float = param(0.5, 'share of steps with causal clips, the rest full context', 0, 1)
    precision: str = param(
        'auto', 'auto: bf16 on a GPU that has it, else fp32', choices=('auto', 'fp32', 'bf16')
    )


@dataclass(frozen=True)
class ReportSettings:
    """What is told and kept while training."""

    log_every: int = param(50, 'steps between rows of the progress table', 1, _LARGE)
    validate_every: int = param(2000, 'steps between validations; 0: never', 0, _LARGE)
    save_every: int = param(500, 'steps between checkpoints', 1, _LARGE)
    validation_clips: int = param(32, 'clips of each validation set', 1, _LARGE)
    validation_views: int = param(8, 'frames of a validation clip', 3, 100)


@dataclass(frozen=True)
class TrainingSettings:
    """All settings of a training."""

    seed: int = param(0, 'decides the first weights and every clip', 0, 2**31 - 1)
    variant: str = param('r3-tiny', 'the network that is trained')
    data: DataSettings = group(DataSettings)
    loss: LossSettings = group(LossSettings)
    optimiser: OptimiserSettings = group(OptimiserSettings)
    report: ReportSettings = group(ReportSettings)

    def validate(self) -> None:
        """Check every value and how they fit together.

        :raises ConfigError: naming the setting, its value and what is allowed.
        """
        for parameter in parameters(self):
            parameter.check(parameter.value)
        known = [name for name, v in VARIANTS.items() if v.camera is CameraOutput.PAIRS]
        if self.variant not in known:
            raise ConfigError(f"parameter 'variant' is {self.variant!r}, allowed: {known}")
        for name in ('kinds', 'held_out_kinds'):
            chosen = getattr(self.data, name).split()
            wrong = [kind for kind in chosen if kind not in KINDS]
            if wrong or not chosen:
                raise ConfigError(
                    f"parameter 'data.{name}' is {getattr(self.data, name)!r}: give one or more "
                    f'of {", ".join(KINDS)}, with spaces between'
                )
        shared = set(self.data.kinds.split()) & set(self.data.held_out_kinds.split())
        if shared:
            raise ConfigError(
                f"{', '.join(sorted(shared))} is in 'data.kinds' and in 'data.held_out_kinds': "
                'what is learned from proves nothing in validation'
            )
        if self.data.least_views > self.data.most_views:
            raise ConfigError(
                f"parameter 'data.least_views' is {self.data.least_views}, above "
                f"'data.most_views' ({self.data.most_views})"
            )
        if self.data.frames_per_step < self.data.most_views:
            raise ConfigError(
                f"parameter 'data.frames_per_step' is {self.data.frames_per_step}, below "
                f"'data.most_views' ({self.data.most_views}): a step takes one clip at least"
            )
        if self.data.unlabelled >= 1:
            raise ConfigError(
                "parameter 'data.unlabelled' is 1: without any labelled steps nothing holds the "
                'scale of the answers; take less, as 0.25'
            )
        picture_sizes(self.data.sizes)


def picture_sizes(text: str) -> list[tuple[int, int]]:
    """Return the (width, height) of every size in a text like ``168x126 126x168``.

    :raises ConfigError: no such size, or one that is no multiple of a patch.
    """
    sizes = []
    for word in text.split():
        match = re.fullmatch(r'(\d+)x(\d+)', word)
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if min(size) < 2 * PATCH or any(side % PATCH or side > 1008 for side in size):
            raise ConfigError(
                f"parameter 'data.sizes' has {word!r}: give WIDTHxHEIGHT, multiples of {PATCH} "
                f'from {2 * PATCH} to 1008'
            )
        sizes.append(size)
    if not sizes:
        raise ConfigError("parameter 'data.sizes' is empty: give one or more, as 168x126")
    return sizes


def load_settings(path: Path | str, changes: dict[str, Any] | None = None) -> TrainingSettings:
    """Read a file of settings, and change some by their dotted names.

    :raises ConfigError: unreadable, or a setting that is unknown or wrong.
    """
    return updated(load_config(path, TrainingSettings()), changes or {})
