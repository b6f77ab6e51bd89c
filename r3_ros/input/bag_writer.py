"""Writes recorded sequences as bags (rosbag2, MCAP) without ROS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from ..core.atomic_files import atomic_directory, atomic_path
from ..core.errors import ConfigError, SourceError
from ..core.trajectory_file import NANOSECONDS, stamp_text
from .bag_source import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from .camera_model import CameraModel
from .image_topics import camera_info_topic
from .source import RawFrame

IMAGE_TOPIC = '/camera/image_raw'
_FRAME_ID = 'camera_optical_frame'

_JPEG_QUALITY = 95
_TOPIC = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+')
#: The seconds of a ROS time are a signed 32-bit number.
_LAST_NS = 2**31 * NANOSECONDS


@dataclass(frozen=True)
class SequenceSummary:
    """Content of a written bag.

    :ivar topic: of the images; ``shift_ns`` was added to all times of the input.
    """

    topic: str
    frames: int
    first_ns: int
    last_ns: int
    shift_ns: int


def write_sequence(
    out: Path,
    frames: Iterable[RawFrame],
    camera: CameraModel | None,
    topic: str = IMAGE_TOPIC,
    compressed: bool = False,
    overwrite: bool = False,
) -> SequenceSummary:
    """Write images and calibration as a bag, each with its own stamp.

    Each image has a CameraInfo, all zero without a calibration.

    :param out: a file ``.mcap``, or a rosbag2 folder of any other name.
    :param topic: of raw images; ``compressed``: write CompressedImage on the topic below it.
    :raises ConfigError: no valid topic name.
    :raises OutputError: it exists, or cannot be written; nothing is left then.
    :raises SourceError: the frames cannot be read, or their times do not fit into messages.
    """
    if not _TOPIC.fullmatch(topic):
        raise ConfigError(
            f'{topic!r} is no full topic name such as {IMAGE_TOPIC}, of letters, digits and '
            'underscores'
        )
    topic = f'{topic}/compressed' if compressed else topic
    if out.suffix == '.mcap':
        with atomic_path(out, overwrite) as temporary:
            folder = temporary.with_suffix('.folder')
            summary = _write_folder(folder, frames, camera, topic, compressed)
            os.replace(next(folder.glob('*.mcap')), temporary)
    else:
        with atomic_directory(out, overwrite, marker='metadata.yaml') as temporary:
            temporary.rmdir()  # rosbags creates the folder
            summary = _write_folder(temporary, frames, camera, topic, compressed)
    return summary


def _write_folder(
    folder: Path,
    frames: Iterable[RawFrame],
    camera: CameraModel | None,
    topic: str,
    compressed: bool,
) -> SequenceSummary:
    count, first_ns, last_ns, shift_ns = 0, 0, 0, 0
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        messages = _MessageWriter(writer)
        for frame in frames:
            if not count:
                # ROS reads a stamp of zero as "no time": such a sequence begins at 1 s.
                shift_ns = 0 if frame.stamp_ns > 0 else NANOSECONDS - frame.stamp_ns
                first_ns = frame.stamp_ns + shift_ns
            last_ns = frame.stamp_ns + shift_ns
            messages.camera_info(camera_info_topic(topic), last_ns, frame, camera)
            messages.image(topic, last_ns, frame, compressed)
            count += 1
    return SequenceSummary(topic, count, first_ns, last_ns, shift_ns)


class _MessageWriter:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Connection] = {}

    def _new(self, kind: str, **fields: Any) -> Any:
        return self._typestore.types[kind](**fields)

    def _header(self, stamp_ns: int) -> Any:
        if not 0 <= stamp_ns < _LAST_NS:
            raise SourceError(
                f'the time {stamp_text(stamp_ns)} s does not fit into a ROS message, which takes '
                '0 to 2147483647 s: are the times in order, and in seconds?'
            )
        sec, nanosec = divmod(stamp_ns, NANOSECONDS)
        stamp = self._new('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
        return self._new('std_msgs/msg/Header', stamp=stamp, frame_id=_FRAME_ID)

    def _write(self, topic: str, stamp_ns: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._typestore
            )
        data = self._typestore.serialize_cdr(message, kind)
        self._writer.write(self._connections[topic], stamp_ns, data)

    def image(self, topic: str, stamp_ns: int, frame: RawFrame, compressed: bool) -> None:
        header = self._header(stamp_ns)
        if compressed:
            data = frame.encoded
            if data is None:
                pixels = frame.image
                if pixels.ndim == 3:
                    pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
                options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                data = cv2.imencode('.jpg', pixels, options)[1].tobytes()
            form = 'png' if data.startswith(b'\x89PNG') else 'jpeg'
            content = {'format': form, 'data': np.frombuffer(data, dtype=np.uint8)}
            self._write(topic, stamp_ns, self._new(COMPRESSED_IMAGE, header=header, **content))
            return
        pixels = frame.image
        message = self._new(
            IMAGE,
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding='mono8' if pixels.ndim == 2 else 'rgb8',
            is_bigendian=0,
            step=pixels.nbytes // pixels.shape[0],
            data=pixels.reshape(-1),
        )
        self._write(topic, stamp_ns, message)

    def camera_info(
        self, topic: str, stamp_ns: int, frame: RawFrame, camera: CameraModel | None
    ) -> None:
        height, width = frame.image.shape[:2]
        K, P, D, model = np.zeros(9), np.zeros((3, 4)), np.zeros(0), 'plumb_bob'
        if camera is not None:
            camera = camera.scaled_to(width, height)
            K, D, model = camera.K.reshape(-1), np.array(camera.D), camera.distortion_model
            P[:, :3] = camera.K if camera.P is None else camera.P
        roi = self._new(
            'sensor_msgs/msg/RegionOfInterest',
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
        )  # fmt: skip
        message = self._new(
            CAMERA_INFO,
            header=self._header(stamp_ns),
            height=height,
            width=width,
            distortion_model=model,
            d=D,
            k=K,
            r=np.eye(3).reshape(-1),
            p=P.reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )
        self._write(topic, stamp_ns, message)
