#!/usr/bin/env python3
"""What a second machine gains ``r3 batch``, and what is lost when parts of the cluster are.

    python benchmarks/batch_cluster.py --output OUT [--recordings 40] [--frames 50]

Renders short recordings into OUT/recordings and starts Ray nodes of one core on this machine.

- *Throughput*: the recordings on one node, on two, and on one again, as other load may change.
  Wall time is of the whole command. *busy* is the share of it in which a node had a recording;
  CPU time is of the command, the workers and Ray, also while it waits. If a recording takes no
  more CPU time on two nodes, the gain without other load would be twice the ratio of the busy
  shares.
- *Faults*, on two nodes and with a file that is no video: kill -9 of a worker, of a node (its
  raylet), and of the command itself, each in the middle; then the same command again. It is
  checked that the video alone fails, that no result is written twice, and that all trajectories
  are those of the run without faults.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED='0', OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')

import psutil  # noqa: E402
from r3_ros.core.errors import R3Error  # noqa: E402
from r3_ros.offline.run_files import load_summary  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

R3 = [sys.executable, '-m', 'r3_ros.commands.cli']
_POLL_S = 0.2


def main() -> int:
    """Measure, break things, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--recordings', type=int, default=40)
    parser.add_argument('--frames', type=int, default=50)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    recordings = [render(args.output, seed, args.frames) for seed in range(1, args.recordings + 1)]
    with tempfile.TemporaryDirectory(dir=args.output) as folder:
        rows = []
        for run, nodes in enumerate((1, 2, 1)):
            rows.append(throughput(recordings, nodes, Path(folder) / f'run{run}'))
            print(
                f'{nodes} nodes: {rows[-1]["wall_s"]:.1f} s, busy {100 * rows[-1]["busy"]:.0f} %, '
                f'{rows[-1]["cpu_s"] / len(recordings):.2f} s of CPU a recording',
                flush=True,
            )
        one, two = {key: (rows[0][key] + rows[2][key]) / 2 for key in rows[0]}, rows[1]
        gain = one['wall_s'] / two['wall_s']
        free = 2 * two['busy'] / one['busy']
        print(f'gain {gain:.2f}; from the busy shares {free:.2f}', flush=True)
        with_faults(recordings, Path(folder) / 'faults', Path(folder) / 'run1')
    return 0


def render(output: Path, seed: int, frames: int) -> Path:
    """Render a recording unless it is there."""
    path = output / 'recordings' / f'walk{seed:02d}'
    if not path.is_dir():
        size = ['--frames', str(frames), '--width', '320', '--height', '240']
        command = [*R3, 'synth', str(path), '--seed', str(seed), '--depth-every', '0', *size]
        subprocess.run(command, check=True, capture_output=True)
    return path


@contextmanager
def nodes_of_one_core(count: int) -> Iterator[Cluster]:
    """Start Ray nodes on this machine, each with its workers on a core of its own."""
    size = {'num_cpus': 1, 'object_store_memory': 80 * 2**20}
    process = psutil.Process()
    cores = process.cpu_affinity()
    # What is started inherits it; a run has threads that would use the other core, too.
    process.cpu_affinity(cores[:1])
    cluster = Cluster(True, head_node_args=size | {'include_dashboard': False})
    try:
        for n in range(1, count):
            process.cpu_affinity([cores[n % len(cores)]])
            cluster.add_node(**size)
        process.cpu_affinity(cores)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def batch(inputs: list[Path], output: Path, cluster: Cluster) -> psutil.Popen:
    """Start ``r3 batch`` on a cluster."""
    options = ['-o', str(output), '--address', cluster.address]
    log = output.with_suffix('.txt').open('ab')
    command = [*R3, 'batch', *map(str, inputs), *options]
    return psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def throughput(recordings: list[Path], count: int, output: Path) -> dict[str, float]:
    """Run all recordings; return wall time, busy share of the nodes, and CPU time."""
    with nodes_of_one_core(count) as cluster:
        spent: dict[psutil.Process, float] = {}
        before = cpu_times(cluster)
        began = time.monotonic()
        command = batch(recordings, output, cluster)
        # What a process had spent when it was last seen: workers end with the command.
        while command.poll() is None:
            spent |= cpu_times(cluster, command)
            time.sleep(_POLL_S)
        wall_s = time.monotonic() - began
    if command.returncode != 0:
        raise SystemExit(output.with_suffix('.txt').read_text())
    cpu_s = sum(spent.values()) - sum(before.values())
    busy_s = sum(run['seconds'] for run in runs_of(output))
    return {'wall_s': wall_s, 'busy': busy_s / (count * wall_s), 'cpu_s': cpu_s}


