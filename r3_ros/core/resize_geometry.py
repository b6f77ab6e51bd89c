"""Cropping and resizing images for a network, with their intrinsics.

Each step transforms pixels one way and intrinsics both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import Image

from .datatypes import Intrinsics
from .errors import CalibrationError, FrameError

_PILLOW_FILTERS = {
    'pillow lanczos': Image.Resampling.LANCZOS,
    'pillow bicubic': Image.Resampling.BICUBIC,
}
_OPENCV_FILTERS = {'opencv area': cv2.INTER_AREA, 'opencv cubic': cv2.INTER_CUBIC}


def image_size(image: np.ndarray) -> tuple[int, int]:
    """Return width and height of an image.

    :raises FrameError: neither (H, W, 3) nor (H, W) of uint8.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, 'dtype', type(image).__name__)
        raise FrameError(
            f'an image must be an array of uint8, 0 to 255, got {kind}: convert it first'
        )
    if image.ndim != 2 and image.shape[2:] != (3,):
        raise FrameError(
            'an image must be (height, width, 3), red green blue, or (height, width), grey, got '
            f'{image.shape}: convert it to RGB first'
        )
    return image.shape[1], image.shape[0]


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return an (H, W) or (H, W, 3) image with three channels; the same object if it has these."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


@dataclass(frozen=True)
class Crop:
    """The sub-image of ``width`` x ``height`` pixels with its top left pixel at ``(x, y)``."""

    x: int
    y: int
    width: int
    height: int

    def carry(self, intrinsics: Intrinsics) -> Intrinsics:
        """Return the intrinsics of the cropped image."""
        return intrinsics.cropped(self.x, self.y, self.width, self.height)

    def carry_back(self, intrinsics: Intrinsics, width: int, height: int) -> Intrinsics:
        """Return the intrinsics before the crop, of an image of that size."""
        return intrinsics.cropped(-self.x, -self.y, width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the cropped image, a view."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True)
class Resize:
    """A resize to ``width`` x ``height`` pixels with one library's filter."""

    width: int
    height: int
    filter: str

    def carry(self, intrinsics: Intrinsics) -> Intrinsics:
        """Return the intrinsics of the resized image."""
        return intrinsics.resized(self.width, self.height)

    def carry_back(self, intrinsics: Intrinsics, width: int, height: int) -> Intrinsics:
        """Return the intrinsics before the resize, of an image of that size."""
        return intrinsics.resized(width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the resized image."""
        size = (self.width, self.height)
        pixels = np.ascontiguousarray(image)
        if self.filter in _PILLOW_FILTERS:
            resized = Image.fromarray(pixels).resize(size, _PILLOW_FILTERS[self.filter])
            return np.array(resized)
        return cv2.resize(pixels, size, interpolation=_OPENCV_FILTERS[self.filter])


@dataclass(frozen=True)
class Geometry:
    """The steps that every image of one size goes through before a network."""

    source_width: int
    source_height: int
    steps: tuple[Crop | Resize, ...]

    @cached_property
    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height before the first step and after each."""
        return (
            (self.source_width, self.source_height),
            *((step.width, step.height) for step in self.steps),
        )

    @property
    def width(self) -> int:
        """Return the width of the network's input, in pixels."""
        return self._sizes[-1][0]

    @property
    def height(self) -> int:
        """Return the height of the network's input, in pixels."""
        return self._sizes[-1][1]

    @cached_property
    def pixels_network_source(self) -> np.ndarray:
        """Return the 3x3 matrix from homogeneous source pixels ``(u, v, 1)`` to the input's.

        Pixel centres lie at integer coordinates on both sides.
        """
        # A camera whose rays are its pixels.
        rays = Intrinsics(1.0, 1.0, 0.0, 0.0, self.source_width, self.source_height)
        return self.to_network(rays).K

    def to_network(self, intrinsics: Intrinsics) -> Intrinsics:
        """Return the intrinsics of the network's input.

        :param intrinsics: of the source.
        :raises CalibrationError: of another size than the source.
        """
        self._check_size(intrinsics, self._sizes[0], 'the image')
        for step in self.steps:
            intrinsics = step.carry(intrinsics)
        return intrinsics

    def to_source(self, intrinsics: Intrinsics) -> Intrinsics:
        """Return the intrinsics of the source.

        :param intrinsics: of the network's input.
        :raises CalibrationError: of another size than the network's input.
        """
        self._check_size(intrinsics, self._sizes[-1], "the network's input")
        for step, size in zip(self.steps[::-1], self._sizes[-2::-1], strict=True):
            intrinsics = step.carry_back(intrinsics, *size)
        return intrinsics

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the pixels for the network.

        :param image: (H, W, 3) uint8 RGB, or (H, W) grey, of the source's size; not modified.
        :return: (h, w, 3) uint8, contiguous; ``image`` itself if there are no steps.
        :raises FrameError: another type or size of image.
        """
        width, height = image_size(image)
        if (width, height) != self._sizes[0]:
            raise FrameError(
                f'the image is {width}x{height}, this geometry is for {self.source_width}x'
                f'{self.source_height}: compute one for each size of image'
            )
        for step in self.steps:
            image = step.apply(image)
        return np.ascontiguousarray(as_rgb(image))

    @staticmethod
    def _check_size(intrinsics: Intrinsics, size: tuple[int, int], what: str) -> None:
        if (intrinsics.width, intrinsics.height) != size:
            raise CalibrationError(
                f'the intrinsics are for {intrinsics.width}x{intrinsics.height} pixels, {what} '
                f'has {size[0]}x{size[1]}: pass those of {what}'
            )
