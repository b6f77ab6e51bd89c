"""``r3 map merge``: join two maps of overlapping places."""

from __future__ import annotations

import argparse
import sys
from typing import Any, TYPE_CHECKING

from .options import add_set_option, parsed_settings, size_text

if TYPE_CHECKING:
    from collections.abc import Callable


def add_action(actions: Any) -> None:
    parser = actions.add_parser(
        'merge',
        help='join two maps of overlapping places',
        description='Locate keyframes of B in A by the model that made both, and join the two in '
        'the frame and unit of A. Maps of different places are refused.',
    )
    parser.add_argument('first', metavar='A', help='a map folder, or the output of r3 run')
    parser.add_argument('second', metavar='B', help='likewise; it is moved to its place in A')
    parser.add_argument('--output', '-o', metavar='C', required=True, help='map folder to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier map')
    add_set_option(parser, 'model.checkpoint=FILE')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..core.config import R3Config
    from ..core.parameter_fields import updated
    from ..factory import load_predictor
    from ..maps.reading import read_map
    from ..maps.writing import write_map
    from ..offline.map_merging.merging import merge_maps
    from ..offline.run_files import map_folder

    first, second = (read_map(map_folder(path)) for path in (args.first, args.second))
    name = first.facts.model_name
    config = updated(R3Config(), {'model.name': name, **parsed_settings(args.set, R3Config())})
    predictor = load_predictor(config)
    try:
        merge = merge_maps(first, second, predictor, config, _progress())
    finally:
        predictor.close()
    size = write_map(args.output, merge.saved, overwrite=args.overwrite)
    saved = merge.saved
    print(
        f'{merge.located} keyframes of B are located in A, and {merge.agreeing} of them agree: '
        f'B is scaled by {merge.scale:.3f} and turned by {merge.turn_deg:.1f} degrees\n'
        f'{args.output}: {len(saved.keyframes)} keyframes, {len(saved.trajectory)} poses, '
        f'{len(saved.points)} points, {saved.unit_name}, {size_text(size)}'
    )
    return 0


def _progress() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = '\r' if done + 1 < total else '\n'
        print(f'keyframe {done + 1} of {total}', end=end, file=sys.stderr, flush=True)

    return show
