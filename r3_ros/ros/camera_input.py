"""From image messages to frames for the engine: decoding, stamps, and which calibration holds."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from rclpy.clock import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..config import InputConfig
from ..datatypes import Frame
from .conversions import (
    calibrate,
    Calibration,
    CameraImage,
    optical_frame_of,
    read_image,
    same_calibration,
)
from .health import Health


class CameraInput:
    """What the worker knows of the camera. :meth:`on_camera_info` alone comes from outside.

    :ivar config: live parameters of the input.
    :ivar calibration: in force now; None before the first picture.
    """

    def __init__(
        self,
        config: InputConfig,
        optical_frame: str,
        image_topic: str,
        clock: Clock,
        health: Health,
        logger: Any,
    ) -> None:
        """Start with no calibration.

        :param optical_frame: replaces the frame_id of the pictures; empty for none.
        """
        self.config = config
        self.calibration: Calibration | None = None
        #: Called whenever a CameraInfo comes, in the executor's thread.
        self.on_change: Callable[[], None] = lambda: None
        self._optical_frame = optical_frame
        self._image_topic = image_topic
        self._clock = clock
        self._health = health
        self._logger = logger
        self._info: CameraInfo | None = None
        self._used: tuple[CameraInfo | None, int, int] | None = None
        self._waiting_since_s: float | None = None
        self._reported: set[str] = set()

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
        """Return the frame id that a message's picture has."""
        return optical_frame_of(message, self._optical_frame)

    def read(self, message: Image | CompressedImage) -> CameraImage:
        """Decode a message.

        :raises FrameError: it holds no usable picture.
        """
        picture = read_image(message, self.config.encoding_hint, self._optical_frame, self._clock)
        height, width = picture.image.shape[:2]
        self._health.encoding = picture.encoding
        self._health.encoding_guessed = picture.guessed
        self._health.resolution = f'{width}x{height}'
        if picture.note:
            self._report_once(picture.note)
        return picture

    def choose_calibration(self, picture: CameraImage) -> str:
        """Take over a new CameraInfo or picture size.

        :returns: why the session has to start anew, empty if it does not: pictures that were
            related with a guessed focal length cannot be related with ones that have a true one.
        """
        height, width = picture.image.shape[:2]
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
                # Better the calibration that was good until now than none.
                return ''
        self._take(chosen)
        became_known = before is not None and before.intrinsics is None and chosen.intrinsics
        return 'a calibration has come' if same_size and became_known else ''

    def to_frame(self, picture: CameraImage) -> Frame:
        """Undistort a picture as its calibration says.

        :raises FrameError: the picture does not fit the calibration.
        """
        assert self.calibration is not None, 'choose_calibration comes first'
        return Frame(
            image=self.calibration.rectify(picture.image),
            stamp_ns=picture.stamp_ns,
            intrinsics=self.calibration.intrinsics,
        )

    def _take(self, calibration: Calibration) -> None:
        self.calibration = calibration
        rectifier = calibration.rectifier
        self._health.camera_info = calibration.status
        self._health.rectified = rectifier is not None and not rectifier.is_identity
        if calibration.intrinsics is not None:
            undone = 'undistorted here' if self._health.rectified else 'used as they come'
            self._report_once(f'calibrated camera, pictures are {undone}', warn=False)

    def _report_once(self, text: str, warn: bool = True) -> None:
        if text not in self._reported:
            self._reported.add(text)
            # On two lines: rclpy ties a severity to the line that logs.
            if warn:
                self._logger.warning(text)
            else:
                self._logger.info(text)
