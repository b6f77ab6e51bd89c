"""``r3 doctor``: checks this machine, or a recording, and says what to change."""

from __future__ import annotations

import argparse
import sys
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError
from ..core.findings import Finding, Level
from .machine_check import check_machine
from .options import positive_int, print_rows

if TYPE_CHECKING:
    from tqdm import tqdm

EXIT_PROBLEM = 1
_INDENT = 26
_MOST_CHANGES = 3


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'doctor',
        help='check this machine or a recording, and say what to change',
        description='Without INPUT: what of this machine works and what to install. With INPUT: '
        'whether the recording can be processed, where the camera will be lost, and what to '
        'change. Exit status 1: r3 run cannot work.',
    )
    parser.add_argument(
        'input', metavar='INPUT', nargs='?', help='recording, as r3 run takes it'
    )  # fmt: skip
    parser.add_argument(
        '--camera', metavar='FILE',
        help='calibration in place of the recorded one; none: estimate the focal length',
    )  # fmt: skip
    parser.add_argument('--topic', metavar='NAME', help='image topic, if the bag has several')
    parser.add_argument(
        '--max-frames', metavar='N', type=positive_int, help='check the first N frames only'
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    if args.input is None:
        if args.camera or args.topic or args.max_frames:
            raise ConfigError('--camera, --topic and --max-frames are of a recording: name INPUT')
        status = 0
        for finding in check_machine():
            _print(finding)
            if finding.level is Level.PROBLEM:
                status = EXIT_PROBLEM
        return status

    import cv2

    from ..offline.recording_check import check_recording

    cv2.setNumThreads(1)
    with _Progress() as progress:
        check = check_recording(
            args.input, args.camera, args.topic, args.max_frames, progress.update
        )
    for finding in check.findings:
        _print(finding)
    print()
    print_rows([('verdict:', check.verdict)], len('verdict: '))
    if check.changes:
        print('what would help:')
        print_rows([('-', change) for change in check.changes[:_MOST_CHANGES]], 2)
    return 0 if check.works else EXIT_PROBLEM


def _print(finding: Finding) -> None:
    text = f'{finding.text}. To do: {finding.change}' if finding.change else finding.text
    print_rows([(f'{finding.level.value:<8} {finding.subject}', text)], _INDENT)
    sys.stdout.flush()


class _Progress:
    """A bar for each stage."""

    def __init__(self) -> None:
        self._stage = ''
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, stage: str, total: int | None) -> None:
        from tqdm import tqdm

        if self._bar is None or stage != self._stage:
            self.__exit__()
            # Every refresh is a line in a log file.
            interval_s = 0.2 if sys.stderr.isatty() else 10.0
            self._stage = stage
            self._bar = tqdm(
                total=total, unit=' frames', desc=stage, mininterval=interval_s, leave=False
            )
        self._bar.update()
