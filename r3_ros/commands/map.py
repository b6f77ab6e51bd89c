"""``r3 map``: saved maps: what is in one, other formats of it, two made one."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
import sys
import textwrap
import time
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ..map_merging.merging import Merge
    from ..maps.saved_map import SavedMap

_WIDTH = 96
POINT_FORMATS = ('ply', 'pcd', 'npz')
FORMATS = (*POINT_FORMATS, 'tum', 'colmap', 'grid')


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'map',
        help='look into saved maps, export and merge them',
        description='Work with the map folders that the node (~/save_map) and r3 run write.',
    )
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)

    info = actions.add_parser('info', help='what a map holds, and whether it can be loaded')
    info.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    info.set_defaults(func=run_info)

    export = actions.add_parser(
        'export',
        help='write a map in another format',
        description='ply, pcd, npz: the points. tum: the trajectory. colmap: a text model with '
        'the pictures of the keyframes. grid: a ground plan for nav2, map.yaml and map.pgm. '
        'colmap and grid are folders, the others files.',
    )
    export.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    export.add_argument('--format', choices=FORMATS, required=True)
    export.add_argument('--output', '-o', metavar='OUT', required=True, help='what to write')
    export.add_argument('--overwrite', action='store_true', help='replace an earlier output')
    export.add_argument(
        '--frame',
        choices=('base', 'optical'),
        default='base',
        help='tum: whose poses (default: base)',
    )
    grid = export.add_argument_group('grid')
    grid.add_argument(
        '--metres-per-unit',
        metavar='M',
        type=_positive,
        help='length of a map unit, of a map that does not know',
    )
    grid.add_argument(
        '--level',
        action='store_true',
        help='turn the map until its floor is level; the grid is in a frame of its own then',
    )
    grid.add_argument(
        '--floor-height', metavar='Z', type=float, help='z of the floor, in place of finding it'
    )
    grid.add_argument(
        '--set',
        metavar='NAME=VALUE',
        action='append',
        default=[],
        help='set a parameter, for example occupancy.resolution=0.1; may be repeated',
    )
    export.set_defaults(func=run_export)

    merge = actions.add_parser(
        'merge',
        help='make two maps of places that overlap one',
        description='Find keyframes of B in A by the model that made both, and join the two in '
        'frame and unit of A. Maps of different places are refused.',
    )
    merge.add_argument('first', metavar='A', help='a map folder, or the output of r3 run')
    merge.add_argument('second', metavar='B', help='likewise; it is moved to where A has it')
    merge.add_argument('--output', '-o', metavar='C', required=True, help='map folder to write')
    merge.add_argument('--overwrite', action='store_true', help='replace an earlier map')
    merge.add_argument(
        '--set',
        metavar='NAME=VALUE',
        action='append',
        default=[],
        help='set a parameter, for example model.checkpoint=FILE; may be repeated',
    )
    merge.set_defaults(func=run_merge)


def run_info(args: argparse.Namespace) -> int:
    """Print the table."""
    folder = map_folder(args.folder)
    saved = _read(folder)
    for label, value in _facts(folder, saved):
        print(
            textwrap.fill(
                value,
                _WIDTH,
                initial_indent=f'{label:<11}',
                subsequent_indent=' ' * 11,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write one format."""
    from ..maps.writing import write_points

    saved = _read(map_folder(args.folder))
    if args.format in POINT_FORMATS:
        write_points(args.output, saved.points, args.format, args.overwrite)
        print(f'{args.output}: {len(saved.points)} points, {_unit(saved)}')
    elif args.format == 'tum':
        _export_tum(saved, args)
    elif args.format == 'colmap':
        _export_colmap(saved, args)
    else:
        _export_grid(saved, args)
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """Join two maps."""
    from ..command_options import parsed_settings
    from ..config import R3Config, updated
    from ..factory import load_predictor
    from ..map_merging.merging import merge_maps
    from ..maps.writing import write_map

    first, second = _read(map_folder(args.first)), _read(map_folder(args.second))
    name = first.facts.model_name
    config = updated(R3Config(), {'model.name': name, **parsed_settings(args.set)})
    predictor = load_predictor(config)
    try:
        merge = merge_maps(first, second, predictor, config, _progress())
    finally:
        predictor.close()
    size = write_map(args.output, merge.saved, overwrite=args.overwrite)
    _tell_merge(args.output, merge, size)
    return 0


