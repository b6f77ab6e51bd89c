"""Prepares images for the networks, and maps intrinsics between image and network input.

A rule defines how images are rotated, resized and cropped; for one size of image it gives a
:class:`.Geometry`. The rules of R3 and of Depth Anything 3 are reproduced down to filters and
rounding, because the networks are sensitive to them.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from ..core.datatypes import Intrinsics
from ..core.errors import ConfigError, FrameError
from ..core.resize_geometry import Crop, EXIF_TURNS, image_size, Resize, Step, Turn
from ..core.resize_geometry import Geometry as Geometry

#: Side of a patch in pixels: both sides of a network's input are multiples of it.
PATCH = 14

#: Per channel, R G B, of pixels scaled to [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: A longer side is an error: enlarging an elongated image could exhaust memory.
LARGEST_SIDE = 32767

#: At this size R3's rule scales the short side and crops to a square.
_SQUARE_SIZE = 224

#: EXIF orientation of an image that is upright after a clockwise quarter turn.
_CLOCKWISE = 6

#: Radians.
_NARROWEST_FOV = 1e-6

#: Upper bound: the longest side gets ``process_res``; lower bound: the shortest. Then the sides
#: are resized or cropped to multiples of 14.
DA3_METHODS = tuple(
    f'{bound}_bound_{step}' for step in ('resize', 'crop') for bound in ('upper', 'lower')
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared image.

    :ivar pixels: (h, w, 3) uint8 RGB, h and w multiples of 14. May share memory with the image.
    """

    pixels: np.ndarray
    geometry: Geometry


@dataclass(frozen=True)
class R3Rule:
    """How R3's images are prepared.

    :ivar size: of the long side in pixels, before the crop to multiples of 14. 224 is special: it
        is the short side, and the centred square is cropped.
    :ivar square_ok: keep square images; else they are cropped to 4:3.
    :ivar crop_to_landscape: crop the source to 4:3 first.
    :ivar rotate_clockwise_90: rotate the source first.
    :raises ConfigError: a value of the wrong type or out of range.
    """

    size: int = 504
    square_ok: bool = False
    crop_to_landscape: bool = False
    rotate_clockwise_90: bool = False

    def __post_init__(self) -> None:
        _check_side('size', self.size)
        for name in ('square_ok', 'crop_to_landscape', 'rotate_clockwise_90'):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f'{name} must be true or false, got {getattr(self, name)!r}')


@dataclass(frozen=True)
class DA3Rule:
    """How the images of plain and metric Depth Anything 3 are prepared.

    :ivar process_res: of one side in pixels, before the step to multiples of 14.
    :ivar method: one of :data:`DA3_METHODS`.
    :raises ConfigError: a value of the wrong type or out of range.
    """

    process_res: int = 504
    method: str = 'upper_bound_resize'

    def __post_init__(self) -> None:
        _check_side('process_res', self.process_res)
        if self.method not in DA3_METHODS:
            raise ConfigError(
                f'method must be one of {", ".join(DA3_METHODS)}, got {self.method!r}'
            )


def _check_side(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f'{name} must be a whole number of pixels, got {value!r}')
    if not PATCH <= value <= LARGEST_SIDE:
        raise ConfigError(f'{name} must be {PATCH} to {LARGEST_SIDE} pixels, got {value}')


class _Plan:
    """Collects the steps for one size of image, without those that change nothing."""

    def __init__(self, width: int, height: int) -> None:
        if min(width, height) < PATCH:
            raise FrameError(
                f'the image is {width}x{height} pixels, less than the {PATCH} of one patch on a '
                'side: use a larger image'
            )
        self.source = self.width, self.height = width, height
        self.steps: list[Step] = []

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.width, self.height = step.size(self.width, self.height)

    def turn(self, orientation: int) -> None:
        if orientation != 1:
            self.add(Turn(orientation))

    def crop_centre(self, width: int, height: int) -> None:
        if (width, height) != (self.width, self.height):
            x, y = (self.width - width) // 2, (self.height - height) // 2
            self.add(Crop(x, y, width, height))

    def resize(self, width: int, height: int, filter_name: str) -> None:
        if max(width, height) > LARGEST_SIDE:
            raise FrameError(
                f'an image of {self.source[0]}x{self.source[1]} would be enlarged to '
                f'{width}x{height} pixels: crop it to the part of interest'
            )
        if (width, height) != (self.width, self.height):
            self.add(Resize(width, height, filter_name))

    def check(self, width: int, height: int, setting: str) -> None:
        if min(width, height) < PATCH:
            raise FrameError(
                f'an image of {self.source[0]}x{self.source[1]} would become {width}x{height} '
                f'pixels with {setting}, less than the {PATCH} of one patch on a side: raise '
                f'{setting.split()[0]}, or crop the image to the part of interest'
            )

    def geometry(self) -> Geometry:
        return Geometry(*self.source, tuple(self.steps))


def _whole_patches(side: int) -> int:
    return side // PATCH * PATCH


