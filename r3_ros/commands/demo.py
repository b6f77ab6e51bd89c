"""``r3 demo``: streams a recording through the node, checks the topics, writes a report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from ..core.errors import SourceError
from .bag import write_bag
from .options import add_set_option, changed_parameters, positive_int, summary_text

if TYPE_CHECKING:
    from ..core.config import R3Config
    from ..ros.demo.live_run import LiveResult

EXIT_CHECK_FAILED = 1


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'demo',
        help='stream a synthetic camera, or your own recording, through the node',
        description='Make a synthetic recording (or use yours), start the node with its installed '
        'parameters, play the recording over DDS in real time, check the messages of the node, '
        'save map and trajectory by the services, compare with the truth and write a report. '
        'Needs the ROS environment. Exit status 1: a check failed.',
    )
    parser.add_argument(
        '--input', metavar='PATH',
        help='folder of images, video or bag to stream; groundtruth.txt beside it is used',
    )  # fmt: skip
    parser.add_argument('--output', '-o', metavar='DIR', default='demo_output')
    parser.add_argument('--camera', metavar='FILE', help='calibration for --input, as of r3 run')
    parser.add_argument('--topic', metavar='NAME', help='image topic, if a bag has several')
    parser.add_argument(
        '--frames', metavar='N', type=positive_int, help='at most N frames (synthetic: 300)'
    )
    parser.add_argument('--seed', metavar='N', type=int, default=0, help='of the synthetic world')
    parser.add_argument('--model', metavar='NAME', help='predictor (default: classical)')
    add_set_option(parser, 'map.voxel_size=0.05')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..core.atomic_files import atomic_directory
    from ..offline.run_files import SUMMARY

    # First, as they may fail.
    config, parameters = _node_parameters(args)
    began = time.monotonic()
    output = Path(args.output)
    with atomic_directory(output, overwrite=True, marker=SUMMARY) as folder:
        source = Path(args.input) if args.input else _synthesise(folder / 'sequence', args)
        summary, evaluation = _stream(source, folder, args, config, parameters)
    _print_result(output, summary, evaluation, time.monotonic() - began)
    return 0 if all(check['passed'] for check in summary['checks']) else EXIT_CHECK_FAILED


def _node_parameters(args: argparse.Namespace) -> tuple[R3Config, dict[str, str]]:
    """Return the configuration of the node, and values of ``-p`` that change that of its file."""
    from ..core.config import R3Config
    from ..core.parameter_fields import flattened, load_config, updated
    from ..ros.demo.live_run import installed_node

    changes = changed_parameters(args)
    config = updated(load_config(installed_node()[1], R3Config()), changes)
    values = flattened(config)
    # As JSON, or YAML would read some texts as other types.
    return config, {name: json.dumps(values[name]) for name in changes}


def _synthesise(folder: Path, args: argparse.Namespace) -> Path:
    from tqdm import tqdm

    from ..learning.synth.dataset import SequenceOptions, write_sequence

    options = SequenceOptions(seed=args.seed, frames=args.frames or 300, depth_every=0)
    print(f'1. making a synthetic recording of {options.frames} frames (seed {options.seed})')
    with tqdm(total=options.frames, unit=' frames', desc='rendering', disable=None) as bar:
        write_sequence(options, folder, on_frames=bar.update)
    return folder


def _stream(
    source_path: Path,
    folder: Path,
    args: argparse.Namespace,
    config: R3Config,
    parameters: dict[str, str],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Stream the recording; return the contents of summary.json and evaluation.json."""
    from tqdm import tqdm

    from ..evaluation.report.report_page import write_report
    from ..input.open_source import NO_CAMERA, open_source
    from ..offline.run_files import SUMMARY, write_json
    from ..ros.demo.checks import all_checks
    from ..ros.demo.live_files import write_live_run
    from ..ros.demo.live_run import run_live

    bag = folder / 'recording.mcap'
    print(f'2. writing {source_path.name} as a bag', flush=True)
    hint = config.input.encoding_hint
    recorded, warnings = write_bag(source_path, bag, args, args.frames, encoding_hint=hint)
    print('3. starting the node and playing the recording to it in real time', flush=True)
    # Every refresh is a line in a log file.
    interval_s = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=recorded.frames, unit=' frames', desc='streaming', mininterval=interval_s
    ) as bar:

        def show(result: LiveResult) -> None:
            status = result.last_status
            if status is not None:
                bar.set_postfix_str(
                    f'{status.frames_processed} processed, {status.frames_dropped} dropped, '
                    f'{status.map_points} map points',
                    refresh=False,
                )
            bar.update()

        result = run_live(bag, folder, parameters | {'map.directory': str(folder)}, show)
    print('4. evaluating and writing the report', flush=True)
    name = str(source_path) if args.input else f'synthetic recording, seed {args.seed}'
    with open_source(bag, NO_CAMERA) as images:
        summary = write_live_run(folder, result, config, name, images)
    bag.unlink()
    evaluation, no_evaluation = _evaluate(folder, source_path, recorded.shift_ns)
    ate_percent = evaluation['trajectory']['ate_percent'] if evaluation else None
    share, model = _tracked_share(summary), config.model.name
    checks = all_checks(result, share, ate_percent, exact_truth=not args.input, model=model)
    summary['warnings'] = [*warnings, *no_evaluation]
    summary['checks'] = [
        check._replace(detail=check.detail.replace(f'{folder}/', ''))._asdict() for check in checks
    ]
    write_json(folder / SUMMARY, summary)
    if summary['frames']['processed']:
        write_report(folder)
    return summary, evaluation


