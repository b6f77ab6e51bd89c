"""``r3 map merge``: joins maps in a tree of pairs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, count
from pathlib import Path
import tempfile
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError, MergeError, OutputError
from .options import parsed_settings, ray_settings, size_text

if TYPE_CHECKING:
    from ..evaluation.ray_tasks import RaySettings


def run_merge(args: argparse.Namespace) -> int:
    from ..core.config import R3Config
    from ..evaluation.ray_tasks import ray_cluster
    from ..offline.run_files import map_folder

    names = {map_folder(path): path for path in args.maps}
    if len(names) < 2:
        raise ConfigError('name two maps or more')
    join = partial(_joined, changes=parsed_settings(args.set, R3Config()))
    settings, output = ray_settings(args), Path(args.output)
    # Beside the output, where all nodes of a cluster see it.
    parent = output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        levels = tempfile.TemporaryDirectory(prefix='.merge_', dir=parent)
    except OSError as error:
        raise OutputError(f'{output} cannot be written: {error}') from error
    with levels as folder, ray_cluster(settings):
        join_all(names, Path(folder), output, args.overwrite, join, settings)
    print(f'written to {output}')
    return 0


@dataclass(frozen=True)
class Pair:
    """Two maps with their names, where they are joined, and how that went."""

    first: Path
    second: Path
    names: tuple[str, str]
    output: Path
    overwrite: bool
    is_joined: bool = False
    text: str = ''


def join_all(
    names: dict[Path, str],
    folder: Path,
    output: Path,
    overwrite: bool,
    join: Callable[[Pair], Pair],
    settings: RaySettings | None,
) -> None:
    """Join maps in a tree, the pairs of a level at the same time.

    :param names: of the maps; ``folder``: for the maps of levels before the last.
    :raises MergeError: no more of them can be joined.
    """
    from ..evaluation.ray_tasks import run_tasks

    refused: dict[tuple[Path, Path], str] = {}
    numbers = count()
    while len(names) > 1:
        is_last = len(names) == 2
        pairs = [
            Pair(
                *pair,
                (names[pair[0]], names[pair[1]]),
                output if is_last else folder / str(next(numbers)),
                overwrite or not is_last,
            )
            for pair in _untried(names, refused)
        ]
        if not pairs:
            raise MergeError(
                f'{len(names)} maps are left, which cannot be joined: '
                f'{"; ".join(names.values())}. The last reason: {list(refused.values())[-1]}'
            )
        with closing(run_tasks(join, pairs, settings, 'pairs', lambda pair: pair.text)) as ended:
            tried = {pair.first: pair for pair in ended}
        for pair in tried.values():
            if pair.is_joined:
                del names[pair.second]
            else:
                refused[pair.first, pair.second] = pair.text
        names = dict(_left(names, tried))


def _untried(
    maps: Iterable[Path], refused: Container[tuple[Path, Path]]
) -> Iterator[tuple[Path, Path]]:
    """Yield pairs that were not refused, each map at most once."""
    used: set[Path] = set()
    for first, second in combinations(maps, 2):
        if (first, second) not in refused and used.isdisjoint((first, second)):
            used |= {first, second}
            yield first, second


def _left(names: dict[Path, str], tried: dict[Path, Pair]) -> Iterator[tuple[Path, str]]:
    """Yield the maps with joined ones in the place of their first."""
    for path, name in names.items():
        pair = tried.get(path)
        yield (pair.output, ' + '.join(pair.names)) if pair and pair.is_joined else (path, name)


def _joined(pair: Pair, changes: dict[str, Any]) -> Pair:
    """Join two maps by the model that made them."""
    from tqdm import tqdm

    from ..core.config import R3Config
    from ..core.parameter_fields import updated
    from ..factory import load_predictor
    from ..maps.reading import read_map
    from ..maps.writing import write_map
    from ..offline.map_merging.merging import merge_maps

    first, second = read_map(pair.first), read_map(pair.second)
    a, b = pair.names
    config = updated(R3Config(), {'model.name': first.facts.model_name, **changes})
    with (
        closing(load_predictor(config)) as predictor,
        tqdm(desc='locating', unit=' keyframes', disable=None, leave=False) as bar,
    ):

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        try:
            merge = merge_maps(first, second, predictor, config, show)
        except MergeError as error:
            return replace(pair, text=f'{b} cannot be joined to {a}: {error}')
    size = write_map(pair.output, merge.saved, overwrite=pair.overwrite)
    saved = merge.saved
    text = (
        f'{merge.located} keyframes of {b} are located in {a}, and {merge.agreeing} of them '
        f'agree: it is scaled by {merge.scale:.3f} and turned by {merge.turn_deg:.1f} degrees\n'
        f'{a} + {b}: {len(saved.keyframes)} keyframes, {len(saved.trajectory)} poses, '
        f'{len(saved.points)} points, {saved.unit_name}, {size_text(size)}'
    )
    return replace(pair, is_joined=True, text=text)
