"""Camera calibrations: checking, scaling, and undistorting images.

Follows ``sensor_msgs/CameraInfo`` (REP-104). K of zeros means "not calibrated".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

import cv2
import numpy as np

from ..core.datatypes import Intrinsics
from ..core.errors import CalibrationError, FrameError
from .image_topics import is_rectified

#: Numbers of coefficients of each model; none at all means no distortion.
DISTORTION_SIZES = {
    'plumb_bob': (4, 5),
    'rational_polynomial': (8, 12, 14),
    'equidistant': (4,),
}
#: What drivers and calibration tools call them; the first two differ by their coefficients alone.
_POLYNOMIAL = {
    '', 'plumb_bob', 'rational_polynomial', 'rational', 'radtan', 'rad_tan', 'radial_tangential',
    'brown_conrady', 'brown', 'opencv', 'full_opencv',
}  # fmt: skip
_EQUIDISTANT = {
    'equidistant', 'equi', 'fisheye', 'opencv_fisheye', 'kannala_brandt', 'kannala_brandt4',
    'kannala_brandt8', 'kannalabrandt', 'kannalabrandt8', 'kb4',
}  # fmt: skip

#: Least factor on the focal length of a wide lens: less would trade detail in the middle for
#: stretched corners.
MIN_ZOOM = 0.6

#: Termination of OpenCV's inversion: its default of five iterations is off by up to 0.3 pixels
#: with strong distortion. Before OpenCV 5 the function with criteria is ``undistortPointsIter``.
_EXACT = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 1000, 1e-14)
_invert = getattr(cv2, 'undistortPointsIter', None) or cv2.undistortPoints

#: Bounds of the focal length over the width; outside, K is wrong, for instance normalised.
_LEAST_FOCAL, _LARGEST_FOCAL = 0.05, 100.0
#: Largest distance of the principal point from the middle, over the size of the image, if the
#: calibration does not say for which size it is.
_MOST_OFF_CENTRE = 0.25


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Calibration of one camera.

    :ivar width: of the images; ``width`` and ``height`` are 0 if the calibration does not say
        them: those of the images it is used for (:meth:`scaled_to`).
    :ivar K: (3, 3) float64 of the distorted image, pixel centres at integer coordinates.
    :ivar D: distortion coefficients in the order of OpenCV and ROS; empty for none.
    :ivar P: (3, 3) float64 of the image rectified by ``image_proc``, if given.
    :ivar note: what was assumed or left out when it was read, for the user; usually empty.
    :raises CalibrationError: not finite, no pinhole matrix, not in pixels, an unknown model, or a
        wrong number of coefficients.
    """

    width: int
    height: int
    K: np.ndarray
    distortion_model: str = 'plumb_bob'
    D: tuple[float, ...] = ()
    P: np.ndarray | None = None
    note: str = ''

    def __post_init__(self) -> None:
        size = (self.width, self.height) if self.width or self.height else (1, 1)
        Intrinsics.from_K(self.K, *size)
        focal = self.K[0, 0], self.K[1, 1]
        if self.width and not all(
            _LEAST_FOCAL <= value / self.width <= _LARGEST_FOCAL for value in focal
        ):
            raise CalibrationError(
                f'K must be in pixels: focal lengths {focal[0]:g} and {focal[1]:g} do not fit '
                f'images that are {self.width} pixels wide'
            )
        if (self.distortion_model, self.D) != read_distortion(self.distortion_model, self.D)[:2]:
            raise CalibrationError(
                f'{self.distortion_model} does not take {len(self.D)} distortion coefficients'
            )

    @property
    def is_distorted(self) -> bool:
        # An equidistant lens bends straight lines even with all coefficients zero.
        return bool(self.D) and (self.distortion_model == 'equidistant' or any(self.D))

    @property
    def intrinsics(self) -> Intrinsics:
        """Return K as pinhole intrinsics; valid only for an image without distortion."""
        return Intrinsics.from_K(self.K, self.width, self.height)

    def rectified(self) -> CameraModel:
        """Return the calibration of the rectified image (``image_rect``): P without distortion.

        Drivers of pinhole cameras leave P empty; then it is K.
        """
        K = self.K if self.P is None or not self.P[0, 0] > 0 else self.P
        return replace(self, K=K, P=None, D=(), distortion_model='plumb_bob')

    def of_images(self, rectification: str, topic: str = '') -> CameraModel:
        """Return the calibration by which the images are undistorted; without D none are.

        The one rule for live and recorded images.

        :param rectification: ``input.rectification``: auto, on or off.
        :param topic: of the images; its name may say that they are rectified.
        """
        if rectification == 'auto' and is_rectified(topic):
            return self.rectified()
        if rectification == 'off':
            return replace(self, P=None, D=(), distortion_model='plumb_bob')
        return self

    def scaled_to(self, width: int, height: int) -> CameraModel:
        """Return the calibration of the resized image.

        :raises CalibrationError: the aspect ratio differs.
        """
        if (width, height) == (self.width, self.height):
            return self
        if not self.width:
            off = abs(self.K[0, 2] / width - 0.5), abs(self.K[1, 2] / height - 0.5)
            if max(off) > _MOST_OFF_CENTRE:
                raise CalibrationError(
                    f'the principal point ({self.K[0, 2]:g}, {self.K[1, 2]:g}) is far from the '
                    f'middle of {width}x{height} images: the calibration, which does not say its '
                    'image size, is of another size; calibrate these images'
                )
            return replace(self, width=width, height=height)
        if abs(width * self.height - height * self.width) > max(self.width, self.height):
            raise CalibrationError(
                f'the calibration is for {self.width}x{self.height} images, these are '
                f'{width}x{height}, of another aspect ratio: use a calibration made at this size, '
                'or none'
            )
        return self.mapped(lambda intrinsics: intrinsics.resized(width, height))

    def mapped(self, change: Callable[[Intrinsics], Intrinsics]) -> CameraModel:
        """Return the model with K and P changed alike; D acts on rays and stays."""
        intrinsics = change(self.intrinsics)
        P = self.P
        if P is not None and P[0, 0] > 0:
            P = change(Intrinsics.from_K(P, self.width, self.height)).K
        return replace(self, width=intrinsics.width, height=intrinsics.height, K=intrinsics.K, P=P)


