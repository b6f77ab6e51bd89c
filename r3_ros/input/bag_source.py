"""Reads bags without ROS: rosbag2 (MCAP, SQLite) and ROS 1, through the ``rosbags`` library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader as Ros2Reader
from rosbags.typesys import get_typestore, Stores

from ..core.errors import CalibrationError, FrameError, SourceError
from ..core.trajectory_file import NANOSECONDS
from .camera_model import camera_from_info, CameraModel
from .cut_mcap import McapPath
from .image_decoding import assumed_encoding, decode_message
from .image_topics import base_topic, camera_info_topic, full_topic
from .source import RawFrame, Source

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
#: What helps, by a part of the reason that rosbags gives.
_ADVICE = {
    'Profile is not ros2': 'it is no recording of ROS 2. For one of ROS 1 name the .bag file that '
    'it was made from',
    'Storage plugin': 'its metadata.yaml names no storage that exists: set storage_identifier to '
    'mcap or sqlite3, or name the file in the folder',
    'files are missing': 'files are missing that its metadata.yaml names: put them back, or name '
    'a file that is there',
    'Unrecognized storage': 'it is no .mcap, .db3 or .bag file and no folder of rosbag2. If it is '
    'compressed, decompress it',
    'please report': 'it is of a version that is not known: pip install --upgrade rosbags',
}


class BagReader:
    """A bag opened for reading; failures are raised as :class:`SourceError`.

    :ivar is_ros1: whether it is of ROS 1.
    :ivar connections: each publisher of a topic may have its own.
    :ivar cut_files: MCAP files that were not closed, which are read as far as they go.
    """

    def __init__(self, path: Path) -> None:
        """Open the bag.

        :raises SourceError: it is no bag, or damaged.
        """
        self.path = path
        if not path.exists():
            raise SourceError(f'{path} does not exist')
        self.is_ros1 = path.suffix == '.bag'
        # Images and calibrations are the same in all distributions, and some recorders leave out
        # their definitions. Those of other messages, which may be wrong, are not needed.
        self._types = get_typestore(Stores.ROS1_NOETIC if self.is_ros1 else Stores.ROS2_JAZZY)
        with _as_source_error(path):
            # Only MCAP: for other databases rosbags handles paths of its own kind in another way.
            is_mcap = path.suffix == '.mcap' or any(path.glob('*.mcap'))
            opened: Any = McapPath(path) if is_mcap else path
            self._reader = Ros1Reader(path) if self.is_ros1 else Ros2Reader(opened)
            self._reader.open()
        self.cut_files = opened.cut if isinstance(opened, McapPath) else []
        self.connections = self._reader.connections

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def topics(self, *kinds: str) -> dict[str, list[Connection]]:
        """Return the connections by topic, which may have several.

        Each publisher has its own in ROS 1, and those of merged MCAP files stay apart. The topics
        of ROS 1 may lack the leading slash.

        :param kinds: message types; none for all.
        """
        topics: dict[str, list[Connection]] = {}
        for connection in self.connections:
            if not kinds or connection.msgtype in kinds:
                topics.setdefault(full_topic(connection.topic), []).append(connection)
        return topics

    def serialized(
        self, connections: list[Connection] | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield (connection, time of recording in ns, serialised message) in order of time.

        :raises SourceError: the rest of the bag is damaged.
        """
        with _as_source_error(self.path):
            wanted = self._in_files(connections or self.connections)
            for connection, recorded_ns, data in self._reader.messages(wanted):
                if bytes(data[:4]) == _ZSTD_MAGIC:
                    raise SourceError(
                        f'the messages in {self.path} are compressed: name the folder, whose '
                        'metadata.yaml says how'
                    )
                yield connection, recorded_ns, data

    def _in_files(self, connections: list[Connection]) -> list[Connection]:
        """Add the connections of the files in a folder to those that its metadata.yaml names.

        rosbags leaves out those that differ in their quality of service.
        """
        names = {(c.topic, c.msgtype) for c in connections}
        files = getattr(getattr(self._reader, 'storage', None), 'storages', [])
        found = [c for file in files for c in file.connections]
        return [*connections, *(c for c in found if (c.topic, c.msgtype) in names)]

    def deserialize(self, connection: Connection, data: bytes) -> Any:
        """Return an image or a calibration as an object.

        :raises FrameError: the bytes are no such message.
        """
        read = self._types.deserialize_ros1 if self.is_ros1 else self._types.deserialize_cdr
        try:
            return read(data, connection.msgtype)
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
        for part, advice in _ADVICE.items():
            if part in reason:
                raise SourceError(f'the bag {path} cannot be read: {advice}') from error
        raise SourceError(
            f'the bag {path} cannot be read, or is damaged: {reason.rstrip(".")}. If it was '
            'not closed, `mcap recover` (a file) or `ros2 bag reindex` (a folder) may repair it'
        ) from error


