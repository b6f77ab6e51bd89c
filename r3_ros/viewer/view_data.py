"""What the viewer is given: plain arrays in the frame and unit of the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import enum
from typing import Any

import numpy as np


class LinkKind(enum.IntEnum):
    """What an edge of the keyframe graph connects."""

    RECENT = 0  # a keyframe and one of those just before it
    MEMORY = 1  # a keyframe and one that was recalled
    LOOP = 2  # where a loop was closed, or two segments were joined


@dataclass(frozen=True, eq=False)
class ShownKeyframes:
    """Keyframes and the edges between them.

    :ivar T_map_camera: (N, 4, 4) float64, optical axes.
    :ivar confidence: (N,) scores >= 0, NaN where unknown; only their ratios matter.
    :ivar covariances: (N, 3, 3) of the position, in the axes of the camera; NaN where unknown.
    :ivar links: (E, 2) rows of the keyframes that an edge connects.
    :ivar kinds: (E,) :class:`LinkKind`.
    """

    T_map_camera: np.ndarray
    confidence: np.ndarray
    covariances: np.ndarray
    links: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    kinds: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def centres(self) -> np.ndarray:
        return self.T_map_camera[:, :3, 3]


@dataclass(frozen=True)
class Command:
    """A control that calls something outside of the viewer.

    :ivar call: called in a thread of the server, with the value of the control; returns a message
        for the user.
    :ivar value: initial value; a bool makes a switch, None a button alone.
    :ivar value_label: what the value is, beside its field.
    """

    label: str
    call: Callable[[Any], str]
    value: bool | float | str | None = None
    value_label: str = ''
    hint: str | None = None
