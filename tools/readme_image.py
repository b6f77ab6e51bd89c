"""Draw the image of the front page: a frame, its depth, and the map with the trajectory.

r3 synth world --seed 1
r3 run world -o out --save-depth
python -m tools.readme_image world out docs/images/run.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
import numpy as np
from r3_ros.core.resize_geometry import as_rgb
from r3_ros.core.trajectory_file import read_tum
from r3_ros.evaluation.figures import encoded
from r3_ros.evaluation.map_views import draw_from_outside, level_scene
from r3_ros.input.open_source import open_source
from r3_ros.maps.cloud_file import read_ply

_DPI = 110


def main() -> None:
    """Read a recording and the files of its run, and write one JPEG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('recording', type=Path, help='what r3 run has processed')
    parser.add_argument('run', type=Path, help='its output, with --save-depth')
    parser.add_argument('image', type=Path, help='the JPEG to write')
    args = parser.parse_args()
    depth_files = sorted((args.run / 'depth').glob('*.npz'))
    chosen = np.load(depth_files[len(depth_files) // 2])
    scene = level_scene(
        read_ply(args.run / 'map.ply'), read_tum(args.run / 'trajectory_final.tum').T_world_camera
    )
    figure = Figure(figsize=(11.0, 4.6))
    figure.patch.set_facecolor('#10141a')
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1, 2.0), wspace=0.02, hspace=0.03, left=0, right=1, bottom=0, top=1
    )
    _show(figure.add_subplot(grid[0, 0]), _frame_at(args.recording, int(chosen['stamp_ns'])))
    _show(figure.add_subplot(grid[1, 0]), 1.0 / chosen['depth'])
    draw_from_outside(figure.add_subplot(grid[:, 1]), scene)
    args.image.parent.mkdir(parents=True, exist_ok=True)
    args.image.write_bytes(encoded(figure, _DPI, 'jpeg'))


def _frame_at(recording: Path, stamp_ns: int) -> np.ndarray:
    with open_source(recording) as source:
        return next(as_rgb(raw.image) for raw in source if raw.stamp_ns == stamp_ns)


def _show(axes: Any, image: np.ndarray) -> None:
    axes.imshow(image, cmap='turbo', aspect='auto')
    axes.set_axis_off()


if __name__ == '__main__':
    main()
