"""Image messages to frames for the engine: decoding, stamps and calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import time
from typing import Any

from rclpy.clock import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ...core.config import InputConfig
from ...core.datatypes import Frame
from ..outputs.health import Health
from .conversions import (
    calibrate,
    Calibration,
    CameraImage,
    optical_frame_of,
    read_image,
    same_calibration,
)


@dataclass(eq=False)
class CameraInput:
    """Decodes and undistorts images. Worker thread, except :meth:`on_camera_info`.

    :param optical_frame: replaces the frame_id of the images; empty for none.
    :ivar config: live parameters of the input.
    :ivar calibration: in use; None before the first image.
    :ivar on_change: called after each CameraInfo, in the executor thread.
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

    def on_camera_info(self, message: CameraInfo) -> None:
        """Keep the newest calibration (executor thread)."""
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
        """Return the frame id of a message's image."""
        return optical_frame_of(message, self._optical_frame)

    def read(self, message: Image | CompressedImage) -> CameraImage:
        """Decode a message.

        :raises FrameError: it holds no usable image.
        """
        decoded = read_image(message, self.config.encoding_hint, self._optical_frame, self._clock)
        height, width = decoded.image.shape[:2]
        self._health.encoding = decoded.encoding
        self._health.encoding_guessed = decoded.guessed
        self._health.resolution = f'{width}x{height}'
        if decoded.note:
            self._report_once(decoded.note)
        return decoded

    def choose_calibration(self, decoded: CameraImage) -> str:
        """Apply a new CameraInfo or image size.

        :returns: why a new session has to start, empty if none has to: images with an estimated
            focal length cannot be related with images with a calibrated one.
        """
        height, width = decoded.image.shape[:2]
        info, used = self._info, self._used
        if used is not None and used[1:] == (width, height) and same_calibration(info, used[0]):
            return ''
        chosen = calibrate(info, width, height, self.config, self._image_topic)
        same_size = used is not None and used[1:] == (width, height)
        self._used = (info, width, height)
        if chosen.problem:
            self._report_once(chosen.problem)
        before = self.calibration
        if same_size and before is not None and before.intrinsics is not None:
            if chosen.intrinsics is None:
                return ''  # keep the valid calibration
        self._take(chosen)
        became_known = before is not None and before.intrinsics is None and chosen.intrinsics
        return 'the camera is calibrated now' if same_size and became_known else ''

    def to_frame(self, decoded: CameraImage) -> Frame:
        """Return the frame of a decoded image, undistorted.

        :raises FrameError: the image does not fit the calibration.
        """
        assert self.calibration is not None, 'choose_calibration comes first'
        return Frame(
            image=self.calibration.rectify(decoded.image),
            stamp_ns=decoded.stamp_ns,
            intrinsics=self.calibration.intrinsics,
        )

    def _take(self, calibration: Calibration) -> None:
        self.calibration = calibration
        rectifier = calibration.rectifier
        self._health.camera_info = calibration.status
        self._health.rectified = rectifier is not None and not rectifier.is_identity
        if calibration.intrinsics is not None:
            undone = 'undistorted here' if self._health.rectified else 'used unchanged'
            self._report_once(f'calibrated camera, images are {undone}', warn=False)

    def _report_once(self, text: str, warn: bool = True) -> None:
        if text not in self._reported:
            self._reported.add(text)
            # On two lines: rclpy allows one severity per logging line.
            if warn:
                self._logger.warning(text)
            else:
                self._logger.info(text)
