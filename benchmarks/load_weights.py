"""Time and peak memory of loading a file of weights, in a process of its own.

    python benchmarks/load_weights.py --variant r3-large --precision fp32

The file has random weights and is written to a temporary folder first (1.5 GB for r3-large), or
is the one that is named. Memory is the process's largest resident size, interpreter and torch
included, over the size of the file. Time is that of the call alone, once the file was written:
it is in the page cache, as on a robot's second start.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import subprocess
import sys
import tempfile

#: What the child runs: it must not have held anything else before.
_CHILD = """
import json, resource, sys, time
import torch
from r3_ros.model.weights.checkpoint import load_network
from r3_ros.model.loading import DTYPES
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
loaded = load_network(sys.argv[1], dtype=DTYPES[sys.argv[2]])
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([loaded.variant, seconds, before * 1024, peak * 1024]))
"""


def write_random(variant: str, path: Path) -> None:
    """Write a file of random weights for a network."""
    from r3_ros.model.building import build_network
    from r3_ros.model.variants import VARIANTS
    from r3_ros.model.weights.checkpoint import save_network
    import torch

    with torch.device('meta'):
        network = build_network(VARIANTS[variant])
    network.to_empty(device='cpu')
    for parameter in network.parameters():
        parameter.data.normal_(0.0, 0.02)
    save_network(network, path)


def measure(path: Path, precision: str, rounds: int) -> None:
    """Load the file in fresh processes and print what it took."""
    size = path.stat().st_size
    for _ in range(rounds):
        child = subprocess.run(
            [sys.executable, '-c', _CHILD, str(path), precision],
            capture_output=True,
            text=True,
            check=True,
        )
        variant, seconds, before, peak = json.loads(child.stdout)
        print(
            f'{variant} as {precision}: {seconds:.1f} s, peak {peak / 1e6:.0f} MB = '
            f'{peak / size:.2f} of the file ({size / 1e6:.0f} MB); '
            f'grown by {(peak - before) / size:.2f} of it'
        )


def main() -> None:
    """Write a file if none is named, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--file', type=Path, help='measure this file')
    parser.add_argument('--variant', default='r3-large')
    parser.add_argument('--precision', choices=('fp32', 'bf16', 'fp16'), default='fp32')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    if args.file is not None:
        measure(args.file, args.precision, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'{args.variant}.safetensors'
        # In another process: a child starts out with the peak of the one that made it.
        subprocess.run(
            [
                sys.executable,
                '-c',
                'import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); '
                'import load_weights; load_weights.write_random(sys.argv[2], Path(sys.argv[3]))',
                str(Path(__file__).parent),
                args.variant,
                str(path),
            ],
            check=True,
        )
        measure(path, args.precision, args.rounds)


if __name__ == '__main__':
    main()
