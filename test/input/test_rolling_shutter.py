"""Images of a rolling shutter become those of a global one, on a texture that moves."""

import cv2
import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import updated
from r3_ros.input.rolling_shutter import RollingShutter
from r3_ros.input.source import RawFrame, Source
from r3_ros.offline.stream_run import undistorted_frames
from rolling_texture import rolling_image, texture, WIDTH

PERIOD_S, READOUT_S = 0.05, 0.04
INSIDE = np.s_[30:-30, 30:-30]


@pytest.fixture(scope='module', name='texture')
def make_texture():
    return texture()


def seen(texture, velocity, time_s, readout_s=0.0):
    """Return the image at a time, at (2,) pixels per second of its content."""
    return rolling_image(texture, lambda t: (velocity[0] * t, velocity[1] * t), time_s, readout_s)


def stamp(time_s):
    return round(time_s * 1e9)


def off(image, expected):
    return np.abs(image.astype(int) - expected.astype(int))[INSIDE].mean()


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('velocity', [(300, 0), (-250, 60), (0, 200), (100, -200)])
def test_rows_are_where_they_are_at_the_time_of_the_middle_one(texture, velocity, channels):
    shutter = RollingShutter(READOUT_S)
    for time_s in (0.0, PERIOD_S, 2 * PERIOD_S):
        raw = seen(texture, velocity, time_s, READOUT_S)
        image = raw if channels == 1 else cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
        corrected = shutter.corrected(image, stamp(time_s))
        assert corrected.shape == image.shape
    expected = seen(texture, velocity, time_s)
    gray = corrected if channels == 1 else corrected[..., 0]
    assert off(raw, expected) > 4.0
    assert off(gray, expected) < 0.25 * off(raw, expected)


@pytest.mark.parametrize('step_s', [0.0, -0.05, 2.0])
def test_without_a_known_motion_images_stay(texture, step_s):
    shutter = RollingShutter(READOUT_S)
    first, second = (seen(texture, (300, 0), t, READOUT_S) for t in (0.0, PERIOD_S))
    assert shutter.corrected(first, stamp(10.0)) is first
    assert shutter.corrected(second, stamp(10.0 + step_s)) is second


def test_a_new_size_begins_anew(texture):
    shutter = RollingShutter(READOUT_S)
    shutter.corrected(seen(texture, (300, 0), 0.0), 0)
    small = texture[:100, :100].copy()
    assert shutter.corrected(small, stamp(PERIOD_S)) is small


def test_another_view_is_not_taken_for_a_motion(texture):
    shutter = RollingShutter(READOUT_S)
    image = seen(texture, (0, 0), 0.0)
    shutter.corrected(image, 0)
    moved = np.roll(image, WIDTH // 2, axis=1)
    assert shutter.corrected(moved, stamp(PERIOD_S)) is moved


class Moving(Source):
    def __init__(self, texture):
        super().__init__('moving', None, 3)
        self._texture = texture

    def _read(self):
        for k in range(3):
            image = seen(self._texture, (300, 0), k * PERIOD_S, READOUT_S)
            yield RawFrame(stamp(k * PERIOD_S), image)


@pytest.mark.parametrize(('readout_s', 'is_corrected'), [(0.0, False), (READOUT_S, True)])
def test_recordings_are_corrected_as_configured(texture, readout_s, is_corrected):
    config = updated(R3Config(), {'input.readout_time': readout_s})
    *_, (frame, _) = undistorted_frames(Moving(texture), config, None)
    left = off(frame.image, seen(texture, (300, 0), 2 * PERIOD_S))
    assert (left < 2.0) == is_corrected
