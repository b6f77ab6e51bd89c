"""Whether the classical predictor's confidences order its errors.

Every edge of a run is compared with the truth; edges are sorted into fifths by confidence and
the errors of each fifth printed. A confidence worth the name gives rows that fall.

    python benchmarks/classical_confidence.py ../shared/data/redkitchen_7scenes
"""

from __future__ import annotations

import argparse

from classical_sequences import evaluated, load_sequence, StreamStandIn
import numpy as np
from r3_ros.core.geometry import inverse, rotation_angle
from scipy.stats import spearmanr


def main() -> int:
    """Run one sequence and print errors by confidence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder')
    parser.add_argument('--frames', type=int, default=10**9)
    args = parser.parse_args()
    sequence = load_sequence(args.folder)
    stream = StreamStandIn(depth=False)
    edges = []
    for i, frame in enumerate(sequence.read()):
        if i >= args.frames:
            break
        edges += [e for e in stream.step(frame).edges if e.confidence_translation > 0]
    stream.close()
    tracked = {i: T for i, T in enumerate(stream.emitted) if T is not None}
    truth = sequence.truth
    scale = evaluated(tracked, truth).scale
    rows = []
    for edge in edges:
        T = inverse(truth[edge.source_id]) @ truth[edge.target_id]
        shift = np.linalg.norm(scale * edge.T_source_target[:3, 3] - T[:3, 3])
        turn = rotation_angle(edge.T_source_target[:3, :3].T @ T[:3, :3])
        rows.append((edge.confidence_translation, edge.confidence_rotation, shift, turn))
    table = np.array(rows)
    report('translation, truth units', table[:, 0], table[:, 2])
    report('rotation, degrees', table[:, 1], np.rad2deg(table[:, 3]))
    return 0


def report(name: str, confidence: np.ndarray, error: np.ndarray) -> None:
    """Print the rank correlation and the errors of each fifth."""
    rank = spearmanr(confidence, error).statistic
    print(f'{name}: {len(error)} edges, rank correlation {rank:.2f}')
    order = np.argsort(confidence)
    for fifth in np.array_split(order, 5):
        print(
            f'  confidence {confidence[fifth].min():.2f} to {confidence[fifth].max():.2f}: '
            f'median {np.median(error[fifth]):.4f}, 90 % below '
            f'{np.percentile(error[fifth], 90):.4f}'
        )


if __name__ == '__main__':
    raise SystemExit(main())