def read_distortion(name: str, D: Sequence[float]) -> tuple[str, tuple[float, ...], str]:
    """Return our name of a distortion model, its coefficients, and a note for the user.

    Polynomial models are told apart by the number of coefficients, as OpenCV does, since drivers
    mix up their names.

    :raises CalibrationError: an unknown model, a wrong number, or not finite.
    """
    D = tuple(float(value) for value in D)
    if not all(math.isfinite(value) for value in D):
        raise CalibrationError(f'distortion coefficients must be finite, got {D}')
    plain = name.strip().lower().replace('-', '_').replace(' ', '_')
    if plain == 'none':
        return 'plumb_bob', (), ''
    if plain in _EQUIDISTANT:
        families: tuple[str, ...] = ('equidistant',)
    elif plain in _POLYNOMIAL:
        families = ('plumb_bob', 'rational_polynomial')
    else:
        raise CalibrationError(
            f'unknown distortion model {name!r}, known: '
            + ', '.join(DISTORTION_SIZES)
            + '; rectify the images before, or calibrate with one of these'
        )
    model = next((family for family in families if len(D) in DISTORTION_SIZES[family]), '')
    if model:
        is_mixed_up = plain in DISTORTION_SIZES and plain != model and any(D)
        count = f'{len(D)} distortion coefficients'
        return model, D, f'{name} with {count} is read as {model}' if is_mixed_up else ''
    # Zeros are no distortion, except of a fisheye lens.
    if any(D) or (D and plain in _EQUIDISTANT):
        sizes = [str(size) for family in families for size in DISTORTION_SIZES[family]]
        raise CalibrationError(
            f'{name or "plumb_bob"} takes {", ".join(sizes)} distortion coefficients, got {len(D)}'
        )
    return (plain if plain in DISTORTION_SIZES else families[0]), (), ''


