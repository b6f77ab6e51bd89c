"""Image messages to frames for the engine: decoding, stamp, frame id and calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import time
from typing import Any

import numpy as np
from rclpy.clock import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ...core.config import InputConfig
from ...core.datatypes import Frame, Intrinsics
from ...core.errors import CalibrationError
from ...input.brightness_range import BrightnessRange
from ...input.camera_model import camera_from_info, Rectifier
from ...input.image_decoding import assumed_encoding, decode_message
from ...input.rolling_shutter import RollingShutter
from ..outputs.health import Health
from ..outputs.messages import frame_name, stamp_ns_of

#: Frame of a camera whose images have no frame_id.
NAMELESS_FRAME = 'camera_optical'


@dataclass(frozen=True, eq=False)
class Received:
    """An image message and its time of arrival (steady seconds)."""

    message: Image | CompressedImage
    time_s: float


@dataclass(frozen=True, eq=False)
class CameraImage:
    """A decoded image message, not rectified yet.

    :ivar image: (H, W, 3) uint8 RGB, or (H, W) grey.
    :ivar note: the assumptions made, as text; usually empty.
    """

    image: np.ndarray
    stamp_ns: int
    note: str


@dataclass(frozen=True, eq=False)
class Calibration:
    """The usable part of a CameraInfo.

    :ivar status: valid, missing, zero, invalid or size mismatch.
    :ivar problem: as text, with what to do; empty if there is none.
    :ivar intrinsics: of the rectified image; None if they have to be estimated.
    :ivar rectifier: None if the images are not distorted.
    """

    status: str
    problem: str = ''
    intrinsics: Intrinsics | None = None
    rectifier: Rectifier | None = None


@dataclass(eq=False)
class CameraInput:
    """Decodes and undistorts images. Worker thread, except :meth:`on_camera_info`.

    :param optical_frame: replaces the frame_id of the images; empty for none.
    :ivar calibration: in use; None before the first image.
    :ivar on_change: called after each CameraInfo, in the input thread.
    """

    config: InputConfig
    _optical_frame: str
    _image_topic: str
    _clock: Clock
    _health: Health
    _logger: Any
    calibration: Calibration | None = field(default=None, init=False)
    on_change: Callable[[], None] = field(default=lambda: None, init=False)
    _info: CameraInfo | None = field(default=None, init=False)
    _used: tuple[CameraInfo | None, int, int] | None = field(default=None, init=False)
    _waiting_since_s: float | None = field(default=None, init=False)
    _reported: set[str] = field(default_factory=set, init=False)
    _brightness: BrightnessRange = field(default_factory=BrightnessRange, init=False)
    _shutter: RollingShutter = field(init=False)

    def __post_init__(self) -> None:
        self._shutter = RollingShutter(self.config.readout_time)

    def on_camera_info(self, message: CameraInfo) -> None:
        """Keep the newest calibration (input thread)."""
        self._info = message
        self.on_change()

    def waits_for_calibration(self) -> bool:
        """Return whether the first image should wait a little longer for its CameraInfo."""
        if self._info is not None or self._used is not None:
            return False
        now_s = time.monotonic()
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        return now_s - self._waiting_since_s < self.config.camera_info_timeout

    def optical_frame(self, message: Image | CompressedImage) -> str:
        """Return the frame id of a message's image; never empty."""
        return self._optical_frame or frame_name(message.header.frame_id) or NAMELESS_FRAME

    def read(self, message: Image | CompressedImage) -> CameraImage:
        """Decode a message; without a stamp it gets the current time.

        :raises FrameError: it holds no usable image.
        """
        notes, health, hint = [], self._health, self.config.encoding_hint
        stamp_ns = stamp_ns_of(message.header.stamp)
        if stamp_ns == 0:
            stamp_ns = self._clock.now().nanoseconds
            notes.append('images have no stamp, their time of arrival is used')
        if not self._optical_frame and not message.header.frame_id:
            notes.append(
                f"images have no frame_id, '{NAMELESS_FRAME}' is used: set camera_optical_frame"
            )
        image = self._brightness.to_eight_bit(decode_message(message, hint))
        health.encoding = getattr(message, 'encoding', '') or message.format
        health.resolution = f'{image.shape[1]}x{image.shape[0]}'
        assumption = assumed_encoding(message, hint)
        # The encoding does not define the order of colours.
        health.encoding_guessed = bool(assumption)
        notes += filter(None, (assumption, self._brightness.note))
        note = '; '.join(notes)
        if note:
            self._report_once(note)
        return CameraImage(image, stamp_ns, note)

    def choose_calibration(self, decoded: CameraImage) -> str:
        """Apply a new CameraInfo or image size.

        :returns: why a new session has to start, empty if none has to: images with an estimated
            focal length cannot be related with images with a calibrated one.
        """
        height, width = decoded.image.shape[:2]
        info, used, before = self._info, self._used, self.calibration
        same_size = used is not None and used[1:] == (width, height)
        if used is not None and same_size and same_calibration(info, used[0]):
            return ''
        chosen = calibrate(info, width, height, self.config, self._image_topic)
        self._used = (info, width, height)
        if chosen.problem:
            self._report_once(chosen.problem)
        was_known = before is not None and before.intrinsics is not None
        if same_size and was_known and chosen.intrinsics is None:
            return ''  # keep the valid calibration
        self.calibration = chosen
        self._health.camera_info = chosen.status
        self._health.rectified = chosen.rectifier is not None
        if chosen.intrinsics is not None:
            undone = 'undistorted here' if self._health.rectified else 'used unchanged'
            self._report_once(f'calibrated camera, images are {undone}', warn=False)
        became_known = same_size and not was_known and chosen.intrinsics is not None
        return 'the camera is calibrated now' if became_known else ''

    def to_frame(self, decoded: CameraImage) -> Frame:
        """Return the frame of a decoded image, the next of the stream, undistorted.

        :raises FrameError: the image does not fit the calibration.
        """
        calibration = self.calibration
        assert calibration is not None, 'choose_calibration comes first'
        image = self._shutter.corrected(decoded.image, decoded.stamp_ns)
        if calibration.rectifier is not None:
            image = calibration.rectifier.rectify(image)
        return Frame(image, decoded.stamp_ns, intrinsics=calibration.intrinsics)

    def _report_once(self, text: str, warn: bool = True) -> None:
        if text not in self._reported:
            self._reported.add(text)
            # On two lines: rclpy allows one severity per logging line.
            if warn:
                self._logger.warning(text)
            else:
                self._logger.info(text)


