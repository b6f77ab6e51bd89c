"""Small recordings for the tests of the offline tools."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import scripted

WIDTH, HEIGHT = 64, 48

CAMERA_YAML = """\
image_width: 64
image_height: 48
camera_name: scripted
camera_matrix: {rows: 3, cols: 3, data: [51.2, 0, 31.5, 0, 51.2, 23.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
"""


def stamp(index: int, rate_hz: float = 10.0) -> int:
    """Return the time of a frame, to the odd nanosecond."""
    return scripted.START_NS + round(index * scripted.SECOND_NS / rate_hz)


def seconds(stamp_ns: int) -> str:
    """Return a stamp as text, by integers."""
    return f'{stamp_ns // scripted.SECOND_NS}.{stamp_ns % scripted.SECOND_NS:09d}'


def write_folder(folder: Path, count: int = 12, suffix: str = '.png') -> Path:
    """Write a sequence folder whose truth is the walk of the scripted predictor."""
    (folder / 'rgb').mkdir(parents=True)
    stamps, truth = [], []
    path = scripted.circle()
    for i in range(count):
        image = scripted.pattern_image(WIDTH, HEIGHT, shade=i)
        cv2.imwrite(str(folder / 'rgb' / f'{i:06d}{suffix}'), image[..., ::-1])
        stamps.append(f'{seconds(stamp(i))} rgb/{i:06d}{suffix}')
        T = scripted.truth(path, stamp(i))
        quat = scripted.Rotation.from_matrix(T[:3, :3]).as_quat()
        truth.append(' '.join([seconds(stamp(i)), *map(repr, map(float, [*T[:3, 3], *quat]))]))
    (folder / 'timestamps.txt').write_text('\n'.join(['# timestamp filename', *stamps]))
    (folder / 'groundtruth.txt').write_text('\n'.join(truth))
    (folder / 'camera.yaml').write_text(CAMERA_YAML)
    return folder


def write_video(path: Path, count: int = 20, rate_hz: float = 10.0) -> Path:
    """Write a motion-JPEG video."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate_hz, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for i in range(count):
        writer.write(
            np.ascontiguousarray(scripted.pattern_image(WIDTH, HEIGHT, shade=i)[..., ::-1])
        )
    writer.release()
    return path


def write_textured_folder(folder: Path, count: int = 40) -> Path:
    """Write images of a textured wall and a nearer box, passed by a camera moving sideways.

    Unlike those of :func:`write_folder` they show the motion, so any predictor can follow it.
    """
    (folder / 'rgb').mkdir(parents=True)
    width, height, focal = 320, 240, 280.0
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(2):
        noise = rng.integers(0, 256, (height // 6, 2 * width // 6, 3)).astype(np.uint8)
        layers.append(cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC))
    stamps, truth = [], []
    for i in range(count):
        x = 0.02 * i
        views = []
        for layer, depth in zip(layers, (3.0, 1.5), strict=True):
            shift = np.array([[1.0, 0.0, -focal * x / depth - 60], [0.0, 1.0, 0.0]])
            views.append(cv2.warpAffine(layer, shift, (width, height)))
        image = views[0].copy()
        left = int(200 - focal * x / 1.5)
        image[60:180, max(left, 0) : left + 110] = views[1][60:180, max(left, 0) : left + 110]
        cv2.imwrite(str(folder / 'rgb' / f'{i:06d}.png'), image)
        stamps.append(f'{seconds(stamp(i))} rgb/{i:06d}.png')
        truth.append(f'{seconds(stamp(i))} {x} 0 0 0 0 0 1')
    (folder / 'timestamps.txt').write_text('\n'.join(stamps))
    (folder / 'groundtruth.txt').write_text('\n'.join(truth))
    (folder / 'camera.yaml').write_text(
        'image_width: 320\nimage_height: 240\n'
        'camera_matrix: {rows: 3, cols: 3, data: [280, 0, 159.5, 0, 280, 119.5, 0, 0, 1]}\n'
    )
    return folder
