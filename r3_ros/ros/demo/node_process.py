"""The node's executable as a child process."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from ...core.errors import R3Error

_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_LINES = 15


class NodeProcess:
    """Runs ``r3_stream`` with its installed parameter file. Use it in a ``with`` statement.

    :param log: file for its output.
    :param parameters: override those of ``config/r3_stream.yaml``.
    :ivar exit_code: None while it runs.
    :raises R3Error: the package is not installed.
    """

    def __init__(self, log: Path, parameters: dict[str, str], remappings: dict[str, str]) -> None:
        executable, parameter_file = installed_node()
        command = [sys.executable, str(executable), '--ros-args', '--params-file']
        command.append(str(parameter_file))
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        for old, new in remappings.items():
            command += ['-r', f'{old}:={new}']
        self.log = log
        self.exit_code: int | None = None
        self._stream = open(log, 'wb')
        # In its own process group, so Ctrl-C does not reach it and we stop it in order.
        self._process = subprocess.Popen(
            command, stdout=self._stream, stderr=subprocess.STDOUT, start_new_session=True
        )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Check that it still runs.

        :raises R3Error: it has ended.
        """
        if self._process.poll() is not None:
            raise R3Error(
                f'the node has ended with status {self._process.returncode}. The end of '
                f'its log:\n{self.log_tail()}'
            )

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        self._stream.flush()
        lines = self.log.read_text(encoding='utf-8', errors='replace').splitlines()
        return '\n'.join(lines[-_LOG_TAIL_LINES:])

    def stop(self) -> float:
        """Stop it by SIGINT, or stronger signals after a timeout; return the seconds it took."""
        began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
        self.exit_code = self._process.wait()
        self._stream.close()
        return time.monotonic() - began


def installed_node() -> Sequence[Path]:
    """Return the node's executable and its parameter file.

    :raises R3Error: the package was not built, or its environment not sourced.
    """
    hint = 'run `make setup`, then `. .venv/bin/activate && . install/setup.sh`'
    try:
        from ament_index_python.packages import get_package_prefix, PackageNotFoundError
    except ImportError as error:
        raise R3Error(f'this command needs ROS 2: {error}; {hint}') from error
    try:
        prefix = Path(get_package_prefix('r3_ros'))
    except PackageNotFoundError as error:
        raise R3Error(
            f'the package r3_ros is not installed in this environment; {hint}'
        ) from error
    found = (
        prefix / 'lib' / 'r3_ros' / 'r3_stream',
        prefix / 'share' / 'r3_ros' / 'config' / 'r3_stream.yaml',
    )
    for path in found:
        if not path.is_file():
            raise R3Error(f'{path} is missing: the package is not built completely; {hint}')
    return found
