"""ROS domains for tests, each for one test at a time, of all runs on the machine."""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path
import tempfile
import time

#: How long a node that has ended may still be seen on the graph of its domain.
_TRACES_S = 5.0


class Domain:
    """A ROS domain that no other test has or had lately: traces of a node outlive it a little."""

    # Runs of the tests side by side begin at different numbers.
    _numbers = itertools.cycle(1 + (os.getpid() + i) % 99 for i in range(99))

    def __init__(self) -> None:
        for number in self._numbers:
            self.number = number
            path = Path(tempfile.gettempdir()) / f'r3_ros_test_domain_{number}.lock'
            was_there = path.exists()
            self._file = open(path, 'a')
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                continue
            # Another run of the tests may have had it a moment ago.
            if not was_there or time.time() - path.stat().st_mtime > _TRACES_S:
                return
            self._file.close()

    def release(self) -> None:
        os.utime(self._file.fileno())
        self._file.close()
