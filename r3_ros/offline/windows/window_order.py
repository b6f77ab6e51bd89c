"""The choice of the images that are predicted together.

Each window after the first begins with images that already have a pose, so that it can be joined
to the earlier ones; the first image of a window is its reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from .window_images import WindowImage

#: An image waits for a later window if an image with a pose is this many times nearer to it than
#: the window is, where the distance is one minus the cosine.
_MUCH_NEARER = 10.0


@dataclass(frozen=True, eq=False)
class ImageWindow:
    """Images to be predicted together.

    :ivar shared: number of images, the first ones, that were in an earlier window.
    """

    images: tuple[WindowImage, ...]
    shared: int


class OrderByTime:
    """Windows along a recording: each begins with the newest images that have a pose."""

    def __init__(self, images: Iterator[WindowImage], size: int, overlap: int) -> None:
        self._images = images
        self._size, self._overlap = size, overlap
        self._placed: list[WindowImage] = []

    def next_window(self) -> ImageWindow | None:
        """Return the next window; the last one is filled up with earlier images."""
        count = self._size - self._overlap if self._placed else self._size
        new = list(islice(self._images, count))
        if not new:
            return None
        shared = self._placed[len(new) - self._size :]
        return ImageWindow((*shared, *new), len(shared))

    def mark_placed(self, images: Sequence[WindowImage]) -> None:
        """Share these with the next window; if there are none, those before them."""
        self._placed = list(images) or self._placed


class OrderBySimilarity:
    """Windows over a collection: images with similar descriptors are predicted together.

    The result does not depend on names or numbers of the images.
    """

    def __init__(
        self, images: Sequence[WindowImage], descriptors: np.ndarray, size: int, overlap: int
    ) -> None:
        self._images = images
        self._similarity = descriptors @ descriptors.T
        self._size, self._overlap = size, overlap
        self._row = {image.frame_id: n for n, image in enumerate(images)}
        self._left = np.ones(len(images), dtype=bool)
        self._placed = np.zeros(len(images), dtype=bool)

    def next_window(self) -> ImageWindow | None:
        """Return the next window, grown from the image most similar to those with a pose."""
        if not self._left.any():
            return None
        any_placed = bool(self._placed.any())
        count = self._size - self._overlap if any_placed else self._size
        new = self._grow(self._seed(any_placed), count)
        self._left[new] = False
        shared: list[int] = []
        if any_placed:
            similarity = np.where(self._placed, self._similarity[new].max(axis=0), -np.inf)
            order = np.argsort(-similarity, kind='stable')
            shared = [int(n) for n in order[: self._size - len(new)] if self._placed[n]]
        return ImageWindow(tuple(self._images[n] for n in (*shared, *new)), len(shared))

    def mark_placed(self, images: Sequence[WindowImage]) -> None:
        """Let later windows share these."""
        self._placed[[self._row[image.frame_id] for image in images]] = True

    def _seed(self, any_placed: bool) -> int:
        if any_placed:
            similarity = self._similarity[:, self._placed].max(axis=1)
        else:
            similarity = self._similarity[:, self._left].mean(axis=1)
        return int(np.argmax(np.where(self._left, similarity, -np.inf)))

    def _grow(self, seed: int, count: int) -> list[int]:
        """Return up to ``count`` images left, each the most similar to one of those before it."""
        chosen = [seed]
        to_placed = self._similarity[:, self._placed].max(axis=1, initial=-np.inf)
        left = self._left.copy()
        left[seed] = False
        similarity = self._similarity[seed].copy()
        while len(chosen) < count and left.any():
            best = int(np.argmax(np.where(left, similarity, -np.inf)))
            if 1.0 - similarity[best] > _MUCH_NEARER * (1.0 - to_placed[best]):
                break
            chosen.append(best)
            left[best] = False
            np.maximum(similarity, self._similarity[best], out=similarity)
        return chosen