def camera_model(
    width: int,
    height: int,
    K: Sequence[float],
    distortion_model: str = '',
    D: Sequence[float] = (),
    P: Sequence[float] = (),
) -> CameraModel | None:
    """Build a model from the flat arrays of a ``CameraInfo``; None if K is all zero.

    :param width: 0, as ``height``, if it is not known; see :class:`CameraModel`.
    :param K: 9 numbers, row by row; ``P``: 12, or none.
    :param distortion_model: by any name that :func:`read_distortion` knows.
    :raises CalibrationError: wrong counts, not finite, not in pixels, or see
        :class:`CameraModel`.
    """
    K_flat = np.asarray(K, dtype=np.float64)
    P_flat = np.asarray(P, dtype=np.float64)
    if K_flat.size != 9 or P_flat.size not in (0, 12):
        raise CalibrationError(f'K needs 9 numbers and P 12, got {K_flat.size} and {P_flat.size}')
    if not (np.isfinite(K_flat).all() and np.isfinite(P_flat).all()):
        raise CalibrationError(f'K and P must be finite, got K = {K_flat.tolist()}')
    if not K_flat.any():
        return None
    model, coefficients, note = read_distortion(distortion_model, D)
    return CameraModel(
        width=int(width),
        height=int(height),
        K=K_flat.reshape(3, 3),
        distortion_model=model,
        D=coefficients,
        P=P_flat.reshape(3, 4)[:, :3] if P_flat.size else None,
        note=note,
    )