def map_folder(path: str) -> Path:
    """Return the map folder that a path means: itself, or the one in an output of ``r3 run``."""
    from ..maps.layout import MANIFEST
    from ..run_files import SAVED_MAP

    folder = Path(path)
    inner = folder / SAVED_MAP
    if not (folder / MANIFEST).exists() and (inner / MANIFEST).exists():
        return inner
    return folder


def _read(folder: Path) -> SavedMap:
    from ..maps.reading import read_map

    return read_map(folder)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'must be a positive number, got {text!r}')
    return value


# ---- info ----------------------------------------------------------------------------------


def _facts(folder: Path, saved: SavedMap) -> list[tuple[str, str]]:
    """Return labels and values, in the order that they are asked for."""
    from ..maps.saved_map import FORMAT_VERSION

    facts, keyframes = saved.facts, saved.keyframes
    sha = f', weights {facts.checkpoint_sha256[:12]}...' if facts.checkpoint_sha256 else ''
    rows = [
        ('map', str(folder)),
        ('written', f'{_when(facts.saved_ns)}, by r3_ros {facts.r3_ros_version}, '
                    f'format {FORMAT_VERSION}'),
        ('model', facts.model_name + sha),
        ('loadable', _loadable(saved)),
        ('scale', _scale(saved)),
        ('frames', f"'{facts.map_frame}', base '{facts.base_frame}', camera "
                   f"'{facts.optical_frame}'"),
        ('stream', _stream(saved)),
        ('extent', _extent(saved)),
        ('points', f'{len(saved.points)}, voxels of {facts.voxel_size:.3g} {_unit(saved)}'),
        ('poses', f'{len(saved.trajectory)}'),
        ('keyframes', f'{len(keyframes)}, {len(saved.pictures)} with a picture'
                      f'{_picture_size(saved)}'),
        ('edges', f'{len(saved.edges)}'),
    ]  # fmt: skip
    if saved.landmarks is not None:
        sightings = len(saved.landmarks.frame_ids)
        rows.append(('landmarks', f'{len(saved.landmarks)}, seen {sightings} times'))
    rows.append(('on disk', _sizes(folder)))
    return rows


def _when(saved_ns: int) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(saved_ns / 1e9))


def _loadable(saved: SavedMap) -> str:
    """Say whether a camera can be found in the map by the model that made it, here and now."""
    from ..config import MODEL_NAMES

    facts = saved.facts
    if not len(saved.keyframes):
        return 'no: it has no keyframes'
    if not saved.pictures:
        return 'for display only: it was saved without pictures'
    if facts.model_name == 'classical':
        from ..classical.describe import SIZE

        same = facts.descriptor_size == SIZE and facts.checkpoint_sha256 is None
        return 'yes' if same else 'no: another version of the classical model made it'
    if facts.model_name not in MODEL_NAMES:
        return f"no: this r3_ros has no model '{facts.model_name}'"
    return _weights_say(facts.model_name, facts.checkpoint_sha256)


def _weights_say(name: str, sha256: str | None) -> str:
    from ..weights import digest_in_hub_cache, find_weights, read_record

    path = find_weights(name)
    if path is None:
        return f'not yet: its weights are not here (r3 weights get {name})'
    record = read_record(path)
    known = record.sha256 if record else digest_in_hub_cache(path)
    if known is None:
        return f'if {path} are its weights (r3 weights check {name})'
    return 'yes' if known == sha256 else f'no: {path} are other weights'


def _scale(saved: SavedMap) -> str:
    facts = saved.facts
    if facts.metres_per_unit is None:
        return 'unknown: all lengths are in map units'
    return f'metres ({facts.metres_per_unit:.4g} m a map unit, from {facts.scale_source})'


def _unit(saved: SavedMap) -> str:
    return 'map units' if saved.facts.metres_per_unit is None else 'm'


def _stream(saved: SavedMap) -> str:
    stamps_ns = saved.stamps_ns
    if stamps_ns is None:
        return 'no pose'
    first, last = stamps_ns
    return f'{(last - first) * 1e-9:.1f} s, session {saved.facts.session_id}'


