#!/usr/bin/env python3
"""Serves a view of many points, to count the frames per second of a browser.

    python benchmarks/viewer_points.py --points 1000000 --drawn 300

Open the printed address, and in the browser's console:

    n = 0; t = performance.now(); f = () => { n++; requestAnimationFrame(f) }; f()
    n / (performance.now() - t) * 1000
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from r3_ros.commands.options import wait_for_interrupt
from r3_ros.core.geometry import make_T
from r3_ros.maps.cloud import Cloud
from r3_ros.viewer.scene import Scene

#: Curved patches around the middle.
_PATCHES = 40
_RADIUS = 5.0


def main() -> int:
    """Serve the points until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--points', type=int, default=1_000_000)
    parser.add_argument('--drawn', type=int, default=300, help='thousands of points drawn at once')
    args = parser.parse_args()
    scene = Scene()
    scene.points.set_most_drawn(1000 * args.drawn)
    scene.show_cloud(patches(args.points))
    print(f'{scene.url}: {len(scene.points)} points, {scene.points.drawn} of them drawn')
    wait_for_interrupt()
    scene.close()
    return 0


def patches(count: int) -> list[tuple[Cloud, np.ndarray]]:
    """Return clouds of ``count`` points in all, with their poses."""
    rng = np.random.default_rng(0)
    placed = []
    for angle in np.linspace(0.0, 2.0 * np.pi, _PATCHES, endpoint=False):
        x, y = rng.uniform(-1.0, 1.0, (2, count // _PATCHES))
        points = np.stack([x, y, 0.2 * np.sin(3.0 * x)], axis=1).astype(np.float32)
        colors = (127.5 + 127.5 * np.stack([x, y, x * y], axis=1)).astype(np.uint8)
        centre = _RADIUS * np.array([np.cos(angle), np.sin(angle), 0.0])
        cloud = Cloud(points, colors, np.ones(len(points), np.float32))
        placed.append((cloud, make_T(np.eye(3), centre)))
    return placed


if __name__ == '__main__':
    sys.exit(main())