def _tracked_share(summary: dict[str, Any]) -> float:
    """Return the share of tracked frames among those after the start.

    On a busy machine few frames are processed, and the start takes a large share of them.
    """
    from ..core.datatypes import TrackingState

    frames = summary['frames']
    starting = frames['by_state'].get(TrackingState.INITIALIZING.value, 0)
    return float(frames['tracked'] / max(frames['processed'] - starting, 1))


def _evaluate(
    folder: Path, source_path: Path, shift_ns: int
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the content of evaluation.json, and warnings."""
    from dataclasses import replace

    from ..evaluation.posed_sequences import true_poses, TRUTH
    from ..evaluation.run_evaluation import evaluate_run
    from ..input.open_source import NO_CAMERA, open_source

    try:
        with open_source(source_path, NO_CAMERA) as source:
            found = source.truth()
        beside = source_path.parent / TRUTH
        if found is None and beside.is_file():
            found = true_poses(beside)
        if found is None:
            return None, []
        truth, truth_path = found
        moved = replace(truth, stamps_ns=truth.stamps_ns + shift_ns)
        return evaluate_run(folder, moved, truth_path), []
    except SourceError as error:
        return None, [f'not evaluated: {error}']


def _print_result(
    output: Path, summary: dict[str, Any], evaluation: dict[str, Any] | None, wall_s: float
) -> None:
    from ..evaluation.run_evaluation import evaluation_text

    frames, latency = summary['frames'], summary['timing_ms'].get('latency')
    failed = [check for check in summary['checks'] if not check['passed']]
    passed = len(summary['checks']) - len(failed)
    for warning in summary['warnings']:
        print(f'warning: {warning}', file=sys.stderr)
    for check in failed:
        print(f'FAILED: {check["name"]}: {check["detail"]}', file=sys.stderr)
    print(f'\n{frames["sent"]} images sent, {frames["dropped"]} dropped; {summary_text(summary)}')
    if latency:
        print(f'latency {latency["mean"]:.0f} ms mean, {latency["p95"]:.0f} ms 95th percentile')
    if evaluation:
        print(evaluation_text(evaluation))
    print(f'{passed} of {len(summary["checks"])} checks passed, in {wall_s:.0f} s')
    print(f'written to {output}; open {output / "report.html"}')
