"""The seam between the authors' streaming loop and a network.

R3 stands behind this protocol, and so do tables of numbers, for comparison with their results.
Poses and edges are encoded (:mod:`~r3_ros.pose_encoding`); an edge takes coordinates of its first
frame to those of its second one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

#: Whatever the network takes for a picture; the loop keeps it and hands it back.
Picture = Any
#: Depths in metres, (N, H, W), of N pictures.
MetricNetwork = Callable[[Sequence[Picture]], np.ndarray]


@dataclass(frozen=True)
class View:
    """What the network says of one frame.

    :ivar depth: (H, W), in the network's own units; ``confidence``: (H, W), 1 and more.
    """

    depth: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Relations:
    """What the network says of a new frame and M frames that it holds.

    :ivar rel: (M, 9) edges from each held frame to the new one.
    :ivar logits_t: (M,) confidences for translation; ``logits_r``: for rotation.
    :ivar fov: (2,) vertical and horizontal.
    :ivar feature: (D,) of the new frame, by which frames are compared.
    """

    rel: np.ndarray
    logits_t: np.ndarray
    logits_r: np.ndarray
    fov: np.ndarray
    feature: np.ndarray
    view: View


@dataclass(frozen=True)
class Replay:
    """What the network says of S frames that see one another.

    :ivar rel: (S, S, 9) edges, row to column, of which those to later frames count; the diagonal
        carries each frame's field of view. ``logits_t``, ``logits_r``: (S, S).
    :ivar features: (S, D).
    """

    rel: np.ndarray
    logits_t: np.ndarray
    logits_r: np.ndarray
    features: np.ndarray
    views: tuple[View, ...]


class Network(Protocol):
    """Relates frames, and holds what it needs to relate later ones to them."""

    def relate(self, frame: int, picture: Picture, memory: Sequence[int]) -> Relations:
        """Relate a new frame to held ones, oldest first, and hold it.

        With no memory its camera is the reference.
        """

    def replay(self, frames: Sequence[int], pictures: Sequence[Picture]) -> Replay:
        """Run frames together, the first as the reference, without a change to what is held."""

    def take_over(self, frames: Sequence[int]) -> None:
        """Hold what the last replay made of some of its frames, and nothing else."""

    def keep(self, frames: Sequence[int]) -> None:
        """Hold these of the held frames alone."""
