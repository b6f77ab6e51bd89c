"""Malformed input for the node, drawn at random: images, calibrations, requests, parameters.

Each generator yields what a broken driver, a careless user or an attacker might send. Some of it
is valid by chance; nothing of it may bring the node down or give a false pose.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
import cv2
from geometry_msgs.msg import Pose, PoseWithCovarianceStamped
import numpy as np
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import Parameter, parameters
from r3_ros.ros.outputs.messages import header_message, time_message
from r3_ros.srv import GetKeyframeGraph, LoadMap, SaveMap, SaveTrajectory, SetScale
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

ENCODINGS = (
    'rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', '8UC1', '8UC3', '8UC4', '16UC1',
    'bayer_rggb8', 'bayer_grbg8', 'yuv422', 'yuv422_yuy2', 'nv12', '32FC1', '64FC3', 'nv21',
    '', 'RGB8', 'rgb8 ', 'png', 'h264', '\x00', 'x' * 300,
)  # fmt: skip
FORMATS = ('jpeg', 'png', 'rgb8; jpeg compressed bgr8', 'compressedDepth', '')
DISTORTIONS = (
    'plumb_bob', 'rational_polynomial', 'equidistant', 'fisheye', '', 'none', 'double_sphere',
)  # fmt: skip
NUMBERS = (0.0, -1.0, 1e-300, 1e300, -1e300, math.nan, math.inf, -math.inf, 1.0, 0.5)
TEXTS = (
    '', ' ', '.', '..', '../outside', 'a/../../outside', '~', '~nobody/map', 'name', 'a b',
    'map\n', 'map\x01', 'ä' * 90, 'x' * 5000, '-rf', '$(reboot)', '%s%n', 'CON',
    '/proc/nothing/map',
    '/dev/null/map', '//', './/name', 'tum', 'ply', 'base', 'optical',
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Call:
    """A request and the service it goes to."""

    kind: Any
    service: str
    request: Any


class Malformed:
    """Draws malformed input; the same seed draws the same.

    :param rng: where the chance comes from.
    :param start_ns: stamps are drawn around this time.
    """

    def __init__(self, rng: np.random.Generator, start_ns: int) -> None:
        """Start at a time."""
        self._rng = rng
        self.stamp_ns = start_ns

    def image(self) -> Image:
        """Return an image with one to three things wrong."""
        width, height = self._size(), self._size()
        encoding = self._one_of(ENCODINGS)
        step = width * self._one_of((1, 2, 3, 4))
        length = step * height
        message = Image(
            header=header_message(self._stamp(), 'camera_optical'),
            width=width,
            height=height,
            encoding=encoding,
            step=step,
        )
        for _ in range(self._rng.integers(0, 3)):
            length = self._break_image(message, length)
        message.data = array.array('B', self._rng.bytes(min(max(length, 0), 1 << 20)))
        return message

    def compressed(self) -> CompressedImage:
        """Return a compressed image that is cut off, patched, or none at all."""
        pixels = self._rng.integers(0, 255, (self._size(), self._size(), 3), dtype=np.uint8)
        kind = self._one_of(('.jpg', '.png'))
        data = b''
        if pixels.size:
            data = cv2.imencode(kind, pixels)[1].tobytes()
        fault = self._rng.integers(0, 5)
        if fault == 0:
            data = data[: self._rng.integers(0, len(data) + 1)]
        elif fault == 1:
            data = self.patched(data)
        elif fault == 2:
            data = self._rng.bytes(int(self._rng.integers(0, 4000)))
        elif fault == 3:
            data = png_that_claims(self._one_of((0, 30_000, 2**31 - 1)))
        return CompressedImage(
            header=header_message(self._stamp(), 'camera_optical'),
            format=self._one_of(FORMATS),
            data=array.array('B', data),
        )

    def camera_info(self, width: int, height: int) -> CameraInfo:
        """Return a calibration that is not one."""
        message = CameraInfo(
            header=header_message(self._stamp(), 'camera_optical'),
            width=self._one_of((width, 2 * width, height, 0, 1, 2**32 - 1)),
            height=self._one_of((height, 2 * height, width, 0, 1, 2**32 - 1)),
            distortion_model=self._one_of(DISTORTIONS),
            d=[self._number() for _ in range(self._one_of((0, 1, 4, 5, 8, 12, 14, 100)))],
        )
        focal = self._one_of((0.8 * width, 0.0, -50.0, 1e9, math.nan))
        message.k = np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1.0])
        for name in ('k', 'r', 'p'):
            if self._rng.random() < 0.5:
                values = getattr(message, name).copy()
                values[self._rng.integers(0, len(values))] = self._number()
                setattr(message, name, values)
        message.binning_x, message.binning_y = (int(n) for n in self._rng.integers(0, 4, 2))
        if self._rng.random() < 0.3:
            roi = message.roi
            roi.x_offset, roi.y_offset, roi.width, roi.height = (
                int(n) for n in self._rng.integers(0, 2 * width, 4)
            )
        return message

    def initial_pose(self) -> PoseWithCovarianceStamped:
        """Return a pose estimate of an operator, as likely as not nonsense."""
        message = PoseWithCovarianceStamped(
            header=header_message(self._stamp(), self._one_of(('map', 'odom', '', 'nowhere')))
        )
        message.pose.pose = self._pose()
        return message

    def call(self, folder: Path) -> Call:
        """Return a request with nonsense in it; files go below ``folder``, if anywhere."""
        makers: tuple[Callable[[Path], Call], ...] = (
            self._save_map,
            self._save_trajectory,
            self._set_scale,
            self._load_map,
            lambda _: Call(Trigger, 'r3/reset', Trigger.Request()),
            lambda _: Call(Trigger, 'r3/clear_map', Trigger.Request()),
            lambda _: Call(GetKeyframeGraph, 'r3/get_keyframe_graph', GetKeyframeGraph.Request()),
            # Twice, so that images are taken again.
            lambda _: Call(SetBool, 'r3/pause', SetBool.Request(data=False)),
        )
        return self._one_of(makers)(folder)

    def parameter(self) -> tuple[str, Any]:
        """Return a parameter and a value that it hardly can have."""
        known = self._one_of(tuple(parameters(R3Config())))
        name = known.name if self._rng.random() < 0.9 else self._one_of(TEXTS)
        return name or 'unnamed', self._value(known)

    def patched(self, data: bytes) -> bytes:
        """Return bytes of which a few were overwritten, inserted or removed."""
        patched = bytearray(data)
        for _ in range(int(self._rng.integers(1, 8))):
            if not patched:
                break
            at = int(self._rng.integers(0, len(patched)))
            kind = self._rng.integers(0, 3)
            if kind == 0:
                patched[at] = int(self._rng.integers(0, 256))
            elif kind == 1:
                patched[at:at] = self._rng.bytes(4)
            else:
                del patched[at : at + 4]
        return bytes(patched)

    def _break_image(self, message: Image, length: int) -> int:
        """Spoil one thing; return how many bytes the image is to have."""
        fault = self._rng.integers(0, 6)
        if fault == 0:
            message.step = self._one_of((0, 1, message.step + 1, 2**32 - 1))
        elif fault == 1:
            length += int(self._rng.integers(-200, 200))
        elif fault == 2:
            message.width = self._one_of((0, 1, 2**32 - 1, message.width + 1))
        elif fault == 3:
            message.height = self._one_of((0, 1, 2**32 - 1, message.height + 1))
        elif fault == 4:
            message.is_bigendian = self._one_of((1, 255))
        else:
            message.header.stamp = self._odd_stamp()
        return length

    def _odd_stamp(self) -> Time:
        return self._one_of(
            (
                Time(),
                Time(sec=-1, nanosec=0),
                Time(sec=2**31 - 1, nanosec=999_999_999),
                Time(sec=0, nanosec=2**32 - 1),
                time_message(self.stamp_ns - 10**9),
                time_message(self.stamp_ns),
            )
        )

    def _save_map(self, folder: Path) -> Call:
        formats = [self._text() for _ in range(self._rng.integers(0, 3))]
        request = SaveMap.Request(
            name=self._path(folder),
            overwrite=bool(self._rng.integers(0, 2)),
            include_images=bool(self._rng.integers(0, 2)),
            formats=formats,
        )
        return Call(SaveMap, 'r3/save_map', request)

    def _save_trajectory(self, folder: Path) -> Call:
        request = SaveTrajectory.Request(
            name=self._path(folder),
            format=self._text(),
            frame=self._text(),
            keyframes_only=bool(self._rng.integers(0, 2)),
            overwrite=bool(self._rng.integers(0, 2)),
        )
        return Call(SaveTrajectory, 'r3/save_trajectory', request)

    def _set_scale(self, folder: Path) -> Call:
        request = SetScale.Request(scale=self._number(), lock=bool(self._rng.integers(0, 2)))
        return Call(SetScale, 'r3/set_scale', request)

    def _load_map(self, folder: Path) -> Call:
        request = LoadMap.Request(
            name=self._path(folder),
            use_initial_pose=bool(self._rng.integers(0, 2)),
            initial_pose=self._pose(),
            localize=bool(self._rng.integers(0, 2)),
        )
        return Call(LoadMap, 'r3/load_map', request)

    def _path(self, folder: Path) -> str:
        text = self._text()
        if self._rng.random() < 0.7:
            return text
        # An absolute path may lead anywhere: these stay where the files that appear are allowed.
        inside = [part for part in text.split('/') if part not in ('', '.', '..')]
        return str(folder.joinpath(*inside or ['x']))

    def _value(self, known: Parameter) -> Any:
        """Return any value, one at the edge of what is allowed, or of another type."""
        choices: list[Any] = [self._number(), self._text(), True, 2**62, -(2**62), [1.0, math.nan]]
        if known.meta.low is not None and known.meta.high is not None:
            low, high = known.kind(known.meta.low), known.kind(known.meta.high)
            choices += [low, high, low - 1, high + 1]
        return choices[self._rng.integers(0, len(choices))]

    def _pose(self) -> Pose:
        pose = Pose()
        for part, names in ((pose.position, 'xyz'), (pose.orientation, 'xyzw')):
            for name in names:
                if self._rng.random() < 0.5:
                    setattr(part, name, self._number())
        return pose

    def _stamp(self) -> int:
        self.stamp_ns += 10_000_000
        return self.stamp_ns

    def _size(self) -> int:
        return int(self._one_of((0, 1, 2, 3, 48, 63, 64, 65, 200)))

    def _number(self) -> float:
        return float(self._one_of(NUMBERS))

    def _text(self) -> str:
        return str(self._one_of(TEXTS))

    def _one_of(self, values: tuple[Any, ...]) -> Any:
        return values[self._rng.integers(0, len(values))]


def png_that_claims(side: int) -> bytes:
    """Return a PNG whose header promises an image of ``side`` squared and brings none."""
    import struct
    import zlib

    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    chunk = b'IHDR' + header
    return (
        b'\x89PNG\r\n\x1a\n'
        + struct.pack('>I', len(header))
        + chunk
        + struct.pack('>I', zlib.crc32(chunk))
    )
