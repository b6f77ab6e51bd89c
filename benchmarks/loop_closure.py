#!/usr/bin/env python3
"""What closing a loop is worth: the same drifting way with it and without.

A scripted predictor walks a circle of 100 map units and a tenth of it again. Its edges turn too
far, shrink or are noisy, so the way drifts apart; where it meets itself, old keyframes give edges
that tell.

    python benchmarks/loop_closure.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

from drifting import loop_script, STRIDE, Walk, walk  # noqa: E402

LENGTH = 100.0
FRAMES = round(1.1 * LENGTH / STRIDE)
TROUBLE: dict[str, dict[str, Any]] = {
    'turns 0.11 degrees too far per unit': {'turn_drift': 0.002},
    'shrinks by 18 % on the way round': {'scale_drift': -0.0005},
    'noise of 4 % and 0.3 degrees': {'translation_noise': 0.01, 'rotation_noise': 0.005},
    'all of these': {
        'turn_drift': 0.002,
        'scale_drift': -0.0005,
        'translation_noise': 0.01,
        'rotation_noise': 0.005,
    },
}
#: The error after closing is at most this share of the error before.
LIMIT = 1.0 / 3.0


def figures(before: Walk, after: Walk) -> dict[str, float]:
    """Return what is worth telling of the two walks."""
    strides = np.linalg.norm(
        [
            e.T_previous_camera[:3, 3]
            for e in after.estimates[1:]
            if e.T_previous_camera is not None
        ],
        axis=1,
    )
    return {
        'ate_before': before.ate(before.final),
        'ate_after': after.ate(after.final),
        'loops_closed': after.engine.session.loops_closed,
        'longest_stride': float(strides.max()),
        'longest_stride_before': float(
            max(np.linalg.norm(e.T_previous_camera[:3, 3]) for e in before.estimates[1:])
        ),
        'median_loops_ms': float(np.median([e.timings_ms['loops'] for e in after.estimates])),
        'max_loops_ms': max(e.timings_ms['loops'] for e in after.estimates),
    }


def main() -> int:
    """Walk, print, and fail if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    options = parser.parse_args()
    result, good = {}, True
    print(f'{FRAMES} frames, a loop of {LENGTH:g} units; ATE in units')
    print('| the way | ATE, open | ATE, closed | closings | longest stride, open and closed |')
    print('| --- | --- | --- | --- | --- |')
    for name, trouble in TROUBLE.items():
        script = loop_script(LENGTH, seed=1, **trouble)
        row = figures(walk(script, FRAMES, loop__enabled=False), walk(script, FRAMES))
        result[name] = row
        good &= row['ate_after'] <= LIMIT * row['ate_before']
        good &= row['longest_stride'] <= 1.1 * row['longest_stride_before']
        print(
            f'| {name} | {row["ate_before"]:.3f} | {row["ate_after"]:.3f} | '
            f'{row["loops_closed"]:.0f} | {row["longest_stride_before"]:.3f}, '
            f'{row["longest_stride"]:.3f} |'
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + '\n')
    print(f'\nat most a third of the error left, no jump: {"holds" if good else "DOES NOT HOLD"}')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
