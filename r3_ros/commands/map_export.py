"""``r3 map export``: a map in other formats."""

from __future__ import annotations

import argparse
import math
from typing import Any, TYPE_CHECKING

from ..maps.map_layout import POINT_FORMATS

if TYPE_CHECKING:
    from ..maps.saved_map import SavedMap

FORMATS = (*POINT_FORMATS, 'tum', 'colmap', 'grid')


def add_action(actions: Any) -> None:
    """Add the action to ``r3 map``."""
    parser = actions.add_parser(
        'export',
        help='write a map in another format',
        description='ply, pcd, npz: the points. tum: the trajectory. colmap: a text model with '
        'the images of the keyframes. grid: a ground plan for nav2, map.yaml and map.pgm. '
        'colmap and grid are folders, the others files.',
    )
    parser.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    parser.add_argument('--format', choices=FORMATS, required=True)
    parser.add_argument('--output', '-o', metavar='OUT', required=True, help='what to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier output')
    parser.add_argument(
        '--frame',
        choices=('base', 'optical'),
        default='base',
        help='tum: whose poses (default: base)',
    )
    grid = parser.add_argument_group('grid')
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
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Write one format."""
    from ..maps.reading import read_map
    from ..maps.writing import write_points
    from ..offline.run_files import map_folder

    saved = read_map(map_folder(args.folder))
    if args.format in POINT_FORMATS:
        write_points(args.output, saved.points, args.format, args.overwrite)
        print(f'{args.output}: {len(saved.points)} points, {saved.unit_name}')
    elif args.format == 'tum':
        _export_tum(saved, args)
    elif args.format == 'colmap':
        _export_colmap(saved, args)
    else:
        _export_grid(saved, args)
    return 0


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'must be a positive number, got {text!r}')
    return value


def _export_tum(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..core.trajectory_file import write_tum

    T = saved.trajectory.T_map_base
    if args.frame == 'optical':
        T = T @ saved.facts.T_base_optical
    write_tum(args.output, saved.trajectory.stamps_ns, T, args.overwrite)
    name = saved.facts.base_frame if args.frame == 'base' else saved.facts.optical_frame
    frames = f"'{name}' in '{saved.facts.map_frame}'"
    print(f'{args.output}: {len(T)} poses of {frames}, {saved.unit_name}')


def _export_colmap(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..maps.colmap import write_colmap

    points = write_colmap(args.output, saved, args.overwrite)
    print(
        f'{args.output}: {len(saved.keyframes)} poses, {len(saved.images)} images, '
        f'{points} points, {saved.unit_name}'
    )


def _export_grid(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..core.config import R3Config
    from ..core.parameter_fields import updated
    from ..maps.ground_plan import ground_plan
    from ..maps.occupancy_file import write_grid
    from ..maps.occupancy_grid import FREE, OCCUPIED
    from .options import parsed_settings

    changes = parsed_settings(args.set, R3Config())
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