def _nearest_patches(side: int) -> int:
    return _whole_patches(side + PATCH // 2)


def r3_geometry(width: int, height: int, rule: R3Rule, exif_orientation: int = 1) -> Geometry:
    """Return the geometry of R3's rule for one size of image.

    :param width: of the stored image, in pixels; ``height`` likewise.
    :raises FrameError: too small or too elongated for one patch, or an unknown orientation.
    """
    if exif_orientation not in EXIF_TURNS:
        raise FrameError(
            f'an EXIF orientation is 1 to 8, got {exif_orientation!r}: use 1 for an image that '
            'is stored upright'
        )
    plan = _Plan(width, height)
    plan.turn(exif_orientation)
    if rule.rotate_clockwise_90:
        plan.turn(_CLOCKWISE)
    if rule.crop_to_landscape:
        plan.crop_centre(
            min(plan.width, plan.height * 4 // 3), min(plan.height, plan.width * 3 // 4)
        )
    setting = f'size {rule.size}'
    short, long = sorted((plan.width, plan.height))
    # At 224 the long side is rounded before the scale is computed.
    target = round(rule.size * (long / short)) if rule.size == _SQUARE_SIZE else rule.size
    scale = target / long
    wide, high = round(plan.width * scale), round(plan.height * scale)
    plan.check(wide, high, setting)
    plan.resize(wide, high, 'pillow lanczos' if scale < 1 else 'pillow bicubic')
    if rule.size == _SQUARE_SIZE:
        wide = high = _SQUARE_SIZE
    elif wide == high and not rule.square_ok:
        wide = _whole_patches(wide)
        high = _whole_patches(wide * 3 // 4)
    else:
        wide, high = _whole_patches(wide), _whole_patches(high)
    plan.check(wide, high, setting)
    plan.crop_centre(wide, high)
    return plan.geometry()


def da3_geometry(width: int, height: int, rule: DA3Rule) -> Geometry:
    """Return the geometry of Depth Anything 3's rule for one size of image, in pixels.

    :raises FrameError: too small or too elongated for one patch.
    """
    plan = _Plan(width, height)
    setting = f'process_res {rule.process_res}'
    bound, step = rule.method.split('_bound_')
    scale = rule.process_res / (max if bound == 'upper' else min)(width, height)
    wide, high = round(width * scale), round(height * scale)
    to_patches = _whole_patches if step == 'crop' else _nearest_patches
    # Before the first resize, as a side may round to 0.
    plan.check(to_patches(wide), to_patches(high), setting)
    plan.resize(wide, high, 'opencv cubic' if scale > 1 else 'opencv area')
    wide, high = to_patches(plan.width), to_patches(plan.height)
    if step == 'crop':
        plan.crop_centre(wide, high)
    else:
        grows = wide > plan.width or high > plan.height
        plan.resize(wide, high, 'opencv cubic' if grows else 'opencv area')
    return plan.geometry()


def prepare_r3(image: np.ndarray, rule: R3Rule, exif_orientation: int = 1) -> Prepared:
    """Prepare an image by R3's rule.

    :param image: (H, W, 3) uint8 RGB as stored; not modified.
    :param exif_orientation: 1 to 8; 1 is upright.
    :raises FrameError: no such image, or see :func:`r3_geometry`.
    """
    geometry = r3_geometry(*image_size(image), rule, exif_orientation)
    return Prepared(geometry.apply(image), geometry)


def prepare_da3(image: np.ndarray, rule: DA3Rule) -> Prepared:
    """Prepare an image by Depth Anything 3's rule.

    :param image: (H, W, 3) uint8 RGB; not modified.
    :raises FrameError: no such image, or see :func:`da3_geometry`.
    """
    geometry = da3_geometry(*image_size(image), rule)
    return Prepared(geometry.apply(image), geometry)


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Return pixels scaled to [0, 1] and normalised by ImageNet's mean and deviation.

    :param pixels: (..., h, w, 3) uint8 RGB.
    :return: (..., 3, h, w) float32.
    :raises FrameError: not uint8, or not three channels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
        raise FrameError(
            f'pixels must be (..., height, width, 3) uint8, got {pixels.shape} {pixels.dtype}: '
            'pass prepared pixels as they are, not scaled'
        )
    out = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        centred = pixels[..., channel] - np.float32(255.0 * mean)
        np.multiply(centred, np.float32(1.0 / (255.0 * std)), out=out[..., channel, :, :])
    return out


def intrinsics_from_fov(fov_v: float, fov_h: float, width: int, height: int) -> Intrinsics:
    """Return the intrinsics for a network's two fields of view, in radians.

    The networks' principal point is the centre of the image, ``(W/2, H/2)`` with pixel corners at
    integers, hence ``(W/2 - 0.5, H/2 - 0.5)`` with pixel centres at integers.

    :param width: of the network's input, in pixels; ``height`` likewise.
    :raises FrameError: a field of view not between 0 and pi.
    """
    if not all(_NARROWEST_FOV < fov < math.pi for fov in (fov_v, fov_h)):
        raise FrameError(
            f'fields of view of {fov_v:g} and {fov_h:g} radians are not between 0 and pi: the '
            'network fails on this frame, leave it out'
        )
    return Intrinsics(
        fx=width / 2 / math.tan(fov_h / 2),
        fy=height / 2 / math.tan(fov_v / 2),
        cx=width / 2 - 0.5,
        cy=height / 2 - 0.5,
        width=width,
        height=height,
    )


def fov_of(intrinsics: Intrinsics) -> tuple[float, float]:
    """Return the networks' vertical and horizontal field of view in radians.

    The inverse of :func:`intrinsics_from_fov`; an off-centre principal point is ignored.
    """
    return (
        2.0 * math.atan(intrinsics.height / 2 / intrinsics.fy),
        2.0 * math.atan(intrinsics.width / 2 / intrinsics.fx),
    )