def calibrate(
    info: CameraInfo | None, width: int, height: int, config: InputConfig, image_topic: str
) -> Calibration:
    """Return the calibration for images of a size.

    If the CameraInfo cannot be used, that is no error: the focal length is estimated.
    """
    if info is None:
        return Calibration('missing', 'no CameraInfo received: the focal length is estimated')
    try:
        model = camera_from_info(info, width, height)
    except CalibrationError as error:
        return Calibration('invalid', f'CameraInfo cannot be used, so it is ignored: {error}')
    if model is None:
        problem = 'the CameraInfo is of an uncalibrated camera: the focal length is estimated'
        return Calibration('zero', problem)
    try:
        model = model.scaled_to(width, height)
    except CalibrationError as error:
        return Calibration('size mismatch', f'CameraInfo is ignored: {error}')
    rectifier = Rectifier(model.of_images(config.rectification, image_topic))
    used = None if rectifier.is_identity else rectifier
    return Calibration('valid', model.note, rectifier.intrinsics, used)


def same_calibration(first: CameraInfo | None, second: CameraInfo | None) -> bool:
    """Return whether two CameraInfo are equal except for their headers."""
    if first is None or second is None:
        return first is second

    def content(info: CameraInfo) -> tuple[object, ...]:
        numbers = (info.d, info.k, info.p)
        return (
            info.width, info.height, info.distortion_model, info.binning_x, info.binning_y,
            info.roi, *(np.asarray(row, dtype=np.float64).tobytes() for row in numbers),
        )  # fmt: skip

    return content(first) == content(second)
