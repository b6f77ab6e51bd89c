"""``r3 eval``: compares a run, or models on many streams, with the truth."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
import tempfile
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError
from .options import (
    add_config_options,
    add_ray_options,
    config_from,
    positive_int,
    ray_settings,
)

if TYPE_CHECKING:
    from ..core.config import R3Config
    from ..evaluation.posed_sequences import PosedSequence


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'eval',
        help='compare a run, or a model on many streams, with the truth',
        description='Without --output: compare a run with the truth; write evaluation.json and '
        'evaluation.csv into its folder and renew its report.html. Depth is compared too if the '
        'run saved it and depth/ is beside the truth. With --output: run a '
        'model on recordings with true poses and on held-out worlds, beside baselines and '
        'other predictors; write tables of poses, depth and confidence (evaluation.md, .json), '
        'figures of depth and trajectories, and maps.',
    )
    parser.add_argument(
        'inputs', metavar='DIR', nargs='*', help='output of r3 run; with --output: recordings'
    )
    parser.add_argument(
        '--groundtruth',
        metavar='FILE',
        help='true poses of the one DIR: TUM, KITTI (with its times.txt) or EuRoC, or the folder '
        'of a data set',
    )
    parser.add_argument(
        '--align', choices=('sim3', 'se3'), default='sim3',
        help='of a run: sim3: rotation, translation and scale (default); se3: no scale',
    )  # fmt: skip
    models = parser.add_argument_group('a model on many streams')
    models.add_argument('--output', '-o', metavar='OUT', help='folder to write')
    models.add_argument('--overwrite', action='store_true', help='replace an earlier evaluation')
    models.add_argument(
        '--worlds', type=positive_int, metavar='N',
        help='also N streams of held-out seeds and N of held-out kinds of world',
    )  # fmt: skip
    models.add_argument(
        '--world-frames', type=positive_int, default=64, metavar='N',
        help='images of such a stream (default: 64)',
    )  # fmt: skip
    models.add_argument(
        '--seed', type=int, default=1, metavar='N', help='of these worlds (default: 1)'
    )
    models.add_argument(
        '--training', metavar='FILE',
        help='settings of the training, with its held-out kinds of world',
    )  # fmt: skip
    models.add_argument(
        '--beside', choices=('classical', 'untrained'), action='append', default=[],
        help='also run this; untrained: the network before any training; may be repeated',
    )  # fmt: skip
    models.add_argument(
        '--max-frames', metavar='N', type=positive_int, help='of a recording, at most'
    )
    add_config_options(models)
    add_ray_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    return _evaluate_model(args) if args.output else _evaluate_run(args)


def _evaluate_run(args: argparse.Namespace) -> int:
    from ..evaluation.posed_sequences import true_poses
    from ..evaluation.report.report_page import write_report
    from ..evaluation.run_evaluation import evaluate_run, evaluation_text

    models = (args.worlds, args.beside, args.model, args.config, args.set, ray_settings(args))
    if any(models):
        raise ConfigError('to run a model, name an output folder with --output')
    if len(args.inputs) != 1 or not args.groundtruth:
        raise ConfigError(
            'name the output of one r3 run, and its truth with --groundtruth; or recordings, and '
            'an output folder with --output'
        )
    folder, truth = Path(args.inputs[0]), true_poses(Path(args.groundtruth))
    evaluation = evaluate_run(folder, *truth, args.align)
    write_report(folder)
    print(evaluation_text(evaluation))
    return 0


def _evaluate_model(args: argparse.Namespace) -> int:
    from ..core.atomic_files import atomic_directory
    from ..core.parameter_fields import updated
    from ..evaluation.predictor_comparison import compare_predictors, TABLES
    from ..evaluation.ray_tasks import ray_cluster

    config = config_from(args)
    sequences = [*_recordings(args), *_worlds(args)]
    predictors = {config.model.name: config}
    if 'classical' in args.beside:
        changes = {'model.name': 'classical', 'model.checkpoint': ''}
        predictors.setdefault('classical', updated(config, changes))
    settings = ray_settings(args)
    with (
        ray_cluster(settings),
        atomic_directory(args.output, args.overwrite, marker=TABLES) as folder,
        # Inside the folder, which all nodes of a cluster see.
        tempfile.TemporaryDirectory(dir=folder) as temporary,
    ):
        if 'untrained' in args.beside:
            predictors['untrained'] = _untrained(config, Path(temporary) / 'untrained.safetensors')
        tables = compare_predictors(sequences, predictors, folder, args.max_frames, settings)
    print(f'\n{tables}\nwritten to {args.output}; open {Path(args.output) / TABLES}')
    return 0


def _recordings(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], PosedSequence]]]:
    """Yield the group of each recording, and what opens it; each is tried now."""
    from ..evaluation.posed_sequences import recorded_sequence
    from ..evaluation.predictor_comparison import file_name

    if not args.inputs and not args.worlds:
        raise ConfigError('name recordings with true poses, or use --worlds')
    if args.groundtruth and len(args.inputs) != 1:
        raise ConfigError(
            f'--groundtruth is of one recording, and {len(args.inputs)} are named: put a '
            'groundtruth.txt into each'
        )
    truth = Path(args.groundtruth) if args.groundtruth else None
    taken: set[str] = set()
    for text in args.inputs:
        path = Path(text)
        stem = name = path.absolute().name
        number = 1
        while file_name(name) in taken:
            number += 1
            name = f'{stem} {number}'
        taken.add(file_name(name))
        make = partial(recorded_sequence, path, truth, name)
        make()
        yield name, make


def _worlds(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], PosedSequence]]]:
    """Yield the group of each world, and what makes it; first those of held-out seeds."""
    if not args.worlds:
        return
    from ..learning.training.held_out import GROUPS, held_out_stream
    from ..learning.training.training_settings import load_settings

    settings = load_settings(args.training, {'seed': args.seed})
    for split, group in GROUPS.items():
        for number in range(args.worlds):
            yield group, partial(held_out_stream, settings, split, number, args.world_frames)


def _untrained(config: R3Config, path: Path) -> R3Config:
    """Write the network of a model before any training; return its configuration."""
    from ..core.parameter_fields import updated
    from ..factory import load_predictor

    if config.model.name == 'classical':
        raise ConfigError(
            "--beside untrained: model 'classical' is no network; choose one with --model"
        )
    predictor = load_predictor(config)
    from ..learning.training.initial_weights import new_network
    from ..model.r3_predictor import R3Predictor
    from ..model.weights.checkpoint import save_network

    if not isinstance(predictor, R3Predictor):
        predictor.close()
        raise ConfigError(
            f"--beside untrained: model '{config.model.name}' is not trained here; choose r3, "
            'r3_long or r3_tiny'
        )
    variant, size = predictor.variant, predictor.image_size
    predictor.close()
    save_network(new_network(variant, seed=0), path)
    return updated(config, {'model.checkpoint': str(path), 'model.image_size': size})
