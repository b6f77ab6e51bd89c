"""Resizes images for the networks, and maps intrinsics between image and network input.

A rule defines how images of one size are resized and cropped: a :class:`.Geometry`. The rules of
R3 and of Depth Anything 3 are reproduced down to filters and rounding, because the networks are
sensitive to them.
"""

from __future__ import annotations

import math

from ..core.datatypes import Intrinsics
from ..core.errors import FrameError
from ..core.resize_geometry import Crop, Geometry, Resize

#: Side of a patch in pixels: both sides of a network's input are multiples of it.
PATCH = 14

#: Per channel, R G B, of pixels scaled to [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: A longer side is an error: enlarging an elongated image could exhaust memory.
LARGEST_SIDE = 32767

#: At this size R3's rule scales the short side and crops to a square.
_SQUARE_SIZE = 224

#: Radians.
_NARROWEST_FOV = 1e-6

#: Upper bound: the longest side gets ``process_res``; lower bound: the shortest. Then the sides
#: are resized or cropped to multiples of 14.
DA3_METHODS = tuple(
    f'{bound}_bound_{step}' for step in ('resize', 'crop') for bound in ('upper', 'lower')
)


class _Plan:
    """Collects the steps for one size of image, without those that change nothing."""

    def __init__(self, width: int, height: int, patch: int = PATCH) -> None:
        if min(width, height) < patch:
            raise FrameError(
                f'the image is {width}x{height} pixels, less than the {patch} of one patch on a '
                'side: use a larger image'
            )
        self.patch = patch
        self.source = self.width, self.height = width, height
        self.steps: list[Crop | Resize] = []

    def add(self, step: Crop | Resize) -> None:
        self.steps.append(step)
        self.width, self.height = step.width, step.height

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
        if min(width, height) < self.patch:
            raise FrameError(
                f'an image of {self.source[0]}x{self.source[1]} would become {width}x{height} '
                f'pixels with {setting}, less than the {self.patch} of one patch on a side: raise '
                f'{setting.split()[0]}, or crop the image to the part of interest'
            )

    def geometry(self) -> Geometry:
        return Geometry(*self.source, tuple(self.steps))


def _whole_patches(side: int, patch: int = PATCH) -> int:
    return side // patch * patch


def _nearest_patches(side: int) -> int:
    return _whole_patches(side + PATCH // 2)


def r3_geometry(
    width: int, height: int, size: int = 504, square_ok: bool = False, patch: int = PATCH
) -> Geometry:
    """Return the geometry of R3's rule for one size of image.

    The rule is that of DUSt3R and its successors, with patches of 14 instead of 16 pixels.

    :param width: of the image, in pixels; ``height`` likewise.
    :param size: of the long side in pixels, before the crop to whole patches. 224 is special: it
        is the short side, and the centred square is cropped.
    :param square_ok: keep square images; else they are cropped to 4:3.
    :param patch: side of a patch in pixels.
    :raises FrameError: too small or too elongated for one patch.
    """
    plan = _Plan(width, height, patch)
    setting = f'size {size}'
    short, long = sorted((width, height))
    # At 224 the long side is rounded before the scale is computed.
    target = round(size * (long / short)) if size == _SQUARE_SIZE else size
    scale = target / long
    wide, high = round(width * scale), round(height * scale)
    plan.check(wide, high, setting)
    plan.resize(wide, high, 'pillow lanczos' if scale < 1 else 'pillow bicubic')
    if size == _SQUARE_SIZE:
        wide = high = _SQUARE_SIZE
    elif wide == high and not square_ok:
        wide = _whole_patches(wide, patch)
        high = _whole_patches(wide * 3 // 4, patch)
    else:
        wide, high = _whole_patches(wide, patch), _whole_patches(high, patch)
    plan.check(wide, high, setting)
    plan.crop_centre(wide, high)
    return plan.geometry()


def da3_geometry(
    width: int, height: int, process_res: int = 504, method: str = 'upper_bound_resize'
) -> Geometry:
    """Return the geometry of Depth Anything 3's rule for one size of image.

    :param width: of the image, in pixels; ``height`` likewise.
    :param process_res: of one side in pixels, before the step to multiples of 14.
    :param method: one of :data:`DA3_METHODS`.
    :raises FrameError: too small or too elongated for one patch.
    """
    plan = _Plan(width, height)
    setting = f'process_res {process_res}'
    bound, step = method.split('_bound_')
    scale = process_res / (max if bound == 'upper' else min)(width, height)
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


def area_geometry(width: int, height: int, size: int) -> Geometry:
    """Return the geometry of r3-tiny's rule: all of the image, with the same area for any shape.

    With a fixed long side, wide images would have too few rows to see a turn.

    :param width: of the image, in pixels; ``height`` likewise.
    :param size: the long side of a 4:3 image, in pixels.
    :raises FrameError: too small or too elongated for one patch.
    """
    plan = _Plan(width, height)
    scale = size * math.sqrt(0.75 / (width * height))
    wide, high = _nearest_patches(round(width * scale)), _nearest_patches(round(height * scale))
    plan.check(wide, high, f'size {size}')
    plan.resize(wide, high, 'opencv area' if scale < 1 else 'opencv cubic')
    return plan.geometry()


def vggt_geometry(width: int, height: int, size: int = 518) -> Geometry:
    """Return the geometry of VGGT's rule: a fixed width, and of upright images the central square.

    :param width: of the image, in pixels; ``height`` likewise.
    :param size: of the width in pixels, a multiple of 14.
    :raises FrameError: too small or too elongated for one patch.
    """
    plan = _Plan(width, height)
    high = round(height * (size / width) / PATCH) * PATCH
    plan.check(size, high, f'size {size}')
    plan.resize(size, high, 'pillow bicubic')
    plan.crop_centre(size, min(size, high))
    return plan.geometry()


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