def camera_from_info(info: Any, width: int, height: int) -> CameraModel | None:
    """Return the calibration of images with a ``CameraInfo``; None if K is zero.

    The one judge of live and recorded messages. K counts although D cannot be read: then the
    images stay distorted, and the note says so.

    :param info: the message, of ROS 1 or 2, from rclpy or a bag.
    :param width: of the images, used if the message has none; ``height`` likewise.
    :raises CalibrationError: it cannot be used.
    """
    # Capitals in ROS 1.
    K, D, P = (getattr(info, n, getattr(info, n.upper(), ())) for n in 'kdp')
    name, problem = info.distortion_model, ''
    try:
        read_distortion(name, D)
    except CalibrationError as error:
        problem = f'{error}: the images are not undistorted' if len(D) else ''
        name, D = '', ()
    model = camera_model(info.width or width, info.height or height, K, name, D, P)
    if model is None:
        return None
    model = replace(model, note=problem or model.note)
    # K is of the full sensor, which is cropped first and then binned; a size of zero means the
    # full image, a binning of zero means one.
    x, y = info.roi.x_offset, info.roi.y_offset
    width, height = info.roi.width or model.width, info.roi.height or model.height
    if x + width > model.width or y + height > model.height:
        raise CalibrationError(
            f'the region of interest {width}x{height} at ({x}, {y}) is not inside the '
            f'{model.width}x{model.height} image of the calibration'
        )
    binned = (width // max(info.binning_x, 1), height // max(info.binning_y, 1))
    if binned == (model.width, model.height):
        return model
    return model.mapped(lambda full: full.cropped(x, y, width, height).resized(*binned))


class Rectifier:
    """Undistorts the images of one camera.

    The undistorted image has the size and principal point of the original. Its focal lengths
    are scaled by the smallest factor that leaves no invalid border (at least :data:`MIN_ZOOM`).
    OpenCV's optimal camera matrices leave black pixels at the border, and stretch one axis
    (pinhole) or shrink the middle (fisheye).

    :ivar intrinsics: of the undistorted image.
    """

    def __init__(self, model: CameraModel) -> None:
        self.model = model
        self.is_identity = not model.is_distorted
        self.intrinsics = model.intrinsics
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        if self.is_identity:
            return
        zoom = _widest_valid_zoom(model)
        self.intrinsics = replace(
            self.intrinsics, fx=self.intrinsics.fx * zoom, fy=self.intrinsics.fy * zoom
        )
        init = (
            cv2.fisheye.initUndistortRectifyMap
            if model.distortion_model == 'equidistant'
            else cv2.initUndistortRectifyMap
        )
        size = (model.width, model.height)
        D = np.asarray(model.D)
        # Fixed-point maps (1/32 pixel): half the memory and about twice the speed of floats.
        self._maps = init(model.K, D, np.eye(3), self.intrinsics.K, size, cv2.CV_16SC2)

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """Return the undistorted image; the same object without distortion.

        :param image: (H, W) or (H, W, 3) uint8 of the calibrated size; not modified.
        :raises FrameError: the image is not of the calibrated size.
        """
        height, width = image.shape[:2]
        if (width, height) != (self.model.width, self.model.height):
            raise FrameError(
                f'the image is {width}x{height}, the calibration is for '
                f'{self.model.width}x{self.model.height}'
            )
        if self._maps is None:
            return image
        return cv2.remap(image, *self._maps, interpolation=cv2.INTER_LINEAR)


def _widest_valid_zoom(model: CameraModel) -> float:
    """Return the smallest factor on the focal length that leaves no pixel invalid.

    1.0 where the model cannot be inverted at the border; corners may then stay black.
    """
    right, bottom = model.width - 1.0, model.height - 1.0
    u, v = np.linspace(0.0, right, 65), np.linspace(0.0, bottom, 65)
    sides = ((0.0, v), (u, 0.0), (right, v), (u, bottom))  # left, top, right, bottom
    rays = [undistort_points(np.stack(np.broadcast_arrays(*s), axis=1), model) for s in sides]
    if not all(np.isfinite(side).all() for side in rays):
        return 1.0
    fx, fy, cx, cy = model.K[0, 0], model.K[1, 1], model.K[0, 2], model.K[1, 2]
    # Distance from the axis to the nearest point of each side, and that of the pinhole.
    left, top, right_side, bottom_side = rays
    available = [
        -left[:, 0].max(), -top[:, 1].max(), right_side[:, 0].min(), bottom_side[:, 1].min(),
    ]  # fmt: skip
    needed = [cx / fx, cy / fy, (right - cx) / fx, (bottom - cy) / fy]
    if min(available) <= 0:
        return 1.0
    return max(MIN_ZOOM, *(a / b for a, b in zip(needed, available, strict=True)))


def undistort_points(pixels: np.ndarray, model: CameraModel) -> np.ndarray:
    """Return (N, 2) normalised undistorted coordinates of (N, 2) pixels.

    NaN where the model cannot be inverted, checked by distorting the result.
    """
    D, same = _coefficients(model), np.eye(3)
    invert = cv2.fisheye.undistortPoints if model.distortion_model == 'equidistant' else _invert
    rays: np.ndarray = invert(pixels[:, None], model.K, D, R=same, P=same, criteria=_EXACT)[:, 0]
    target = (pixels - model.K[[0, 1], [2, 2]]) / model.K[[0, 1], [0, 1]]
    miss = np.abs(_distort(rays, model) - target).max(axis=1)
    # Beyond the fold of a polynomial the sign may flip.
    good = (miss * model.K[0, 0] < 0.01) & ((rays * target).sum(axis=1) >= 0)
    rays[~good] = np.nan
    return rays


def _distort(rays: np.ndarray, model: CameraModel) -> np.ndarray:
    """Return (N, 2) distorted normalised coordinates of (N, 2) normalised rays."""
    D = _coefficients(model)
    if model.distortion_model == 'equidistant':
        return cv2.fisheye.distortPoints(rays[None], np.eye(3), D)[0]
    points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.eye(3), D)[0][:, 0]


def _coefficients(model: CameraModel) -> np.ndarray:
    return np.asarray(model.D or (0.0, 0.0, 0.0, 0.0))
