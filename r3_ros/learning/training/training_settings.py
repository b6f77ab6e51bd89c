"""The settings of a training: defaults, ranges and meanings.

A settings file is YAML with the groups below; ``r3 train --list`` prints all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import re
from typing import Any

from ...core.errors import ConfigError
from ...core.parameter_fields import group, load_config, param, parameters, updated
from ...model.variants import CameraOutput, PATCH, VARIANTS
from ..synth.kinds import KINDS


def _share(default: float, help: str) -> Any:
    return param(default, help, 0, 1)


def _weight(default: float, help: str) -> Any:
    return param(default, help, 0, 1000)


def _count(default: int, help: str, low: int = 1, high: int = 10**9) -> Any:
    return param(default, help, low, high)


@dataclass(frozen=True)
class DataSettings:
    """Clips of procedural worlds, rendered into a cache before the training."""

    kinds: str = param('room corridor street objects', 'kinds of world to learn from')
    held_out_kinds: str = param('hall', 'kinds of world for validation alone')
    clips: int = _count(10_000, 'clips to learn from')
    clips_per_world: int = _count(25, 'clips of one world')
    clip_frames: int = _count(4, 'frames of a clip', low=2, high=100)
    least_stride: int = _count(2, 'frames of the path from one of a clip to the next, at least')
    most_stride: int = _count(12, 'frames of the path from one of a clip to the next, at most')
    path_frames: int = _count(
        360, 'frames of the path through a world, at 15 per second', low=30, high=10_000
    )
    coarseness: float = param(3.0, 'size of texels against r3 synth', low=1.0, high=20.0)
    variety: float = _share(0.3, 'share of surfaces with random materials, whatever the kind')
    moving: float = _share(0.2, 'share of worlds in which something moves')
    effects: float = _share(
        0.2,
        'how often fog, shiny floors, motion blur, rolling shutters, JPEG, strong noise are drawn',
    )
    recorded: float = _share(0.5, 'r3 finetune: share of steps on recordings and videos')


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses; 0 leaves one out."""

    depth: float = _weight(1.0, 'confidence-weighted depth')
    points: float = _weight(0.5, 'confidence-weighted points')
    edges: float = _weight(0.5, 'differences of log depth between pixels')
    rotation: float = _weight(2.0, 'relative rotations with their confidence')
    translation: float = _weight(2.0, 'relative translations with theirs')
    fov: float = _weight(1.0, 'fields of view')
    alpha_depth: float = param(0.2, 'reward of confidence in depth and points', low=0, high=100)
    alpha_rotation: float = param(0.05, 'reward of confidence in rotation', low=0, high=100)
    alpha_translation: float = param(0.05, 'reward of confidence in translation', low=0, high=100)
    match: float = _weight(1.0, 'r3-tiny: matches of cells')
    fine: float = _weight(1.0, 'r3-tiny: refined matches')
    match_confidence: float = _weight(1.0, 'r3-tiny: confidence of matches')
    pair_confidence: float = _weight(0.3, 'r3-tiny: confidence of solved pairs')
    own_camera: float = _share(
        0.5, 'r3-tiny: share of steps in which pairs are solved with the predicted field of view'
    )


@dataclass(frozen=True)
class StageSettings:
    """A stage of a training; the defaults are those of the one on small images."""

    steps: int = _count(50_000, 'optimiser steps of the stage; 0: leave it out', low=0)
    learning_rate: float = _share(1e-3, 'at its highest')
    frames_per_step: int = _count(24, 'frames of all clips of a step on one device', low=2)
    sizes: str = param(
        '112x84 112x84 112x70 112x56',
        'sizes of the images, one drawn for each step, all cut out of images of the largest',
    )


@dataclass(frozen=True)
class Stage:
    """A stage and the step it starts at; ``name`` as in the settings."""

    name: str
    settings: StageSettings
    first: int

    @property
    def end(self) -> int:
        """The first step after the stage."""
        return self.first + self.settings.steps


