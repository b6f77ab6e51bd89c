"""Which pictures are shown together, and which of them again.

A window begins with pictures that were shown before and had a place, so that it can be joined to
what is there; the first of them is its reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from .window_images import WindowImage


@dataclass(frozen=True, eq=False)
class ImageWindow:
    """Pictures to be shown together.

    :ivar shared: so many of them, the first ones, were shown before.
    """

    pictures: tuple[WindowImage, ...]
    shared: int


#: A picture waits for another window if those held are this much nearer to it than the window,
#: nearness being one less the cosine.
_MUCH_NEARER = 10.0


class WindowOrder(Protocol):
    """Gives windows until every picture was in one."""

    def following(self) -> ImageWindow | None:
        """Return the next window; None when all pictures were shown."""

    def placed(self, pictures: Sequence[WindowImage]) -> None:
        """Tell which pictures of the last window are related to one another."""


class InTime:
    """Windows along a recording: each begins with the newest pictures that had a place."""

    def __init__(self, pictures: Iterator[WindowImage], size: int, overlap: int) -> None:
        """Take the pictures as they come; ``size`` of them are shown at once."""
        self._pictures = pictures
        self._size, self._overlap = size, overlap
        self._held: list[WindowImage] = []

    def following(self) -> ImageWindow | None:
        """Return the next window; the last one is filled up with pictures shown before."""
        count = self._size - self._overlap if self._held else self._size
        new = list(islice(self._pictures, count))
        if not new:
            return None
        held = self._held[len(new) - self._size :]
        return ImageWindow((*held, *new), len(held))

    def placed(self, pictures: Sequence[WindowImage]) -> None:
        """Keep these to be shared, or those before them if there are none."""
        self._held = list(pictures) or self._held


class ByLooks:
    """Windows over a collection: pictures that look alike are shown together.

    Neither names nor numbers of the pictures play a part.
    """

    def __init__(
        self, pictures: Sequence[WindowImage], descriptors: np.ndarray, size: int, overlap: int
    ) -> None:
        """Take all pictures and their (N, C) unit descriptors; ``size`` are shown at once."""
        self._pictures = pictures
        self._likeness = descriptors @ descriptors.T
        self._size, self._overlap = size, overlap
        self._row = {picture.frame_id: n for n, picture in enumerate(pictures)}
        self._left = np.ones(len(pictures), dtype=bool)
        self._held = np.zeros(len(pictures), dtype=bool)

    def following(self) -> ImageWindow | None:
        """Return the next window, grown from the picture most like those that have a place."""
        if not self._left.any():
            return None
        anything_held = bool(self._held.any())
        count = self._size - self._overlap if anything_held else self._size
        new = self._grown(self._seed(anything_held), count)
        self._left[new] = False
        shared: list[int] = []
        if anything_held:
            likeness = np.where(self._held, self._likeness[new].max(axis=0), -np.inf)
            order = np.argsort(-likeness, kind='stable')
            shared = [int(n) for n in order[: self._size - len(new)] if self._held[n]]
        return ImageWindow(tuple(self._pictures[n] for n in (*shared, *new)), len(shared))

    def placed(self, pictures: Sequence[WindowImage]) -> None:
        """Let these be shared by later windows."""
        self._held[[self._row[picture.frame_id] for picture in pictures]] = True

    def _seed(self, anything_held: bool) -> int:
        """Return the picture to begin with: like those held, or like as many as possible."""
        if anything_held:
            likeness = self._likeness[:, self._held].max(axis=1)
        else:
            likeness = self._likeness[:, self._left].mean(axis=1)
        return int(np.argmax(np.where(self._left, likeness, -np.inf)))

    def _grown(self, seed: int, count: int) -> list[int]:
        """Return up to ``count`` pictures left, each the most like one of those before it."""
        chosen = [seed]
        to_held = self._likeness[:, self._held].max(axis=1, initial=-np.inf)
        left = self._left.copy()
        left[seed] = False
        likeness = self._likeness[seed].copy()
        while len(chosen) < count and left.any():
            following = int(np.argmax(np.where(left, likeness, -np.inf)))
            if 1.0 - likeness[following] > _MUCH_NEARER * (1.0 - to_held[following]):
                break
            chosen.append(following)
            left[following] = False
            np.maximum(likeness, self._likeness[following], out=likeness)
        return chosen
