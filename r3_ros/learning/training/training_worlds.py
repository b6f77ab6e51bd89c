"""Training worlds, each with a camera path and a sensor, drawn by number.

A training world is a function of (seed, split, number), so that a training can continue from any
step.
"""

from __future__ import annotations

from dataclasses import dataclass
import enum

import numpy as np
import torch

from ...core.errors import ConfigError
from ..synth.path import CameraPath, make_path, PATH_STYLES
from ..synth.sensor import Sensor, SensorOptions
from ..synth.world import World
from .training_settings import DataSettings

RATE_HZ = 15.0
_ATTEMPTS = 20


class Split(enum.IntEnum):
    """What a training world is used for. No world seed belongs to two splits."""

    TRAINING = 0
    HELD_OUT_SEEDS = 1
    HELD_OUT_KINDS = 2


@dataclass(frozen=True, eq=False)
class TrainingWorld:
    """A world with a camera path and a sensor; ``style`` is the name of the path's style."""

    world: World
    path: CameraPath
    sensor: Sensor
    style: str


def make_training_world(
    settings: DataSettings, seed: int, split: Split, number: int, device: torch.device
) -> TrainingWorld:
    """Make the training world of a number.

    :raises ConfigError: no path fits into any of the worlds tried.
    """
    kinds = settings.held_out_kinds if split is Split.HELD_OUT_KINDS else settings.kinds
    reason = ''
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng((seed, int(split), number, attempt, 40))
        kind = str(rng.choice(kinds.split()))
        style = str(rng.choice(_styles(kind)))
        world_seed = int(rng.integers(2**60)) * len(Split) + int(split)
        try:
            world = World.generate(
                world_seed,
                kind,
                moving=int(rng.integers(1, 4)) if rng.uniform() < settings.moving else 0,
                coarseness=settings.coarseness,
                variety=settings.variety,
                device=device,
            )
            path_seed = int(rng.integers(2**31))
            path = make_path(world, settings.path_frames, RATE_HZ, path_seed, PATH_STYLES[style])
        except ConfigError as error:  # this world has no room for this path: the next may
            reason = str(error)
            continue
        return TrainingWorld(world, path, _sensor(settings, world, rng, device), style)
    raise ConfigError(
        f'none of {_ATTEMPTS} worlds of the kinds {kinds!r} has room for a path: {reason}'
    )


def _styles(kind: str) -> list[str]:
    """Return the path styles that fit a kind: driving only on a street."""
    indoors = [name for name in PATH_STYLES if name != 'driving']
    return ['driving', 'driving', 'handheld', 'drone'] if kind == 'street' else indoors


def _sensor(
    settings: DataSettings, world: World, rng: np.random.Generator, device: torch.device
) -> Sensor:
    strong = rng.uniform() < settings.effects
    options = SensorOptions(
        noise=float(rng.uniform(0.5, 8.0 if strong else 2.5)),
        exposure=float(rng.uniform(0, 1.2 if strong else 0.3)),
        vignetting=float(rng.uniform(0, 0.5 if strong else 0.1)),
    )
    gain = world.exposure * float(2 ** rng.normal(0, 0.35))
    return Sensor(options, gain, RATE_HZ, int(rng.integers(2**31)), device)
