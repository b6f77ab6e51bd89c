"""Images that show nothing, or nothing new, give no pose and do not enter the map."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Frame, TrackingState
from r3_ros.core.errors import FrameError
from r3_ros.core.parameter_fields import updated
from r3_ros.streaming.engine import Engine
from r3_ros.streaming.image_check import ImageCheck
from scripted import frames, pattern_image, ScriptedPredictor

PERIOD_NS = 100_000_000


def faults(images, period_ns=PERIOD_NS, longest_s=0.5):
    check = ImageCheck()
    shown = enumerate(images)
    return [check.fault(Frame(image, n * period_ns), longest_s) for n, image in shown]


def covered(seed=0, level=3.0, noise=1.0, size=(48, 64, 3)):
    random = np.random.default_rng(seed)
    return np.clip(random.normal(level, noise, size), 0, 255).astype(np.uint8)


def test_a_covered_lens_is_noticed_at_once_and_its_end_as_well():
    found = faults([pattern_image(), covered(1), covered(2), pattern_image(shade=1)])
    assert found[0] == found[3] == ''
    assert all('the image is black' in fault for fault in found[1:3])
    assert 'of one colour' in faults([covered(level=200)])[0]


def test_what_shows_little_is_left_to_the_predictor():
    dim = (pattern_image().astype(np.float32) * 0.1).astype(np.uint8)
    wall = np.clip(np.linspace(180, 190, 64) + covered(level=0, noise=1)[..., 0], 0, 255)
    assert faults([dim, np.repeat(wall[..., None], 3, axis=2).astype(np.uint8)]) == ['', '']


def test_a_stalled_camera_is_detected_after_half_a_second():
    found = faults([pattern_image()] * 8)
    assert found[:5] == [''] * 5
    assert all('same image for 0.5 s' in fault for fault in found[5:6]) and found[7]
    assert set(faults([pattern_image()] * 8, longest_s=0.0)) == {''}


def test_an_image_repeated_now_and_then_is_no_fault():
    doubled = [pattern_image(shade=n // 2) for n in range(40)]
    slow = [pattern_image(shade=n // 2) for n in range(6)]
    assert set(faults(doubled, PERIOD_NS // 6)) == {''} and set(faults(slow, 10**9)) == {''}


@pytest.mark.parametrize(
    'image,found', [(covered(), 'the image is black'), (None, 'the camera has sent the same')]
)
def test_the_engine_reports_the_fault_and_maps_nothing(image, found):
    """The predictor would place these frames with full confidence: it never looks at them."""
    config = updated(R3Config(), {'loop.new_segment_after': 5, 'keyframe.max_interval': 3})
    engine = Engine(ScriptedPredictor(), config)
    shown = list(frames(80))
    held = shown[30].image if image is None else image
    estimates = [
        engine.step(replace(frame, image=held) if 30 < n < 60 else frame)
        for n, frame in enumerate(shown)
    ]
    bad = estimates[36:60]
    assert all(found in e.reason for e in bad)
    assert all(e.T_world_camera is None and not e.depths and not e.is_keyframe for e in bad)
    assert {e.state for e in bad[4:]} == {TrackingState.LOST}
    assert not any(found in e.reason for e in (*estimates[:31], *estimates[60:]))
    assert estimates[-1].state is TrackingState.TRACKING and estimates[-1].segment_id == 0
    assert not set(range(36, 60)) & set(engine.session.bank.ids())
    engine.close()


def test_no_world_begins_in_the_dark():
    engine = Engine(ScriptedPredictor(), R3Config())
    dark, *rest = (
        replace(frame, image=covered() if n == 0 else frame.image)
        for n, frame in enumerate(frames(3))
    )
    with pytest.raises(FrameError, match='the image is black.*first frame'):
        engine.step(dark)
    assert engine.session.frame_count == 0
    assert [engine.step(frame).frame_id for frame in rest] == [0, 1]
    engine.close()
