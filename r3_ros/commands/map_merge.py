"""``r3 map merge``: two maps of places that overlap made one."""

from __future__ import annotations

import argparse
import sys
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..offline.map_merging.merging import Merge


def add_action(actions: Any) -> None:
    """Add the action to ``r3 map``."""
    parser = actions.add_parser(
        'merge',
        help='make two maps of places that overlap one',
        description='Find keyframes of B in A by the model that made both, and join the two in '
        'frame and unit of A. Maps of different places are refused.',
    )
    parser.add_argument('first', metavar='A', help='a map folder, or the output of r3 run')
    parser.add_argument('second', metavar='B', help='likewise; it is moved to where A has it')
    parser.add_argument('--output', '-o', metavar='C', required=True, help='map folder to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier map')
    parser.add_argument(
        '--set',
        metavar='NAME=VALUE',
        action='append',
        default=[],
        help='set a parameter, for example model.checkpoint=FILE; may be repeated',
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Join two maps."""
    from ..core.config import R3Config
    from ..core.parameter_fields import updated
    from ..factory import load_predictor
    from ..maps.reading import read_map
    from ..maps.writing import write_map
    from ..offline.map_merging.merging import merge_maps
    from ..offline.run_files import map_folder
    from .options import parsed_settings

    first, second = (read_map(map_folder(path)) for path in (args.first, args.second))
    name = first.facts.model_name
    config = updated(R3Config(), {'model.name': name, **parsed_settings(args.set, R3Config())})
    predictor = load_predictor(config)
    try:
        merge = merge_maps(first, second, predictor, config, _progress())
    finally:
        predictor.close()
    size = write_map(args.output, merge.saved, overwrite=args.overwrite)
    _print_merge(args.output, merge, size)
    return 0


def _progress() -> Callable[[int, int], None] | None:
    """Return what shows progress on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = '\r' if done + 1 < total else '\n'
        print(f'keyframe {done + 1} of {total}', end=end, file=sys.stderr, flush=True)

    return show


def _print_merge(output: str, merge: Merge, size: int) -> None:
    from .options import size_text

    saved = merge.saved
    print(
        f'{merge.located} keyframes of B have a place in A, and {merge.agreeing} of them agree: '
        f'B is {merge.scale:.3f} times as large there, turned by {merge.turn_deg:.1f} degrees\n'
        f'{output}: {len(saved.keyframes)} keyframes, {len(saved.trajectory)} poses, '
        f'{len(saved.points)} points, {saved.unit_name}, {size_text(size)}'
    )
