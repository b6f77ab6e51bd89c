"""Reads bags without ROS: rosbag2 (MCAP, SQLite) and ROS 1, through the ``rosbags`` library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import get_typestore, Stores

from ..core.errors import CalibrationError, FrameError, SourceError
from ..core.trajectory_file import NANOSECONDS
from .camera_model import camera_from_info, CameraModel
from .cut_mcap import McapPath
from .image_decoding import decode_message
from .image_topics import base_topic, camera_info_topic
from .source import RawFrame, Source

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'


class BagReader:
    """A bag opened for reading; failures are raised as :class:`SourceError`.

    :ivar cut_files: MCAP files that were not closed, which are read as far as they go.
    """

    def __init__(self, path: Path) -> None:
        """Open the bag.

        :raises SourceError: it is no bag, or damaged.
        """
        self.path = path
        if not path.exists():
            raise SourceError(f'{path} does not exist')
        with _as_source_error(path):
            # Only MCAP: for other databases rosbags handles paths of its own kind in another way.
            is_mcap = path.suffix == '.mcap' or any(path.glob('*.mcap'))
            opened: Any = McapPath(path) if is_mcap else path
            self._reader = AnyReader([opened], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            self._reader.open()
        self.cut_files = opened.cut if isinstance(opened, McapPath) else []
        self.connections = self._reader.connections

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def serialized(
        self, connections: list[Connection] | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield (connection, time of recording in ns, serialised message) in order of time.

        :raises SourceError: the rest of the bag is damaged.
        """
        with _as_source_error(self.path):
            yield from self._reader.messages(connections or self.connections)

    def deserialize(self, connection: Connection, data: bytes) -> Any:
        """Return the message as an object.

        :raises FrameError: the bytes are no such message.
        """
        try:
            return self._reader.deserialize(data, connection.msgtype)
        except Exception as error:  # rosbags has no common error for truncated data
            raise FrameError(f'a message on {connection.topic} cannot be read: {error}') from error


@contextmanager
def _as_source_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (SourceError, GeneratorExit):
        raise
    except Exception as error:  # rosbags, SQLite, YAML, zstd
        reason = str(error) or type(error).__name__
        raise SourceError(
            f'the bag {path} cannot be read, or is damaged: {reason.rstrip(".")}. If it was '
            'not closed, `mcap recover` (a file) or `ros2 bag reindex` (a folder) may repair it'
        ) from error


class BagSource(Source):
    """The images of one topic of a bag, with their recorded calibration."""

    def __init__(self, path: Path, topic: str | None = None, use_own_camera: bool = True) -> None:
        """Open the bag and choose the topic.

        :param use_own_camera: False ignores the recorded CameraInfo.

        :raises SourceError: it is damaged, or holds no image topic, or several.
        """
        self._bag = BagReader(path)
        try:
            self.connection = _image_connection(self._bag.connections, topic, path)
            super().__init__(path.absolute().name, None, self.connection.msgcount)
            if not self.length:
                raise SourceError(f'{path} has the topic {self.connection.topic}, but no image')
            self.topic = self.camera_name = self.connection.topic
            if use_own_camera:
                self.calibration = self._recorded_camera()
        except BaseException as error:
            self._bag.close()
            cut = ', '.join(file.name for file in self._bag.cut_files)
            if cut and isinstance(error, SourceError):
                raise SourceError(f'{error}; {cut} was not closed, and ends too early') from error
            raise

    def close(self) -> None:
        """Close the file."""
        self._bag.close()

    def _read(self) -> Iterator[RawFrame]:
        count, stamps = 0, []
        try:
            for _, recorded_ns, data in self._bag.serialized([self.connection]):
                count += 1
                try:
                    message = self._bag.deserialize(self.connection, data)
                    image = decode_message(message)
                except FrameError as error:
                    self._skip(f'message {count} on {self.connection.topic}', error)
                    continue
                stamps.append(self._stamp_ns(message, recorded_ns))
                yield RawFrame(stamps[-1], image)
        except SourceError as error:
            if not count:
                raise
            self.warnings.append(f'ended after {count} images: {error}')
        for file in self._bag.cut_files:
            span_s = (max(stamps) - min(stamps)) / NANOSECONDS if stamps else 0.0
            self.warnings.append(
                f'{file.name} was not closed (was the recorder killed, or the copy interrupted?): '
                f'read up to its end, {len(stamps)} frames over {span_s:.1f} s'
            )

    def _stamp_ns(self, message: Any, recorded_ns: int) -> int:
        stamp_ns = stamp_of(message)
        if stamp_ns:
            return stamp_ns
        warning = 'images without a stamp: the time of recording is used'
        if warning not in self.warnings:
            self.warnings.append(warning)
        return recorded_ns

    def _recorded_camera(self) -> CameraModel | None:
        infos = [c for c in self._bag.connections if c.msgtype == CAMERA_INFO]
        sibling = camera_info_topic(self.connection.topic)
        chosen = [c for c in infos if c.topic == sibling] or (infos if len(infos) == 1 else [])
        if not chosen:
            return None
        width, height = self._image_size()
        for _, _, data in self._bag.serialized(chosen[:1]):
            try:
                info = self._bag.deserialize(chosen[0], data)
                camera = camera_from_info(info, width, height)
                camera = camera and camera.scaled_to(width, height)
            except (FrameError, CalibrationError) as error:
                self.warnings.append(
                    f'the recorded CameraInfo cannot be used, so it is ignored: {error}. Give a '
                    'calibration file instead (--camera)'
                )
                return None
            if camera is not None and camera.note:
                self.warnings.append(f'the recorded CameraInfo: {camera.note}')
            return camera
        return None

    def _image_size(self) -> tuple[int, int]:
        """Return width and height of the first image that can be decoded.

        :raises SourceError: there is none.
        """
        problem = None
        for _, _, data in self._bag.serialized([self.connection]):
            try:
                image = decode_message(self._bag.deserialize(self.connection, data))
                return image.shape[1], image.shape[0]
            except FrameError as error:
                problem = problem or error
        raise SourceError(f'{self.name} gave no frame that can be decoded: {problem}')


def _image_connection(connections: list[Connection], topic: str | None, path: Path) -> Connection:
    """Choose the topic; of one camera raw images before compressed ones."""
    images = {c.topic: c for c in connections if c.msgtype in (IMAGE, COMPRESSED_IMAGE)}
    if topic:
        if topic not in images:
            raise SourceError(
                f'{path} has no images on {topic}; it has them on: '
                + (', '.join(sorted(images)) or 'no topic')
            )
        return images[topic]
    if not images:
        others = ', '.join(sorted(c.topic for c in connections)) or 'nothing'
        raise SourceError(f'{path} holds no image topic; it holds {others}')
    if len({base_topic(t) for t in images}) > 1:
        raise SourceError(
            f'{path} holds images on several topics, name one (--topic): '
            + ', '.join(sorted(images))
        )
    return images[min(images)]  # raw, compressed, compressedDepth: in that order


def stamp_of(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds."""
    stamp = message.header.stamp
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)
