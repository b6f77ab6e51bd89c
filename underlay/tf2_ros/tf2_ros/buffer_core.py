"""The tree of frames over time: insert transforms, look up the pose of one frame in another."""

from __future__ import annotations

from threading import RLock

from geometry_msgs.msg import TransformStamped
import numpy as np
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.time import Time

from .exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)
from .rigid import Motion
from .time_cache import Sample, StaticCache, TimeCache

#: How far a quaternion's squared length may be from 1.
QUATERNION_TOLERANCE = 10e-3
#: Longer chains are taken for loops.
MAX_DEPTH = 1000


class BufferCore:
    """Holds the last ``cache_time`` of every frame. Any thread may call any method."""

    def __init__(self, cache_time: Duration | None = None) -> None:
        duration = Duration(seconds=10) if cache_time is None else cache_time
        self._duration_ns = duration.nanoseconds
        self._lock = RLock()
        self._frames: dict[str, StaticCache | TimeCache] = {}
        # Every frame id that was ever seen, as a child or as a parent.
        self._known: set[str] = set()

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Insert a transform that holds at its stamp; an unusable one is reported and dropped."""
        self._insert(transform, authority, is_static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Insert a transform that holds for ever; an unusable one is reported and dropped."""
        self._insert(transform, authority, is_static=True)

    def clear(self) -> None:
        """Forget every transform but the static ones."""
        with self._lock:
            for frame in self._frames.values():
                frame.clear()

    def lookup_transform_core(
        self, target_frame: str, source_frame: str, time: Time
    ) -> TransformStamped:
        """Return the transform that takes points from ``source_frame`` to ``target_frame``.

        :param time: a zero time asks for the newest moment at which the whole chain is known.
        :raises TransformException: one of its kinds, if there is no such transform.
        """
        stamp_ns = _nanoseconds(time)
        with self._lock:
            for name, frame in (('target_frame', target_frame), ('source_frame', source_frame)):
                self._check_frame(name, frame)
            if stamp_ns == 0:
                stamp_ns = self._latest_common_ns(target_frame, source_frame)
            motion = self._motion(target_frame, source_frame, stamp_ns)
        return _to_message(motion, target_frame, source_frame, stamp_ns)

    def can_transform_core(
        self, target_frame: str, source_frame: str, time: Time
    ) -> tuple[bool, str]:
        """Tell whether a lookup would succeed, and if not, why."""
        try:
            self.lookup_transform_core(target_frame, source_frame, time)
        except TransformException as error:
            return False, str(error)
        return True, ''

    def all_frames_as_yaml(self) -> str:
        """Return each frame that has a parent, with how often it was heard, as YAML."""
        with self._lock:
            return (
                ''.join(
                    _describe(name, self._frames[name])
                    for name in self._frames
                    if len(self._frames[name])
                )
                or '[]'
            )

    def _insert(self, transform: TransformStamped, authority: str, is_static: bool) -> None:
        child = transform.child_frame_id.lstrip('/')
        parent = transform.header.frame_id.lstrip('/')
        sample = Sample(
            _nanoseconds(transform.header.stamp),
            parent,
            _from_message(transform),
            authority,
        )
        problem = _problem(child, sample)
        if problem:
            get_logger('tf2_buffer').error(
                f'Ignoring the transform {parent!r} -> {child!r} from {authority!r}: {problem}'
            )
            return
        with self._lock:
            self._known.update((child, parent))
            kind = StaticCache if is_static else TimeCache
            if not isinstance(self._frames.get(child), kind):
                self._frames[child] = StaticCache() if is_static else TimeCache(self._duration_ns)
            if not self._frames[child].insert(sample):
                get_logger('tf2_buffer').warning(
                    f'Ignoring the transform of {child!r} at {sample.stamp_ns / 1e9:.6f} from '
                    f'{authority!r}: that stamp is there already, or older than the buffer',
                    throttle_duration_sec=5.0,
                )

    def _check_frame(self, argument: str, frame: str) -> None:
        what = f'passed to lookupTransform argument {argument}'
        if not frame:
            raise InvalidArgumentException(
                f'Invalid argument "{frame}" {what} in tf2 frame_ids cannot be empty'
            )
        if frame.startswith('/'):
            raise InvalidArgumentException(
                f'Invalid argument "{frame}" {what} in tf2 frame_ids cannot start with a \'/\''
            )
        if frame not in self._known:
            raise LookupException(f'"{frame}" {what} does not exist. ')

    def _latest_common_ns(self, target_frame: str, source_frame: str) -> int:
        """Return the newest stamp at which every link between two frames is known.

        0 stands for any time: every link is static.
        """
        if target_frame == source_frame:
            own = self._frames.get(source_frame)
            return 0 if own is None else own.latest_ns
        links_source = self._newest_links(source_frame)
        links_target = self._newest_links(target_frame)
        ancestors = [frame for frame, _ in links_source]
        for above_target, (frame, _) in enumerate(links_target):
            if frame in ancestors:
                above_source = ancestors.index(frame)
                between = links_source[:above_source] + links_target[:above_target]
                return min((stamp for _, stamp in between if stamp), default=0)
        raise _no_connection(target_frame, source_frame)

    def _newest_links(self, frame: str) -> list[tuple[str, int]]:
        """Return the frames from one up to its root, each with the newest stamp of its link."""
        links: list[tuple[str, int]] = []
        while len(links) < MAX_DEPTH:
            cache = self._frames.get(frame)
            sample = cache.at(0) if cache is not None else None
            links.append((frame, 0 if cache is None else cache.latest_ns))
            if sample is None:
                return links
            frame = sample.parent
        raise LookupException('The tf tree is invalid because it contains a loop.')

    def _motion(self, target_frame: str, source_frame: str, stamp_ns: int) -> Motion:
        """Return the motion from source to target, through their nearest common ancestor."""
        up_source, error_source = self._ascend(source_frame, stamp_ns)
        up_target, error_target = self._ascend(target_frame, stamp_ns)
        for frame, T_frame_target in up_target.items():
            if frame in up_source:
                return T_frame_target.inverse() @ up_source[frame]
        # A chain that ended early for want of data may well lead to the other one.
        error = error_source or error_target
        if error is not None:
            raise ExtrapolationException(
                f'{error}, when looking up transform from frame [{source_frame}] '
                f'to frame [{target_frame}]'
            )
        raise _no_connection(target_frame, source_frame)

    def _ascend(
        self, frame: str, stamp_ns: int
    ) -> tuple[dict[str, Motion], ExtrapolationException | None]:
        """Return the motion from a frame into each of its ancestors, as far as data reaches."""
        motion = Motion.identity()
        motions = {frame: motion}
        while True:
            cache = self._frames.get(frame)
            try:
                sample = cache.at(stamp_ns) if cache is not None else None
            except ExtrapolationException as error:
                return motions, error
            if sample is None:
                return motions, None
            frame, motion = sample.parent, sample.motion @ motion
            if frame in motions:
                raise LookupException('The tf tree is invalid because it contains a loop.')
            motions[frame] = motion


