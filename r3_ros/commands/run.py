"""``r3 run``: processes a recording; writes trajectory, map and report."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
import signal
import sys
import threading
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError, SourceError
from .options import (
    add_config_options,
    add_view_options,
    config_from,
    open_scene,
    positive_int,
    summary_text,
    wait_for_interrupt,
)

#: Share of the frames beyond which a run that left them out is no success.
_MUCH_LEFT_OUT = 0.25
EXIT_LEFT_OUT = 3

if TYPE_CHECKING:
    from ..core.config import R3Config
    from ..core.datatypes import DepthMap, Estimate, Frame
    from ..core.trajectory_file import PoseList
    from ..input.source import Source
    from ..maps.saved_map import SavedMap
    from ..offline.stream_run import OnFrame, RunResult
    from ..streaming.engine import Engine
    from ..viewer.scene import Scene


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'run',
        help='process a folder of images, a video or a bag',
        description='Process every frame of a recording. The output folder gets trajectory.tum '
        '(poses as first estimated), trajectory_final.tum (after all corrections), '
        'covariances.npz, map.ply, frames.csv, summary.json and report.html. Poses are '
        'camera-to-world in optical axes; the world is the first camera. Exit status 3: results '
        'are written, but more than a quarter of the frames were left out.',
    )
    parser.add_argument(
        'input', metavar='INPUT',
        help='folder of images (as TUM, EuRoC, KITTI, 7-Scenes and ScanNet have them, or plain), '
        'video, or bag (rosbag2, .mcap, .db3, .bag)',
    )  # fmt: skip
    parser.add_argument('--output', '-o', metavar='DIR', required=True, help='folder to write')
    parser.add_argument(
        '--mode', choices=('stream', 'offline'), default='stream',
        help='stream (default): frame by frame, as on a robot; offline: a network with full '
        'context, window by window, also for collections of photos without times',
    )  # fmt: skip
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier output')
    parser.add_argument(
        '--camera', metavar='FILE',
        help='calibration of ROS, Kalibr, OpenCV, ORB-SLAM, EuRoC, KITTI, COLMAP or nerfstudio, '
        'in place of the recorded one; none: estimate the focal length',
    )  # fmt: skip
    parser.add_argument(
        '--map', metavar='DIR',
        help='a saved map, of ~/save_map or OUTPUT/map of an earlier run, in which the camera is '
        'located and which is extended',
    )  # fmt: skip
    parser.add_argument('--topic', metavar='NAME', help='image topic, if the bag has several')
    parser.add_argument('--max-frames', metavar='N', type=positive_int, help='stop after N frames')
    parser.add_argument('--save-depth', action='store_true', help='also save depth as .npz files')
    parser.add_argument(
        '--odometry', metavar='FILE',
        help="TUM file of the camera's motion in metres, at 2 Hz or more; needs "
        'scale.source=odometry',
    )  # fmt: skip
    parser.add_argument(
        '--groundtruth', metavar='FILE',
        help='true poses to evaluate against, as r3 eval does (default: those of the folder)',
    )  # fmt: skip
    add_config_options(parser)
    view = parser.add_argument_group('view in the browser')
    view.add_argument(
        '--view', action='store_true',
        help='show the run while it is processed, and the result until Ctrl-C',
    )  # fmt: skip
    add_view_options(view)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    import cv2

    from ..evaluation.posed_sequences import true_poses

    # Reader, engine and predictor have threads of their own.
    cv2.setNumThreads(1)
    config = config_from(args)
    truth = true_poses(Path(args.groundtruth)) if args.groundtruth else None
    if args.mode == 'offline' and args.map:
        raise ConfigError('--map needs the stream mode: leave out --mode offline')
    if not args.view:
        return _run(args, config, truth, None)[0]
    if args.mode == 'offline':
        raise ConfigError('--view needs the stream mode; for the result there is r3 view')

    from ..viewer.file_feed import load_finished, show_finished

    with open_scene(args) as scene:
        status, truth = _run(args, config, truth, scene)
        if status in (0, EXIT_LEFT_OUT):
            show_finished(scene, load_finished(Path(args.output), truth and truth[0]))
            wait_for_interrupt()
    return status


def _run(
    args: argparse.Namespace,
    config: R3Config,
    truth: tuple[PoseList, Path] | None,
    scene: Scene | None,
) -> tuple[int, tuple[PoseList, Path] | None]:
    """Process the recording; return the exit status, and the true poses that were compared."""
    from ..core.atomic_files import atomic_directory
    from ..evaluation.report.report_page import write_report
    from ..evaluation.run_evaluation import evaluate_run
    from ..input.open_source import open_source
    from ..offline.run_files import DEPTH, SUMMARY, write_run

    output = Path(args.output)
    is_offline = args.mode == 'offline'
    with (
        open_source(
            args.input, args.camera, args.topic, is_offline, config.input.encoding_hint
        ) as source,
        atomic_directory(output, args.overwrite, marker=SUMMARY) as folder,
    ):
        if source.found:
            print(f'found {", ".join(source.found)}', flush=True)
        # Keep the run although the truth does not fit.
        evaluation, no_evaluation = None, None
        try:
            truth = truth or source.truth()
        except SourceError as error:
            no_evaluation = error
        if is_offline:
            result = _reconstructed(source, config, args, folder / DEPTH)
        else:
            poses = truth and truth[0]
            result = _streamed(source, config, args, folder / DEPTH, poses, scene)
        if not result.records:
            raise KeyboardInterrupt  # before the first frame
        write_run(folder, result, config, str(args.input))
        try:
            if truth is not None:
                evaluation = evaluate_run(folder, *truth)
        except SourceError as error:
            # The folder has another name while it is written.
            no_evaluation = SourceError(str(error).replace(str(folder), str(output)))
        write_report(folder)
    if no_evaluation is not None and not args.groundtruth:
        print(f'warning: not compared with the truth: {no_evaluation}', file=sys.stderr)
    _print_result(output, result, evaluation)
    if no_evaluation is not None and args.groundtruth:
        raise no_evaluation
    left_out = result.left_out_share > _MUCH_LEFT_OUT
    return 130 if result.interrupted else EXIT_LEFT_OUT if left_out else 0, truth


def _streamed(
    source: Source,
    config: R3Config,
    args: argparse.Namespace,
    depth_folder: Path,
    truth: PoseList | None,
    scene: Scene | None,
) -> RunResult:
    from ..core.trajectory_file import read_tum
    from ..factory import load_engine
    from ..maps.reading import read_map
    from ..offline.stream_run import run_source

    if (config.scale.source == 'odometry') != bool(args.odometry):
        raise ConfigError(
            f"parameter 'scale.source' is '{config.scale.source}', and --odometry is "
            f'{args.odometry or "not given"}: scale.source odometry and a file go together'
        )
    odometry = read_tum(args.odometry) if args.odometry else None
    saved = read_map(args.map) if args.map else None
    with closing(load_engine(config)) as engine:
        for note in engine.predictor.info.notes:
            print(f'weights: {note}', flush=True)
        if odometry is not None:
            engine.odometry.extend(odometry.stamps_ns, odometry.T_world_camera)
        with (
            _Progress(source, args, depth_folder) as progress,
            _interrupt_sets() as stop,
            _shown(scene, engine, saved, truth) as show,
        ):

            def on_frame(frame: Frame, estimate: Estimate) -> None:
                progress.update(estimate)
                show(frame, estimate)

            result = run_source(source, engine, args.max_frames, on_frame, stop, saved)
            progress.save_depths(result.last_depths)
    return result


@contextmanager
def _shown(
    scene: Scene | None, engine: Engine, saved: SavedMap | None, truth: PoseList | None
) -> Iterator[OnFrame]:
    """Yield what shows each frame in the scene; without a scene it does nothing."""
    if scene is None:
        yield lambda frame, estimate: None
        return
    from ..offline.run_files import UNPLACED
    from ..viewer.run_feed import RunFeed

    placement = UNPLACED if saved is None else saved.facts
    with closing(RunFeed(scene, engine, placement.T_map_world, truth)) as feed:
        yield feed.note


def _reconstructed(
    source: Source, config: R3Config, args: argparse.Namespace, depth_folder: Path
) -> RunResult:
    from ..factory import load_window_predictor
    from ..offline.windows.reconstruction import reconstruct
    from ..streaming.scale.estimator import ScaleEstimator

    with (
        closing(load_window_predictor(config)) as predictor,
        _Progress(source, args, depth_folder) as progress,
        _interrupt_sets() as stop,
    ):
        result = reconstruct(
            source,
            predictor,
            config,
            max_frames=args.max_frames,
            on_window=progress.update_window,
            stop=stop,
            depth_folder=progress.depth_folder,
        )
    result.scale = ScaleEstimator(config.scale).view()
    return result


class _Progress:
    """Shows progress and saves depth maps during a run."""

    def __init__(self, source: Source, args: argparse.Namespace, depth_folder: Path) -> None:
        from tqdm import tqdm

        total = min(filter(None, (source.length, args.max_frames)), default=None)
        # Every refresh is a line in a log file.
        interval_s = 0.2 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(total=total, unit=' frames', desc=source.name, mininterval=interval_s)
        self._keyframes = 0
        self.depth_folder = depth_folder if args.save_depth else None
        self._stamps: dict[int, int] = {}
        if self.depth_folder:
            self.depth_folder.mkdir()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, estimate: Estimate) -> None:
        self._bar.update()
        self._keyframes += estimate.is_keyframe
        self._bar.set_postfix_str(
            f'{estimate.state.value}, {self._keyframes} keyframes', refresh=False
        )
        self._stamps[estimate.frame_id] = estimate.stamp_ns
        self.save_depths(estimate.depths)

    def update_window(self, result: RunResult, images: int, new: int) -> None:
        self._bar.update(new)
        self._bar.set_postfix_str(f'window {result.windows} of {images} frames')

    def save_depths(self, depths: Sequence[DepthMap]) -> None:
        from ..offline.run_files import save_depth

        if self.depth_folder is not None:
            for depth_map in depths:
                save_depth(self.depth_folder, depth_map, self._stamps[depth_map.frame_id])


@contextmanager
def _interrupt_sets() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one interrupts."""
    stop = threading.Event()

    def on_interrupt(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        print('stopping after this frame; the results so far will be written', file=sys.stderr)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _print_result(output: Path, result: RunResult, evaluation: dict[str, Any] | None) -> None:
    from ..evaluation.run_evaluation import evaluation_text
    from ..offline.run_files import load_summary

    summary = load_summary(output)
    frames = summary['frames']
    if result.interrupted:
        print('PARTIAL: interrupted before the end of the recording')
    print(summary_text(summary))
    if result.intrinsics_estimated and result.intrinsics is not None:
        verb = 'estimated' if frames['tracked'] else 'guessed'
        print(f'no calibration: focal length {verb} as {result.intrinsics.fx:.1f} pixels')
    if result.readout_s:
        print(
            f'rolling shutter: rows take about {1e3 * result.readout_s:.0f} ms; corrected once '
            f'certain, with --set input.readout_time={result.readout_s:.3f} from the first on'
        )
    if result.scale.is_metric:
        print(f'lengths in metres: {result.scale.metres_per_unit:.4g} m per map unit')
    elif result.scale.awaited:
        print(f'lengths in map units, not metres: {result.scale.waits_for}', file=sys.stderr)
    if evaluation is not None:
        print(evaluation_text(evaluation))
    print(f'written to {output}; open {output / "report.html"}', flush=True)
    # Last, where they are not overlooked.
    for warning in result.warnings:
        print(f'warning: {warning}', file=sys.stderr)
