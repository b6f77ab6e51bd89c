"""A recording without calibration: one camera in everything that leaves the run."""

from dataclasses import replace

from classical_scene import draw, INTRINSICS, room, wander
import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_engine
from r3_ros.input.source import RawFrame, Source
from r3_ros.maps.exports.colmap import write_colmap
from r3_ros.offline.run_files import UNPLACED
from r3_ros.offline.stream_run import run_source
from r3_ros.streaming.map_snapshot import saved_map

CAMERA = replace(INTRINSICS, fx=220.0, fy=220.0)


class Drawn(Source):
    """Images of the room by a wide lens that nobody knows."""

    def __init__(self, count):
        super().__init__('drawn', None, count)

    def _read(self):
        for i, T in enumerate(wander(self.length)):
            gray = draw(room(), T, CAMERA)[0]
            yield RawFrame(i * 66_666_667, np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.slow
def test_the_colmap_export_has_one_camera_that_fits(tmp_path):
    settings = {'model.depth': False, 'classical.max_features': 400}
    engine, reported = load_engine(updated(R3Config(), settings)), []
    try:
        source = Drawn(100)
        result = run_source(source, engine, on_frame=lambda _, e: reported.append(e.intrinsics.fx))
    finally:
        engine.close()
    # Keyframes were admitted with other focal lengths than the last one.
    assert max(reported) > 1.2 * min(reported)
    saved = saved_map(result.map, UNPLACED, 0.05)
    assert len(saved.keyframes) > 5
    (fx,) = np.unique(saved.keyframes.K[:, 0, 0])
    assert fx == result.intrinsics.fx == pytest.approx(CAMERA.fx, rel=0.05)
    write_colmap(tmp_path / 'model', saved)
    cameras = (tmp_path / 'model' / 'cameras.txt').read_text().splitlines()
    assert len(cameras) == 2
    rows = (tmp_path / 'model' / 'points3D.txt').read_text().splitlines()[1:]
    errors = np.array([float(row.split()[7]) for row in rows])
    assert len(errors) > 200
    assert errors.mean() < 1.0
