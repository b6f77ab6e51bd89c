"""The examples of the documentation run as they are printed."""

import subprocess
import sys

import classical_scene
import cv2
import numpy as np
from paths import ROOT
from r3_ros.core.geometry import make_T


def test_the_library_example_follows_a_camera_that_moves_sideways(tmp_path):
    images = tmp_path / 'rgb'
    images.mkdir()
    scene = classical_scene.room()
    for i in range(12):
        image, _ = classical_scene.draw(scene, make_T(np.eye(3), [0.06 * i, 0.0, 0.0]))
        cv2.imwrite(str(images / f'{i:06d}.png'), image)
    camera = tmp_path / 'camera.yaml'
    K = classical_scene.INTRINSICS.K.ravel().tolist()
    camera.write_text(
        'image_width: 400\nimage_height: 300\ncamera_name: drawn\n'
        f'camera_matrix: {{rows: 3, cols: 3, data: {K}}}\n'
        'distortion_model: plumb_bob\n'
        'distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}\n'
    )
    ran = subprocess.run(
        [sys.executable, str(ROOT / 'examples' / 'offline_trajectory.py'), tmp_path, camera],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 12
    assert lines[-1].endswith('tracking ')
    x, y, z = map(float, lines[-1].split()[2:5])
    assert x > 0.05 and abs(y) < 0.1 * x and abs(z) < 0.1 * x
