"""Names that one node of a ROS domain and machine has at a time.

The graph tells of another node of the same name, and /tf of another one that moves the same frame,
but only once the two have discovered each other, which takes up to three seconds; by then false
poses would be out.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
import tempfile
from typing import TextIO
from urllib.parse import quote

from ...core.errors import TransformError


class NameLock:
    """Held until :meth:`release`, or until the process ends in whatever way."""

    def __init__(self, name: str, domain_id: int, kind: str = 'node') -> None:
        """Prepare a lock for a name.

        :param name: a fully qualified node name, or a frame.
        :param kind: what it names; names of different kinds do not meet.
        """
        # Reversible, so that /left/r3 and /left_r3 do not meet either.
        plain = quote(name.strip('/'), safe='')
        self.path = Path(tempfile.gettempdir()) / f'r3_ros_{domain_id}_{kind}_{plain}.lock'
        self._file: TextIO | None = None

    def acquire(self, holder: str = '') -> bool:
        """Take the lock; False if another node has it.

        :param holder: who takes it, for others to read.
        """
        self.release()
        try:
            # The folder is everybody's: a link that somebody left there is not followed.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(self.path, flags, 0o644), 'r+')
        except OSError:
            # Of another user, or no place to write: the graph remains to tell.
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        file.truncate(0)
        file.write(holder)
        file.flush()
        self._file = file
        return True

    def holder(self) -> str:
        """Return what who has the lock wrote of itself; empty if that cannot be read."""
        try:
            return self.path.read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError):
            return ''

    def release(self) -> None:
        """Give the lock back; the empty file stays."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


class FrameClaims:
    """The frames that one node moves, so that no second node moves them, too.

    :param node: full name of the node.
    """

    def __init__(self, node: str, domain_id: int) -> None:
        """Claim nothing yet."""
        self._node = node
        self._domain_id = domain_id
        self._locks: dict[str, tuple[str, NameLock]] = {}

    def claim(self, parameter: str, frame: str) -> None:
        """Take a frame for a parameter that names it, in the place of the one it named before.

        :raises TransformError: another node moves that frame.
        """
        if self._locks.get(parameter, ('', None))[0] == frame:
            return
        lock = NameLock(frame, self._domain_id, 'frame')
        if not lock.acquire(self._node):
            holder = lock.holder() or 'another node'
            advice = (
                'another odom_frame and map_frame (launch argument frame_prefix)'
                if parameter == 'odom_frame'
                else 'a base_frame or, if the pictures of two cameras have one frame_id, a '
                'camera_optical_frame of its own'
            )
            raise TransformError(
                f"frame '{frame}' is moved by {holder} already, and a frame has one parent: give "
                f'this node {advice}, or leave the transforms to the other one '
                '(publish_map_to_odom_tf, publish_odom_to_base_tf)'
            )
        self.release(parameter)
        self._locks[parameter] = (frame, lock)

    def release(self, parameter: str | None = None) -> None:
        """Give back the frame of a parameter, or all."""
        for name in list(self._locks) if parameter is None else [parameter]:
            if name in self._locks:
                self._locks.pop(name)[1].release()
