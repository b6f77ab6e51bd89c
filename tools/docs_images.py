"""Make the images of docs/start by the commands that these pages print; needs chromium.

scripts/in_environment python -m tools.docs_images
"""

from __future__ import annotations

from pathlib import Path
import shutil
import subprocess
import tempfile

import cv2
from matplotlib.figure import Figure
import numpy as np
from r3_ros.core.trajectory_file import read_tum
from r3_ros.evaluation.figures import encoded
from r3_ros.evaluation.map_views import draw_from_outside, level_scene
from r3_ros.maps.cloud_file import read_ply

IMAGES = Path(__file__).resolve().parent.parent / 'docs' / 'images'
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]
_COMMANDS = (
    'r3 synth walk --seed 1 --frames 160',
    'r3 run walk -o out --save-depth --groundtruth walk/groundtruth.txt',
    'r3 eval walk --max-frames 100 --model r3_tiny --beside classical -o evaluation',
    'r3 demo --frames 200',
)


def main() -> None:
    """Run the commands in a scratch folder and write docs/images/start_*."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in _COMMANDS:
            subprocess.run(command.split(), cwd=folder, check=True)
        _save('start_recording.jpg', _strip(sorted((folder / 'walk' / 'rgb').iterdir())))
        _save('start_report.jpg', _screenshot(folder / 'out' / 'report.html', 1440))
        _save('start_demo.jpg', _screenshot(folder / 'demo_output' / 'report.html', 1440))
        _save('start_depth.jpg', _read(folder / 'evaluation' / 'figures' / 'walk_depth.png'))
        (IMAGES / 'start_map.jpg').write_bytes(_map(folder / 'out'))
        trajectories = folder / 'evaluation' / 'figures' / 'walk_trajectories.png'
        shutil.copy(trajectories, IMAGES / 'start_predictors.png')
        shutil.copy(folder / 'out' / 'evaluation.png', IMAGES / 'start_evaluation.png')


def _strip(images: list[Path]) -> np.ndarray:
    chosen = [_read(images[round(i)]) for i in np.linspace(0, len(images) - 1, 4)]
    return np.hstack([cv2.resize(image, (320, 240)) for image in chosen])


def _screenshot(page: Path, height: int) -> np.ndarray:
    image = page.with_suffix('.png')
    options = f'--headless=new --no-sandbox --disable-gpu --hide-scrollbars --screenshot={image}'
    command = ['chromium', *options.split(), f'--window-size=1100,{height}', page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    return _read(image)


def _map(run: Path) -> bytes:
    poses = read_tum(run / 'trajectory_final.tum').T_world_camera
    figure = Figure(figsize=(8.0, 4.0))
    figure.patch.set_facecolor('#10141a')
    draw_from_outside(
        figure.add_axes((0.0, 0.0, 1.0, 1.0)), level_scene(read_ply(run / 'map.ply'), poses)
    )
    return encoded(figure, 110, 'jpeg')


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None, path
    return image


def _save(name: str, image: np.ndarray) -> None:
    cv2.imwrite(str(IMAGES / name), image, _JPEG)


if __name__ == '__main__':
    main()
