"""``r3 map``: inspects, exports and merges saved maps."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from ..maps.map_layout import METRES_PER_UNIT, POINT_FORMATS
from .map_merge import run_merge
from .options import (
    add_ray_options,
    add_set_option,
    bounded,
    parsed_settings,
    print_rows,
    size_text,
)

if TYPE_CHECKING:
    from ..maps.saved_map import SavedMap

FORMATS = (*POINT_FORMATS, 'tum', 'colmap', 'nerfstudio', 'glb', 'mcap', 'rerun', 'grid')


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'map',
        help='inspect, export and merge saved maps',
        description='Inspect, export and merge map folders of the node (~/save_map) and r3 run.',
    )
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)

    info = actions.add_parser('info', help='content of a map, and whether it can be loaded')
    info.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    info.set_defaults(func=run_info)

    export = actions.add_parser(
        'export',
        help='write a map in another format',
        description='ply, pcd, npz: the points. tum: the trajectory. colmap: a text model with '
        'the images of the keyframes. nerfstudio: transforms.json with images, and depth if r3 '
        'run saved it. glb: points, path and cameras as glTF. mcap: a recording for Foxglove. '
        'rerun: one for Rerun. grid: a ground plan for nav2, map.yaml and map.pgm. colmap, '
        'nerfstudio and grid are folders, the others files.',
    )
    export.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    export.add_argument('--format', choices=FORMATS, required=True)
    export.add_argument('--output', '-o', metavar='OUT', required=True, help='what to write')
    export.add_argument('--overwrite', action='store_true', help='replace an earlier output')
    export.add_argument(
        '--frame', choices=('base', 'optical'), default='base', help='tum: whose poses are written'
    )
    grid = export.add_argument_group('grid')
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
    export.set_defaults(func=run_export)

    merge = actions.add_parser(
        'merge',
        help='join maps of overlapping places',
        description='Locate keyframes of a map in another one by the model that made both, and '
        'join the two in the frame and unit of the first. Of more than two maps, pairs are '
        'joined, then pairs of these, until one is left. Maps of different places are refused.',
    )
    merge.add_argument(
        'maps', metavar='MAP', nargs='+', help='map folders, or outputs of r3 run; two or more'
    )
    merge.add_argument('--output', '-o', metavar='C', required=True, help='map folder to write')
    merge.add_argument('--overwrite', action='store_true', help='replace an earlier map')
    add_set_option(merge, 'model.checkpoint=FILE')
    add_ray_options(merge, tasks='pairs of maps')
    merge.set_defaults(func=run_merge)


def run_info(args: argparse.Namespace) -> int:
    from ..maps.reading import read_map
    from ..maps.saved_map import FORMAT_VERSION
    from ..offline.run_files import map_folder

    folder = map_folder(args.folder)
    saved = read_map(folder)
    facts = saved.facts
    written = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(facts.saved_ns / 1e9))
    sha = f', weights {facts.checkpoint_sha256[:12]}...' if facts.checkpoint_sha256 else ''
    stream = 'no pose'
    if saved.stamps_ns is not None:
        first, last = saved.stamps_ns
        stream = f'{(last - first) * 1e-9:.1f} s, session {facts.session_id}'
    size = facts.image_size
    of_size = f' of {size[0]}x{size[1]}' if size is not None and saved.images else ''
    scale = 'unknown: all lengths are in map units'
    if facts.metres_per_unit is not None:
        scale = f'metres ({facts.metres_per_unit:.4g} m a map unit, from {facts.scale_source})'
    rows = [
        ('map', str(folder)),
        ('written', f'{written}, by r3_ros {facts.r3_ros_version}, '
                    f'format {FORMAT_VERSION}'),
        ('model', facts.model_name + sha),
        ('loadable', _loadable(saved)),
        ('scale', scale),
        ('frames', f"'{facts.map_frame}', base '{facts.base_frame}', camera "
                   f"'{facts.optical_frame}'"),
        ('stream', stream),
        ('extent', _extent(saved)),
        ('points', f'{len(saved.points)}, voxels of {facts.voxel_size:.3g} {saved.unit_name}'),
        ('poses', f'{len(saved.trajectory)}'),
        ('keyframes', f'{len(saved.keyframes)}, {len(saved.images)} with an image{of_size}'),
        ('edges', f'{len(saved.edges)}'),
    ]  # fmt: skip
    if saved.landmarks is not None:
        observations = len(saved.landmarks.frame_ids)
        rows.append(('landmarks', f'{len(saved.landmarks)}, seen {observations} times'))
    files = (item for item in folder.rglob('*') if item.is_file() and not item.is_symlink())
    rows.append(('on disk', size_text(sum(file.stat().st_size for file in files))))
    print_rows(rows, 11)
    return 0


def _loadable(saved: SavedMap) -> str:
    """Return whether a camera can be located in the map by the installed model."""
    from ..core.config import MODEL_NAMES
    from ..model.weights.catalogue import find_weights, known, recorded_digest, sha256_of

    facts = saved.facts
    if not len(saved.keyframes):
        return 'no: it has no keyframes'
    if not saved.images:
        return 'for display only: it was saved without images'
    if facts.model_name == 'classical':
        from ..classical.describe import SIZE

        same = facts.descriptor_size == SIZE and facts.checkpoint_sha256 is None
        return 'yes' if same else 'no: another version of the classical model made it'
    name = facts.model_name
    if name not in MODEL_NAMES:
        return f"no: this r3_ros has no model '{name}'"
    path = find_weights(name)
    if path is None:
        return f'not yet: its weights are not here (r3 weights get {name})'
    digest = sha256_of(path) if known(name).included else recorded_digest(path)
    if digest is None:
        return f'if {path} are its weights (r3 weights check {name})'
    return 'yes' if digest == facts.checkpoint_sha256 else f'no: {path} are other weights'


def _extent(saved: SavedMap) -> str:
    if saved.bounds is None:
        return 'no points'
    low, high = saved.bounds
    first, last = (', '.join(f'{value:.2f}' for value in corner) for corner in (low, high))
    size = ' x '.join(f'{value:.2f}' for value in high - low)
    return f'{size} {saved.unit_name}, from ({first}) to ({last})'


def run_export(args: argparse.Namespace) -> int:
    from ..maps.cloud_file import write_points
    from ..maps.reading import read_map
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
        from ..maps.exports.colmap import write_colmap

        points = write_colmap(args.output, saved, args.overwrite)
        print(
            f'{args.output}: {len(saved.keyframes)} poses, {len(saved.images)} images, '
            f'{points} points, {saved.unit_name}'
        )
    elif args.format == 'nerfstudio':
        from ..maps.exports.nerfstudio import write_nerfstudio
        from ..offline.run_files import DEPTH

        depths = Path(args.folder) / DEPTH
        images, with_depth = write_nerfstudio(
            args.output, saved, depths if depths.is_dir() else None, args.overwrite
        )
        print(f'{args.output}: {images} images, {with_depth} with depth, {saved.unit_name}')
    elif args.format == 'grid':
        _export_grid(saved, args)
    else:
        _export_recording(saved, args)
    return 0


def _export_recording(saved: SavedMap, args: argparse.Namespace) -> None:
    if args.format == 'glb':
        from ..maps.exports.gltf import write_gltf as write
    elif args.format == 'mcap':
        from ..maps.exports.mcap_recording import write_mcap as write
    else:
        from ..maps.exports.rerun_recording import write_rerun as write
    write(args.output, saved, args.overwrite)
    print(
        f'{args.output}: {len(saved.points)} points, {len(saved.trajectory)} poses, '
        f'{len(saved.keyframes)} keyframes, {saved.unit_name}'
    )


def _export_grid(saved: SavedMap, args: argparse.Namespace) -> None:
    from ..core.config import R3Config
    from ..core.parameter_fields import updated
    from ..maps.ground_plan import ground_plan, write_grid
    from ..maps.occupancy_grid import FREE, OCCUPIED

    changes = parsed_settings(args.set, R3Config())
    if args.floor_height is not None:
        changes |= {'occupancy.estimate_floor': False, 'occupancy.floor_height': args.floor_height}
    config = updated(R3Config(), changes).occupancy
    grid, T_grid_map = ground_plan(saved, config, args.metres_per_unit, args.level)
    height, width = grid.cells.shape
    frame = f"in '{saved.facts.map_frame}'"
    notes = [f'floor at {grid.floor.offset:.3f} m']
    if args.level:
        angle = math.degrees(math.acos(max(-1.0, min(1.0, float(T_grid_map[2, 2])))))
        frame = f"in its own frame, turned by {angle:.1f} degrees from '{saved.facts.map_frame}'"
        notes.append(f'T_grid_map (row by row): {T_grid_map.round(9).tolist()}')
    write_grid(args.output, grid, args.overwrite, [*notes, frame])
    occupied, free = (grid.count(value) / grid.cells.size for value in (OCCUPIED, FREE))
    print(
        f'{args.output}: {width} x {height} cells of {grid.resolution:g} m, {frame}\n'
        f'occupied {occupied:.1%}, free {free:.1%}, unknown {1 - occupied - free:.1%}; '
        f'floor at {grid.floor.offset:.2f} m'
    )
