"""``r3 eval``: the output of a run against the truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'eval',
        help='compare the output of r3 run with the truth',
        description='Write evaluation.json, evaluation.csv and evaluation.png into the folder '
        'and renew its report.html. Depth is judged too where the run saved it and a folder '
        'depth/ lies beside the truth.',
    )
    parser.add_argument('folder', metavar='DIR', help='output folder of r3 run')
    parser.add_argument(
        '--groundtruth', metavar='FILE', required=True, help='TUM file, camera-to-world'
    )
    parser.add_argument(
        '--align',
        choices=('sim3', 'se3'),
        default='sim3',
        help='sim3: rotation, translation and scale (default); se3: no scale',
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the figures."""
    from ..report.page import write_report
    from ..run_evaluation import evaluate_run, figures_text
    from ..trajectory_file import read_tum

    folder, truth_path = Path(args.folder), Path(args.groundtruth)
    evaluation = evaluate_run(folder, read_tum(truth_path), truth_path, args.align)
    write_report(folder)
    print(figures_text(evaluation))
    return 0
