"""The readout time of a rolling shutter is measured, and nothing else is taken for one."""

import numpy as np
import pytest
from r3_ros.input.source import RawFrame
from r3_ros.offline.image_measures import measure_images
from r3_ros.offline.readout import Deformation, estimated_readout
from rolling_texture import rolling_image, texture

COUNT, PERIOD_S = 110, 0.04


def shaken(time_s):
    """Return places of a hand-held camera, whose speed changes."""
    x = 18.0 * np.sin(9.0 * time_s) + 6.0 * np.sin(23.0 * time_s + 1.0) + 25.0 * time_s
    return x, 14.0 * np.sin(11.0 * time_s + 2.0) + 5.0 * np.sin(19.0 * time_s)


def measured(place, readout_s, turn=lambda _: 0.0):
    seen = texture()
    times_s = [n * PERIOD_S for n in range(COUNT)]
    frames = [
        RawFrame(round(t * 1e9), rolling_image(seen, place, t, readout_s, turn)) for t in times_s
    ]
    images = list(measure_images(frames, 0.5))
    return estimated_readout([i.stamp_ns for i in images], [i.deformation for i in images])


@pytest.mark.parametrize('readout_s', [0.0, 0.012, 0.03, -0.02])
def test_the_readout_time_is_measured(readout_s):
    found = measured(shaken, readout_s)
    # Speeds are means between images, so the fastest changes are underestimated.
    assert abs(found.time_s - readout_s) < 0.0005 + 0.1 * abs(readout_s)
    assert found.sigma_s < 0.001


def test_turns_about_the_optical_axis_are_no_readout():
    found = measured(shaken, 0.0, turn=lambda t: 0.05 * np.sin(9.0 * t))
    assert abs(found.time_s) < 3 * found.sigma_s + 0.002


def test_a_camera_that_stands_tells_nothing():
    assert measured(lambda t: (0.0 * t, 0.0 * t), 0.03) is None


def test_few_images_or_unknown_motion_tell_nothing():
    stamps_ns = [n * 10**8 for n in range(COUNT)]
    assert estimated_readout(stamps_ns, [Deformation()] * COUNT) is None
    assert estimated_readout(stamps_ns[:50], [Deformation((0.1, 0.1), (0.0, 0.0))] * 50) is None
    assert estimated_readout([0] * COUNT, [Deformation((0.1, 0.1), (0.0, 0.0))] * COUNT) is None
