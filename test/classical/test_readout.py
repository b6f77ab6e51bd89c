"""The readout time of a rolling shutter is measured, and nothing else is taken for one."""

from classical_scene import draw, INTRINSICS, room
import numpy as np
import pytest
from r3_ros.classical.classical_predictor import ClassicalPredictor
from r3_ros.classical.readout import Deformation, estimated_readout
from r3_ros.core.config import ClassicalConfig
from r3_ros.core.datatypes import Frame
from r3_ros.core.geometry import make_T
from r3_ros.input.source import RawFrame
from r3_ros.offline.image_measures import measure_images
from rolling_texture import rolling_image, texture
from scipy.spatial.transform import Rotation

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


def shaken_pose(time_s):
    """Return ``T_world_camera`` of a hand that walks sideways and shakes."""
    turn = np.sin(np.array([11.0, 9.0, 7.0]) * time_s) * (0.6, 1.2, 0.2)
    R = Rotation.from_euler('xyz', turn, degrees=True).as_matrix()
    return make_T(R, np.array([0.25 * time_s - 1.0, 0.03 * np.sin(8.0 * time_s), 0.0]))


def drawn(panels, time_s, readout_s):
    """Return an image whose bands of rows are drawn each at its time."""
    rows, bands = 20, []
    for top in range(0, INTRINSICS.height, rows):
        late = (top + (rows - 1) / 2 - (INTRINSICS.height - 1) / 2) / INTRINSICS.height * readout_s
        part = INTRINSICS.cropped(0, top, INTRINSICS.width, rows)
        bands.append(draw(panels, shaken_pose(time_s + late), part)[0])
    return np.concatenate(bands)


@pytest.mark.parametrize(('readout_s', 'corrects'), [(0.0, True), (0.03, True), (0.03, False)])
def test_a_stream_is_corrected_once_its_tracks_tell(readout_s, corrects):
    config = ClassicalConfig(correct_rolling_shutter=corrects)
    predictor, panels, times = ClassicalPredictor(config, False), room(), []
    for n in range(130):
        frame = Frame(drawn(panels, n / 15.0, readout_s), round(n / 15.0 * 1e9), INTRINSICS, n)
        predictor.describe(frame)
        times.append(predictor.predict(frame, range(max(n - 5, 0), n)).readout_s)
    assert times[:90] == [0.0] * 90
    assert times[-1] == pytest.approx(readout_s * corrects, rel=0.2)
    predictor.reset()
    assert predictor.predict(frame, ()).readout_s == 0.0
    predictor.close()
