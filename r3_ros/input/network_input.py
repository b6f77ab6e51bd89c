"""The geometry of the networks' images, and intrinsics from fields of view.

The rules of R3 and of Depth Anything 3 are reproduced down to filters and rounding, because the
networks are sensitive to them: R3's for images that are not turned, at all sizes but 224, where it
crops them to a square; that of Depth Anything 3 named ``upper_bound_resize``.
"""

from __future__ import annotations

import math

from ..core.datatypes import Intrinsics
from ..core.errors import FrameError
from ..core.resize_geometry import Crop, Geometry, Resize, Step

#: Side of a patch in pixels: both sides of a network's input are multiples of it.
PATCH = 14

#: Per channel, R G B, of pixels scaled to [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Radians.
_NARROWEST_FOV = 1e-6


def r3_geometry(width: int, height: int, size: int) -> Geometry:
    """Return the geometry of R3's rule for one size of image, in pixels.

    :param size: of the long side, before the crop to multiples of 14.
    :raises FrameError: too small or too elongated for one patch.
    """
    scale = size / max(width, height)
    wide, high = round(width * scale), round(height * scale)
    input_width, input_height = wide // PATCH * PATCH, high // PATCH * PATCH
    _require_patch(width, height, input_width, input_height, f'size {size}')
    steps: list[Step] = []
    if (wide, high) != (width, height):
        steps.append(Resize(wide, high, 'pillow lanczos' if scale < 1 else 'pillow bicubic'))
    if (input_width, input_height) != (wide, high):
        x, y = (wide - input_width) // 2, (high - input_height) // 2
        steps.append(Crop(x, y, input_width, input_height))
    return Geometry(width, height, tuple(steps))


def da3_geometry(width: int, height: int, process_res: int = 504) -> Geometry:
    """Return the geometry of Depth Anything 3's rule for one size of image, in pixels.

    :param process_res: of the long side, before the step to multiples of 14.
    :raises FrameError: too small or too elongated for one patch.
    """
    scale = process_res / max(width, height)
    wide, high = round(width * scale), round(height * scale)
    input_width, input_height = ((side + PATCH // 2) // PATCH * PATCH for side in (wide, high))
    _require_patch(width, height, input_width, input_height, f'process_res {process_res}')
    steps: list[Step] = []
    if (wide, high) != (width, height):
        steps.append(Resize(wide, high, 'opencv cubic' if scale > 1 else 'opencv area'))
    if (input_width, input_height) != (wide, high):
        grows = input_width > wide or input_height > high
        steps.append(Resize(input_width, input_height, 'opencv cubic' if grows else 'opencv area'))
    return Geometry(width, height, tuple(steps))


def _require_patch(width: int, height: int, wide: int, high: int, setting: str) -> None:
    if min(width, height) < PATCH:
        raise FrameError(
            f'the image is {width}x{height} pixels, less than the {PATCH} of one patch on a '
            'side: use a larger image'
        )
    if min(wide, high) < PATCH:
        raise FrameError(
            f'an image of {width}x{height} would become {wide}x{high} pixels with {setting}, less '
            f'than the {PATCH} of one patch on a side: raise {setting.split()[0]}, or crop the '
            'image to the part of interest'
        )


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
