"""16 bits become 8: by the range in use, the same for all images, never out of nothing."""

import numpy as np
import pytest
from r3_ros.input.brightness_range import BrightnessRange

#: 160 grey levels in each row.
SCENE = np.tile(np.linspace(40, 200, 320).astype(np.uint16), (240, 1))


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
def test_a_sensor_of_any_depth_shows_the_same(bits):
    brightness = BrightnessRange()
    found = brightness.to_eight_bit(SCENE << (bits - 8))
    np.testing.assert_array_equal(found, SCENE.astype(np.uint8))
    assert (brightness.note == '') == (bits == 16)
    assert bits == 16 or f'0 to {(1 << bits) - 1}' in brightness.note


def test_a_narrow_band_far_from_zero_is_spread():
    found = BrightnessRange().to_eight_bit(7000 + 3 * SCENE)
    assert np.ptp(found) > 128 and 10 < found.min() and found.max() < 245


def test_brightness_does_not_change_from_image_to_image():
    brightness = BrightnessRange()
    first = brightness.to_eight_bit(SCENE << 4)
    darker, back = brightness.to_eight_bit(SCENE << 2), brightness.to_eight_bit(SCENE << 4)
    np.testing.assert_array_equal(back, first)
    np.testing.assert_array_equal(darker, first // 4)


def test_the_range_grows_when_the_light_goes_on():
    brightness = BrightnessRange()
    assert brightness.to_eight_bit(SCENE // 50).max() < 8, 'a covered lens is black'
    lit = brightness.to_eight_bit(SCENE << 4)
    np.testing.assert_array_equal(lit, SCENE.astype(np.uint8))
    assert '4095' in brightness.note


def test_single_hot_pixels_do_not_count():
    hot = SCENE << 4
    hot[::100, ::100] = 65535
    assert np.abs(BrightnessRange().to_eight_bit(hot)[1] - SCENE[1].astype(int)).max() == 0


def test_eight_bits_stay_as_they_are():
    brightness, image = BrightnessRange(), SCENE.astype(np.uint8)
    assert brightness.to_eight_bit(image) is image and not brightness.note
