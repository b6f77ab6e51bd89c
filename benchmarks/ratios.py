"""Compare the speed of this code with stored ratios, which depend little on the machine.

    python benchmarks/ratios.py                 # measure, and compare with stored_ratios.json
    python benchmarks/ratios.py --store         # measure, and replace that file

Each ratio is of CPU times in one run: of a frame, from JPEG to cloud, over a reference operation
that is measured between the frames. Other load on the machine slows both. Never fails for a slow
ratio: a difference beyond the noise is for people to look at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
import json
import os
from pathlib import Path
import sys
import time

# Before NumPy is imported, as r3 and the node do.
for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(name, '1')

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from r3_ros.commands.bench_recording import rendered  # noqa: E402
from r3_ros.core.atomic_files import atomic_write  # noqa: E402
from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.parameter_fields import updated  # noqa: E402
from r3_ros.factory import load_engine  # noqa: E402
from r3_ros.input.image_decoding import decode_compressed  # noqa: E402
from r3_ros.offline.benchmark import EncodedRecording, TimedStream  # noqa: E402
from r3_ros.offline.run_files import machine  # noqa: E402

STORED = Path(__file__).with_name('stored_ratios.json')
WARM_UP, BLOCKS, BLOCK = 20, 8, 5
SIDE = 384
#: Changes below this, or below so many standard deviations, may be chance.
LEAST_CHANGE, SIGMAS = 0.1, 3.0


@dataclass(frozen=True)
class Change:
    """How a ratio differs from the stored one.

    :ivar log: logarithm of new over old, the median over the parts of the recording.
    :ivar noise: its standard deviation, by how much the parts differ.
    """

    log: float
    noise: float

    @classmethod
    def of(cls, now: np.ndarray, stored: np.ndarray) -> Change:
        """Return the change of the ratios of each part."""
        logs = np.log(now / stored)
        # A median scatters by a quarter more than a mean.
        return cls(float(np.median(logs)), float(1.25 * logs.std(ddof=1) / len(logs) ** 0.5))

    def verdict(self) -> str:
        """Return whether it is slower, or whether that may be chance."""
        if abs(self.log) < max(LEAST_CHANGE, SIGMAS * self.noise):
            return 'same'
        return 'SLOWER' if self.log > 0 else 'faster'


def cpu_s(clock: Callable[[], float], work: Callable[[], object]) -> float:
    """Return the CPU time that a piece of work takes."""
    began = clock()
    work()
    return clock() - began


def frame_times(model: str, recording: EncodedRecording) -> np.ndarray:
    """Return (BLOCKS, 3) CPU seconds: of frames, of decoding them, of products of matrices."""
    product = np.random.default_rng(0).normal(size=(2, SIDE, SIDE)).astype(np.float32)
    blocks = np.zeros((BLOCKS, 3))
    with closing(load_engine(updated(R3Config(), {'model.name': model}))) as engine:
        stream = TimedStream(engine, recording.camera)
        for image in recording.images[:WARM_UP]:
            stream.take(*image)
        began = time.process_time()
        for n, image in enumerate(recording.images[WARM_UP:]):
            stream.take(*image)
            others = (
                cpu_s(time.thread_time, lambda: decode_compressed(image[1])),  # noqa: B023
                cpu_s(time.thread_time, lambda: product[0] @ product[1]),
            )
            # All threads: the classical predictor computes in the background too.
            now = time.process_time()
            blocks[n // BLOCK] += now - began - sum(others), *others
            began = now
    return blocks


def measured() -> dict[str, np.ndarray]:
    """Return the ratios of the parts of the recording, by name."""
    cv2.setNumThreads(1)
    recording = rendered(WARM_UP + BLOCKS * BLOCK)
    classical, tiny = (frame_times(model, recording) for model in ('classical', 'r3_tiny'))
    return {
        'classical: frame / decoding it': classical[:, 0] / classical[:, 1],
        'r3_tiny: frame / decoding it': tiny[:, 0] / tiny[:, 1],
        f'r3_tiny: frame / product of {SIDE}x{SIDE}': tiny[:, 0] / tiny[:, 2],
    }


def main() -> int:
    """Measure, then print or store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--store', action='store_true', help=f'replace {STORED.name}')
    options = parser.parse_args()
    ratios = measured()
    if options.store:
        rounded = {name: [round(value, 3) for value in parts] for name, parts in ratios.items()}
        content = {'machine': machine(), 'ratios': rounded}
        with atomic_write(STORED) as file:
            file.write(f'{json.dumps(content, indent=2)}\n'.encode())
        print(f'written: {STORED}')
        return 0
    stored = json.loads(STORED.read_text())['ratios']
    print(f'{"of CPU time":<38}{"now":>8}{"stored":>8}{"change":>8}{"noise":>8}')
    for name, now in ratios.items():
        before = np.array(stored[name])
        change = Change.of(now, before)
        print(
            f'{name:<38}{np.median(now):8.1f}{np.median(before):8.1f}'
            f'{100 * np.expm1(change.log):+7.0f}%{100 * change.noise:7.0f}%  {change.verdict()}'
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
