"""``r3 report``: writes the report of a run anew, or a page that compares runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_COMPARISON = 'comparison.html'


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'report',
        help='write the report of a run anew, or compare runs',
        description='One folder: write its report from its other files. Several: write a page '
        'with their numbers, changed parameters, paths, times and memory side by side. Paths are '
        'overlaid if the runs were evaluated with the same truth, or are of the same recording.',
    )
    parser.add_argument('runs', metavar='DIR', nargs='+', help='output of r3 run or r3 demo')
    parser.add_argument(
        '--output', '-o', metavar='FILE',
        help=f'page to write (default: report.html in the folder, or {_COMPARISON} here)',
    )  # fmt: skip
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..evaluation.report.comparison_page import write_comparison
    from ..evaluation.report.report_page import write_report
    from ..offline.run_files import REPORT

    folders = [Path(text) for text in args.runs]
    if len(folders) == 1:
        path = Path(args.output) if args.output else folders[0] / REPORT
        write_report(folders[0], path)
    else:
        path = Path(args.output or _COMPARISON)
        write_comparison(folders, path)
    print(f'written to {path}')
    return 0
