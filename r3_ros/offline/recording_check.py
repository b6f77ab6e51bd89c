"""Whether a recording can be processed, where the camera will be lost, and what to change.

Every image is measured (:mod:`.image_measures`). Then the classical predictor tracks the first
frames; with a calibration a second time without it, to compare the focal lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
import itertools
import math
from pathlib import Path

import numpy as np

from ..classical.classical_predictor import ClassicalPredictor
from ..classical.readout import estimated_readout
from ..core.config import R3Config
from ..core.datatypes import Intrinsics
from ..core.errors import CalibrationError, SourceError
from ..core.findings import Finding, Level
from ..core.trajectory_file import NANOSECONDS
from ..input.camera_model import Rectifier
from ..input.open_source import NO_CAMERA, open_source
from ..input.source import RawFrame, Source
from ..streaming.engine import Engine
from .frame_record import FrameRecord
from .image_measures import ImageMeasures, measure_images
from .stream_run import run_source, undistorted_frames

#: Frames that are tracked: several times what the start takes, and seconds of computing.
TRIAL_FRAMES = 150
#: Share of the frames from which on a trouble is a problem. Shorter ones are bridged.
MUCH = 0.05
#: The camera counts as followed, from its first pose on, if so many frames have one: README.md
#: has 98 % and more of recordings without trouble.
GOOD_SHARE = 0.95
#: The first pose is late after this share of the frames.
LATE_SHARE = 0.3
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
#: Share of the corners found again below which few tracks span three images.
LEAST_FOLLOWED = 0.35
#: Median motion below which an image shows the same view: 0.3 pixels of 640.
STILL = 0.0005
#: Share of such images from which on the camera does not move at all.
STANDING = 0.9
#: Difference of the focal lengths that is a wrong calibration, and the standard deviation at which
#: the estimate can tell: three of them are less.
FOCAL_DIFFERENCE, FOCAL_SIGMA = 0.10, 0.03
#: Share of the time between images that is a short readout: two standard deviations are less.
SHORT_READOUT = 0.4
#: Fields of view beyond which a calibration is probably of another image size.
NARROW_DEG, WIDE_DEG = 15.0, 150.0

#: Called for each frame with the name of the stage and its expected number of frames.
OnFrame = Callable[[str, int | None], None]


@dataclass(frozen=True)
class RecordingCheck:
    """The result of a check.

    :ivar findings: in the order of the checks.
    :ivar verdict: what to expect, in one sentence.
    :ivar works: whether any poses can be expected.
    """

    findings: list[Finding]
    verdict: str
    works: bool

    @property
    def changes(self) -> list[str]:
        """What to change, for problems first."""
        ranked = sorted(self.findings, key=lambda finding: finding.level is not Level.PROBLEM)
        return list(dict.fromkeys(finding.change for finding in ranked if finding.change))


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


@dataclass(frozen=True)
class _Trial:
    """What the classical predictor made of the first frames.

    :ivar refused: why none could be processed; empty if some were.
    :ivar focal_sigma: relative standard deviation of the focal length; 0 if it was given.
    """

    records: Sequence[FrameRecord] = ()
    refused: str = ''
    intrinsics: Intrinsics | None = None
    focal_sigma: float = math.nan

    @property
    def from_first_pose(self) -> Sequence[FrameRecord]:
        """The records from the first pose on; none without a pose."""
        return list(itertools.dropwhile(lambda record: not record.tracked, self.records))

    @property
    def share(self) -> float:
        """Share of these that have a pose."""
        followed = self.from_first_pose
        return sum(record.tracked for record in followed) / max(len(followed), 1)

    @property
    def finds_focal(self) -> bool:
        """Whether the images determine the focal length."""
        return self.share >= GOOD_SHARE and self.focal_sigma < FOCAL_SIGMA

    @property
    def reasons(self) -> str:
        """The most frequent reasons for frames without a pose."""
        records = self.from_first_pose or self.records
        counts = Counter(r.reason or r.state.value for r in records if not r.tracked)
        return '; '.join(f'{reason} ({count} frames)' for reason, count in counts.most_common(2))


class _WithoutIntrinsics(Source):
    """The undistorted frames of a recording, as if they were not calibrated."""

    def __init__(self, source: Source, config: R3Config) -> None:
        super().__init__(source.name, None, source.length)
        self._undistorted = undistorted_frames(source, config, None)

    def _read(self) -> Iterator[RawFrame]:
        for frame, _ in self._undistorted:
            yield RawFrame(frame.stamp_ns, frame.image)


def check_recording(
    path: Path | str,
    camera: Path | str | None = None,
    topic: str | None = None,
    max_frames: int | None = None,
    on_frame: OnFrame = lambda stage, total: None,
) -> RecordingCheck:
    """Check a recording, opened as :func:`.open_source` does.

    Memory is bounded but for some numbers per frame.

    :param max_frames: only so many frames, from the first on.
    :raises SourceError: nothing of it can be read.
    """
    config = R3Config()
    # Neither is needed to follow the camera.
    config = replace(
        config, map=replace(config.map, enabled=False), model=replace(config.model, depth=False)
    )
    recording, unusable = _Recording(path, camera, topic, config), None
    try:
        source = recording.open()
    except CalibrationError as error:
        recording, unusable = replace(recording, camera=NO_CAMERA), error
        source = recording.open()
    with source:
        images = _measured(source, config, max_frames, on_frame)
        size = images[0].size
        intrinsics, calibration = _calibration(source, size, config, unusable)
        findings = [_times(images), *_reading(source, images), calibration]
    if intrinsics is None:
        recording = replace(recording, camera=NO_CAMERA)
    troubles = _troubles([image for image in images if image.size == size])
    length = min(TRIAL_FRAMES, len(images))
    trial = _tried(recording, length, intrinsics is not None, on_frame)
    findings += [*troubles, _tracking(trial, any(t.level is not Level.OK for t in troubles))]
    if intrinsics is None:
        findings.append(_estimated_focal(trial))
    else:
        # From images of noise a focal length may follow, too.
        doubtful = trial.share < GOOD_SHARE and any(t.level is Level.PROBLEM for t in troubles)
        free = _Trial() if doubtful else _tried(recording, length, False, on_frame)
        findings.append(_compared_focal(intrinsics, free))
    findings.append(_shutter(images))
    # Not more than was tracked can have been followed.
    proven = len(images) <= TRIAL_FRAMES
    verdict = _verdict(findings, troubles, trial, proven)
    return RecordingCheck(findings, verdict, bool(trial.share))


def _measured(
    source: Source, config: R3Config, max_frames: int | None, on_frame: OnFrame
) -> list[ImageMeasures]:
    total = min(filter(None, (source.length, max_frames)), default=None)
    images = []
    frames = itertools.islice(source, max_frames)
    for measured in measure_images(frames, config.input.max_frozen_time):
        images.append(measured)
        on_frame('measuring', total)
    return images


def _tried(recording: _Recording, length: int, with_intrinsics: bool, on_frame: OnFrame) -> _Trial:
    """Follow the camera through the first frames."""
    config = recording.config
    predictor = ClassicalPredictor(config.classical, with_depth=False)
    engine = Engine(predictor, config)
    stage = 'tracking' if with_intrinsics else 'tracking without calibration'
    with closing(engine), recording.open() as source:
        frames = source if with_intrinsics else _WithoutIntrinsics(source, config)
        try:
            result = run_source(frames, engine, length, lambda *_: on_frame(stage, length))
        except SourceError as error:
            return _Trial(refused=str(error))
        return _Trial(result.records, '', result.intrinsics, predictor.focal_sigma)


def _times(images: Sequence[ImageMeasures]) -> Finding:
    """Judge number, rate and order of the stamps."""
    stamps_s = np.array([image.stamp_ns for image in images]) / NANOSECONDS
    steps_s = np.diff(stamps_s)
    forward_s = steps_s[steps_s > 0]
    text = f'{len(images)} of {images[0].size[0]}x{images[0].size[1]} pixels'
    if not len(forward_s):
        change = 'record the camera while it moves, with a time for each image'
        return Finding(Level.PROBLEM, 'frames', f'{text}, all at one time', change)
    usual_s = float(np.median(forward_s))
    text += f' in {stamps_s[-1] - stamps_s[0]:.1f} s, {1 / usual_s:.3g} per second'
    wrong = int((steps_s <= 0).sum())
    if wrong:
        level = Level.PROBLEM if wrong > MUCH * len(images) else Level.NOTE
        text += f'; {wrong} stamps repeat or go back, and these frames are left out'
        return Finding(level, 'frames', text, 'correct the times of the images')
    largest = int(steps_s.argmax())
    if steps_s[largest] > GAP_FACTOR * usual_s:
        at_s = stamps_s[largest] - stamps_s[0]
        text += f'; gaps, the largest of {steps_s[largest]:.2f} s after {at_s:.1f} s'
        return Finding(Level.NOTE, 'frames', text, 'record without dropping frames')
    return Finding(Level.OK, 'frames', f'{text}, no gaps')


def _reading(source: Source, images: Sequence[ImageMeasures]) -> Iterator[Finding]:
    for warning in source.warnings:
        yield Finding(Level.NOTE, 'reading', warning)
    if source.skipped:
        level = Level.PROBLEM if source.skipped > MUCH * len(images) else Level.NOTE
        text = f'{source.skipped} images cannot be decoded, and are left out'
        yield Finding(level, 'reading', text, 'copy or record it again')
    repeats = sum(image.repeated and not image.fault for image in images)
    if repeats:
        text = f'{repeats} images are the same as the one before'
        yield Finding(Level.NOTE, 'repeats', text, 'record at the rate of the camera')
    others = sum(image.size != images[0].size for image in images)
    if others:
        level = Level.PROBLEM if others > MUCH * len(images) else Level.NOTE
        text = f'{others} images have another size than the first, and are left out'
        yield Finding(level, 'size', text, 'record one camera, at one size')


def _calibration(
    source: Source, size: tuple[int, int], config: R3Config, unusable: CalibrationError | None
) -> tuple[Intrinsics | None, Finding]:
    """Return the intrinsics of the undistorted images, None without, and a judgement.

    :param unusable: why the calibration was not even read, if it was not.
    """
    recorded = source.camera_for(config.input.rectification)
    try:
        if unusable is not None:
            raise unusable
        fitting = recorded and recorded.scaled_to(*size)
    except CalibrationError as error:
        change = 'correct the calibration, or leave it out with --camera none'
        return None, Finding(Level.PROBLEM, 'calibration', str(error), change)
    if recorded is None or fitting is None:
        text = 'none: the focal length is estimated, which needs turns and sideways motion'
        change = 'calibrate the camera, and name the file with --camera FILE'
        return None, Finding(Level.NOTE, 'calibration', text, change)
    intrinsics = Rectifier(fitting).intrinsics
    fov_deg = math.degrees(intrinsics.fov_x)
    text = f'found, {fov_deg:.0f} degrees wide'
    if recorded.width not in (0, fitting.width):
        made_for = f'{recorded.width}x{recorded.height}'
        text += f', made for {made_for}, scaled to {fitting.width}x{fitting.height}'
    if not NARROW_DEG < fov_deg < WIDE_DEG:
        text += ': hardly a camera. Is it for another image size?'
        change = 'calibrate at the size of the images'
        return intrinsics, Finding(Level.PROBLEM, 'calibration', text, change)
    return intrinsics, Finding(Level.OK, 'calibration', text)


def _troubles(images: Sequence[ImageMeasures]) -> list[Finding]:
    """Return a finding for each property of the images, in the order of the causes."""
    columns = {name: np.array(values) for name, values in zip(
        ImageMeasures._fields, zip(*images, strict=True), strict=True
    )}  # fmt: skip
    brightness, sharpness = columns['brightness'], columns['sharpness']
    texture, followed, flow = columns['texture'], columns['followed'], columns['flow']
    faulty = columns['fault'] != ''
    # What shows nothing is not judged any further.
    dark, bright = brightness < DARK, (brightness > BRIGHT) | (columns['white'] > MOST_WHITE)
    stops = np.abs(np.diff(np.log2(brightness + 1.0), prepend=np.nan))
    stops[1:][faulty[:-1]] = np.nan
    usual = float(np.median(sharpness))
    blurred = ~faulty & (sharpness - 1 < BLURRED_SHARE * (usual - 1))
    plain = ~faulty & (texture < LEAST_TEXTURE)
    lost = (followed < LEAST_FOLLOWED) & ~(faulty | blurred | plain)
    still = flow < STILL
    # A camera that stands now and then does not lose its place.
    still &= still.mean() > STANDING
    soft = np.full(len(images), usual < SOFT)

    def judged(subject: str, fine: str, *kinds: tuple[np.ndarray, str, str]) -> Finding:
        """Return the worst of some kinds of trouble: where, as a clause, and what to do."""
        mask, clause, change = max(kinds, key=lambda kind: int(kind[0].sum()))
        share = float(mask.mean())
        if not share:
            return Finding(Level.OK, subject, fine)
        level = Level.PROBLEM if share > MUCH else Level.NOTE
        return Finding(level, subject, f'{clause} ({_where(mask, images)})', change)

    usual_flow = float(np.median(flow[np.isfinite(flow)] if np.isfinite(flow).any() else 0.0))
    reason = next((image.fault for image in images if image.fault), '').split(':')[0]
    light = 'more light, or a longer exposure if the camera moves slowly'
    return [
        judged(
            'images', 'none is blank, the camera does not hang',
            (faulty, reason, 'keep the lens free, and see that the camera does not hang'),
        ),
        judged(
            'exposure', f'mean level {np.median(brightness):.0f} of 255',
            (dark & ~faulty, 'it is too dark', light),
            (bright & ~faulty, 'it is too bright', 'a shorter exposure'),
            ((stops > JUMP_STOPS) & ~faulty, 'the exposure jumps', 'lock the exposure'),
        ),
        judged(
            'sharpness', 'alike in all images',
            (blurred, 'images are blurred', 'a shorter exposure, or slower motion'),
            (soft, 'images are blurred', 'focus the lens, or use images that were not enlarged'),
        ),
        judged(
            'texture', f'corners in {100 * np.median(texture):.0f} % of the image',
            (plain, 'there is little texture', 'keep textured surfaces in view'),
        ),
        judged(
            'motion', f'{100 * usual_flow:.2g} % of the width from one image to the next',
            (lost, 'it moves too fast or the recording jumps',
             'move and turn more slowly, or record at a higher rate, without cuts'),
            (still, 'it stands still',
             'move the camera sideways, by a tenth of the distance to what it sees'),
        ),
    ]  # fmt: skip


def _where(mask: np.ndarray, images: Sequence[ImageMeasures]) -> str:
    """Say in how many images something holds, and its longest stretch."""
    stretches = [list(group) for holds, group in itertools.groupby(
        range(len(images)), key=lambda number: bool(mask[number])
    ) if holds]  # fmt: skip
    longest = max(stretches, key=len)
    share = f'{max(100 * mask.mean(), 1):.0f} % of the images'
    if len(longest) == len(images):
        return 'all images'
    began_ns = images[0].stamp_ns
    first, last = (
        (images[n].stamp_ns - began_ns) / NANOSECONDS for n in (longest[0], longest[-1])
    )
    if len(longest) == 1:
        return f'{share}, the first at {first:.1f} s'
    return f'{share}, longest from {first:.1f} to {last:.1f} s'


def _tracking(trial: _Trial, explained: bool) -> Finding:
    """Judge the trial.

    :param explained: the images have troubles, which say what to change.
    """
    frames = f'the first {len(trial.records)} frames'
    if not trial.share:
        text = trial.refused or f'no pose in {frames}: {trial.reasons}'
        change = '' if explained else 'begin with sideways motion and texture in view'
        return Finding(Level.PROBLEM, 'tracking', text, change)
    start = len(trial.records) - len(trial.from_first_pose)
    text = f'{100 * trial.share:.0f} % of {frames} from the first pose on, at frame {start}'
    if trial.share >= GOOD_SHARE:
        if start <= LATE_SHARE * len(trial.records):
            return Finding(Level.OK, 'tracking', text)
        change = 'begin with sideways motion and texture in view'
        return Finding(Level.NOTE, 'tracking', text, change)
    text += f'; lost: {trial.reasons}'
    change = '' if explained else 'move and turn more slowly, with texture in view'
    return Finding(Level.PROBLEM, 'tracking', text, change)


def _estimated_focal(trial: _Trial) -> Finding:
    if not trial.finds_focal or trial.intrinsics is None:
        text = f'not determined by the first {len(trial.records)} frames: a guess is used'
        return Finding(Level.NOTE, 'focal length', text, 'turn and move more at the start')
    fov_deg = math.degrees(trial.intrinsics.fov_x)
    text = f'estimated as {trial.intrinsics.fx:.0f} pixels, {fov_deg:.0f} degrees wide'
    return Finding(Level.OK, 'focal length', text)


def _compared_focal(given: Intrinsics, free: _Trial) -> Finding:
    """Compare a calibration with the estimate from the same images without it."""
    if not free.finds_focal or free.intrinsics is None:
        text = f'{given.fx:.0f} pixels, not compared: the images do not determine it'
        return Finding(Level.NOTE, 'focal length', text)
    difference = free.intrinsics.fx / given.fx - 1.0
    text = f'{given.fx:.0f} pixels, {free.intrinsics.fx:.0f} by the images ({difference:+.0%})'
    if abs(difference) < FOCAL_DIFFERENCE:
        return Finding(Level.OK, 'focal length', text)
    change = 'calibrate this camera at this size and zoom, or use --camera none'
    return Finding(Level.PROBLEM, 'focal length', f'{text}: the calibration is wrong', change)


def _shutter(images: Sequence[ImageMeasures]) -> Finding:
    """Say whether the rows of an image are exposed together."""
    subject, stamps_ns = 'rolling shutter', [image.stamp_ns for image in images]
    readout = estimated_readout(stamps_ns, [image.deformation for image in images])
    if readout is not None and readout.certain:
        text = f'the rows of an image take about {1e3 * readout.time_s:.0f} ms'
        change = f'set input.readout_time to {readout.time_s:.3f}, or to what the data sheet says'
        return Finding(Level.NOTE, subject, text, change)
    if readout is None or 2 * readout.sigma_s > SHORT_READOUT * readout.usual_s:
        text = 'not measured: that takes a hundred images, and motion that changes its speed'
        return Finding(Level.NOTE, subject, text)
    return Finding(Level.OK, subject, 'not seen')


def _verdict(
    findings: Sequence[Finding], troubles: Sequence[Finding], trial: _Trial, proven: bool
) -> str:
    """Return the verdict.

    :param proven: all images were tracked, not only the first ones.
    """
    followed = trial.share >= GOOD_SHARE
    frames = ('frames', 'reading', 'size')
    left_out = '; '.join(
        f.text for f in findings if f.subject in frames and f.level is Level.PROBLEM
    )
    bad = [f.text for f in troubles if f.level is Level.PROBLEM]
    if not followed:
        # Short troubles explain a loss, too: a single cut is enough.
        bad = bad or [f.text for f in troubles if f.level is Level.NOTE]
    if not trial.share:
        return f'cannot work: {"; ".join(bad) or trial.refused or left_out or trial.reasons}'
    where = ' and where '.join(bad)
    if not followed:
        verdict = f'will lose the camera{f" where {where}" if bad else f": {trial.reasons}"}'
    elif bad:
        verdict = f'{"should work, with little reserve" if proven else "may lose the camera"}'
        verdict += f' where {where}'
    else:
        verdict = 'should work'
    if left_out:
        verdict += f', but frames are left out: {left_out}'
    if any(f.subject == 'focal length' and f.level is Level.PROBLEM for f in findings):
        verdict += ', but the calibration is wrong: shapes and paths will be bent'
    return verdict