def cpu_times(cluster: Cluster, command: psutil.Process | None = None) -> dict[Any, float]:
    """Return the CPU seconds of the processes of a cluster and of a command."""
    roots = [psutil.Process(pid) for node in cluster.list_all_nodes() for pid in pids(node)]
    found = {}
    for root in [*roots, *([command] if command else [])]:
        try:
            for process in [root, *root.children(recursive=True)]:
                times = process.cpu_times()
                found[psutil.Process(process.pid)] = times.user + times.system
        except psutil.NoSuchProcess:
            pass
    return found


def pids(node: Any) -> list[int]:
    return [info.process.pid for infos in node.all_processes.values() for info in infos]


def runs_of(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / 'batch.json').read_text())['runs']


def with_faults(recordings: list[Path], output: Path, undisturbed: Path) -> None:
    """Kill a worker, a node and the command; check the results."""
    video = output.parent / 'no_video.mp4'
    video.write_bytes(b'no video')
    inputs = [*recordings[:1], video, *recordings[1:]]
    with nodes_of_one_core(2) as cluster:
        head, lost = cluster.head_node, next(iter(cluster.worker_nodes))
        first_written: dict[str, tuple[int, int]] = {}
        command = batch(inputs, output, cluster)

        def wait_for(share: float, then: Callable[[], str] | None = None) -> None:
            while len(written(output, first_written)) < share * len(recordings):
                if command.poll() is not None:
                    break
                time.sleep(_POLL_S)
            if then is not None:
                print(f'{len(first_written)} done: {then()}', flush=True)

        wait_for(0.2, lambda: kill_worker(head))
        wait_for(0.4, lambda: kill_node(cluster, lost))
        wait_for(0.6, lambda: kill_command(command))
        command.wait()
        command = batch(inputs, output, cluster)
        wait_for(2.0)
    failed = [run for run in runs_of(output) if run['state'] != 'done']
    again = written(output, {})
    twice = [name for name, stamp in first_written.items() if again[name] != stamp]
    same = sum(
        (output / path.name / 'trajectory.tum').read_bytes()
        == (undisturbed / path.name / 'trajectory.tum').read_bytes()
        for path in recordings
    )
    print(output.with_suffix('.txt').read_text())
    print(
        f'exit status {command.returncode}; {len(again)} of {len(inputs)} done; failed: '
        f'{", ".join(run["name"] for run in failed)}; written twice: {len(twice)}; '
        f'{same} of {len(recordings)} trajectories as without faults'
    )


def written(output: Path, seen: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Add the complete results that are not among ``seen``, with inode and time; return it."""
    for path in output.glob('[!.]*/summary.json'):
        name = path.parent.name
        if name in seen:
            continue
        try:
            complete, stat = load_summary(path.parent).get('complete'), path.stat()
        except (R3Error, OSError):
            continue
        if complete:
            seen[name] = (stat.st_ino, stat.st_mtime_ns)
    return seen


def kill_worker(node: Any) -> str:
    """Kill the process of a node that has a recording."""
    raylet = psutil.Process(node.all_processes['raylet'][0].process.pid)
    while True:
        for worker in raylet.children():
            if worker.cmdline()[:1] == ['ray::one_task']:
                worker.kill()
                return f'kill -9 of worker {worker.pid}'
        time.sleep(_POLL_S)


def kill_node(cluster: Cluster, node: Any) -> str:
    cluster.remove_node(node, allow_graceful=False)
    return 'a node is lost'


def kill_command(command: psutil.Popen) -> str:
    command.kill()
    return 'kill -9 of the command'


if __name__ == '__main__':
    sys.exit(main())
