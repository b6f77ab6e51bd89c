"""One node of a name per ROS domain and machine.

The graph tells of another node of the same name as well, but only once the two have discovered
each other, which takes up to three seconds; by then false poses would be out.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
import re
import tempfile
from typing import TextIO


class NameLock:
    """Held until :meth:`release`, or until the process ends in whatever way."""

    def __init__(self, name: str, domain_id: int) -> None:
        """Prepare a lock for a fully qualified node name."""
        plain = re.sub(r'\W+', '_', name.strip('/'))
        self.path = Path(tempfile.gettempdir()) / f'r3_ros_{domain_id}_{plain}.lock'
        self._file: TextIO | None = None

    def acquire(self) -> bool:
        """Take the lock; False if another node has it."""
        self.release()
        try:
            file = open(self.path, 'a')
        except OSError:
            # Of another user, or no place to write: the graph remains to tell.
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; the empty file stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