def _extent(saved: SavedMap) -> str:
    bounds = saved.bounds
    if bounds is None:
        return 'no points'

    def triple(values: np.ndarray) -> str:
        return '(' + ', '.join(f'{value:.2f}' for value in values) + ')'

    size = ' x '.join(f'{value:.2f}' for value in bounds[1] - bounds[0])
    return f'{size} {_unit(saved)}, from {triple(bounds[0])} to {triple(bounds[1])}'


def _picture_size(saved: SavedMap) -> str:
    size = saved.facts.image_size
    return f' of {size[0]}x{size[1]}' if size is not None and saved.pictures else ''


def _sizes(folder: Path) -> str:
    """Return the whole and its parts, the largest first."""
    from ..weights import size_text

    sizes: dict[str, int] = {}
    for item in folder.rglob('*'):
        if item.is_file() and not item.is_symlink():
            part = item.relative_to(folder).parts
            name = part[0] + ('/' if len(part) > 1 else '')
            sizes[name] = sizes.get(name, 0) + item.stat().st_size
    parts = sorted(sizes.items(), key=lambda part: -part[1])
    whole = size_text(sum(sizes.values()))
    return f'{whole}: ' + ', '.join(f'{name} {size_text(size)}' for name, size in parts)


# ---- export --------------------------------------------------------------------------------


def _export_tum(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..trajectory_file import write_tum

    T = saved.trajectory.T_map_base
    if args.frame == 'optical':
        T = T @ saved.facts.T_base_optical
    write_tum(args.output, saved.trajectory.stamps_ns, T, args.overwrite)
    name = saved.facts.base_frame if args.frame == 'base' else saved.facts.optical_frame
    print(
        f"{args.output}: {len(T)} poses of '{name}' in '{saved.facts.map_frame}', {_unit(saved)}"
    )


def _export_colmap(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..maps.colmap import write_colmap

    points = write_colmap(args.output, saved, args.overwrite)
    print(
        f'{args.output}: {len(saved.keyframes)} images, {len(saved.pictures)} pictures, '
        f'{points} points, {_unit(saved)}'
    )


def _export_grid(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..command_options import parsed_settings
    from ..config import R3Config, updated
    from ..maps.ground_plan import ground_plan
    from ..occupancy_file import write_grid
    from ..occupancy_grid import FREE, OCCUPIED

    changes = parsed_settings(args.set)
    if args.floor_height is not None:
        changes |= {'occupancy.estimate_floor': False, 'occupancy.floor_height': args.floor_height}
    config = updated(R3Config(), changes).occupancy
    plan = ground_plan(saved, config, args.metres_per_unit, args.level)
    grid = plan.grid
    height, width = grid.cells.shape
    name = saved.facts.map_frame
    frame = f"in '{name}'"
    notes = [f'floor at {grid.floor.offset:.3f} m']
    if args.level:
        angle = math.degrees(math.acos(max(-1.0, min(1.0, float(plan.T_grid_map[2, 2])))))
        frame = (
            f"in a frame of its own, turned by {angle:.1f} degrees from '{saved.facts.map_frame}'"
        )
        notes.append(f'T_grid_map (row by row): {plan.T_grid_map.round(9).tolist()}')
    notes.append(frame)
    write_grid(args.output, grid, args.overwrite, notes)
    total = grid.cells.size
    print(
        f'{args.output}: {width} x {height} cells of {grid.resolution:g} m, {frame}\n'
        f'occupied {grid.count(OCCUPIED) / total:.1%}, free {grid.count(FREE) / total:.1%}, '
        f'unknown {1 - (grid.count(OCCUPIED) + grid.count(FREE)) / total:.1%}; '
        f'floor at {grid.floor.offset:.2f} m'
    )


# ---- merge ---------------------------------------------------------------------------------


def _progress() -> Callable[[int, int], None] | None:
    """Return what shows progress on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = '\r' if done + 1 < total else '\n'
        print(f'keyframe {done + 1} of {total}', end=end, file=sys.stderr, flush=True)

    return show


def _tell_merge(output: str, merge: Merge, size: int) -> None:
    from ..weights import size_text

    saved = merge.saved
    print(
        f'{merge.located} keyframes of B have a place in A, and {merge.agreeing} of them agree: '
        f'B is {merge.scale:.3f} times as large there, turned by {merge.turn_deg:.1f} degrees\n'
        f'{output}: {len(saved.keyframes)} keyframes, {len(saved.trajectory)} poses, '
        f'{len(saved.points)} points, {_unit(saved)}, {size_text(size)}'
    )
