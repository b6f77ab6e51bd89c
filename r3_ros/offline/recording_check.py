"""Whether a recording can be processed, where the camera will be lost, and what to change.

Every image is measured (:mod:`.image_measures`). Then the classical predictor tracks the first
frames; with a calibration a second time without it, to compare the focal lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
import itertools
import math
from pathlib import Path

import numpy as np

from ..classical.classical_predictor import ClassicalPredictor
from ..core.config import R3Config
from ..core.datatypes import Intrinsics
from ..core.errors import CalibrationError, SourceError
from ..core.findings import Finding, Level
from ..core.trajectory_file import NANOSECONDS
from ..input.camera_model import CameraModel, Rectifier
from ..input.open_source import NO_CAMERA, open_source
from ..input.source import RawFrame, Source
from ..streaming.engine import Engine
from .image_measures import ImageMeasures, measure_images
from .stream_run import FrameRecord, run_source, undistorted_frames

#: Frames that are tracked: several times what the start takes, and seconds of computing.
TRIAL_FRAMES = 150
#: Share of the frames from which on a trouble is a problem. Shorter ones are bridged.
MUCH = 0.05
#: The camera counts as followed, from its first pose on, if so many frames have one: README.md
#: has 98 % and more of recordings without trouble.
GOOD_SHARE = 0.95
#: A gap is so many times the usual time between two frames; drivers that drop one image are usual.
GAP_FACTOR = 3.5
#: Mean levels of an image beyond which corners drown in noise or in white, and the share of white
#: pixels that a window or a lamp does not exceed.
DARK, BRIGHT, MOST_WHITE = 30.0, 225.0, 0.35
#: Change of the brightness from one image to the next, in stops: of an automatic exposure that
#: jumps, not of a view that changes.
JUMP_STOPS = 0.4
#: Share of the median sharpness, over that of no detail at all, below which an image is blurred;
#: and the median below which all are: an image blurred by two pixels has 1.15.
BLURRED_SHARE, SOFT = 0.4, 1.2
#: Share of the image with corners below which the pose rests on one part of it.
LEAST_TEXTURE = 0.3
#: Share of the corners found again below which few tracks span three images, and the motion, as a
#: share of the width, that explains it.
LEAST_FOLLOWED, FAST = 0.35, 0.08
#: Median motion below which an image shows the same view: 0.3 pixels of 640.
STILL = 0.0005
#: Difference of the focal lengths that is a wrong calibration, and the standard deviation at which
#: the estimate can tell: three of them are less.
FOCAL_DIFFERENCE, FOCAL_SIGMA = 0.10, 0.03
#: Fields of view beyond which a calibration is probably of another image size.
NARROW_DEG, WIDE_DEG = 15.0, 150.0

#: Called for each frame with the name of the stage and its expected number of frames.
OnFrame = Callable[[str, int | None], None]


@dataclass
class RecordingCheck:
    """The result of a check.

    :ivar findings: in the order of the checks.
    :ivar verdict: in one sentence.
    :ivar works: whether poses can be expected at all.
    """

    findings: list[Finding] = field(default_factory=list)
    verdict: str = ''
    works: bool = True

    @property
    def changes(self) -> list[str]:
        """What to change, the most useful first."""
        ranked = sorted(self.findings, key=lambda f: f.level is not Level.PROBLEM)
        return list(dict.fromkeys(f.change for f in ranked if f.change))


@dataclass(frozen=True)
class _Trial:
    """What the classical predictor made of the first frames.

    :ivar focal_sigma: relative standard deviation of the focal length, 0 if it was given.
    """

    records: Sequence[FrameRecord]
    intrinsics: Intrinsics | None
    focal_sigma: float


@dataclass(frozen=True)
class _Recording:
    """How to open a recording, as often as needed."""

    path: Path | str
    camera: Path | str | None
    topic: str | None
    config: R3Config

    def open(self) -> Source:
        hint = self.config.input.encoding_hint
        return open_source(self.path, self.camera, self.topic, encoding_hint=hint)


def check_recording(
    path: Path | str,
    camera: Path | str | None = None,
    topic: str | None = None,
    max_frames: int | None = None,
    on_frame: OnFrame = lambda stage, total: None,
) -> RecordingCheck:
    """Check what :func:`.open_source` opens, with its parameters.

    Memory is bounded but for some numbers per frame.

    :param max_frames: measure the first frames only.
    :raises SourceError: it cannot be read at all.
    """
    config = R3Config()
    # Neither shows whether the camera is followed.
    config = replace(
        config, map=replace(config.map, enabled=False), model=replace(config.model, depth=False)
    )
    check = RecordingCheck()
    recording = _Recording(path, camera, topic, config)
    try:
        source = recording.open()
    except CalibrationError as error:
        check.findings.append(_bad_calibration(error))
        recording = replace(recording, camera=NO_CAMERA)
        source = recording.open()
    with source:
        measures = []
        total = min(filter(None, (source.length, max_frames)), default=None)
        frames = itertools.islice(source, max_frames)
        for measure in measure_images(frames, config.input.max_frozen_time):
            measures.append(measure)
            on_frame('measuring', total)
        check.findings += _reading_findings(source, measures)
        check.findings += _time_findings(measures)
        calibration = source.camera_for(config.input.rectification)
        size, of_that_size = _main_size(measures)
        if calibration is not None:
            try:
                calibration = calibration.scaled_to(*size)
            except CalibrationError as error:
                check.findings.append(_bad_calibration(error))
                recording, calibration = replace(recording, camera=NO_CAMERA), None
            else:
                check.findings += _calibration_findings(calibration, source)
        elif not check.findings or check.findings[0].subject != 'calibration':
            check.findings.append(
                Finding(
                    Level.NOTE, 'calibration', 'none found: the focal length will be estimated',
                    'give a calibration with --camera FILE',
                )
            )  # fmt: skip
    check.findings += _image_findings(of_that_size)
    expected = min(TRIAL_FRAMES, len(measures))
    trial = _tried(recording, expected, calibrated=True, on_frame=on_frame)
    check.findings += _tracking_findings(trial)
    if calibration is None:
        check.findings.append(_estimated_focal(trial))
    else:
        free = _tried(recording, expected, calibrated=False, on_frame=on_frame)
        check.findings.append(_compared_focal(Rectifier(calibration).intrinsics, free))
    check.findings.append(
        Finding(Level.OK, 'rolling shutter', 'not measured: images alone hardly tell it apart')
    )
    check.works, check.verdict = _verdict(check.findings, trial)
    return check


class _Stretch(Source):
    """The first frames of a recording, undistorted; without their intrinsics if not calibrated."""

    def __init__(self, source: Source, config: R3Config, on_frame: Callable[[], None]) -> None:
        super().__init__(source.name, None, source.length)
        self._source, self._config, self._on_frame = source, config, on_frame

    def _read(self) -> Iterator[RawFrame]:
        for frame, _ in undistorted_frames(self._source, self._config, None):
            yield RawFrame(frame.stamp_ns, frame.image)