class BagSource(Source):
    """The images of one topic of a bag, with their recorded calibration."""

    def __init__(
        self,
        path: Path,
        topic: str | None = None,
        use_own_camera: bool = True,
        encoding_hint: str = '',
    ) -> None:
        """Open the bag and choose the topic.

        :param use_own_camera: False ignores the recorded CameraInfo.
        :param encoding_hint: ``input.encoding_hint``.
        :raises SourceError: it is damaged, or holds no image topic, or several.
        """
        self._bag = BagReader(path)
        self._encoding_hint = encoding_hint
        try:
            self._images = _image_connections(self._bag, topic)
            super().__init__(path.absolute().name, None, sum(c.msgcount for c in self._images))
            self.topic = self.camera_name = full_topic(self._images[0].topic)
            if not self.length:
                raise SourceError(f'{path} has the topic {self.topic}, but no image')
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
        stamps: list[int] = []
        count, hint = 0, self._encoding_hint
        try:
            for connection, recorded_ns, data in self._bag.serialized(self._images):
                count += 1
                try:
                    message = self._bag.deserialize(connection, data)
                    image = decode_message(message, hint)
                except FrameError as error:
                    self._skip(f'message {count} on {self.topic}', error)
                    continue
                if assumption := assumed_encoding(message, hint):
                    self._note(assumption)
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
        if self.length and count < self.length and not self._bag.cut_files:
            self.skipped += self.length - count
            self._note(f'{self.name} announces {self.length} images, {count} could be read')

    def _stamp_ns(self, message: Any, recorded_ns: int) -> int:
        stamp_ns = stamp_of(message)
        if stamp_ns:
            return stamp_ns
        self._note('images without a stamp: the time of recording is used')
        return recorded_ns

    def _recorded_camera(self) -> CameraModel | None:
        infos = self._bag.topics(CAMERA_INFO)
        sibling = camera_info_topic(self.topic)
        chosen = infos.get(sibling) or (next(iter(infos.values())) if len(infos) == 1 else [])
        if not chosen:
            return None
        width, height = self._image_size()
        for connection, _, data in self._bag.serialized(chosen):
            try:
                info = self._bag.deserialize(connection, data)
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
        for connection, _, data in self._bag.serialized(self._images):
            try:
                message = self._bag.deserialize(connection, data)
                image = decode_message(message, self._encoding_hint)
                return image.shape[1], image.shape[0]
            except FrameError as error:
                problem = problem or error
        raise SourceError(f'{self.name} gave no frame that can be decoded: {problem}')


def _image_connections(bag: BagReader, topic: str | None) -> list[Connection]:
    """Choose the topic; of one camera raw images before compressed ones."""
    path, images = bag.path, bag.topics(IMAGE, COMPRESSED_IMAGE)
    if topic:
        if full_topic(topic) not in images:
            raise SourceError(
                f'{path} has no images on {topic}; it has them on: '
                + (', '.join(sorted(images)) or 'no topic')
            )
        return images[full_topic(topic)]
    if not images:
        others = ', '.join(sorted(bag.topics())) or 'nothing'
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