@dataclass(frozen=True)
class OptimiserSettings:
    """Optimiser and precision."""

    final_share: float = _share(0.01, 'of the learning rate at the end of a stage')
    warm_up: int = _count(100, "steps until a stage's learning rate is at its highest", low=0)
    weight_decay: float = param(0.03, 'of AdamW, on matrices alone', low=0, high=10)
    clip: float = param(1.0, 'largest norm of the gradient', low=1e-6, high=1e6)
    ema: float = _share(0.999, 'decay of the moving average of the weights')
    causal: float = _share(0.5, 'share of steps with causal clips, the rest full context')
    precision: str = param(
        'auto', 'auto: bf16 on a GPU that has it, else fp32', choices=('auto', 'fp32', 'bf16')
    )


@dataclass(frozen=True)
class ReportSettings:
    """Progress reports, validation and checkpoints."""

    log_every: int = _count(50, 'steps between rows of the progress table')
    validate_every: int = _count(2000, 'steps between validations; 0: never', low=0)
    save_every: int = _count(500, 'steps between checkpoints')
    validation_clips: int = _count(64, 'clips of each validation set')


@dataclass(frozen=True)
class TrainingSettings:
    """All settings of a training."""

    seed: int = param(0, 'decides the initial weights and every clip', low=0, high=2**31 - 1)
    variant: str = param('r3-tiny', 'the network that is trained')
    data: DataSettings = group(DataSettings)
    matching: StageSettings = group(
        partial(StageSettings, steps=10_000, learning_rate=2e-3, frames_per_step=32)
    )
    joint: StageSettings = group(StageSettings)
    large: StageSettings = group(
        partial(StageSettings, steps=5_000, learning_rate=5e-4, sizes='168x126')
    )
    loss: LossSettings = group(LossSettings)
    optimiser: OptimiserSettings = group(OptimiserSettings)
    report: ReportSettings = group(ReportSettings)

    def validate(self) -> None:
        """Check every value and how they fit together.

        :raises ConfigError: naming the setting, its value and what is allowed.
        """
        for parameter in parameters(self):
            parameter.check(parameter.value)
        pairs = (CameraOutput.PAIRS, CameraOutput.MATCHES)
        known = [name for name, v in VARIANTS.items() if v.camera in pairs]
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
                'a kind for validation must not be trained on'
            )
        if self.data.least_stride > self.data.most_stride:
            raise ConfigError(
                f"parameter 'data.least_stride' is {self.data.least_stride}, above "
                f"'data.most_stride' ({self.data.most_stride})"
            )
        if not self.stages:
            raise ConfigError('the training has no steps: set joint.steps')
        for stage in self.stages:
            image_sizes(stage.settings.sizes)

    @property
    def stages(self) -> list[Stage]:
        """The stages that have steps, in order; only r3-tiny has one of matching alone."""
        stages: list[Stage] = []
        for name in ('matching', 'joint', 'large'):
            settings = getattr(self, name)
            matches = VARIANTS[self.variant].camera is CameraOutput.MATCHES
            if settings.steps and (name != 'matching' or matches):
                stages.append(Stage(name, settings, stages[-1].end if stages else 0))
        return stages

    def stage_at(self, step: int) -> Stage:
        """Return the stage of a step; after the end, the last one."""
        stages = self.stages
        return next((stage for stage in stages if step < stage.end), stages[-1])


def image_sizes(text: str) -> list[tuple[int, int]]:
    """Return the (width, height) of every size in a string like ``168x126 126x168``.

    :raises ConfigError: empty, malformed, or not a multiple of the patch size.
    """
    sizes = []
    for word in text.split():
        match = re.fullmatch(r'(\d+)x(\d+)', word)
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if min(size) < 2 * PATCH or any(side % PATCH or side > 1008 for side in size):
            raise ConfigError(
                f"parameter 'sizes' has {word!r}: give WIDTHxHEIGHT, multiples of {PATCH} "
                f'from {2 * PATCH} to 1008'
            )
        sizes.append(size)
    if not sizes:
        raise ConfigError("parameter 'sizes' is empty: give one or more, as 168x126")
    return sizes


def load_settings(
    path: Path | str | None, changes: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> TrainingSettings:
    """Read a settings file, and change settings by their dotted names.

    :param path: None: there is no file.
    :param defaults: in the place of those of :class:`TrainingSettings`, by their dotted names.
    :raises ConfigError: unreadable, or a setting that is unknown or wrong.
    """
    settings = updated(TrainingSettings(), defaults or {})
    return updated(load_config(path, settings) if path else settings, changes)
