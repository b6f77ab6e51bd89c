"""``r3 map export``: writes a map in other formats."""

from __future__ import annotations

import argparse
import math
from typing import Any, TYPE_CHECKING

from ..maps.map_layout import METRES_PER_UNIT, POINT_FORMATS
from .options import add_set_option, bounded, parsed_settings

if TYPE_CHECKING:
    from ..maps.saved_map import SavedMap

FORMATS = (*POINT_FORMATS, 'tum', 'colmap', 'grid')


def add_action(actions: Any) -> None:
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
        '--frame', choices=('base', 'optical'), default='base', help='tum: whose poses are written'
    )
    grid = parser.add_argument_group('grid')
    grid.add_argument(
        '--metres-per-unit', metavar='M', type=bounded(*METRES_PER_UNIT),
        help='length of a map unit, for a map without a metric scale',
    )  # fmt: skip
    grid.add_argument(
        '--level', action='store_true',
        help='rotate the map so that its floor is level; the grid then has a frame of its own',
    )  # fmt: skip
    grid.add_argument(
        '--floor-height', metavar='Z', type=float, help='z of the floor, in place of finding it'
    )
    add_set_option(grid, 'occupancy.resolution=0.1')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..maps.reading import read_map
    from ..maps.writing import write_points
    from ..offline.run_files import map_folder

    saved = read_map(map_folder(args.folder))
    if args.format in POINT_FORMATS:
        write_points(args.output, saved.points, args.format, args.overwrite)
        print(f'{args.output}: {len(saved.points)} points, {saved.unit_name}')
    elif args.format == 'tum':
        from ..core.trajectory_file import write_tum

        facts, T = saved.facts, saved.trajectory.T_map_base
        is_base = args.frame == 'base'
        T = T if is_base else T @ facts.T_base_optical
        write_tum(args.output, saved.trajectory.stamps_ns, T, args.overwrite)
        frames = f"'{facts.base_frame if is_base else facts.optical_frame}' in '{facts.map_frame}'"
        print(f'{args.output}: {len(T)} poses of {frames}, {saved.unit_name}')
    elif args.format == 'colmap':
        from ..maps.colmap import write_colmap

        points = write_colmap(args.output, saved, args.overwrite)
        print(
            f'{args.output}: {len(saved.keyframes)} poses, {len(saved.images)} images, '
            f'{points} points, {saved.unit_name}'
        )
    else:
        _export_grid(saved, args)
    return 0


def _export_grid(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..core.config import R3Config
    from ..core.parameter_fields import updated
    from ..maps.ground_plan import ground_plan, write_grid
    from ..maps.occupancy_grid import FREE, OCCUPIED

    changes = parsed_settings(args.set, R3Config())
    if args.floor_height is not None:
        changes |= {'occupancy.estimate_floor': False, 'occupancy.floor_height': args.floor_height}
    config = updated(R3Config(), changes).occupancy
    plan = ground_plan(saved, config, args.metres_per_unit, args.level)
    grid = plan.grid
    height, width = grid.cells.shape
    frame = f"in '{saved.facts.map_frame}'"
    notes = [f'floor at {grid.floor.offset:.3f} m']
    if args.level:
        angle = math.degrees(math.acos(max(-1.0, min(1.0, float(plan.T_grid_map[2, 2])))))
        frame = f"in its own frame, turned by {angle:.1f} degrees from '{saved.facts.map_frame}'"
        notes.append(f'T_grid_map (row by row): {plan.T_grid_map.round(9).tolist()}')
    write_grid(args.output, grid, args.overwrite, [*notes, frame])
    occupied, free = (grid.count(value) / grid.cells.size for value in (OCCUPIED, FREE))
    print(
        f'{args.output}: {width} x {height} cells of {grid.resolution:g} m, {frame}\n'
        f'occupied {occupied:.1%}, free {free:.1%}, unknown {1 - occupied - free:.1%}; '
        f'floor at {grid.floor.offset:.2f} m'
    )
