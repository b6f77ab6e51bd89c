#!/usr/bin/env python3
"""What the view in the browser costs a run: its rate with and without a view, in turns.

    r3 synth room --width 320 --height 240 --depth-every 0
    python benchmarks/viewer_rate.py room --rounds 5

By default a client reads all that a browser would receive, and draws nothing. With --browser open
the printed address, and leave it open; a browser without a GPU takes a core or more for itself.
On a machine that does other work the time of the processor is the better figure: that of the
engine's thread, and that of all threads of the process.
"""

from __future__ import annotations

import argparse
from contextlib import closing, contextmanager
from pathlib import Path
import subprocess
import sys
import time

import numpy as np
from r3_ros.core.config import R3Config
from r3_ros.factory import load_engine
from r3_ros.input.open_source import open_source
from r3_ros.offline.run_files import machine, UNPLACED
from r3_ros.offline.stream_run import run_source
from r3_ros.viewer.run_feed import RunFeed
from r3_ros.viewer.scene import Scene

_PORT = 8080
_CONNECT_S = 5.0
_CLIENT = """
import sys, viser, websockets.sync.client as client
with client.connect(sys.argv[1], subprotocols=['viser-v' + viser.__version__], max_size=None) as c:
    while True:
        c.recv()
"""


def main() -> int:
    """Run in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('recording', type=Path)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--browser', action='store_true', help='a browser is the client')
    args = parser.parse_args()
    about = machine()
    print(f'{about["cpu"]}, {about["cores"]} cores')
    rows: dict[str, list[tuple[float, ...]]] = {'without': [], 'with': []}
    for _ in range(args.rounds):
        rows['without'].append(measure(args.recording, None))
        with closing(Scene(port=_PORT)) as scene, client_of(scene, args.browser):
            rows['with'].append(measure(args.recording, scene))
        print(*(f'{name}: {values[-1][0]:.2f} frames/s' for name, values in rows.items()))
    medians = {name: np.median(values, axis=0) for name, values in rows.items()}
    for name, (rate, thread_ms, process_ms) in medians.items():
        print(
            f'{name}: {rate:.2f} frames/s; processor per frame: engine thread {thread_ms:.1f} ms, '
            f'process {process_ms:.1f} ms'
        )
    change = medians['with'] / medians['without'] - 1.0
    print('change: {:+.1%} frames/s, {:+.1%} and {:+.1%} processor'.format(*change))
    return 0


@contextmanager
def client_of(scene: Scene, browser: bool):
    """Connect a client, or wait until a browser has connected."""
    if browser:
        print(f'open {scene.url}', flush=True)
        while not scene._server.get_clients():
            time.sleep(0.1)
        yield
        return
    url = scene.url.replace('http', 'ws')
    with subprocess.Popen(
        [sys.executable, '-c', _CLIENT, url], stderr=subprocess.DEVNULL
    ) as client:
        time.sleep(_CONNECT_S)
        yield
        client.terminate()


def measure(recording: Path, scene: Scene | None) -> tuple[float, float, float]:
    """Return frames per second, and milliseconds of the thread and the process per frame."""
    with open_source(str(recording)) as source, closing(load_engine(R3Config())) as engine:
        feed = None if scene is None else RunFeed(scene, engine, UNPLACED.T_map_world)
        note = feed.note if feed else lambda frame, estimate: None
        clocks = time.thread_time, time.process_time
        before = [clock() for clock in clocks]
        result = run_source(source, engine, on_frame=note)
        spent = [clock() - start for clock, start in zip(clocks, before, strict=True)]
        if feed:
            feed.close()
    count = len(result.records)
    return count / result.wall_s, *(1e3 * seconds / count for seconds in spent)


if __name__ == '__main__':
    sys.exit(main())