def _no_connection(target_frame: str, source_frame: str) -> ConnectivityException:
    return ConnectivityException(
        f"Could not find a connection between '{target_frame}' and '{source_frame}' because they "
        'are not part of the same tree.Tf has two or more unconnected trees.'
    )


def _problem(child: str, sample: Sample) -> str:
    """Say why a transform cannot be used; empty if it can."""
    if not child:
        return 'its child_frame_id is empty'
    if not sample.parent:
        return 'its frame_id is empty'
    if child == sample.parent:
        return 'a frame cannot be its own parent'
    quat = sample.motion.quat_xyzw
    if not np.isfinite(sample.motion.translation).all() or not np.isfinite(quat).all():
        return 'it holds a value that is not finite'
    if abs(quat @ quat - 1.0) > QUATERNION_TOLERANCE:
        return 'its quaternion is not of unit length'
    return ''


def _describe(name: str, frame: StaticCache | TimeCache) -> str:
    newest = frame.at(0)
    assert newest is not None
    length_s = (frame.latest_ns - frame.oldest_ns) / 1e9
    return (
        f'{name}: \n'
        f"  parent: '{newest.parent}'\n"
        f"  broadcaster: '{newest.authority}'\n"
        f'  rate: {len(frame) / max(length_s, 1e-4):.3f}\n'
        f'  most_recent_transform: {frame.latest_ns / 1e9:.3f}\n'
        f'  oldest_transform: {frame.oldest_ns / 1e9:.3f}\n'
        f'  buffer_length: {length_s:.3f}\n'
    )


def _nanoseconds(time: object) -> int:
    """Return the nanoseconds of an rclpy Time or of a Time message."""
    if hasattr(time, 'nanoseconds'):
        return int(time.nanoseconds)
    if hasattr(time, 'sec') and hasattr(time, 'nanosec'):
        return int(time.sec) * 1_000_000_000 + int(time.nanosec)
    raise TypeError(f'time must be rclpy.time.Time or builtin_interfaces.msg.Time, got {time!r}')


def _from_message(message: TransformStamped) -> Motion:
    t, q = message.transform.translation, message.transform.rotation
    return Motion(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))


def _to_message(
    motion: Motion, target_frame: str, source_frame: str, stamp_ns: int
) -> TransformStamped:
    message = TransformStamped()
    message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    message.header.frame_id = target_frame
    message.child_frame_id = source_frame
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(value) for value in motion.translation)
    q.x, q.y, q.z, q.w = (float(value) for value in motion.quat_xyzw)
    return message
