"""``r3 map info``: content of a map, and whether it can be loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from .options import print_rows, size_text

if TYPE_CHECKING:
    import numpy as np

    from ..maps.saved_map import SavedMap


def add_action(actions: Any) -> None:
    parser = actions.add_parser('info', help='content of a map, and whether it can be loaded')
    parser.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from ..maps.reading import read_map
    from ..offline.run_files import map_folder

    folder = map_folder(args.folder)
    print_rows(_facts(folder, read_map(folder)), 11)
    return 0


def _facts(folder: Path, saved: SavedMap) -> list[tuple[str, str]]:
    """Return labels and values."""
    from ..maps.saved_map import FORMAT_VERSION

    facts, keyframes = saved.facts, saved.keyframes
    written = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(facts.saved_ns / 1e9))
    sha = f', weights {facts.checkpoint_sha256[:12]}...' if facts.checkpoint_sha256 else ''
    stream = 'no pose'
    if saved.stamps_ns is not None:
        first, last = saved.stamps_ns
        stream = f'{(last - first) * 1e-9:.1f} s, session {facts.session_id}'
    size = facts.image_size
    of_size = f' of {size[0]}x{size[1]}' if size is not None and saved.images else ''
    rows = [
        ('map', str(folder)),
        ('written', f'{written}, by r3_ros {facts.r3_ros_version}, '
                    f'format {FORMAT_VERSION}'),
        ('model', facts.model_name + sha),
        ('loadable', _loadable(saved)),
        ('scale', _scale(saved)),
        ('frames', f"'{facts.map_frame}', base '{facts.base_frame}', camera "
                   f"'{facts.optical_frame}'"),
        ('stream', stream),
        ('extent', _extent(saved)),
        ('points', f'{len(saved.points)}, voxels of {facts.voxel_size:.3g} {saved.unit_name}'),
        ('poses', f'{len(saved.trajectory)}'),
        ('keyframes', f'{len(keyframes)}, {len(saved.images)} with an image{of_size}'),
        ('edges', f'{len(saved.edges)}'),
    ]  # fmt: skip
    if saved.landmarks is not None:
        observations = len(saved.landmarks.frame_ids)
        rows.append(('landmarks', f'{len(saved.landmarks)}, seen {observations} times'))
    rows.append(('on disk', _sizes(folder)))
    return rows


def _loadable(saved: SavedMap) -> str:
    """Return whether a camera can be located in the map by the installed model."""
    from ..core.config import MODEL_NAMES

    facts = saved.facts
    if not len(saved.keyframes):
        return 'no: it has no keyframes'
    if not saved.images:
        return 'for display only: it was saved without images'
    if facts.model_name == 'classical':
        from ..classical.describe import SIZE

        same = facts.descriptor_size == SIZE and facts.checkpoint_sha256 is None
        return 'yes' if same else 'no: another version of the classical model made it'
    if facts.model_name not in MODEL_NAMES:
        return f"no: this r3_ros has no model '{facts.model_name}'"
    return _weights_match(facts.model_name, facts.checkpoint_sha256)


def _weights_match(name: str, sha256: str | None) -> str:
    from ..model.weights.catalogue import find_weights, recorded_digest

    path = find_weights(name)
    if path is None:
        return f'not yet: its weights are not here (r3 weights get {name})'
    known = recorded_digest(path)
    if known is None:
        return f'if {path} are its weights (r3 weights check {name})'
    return 'yes' if known == sha256 else f'no: {path} are other weights'


def _scale(saved: SavedMap) -> str:
    facts = saved.facts
    if facts.metres_per_unit is None:
        return 'unknown: all lengths are in map units'
    return f'metres ({facts.metres_per_unit:.4g} m a map unit, from {facts.scale_source})'


def _extent(saved: SavedMap) -> str:
    bounds = saved.bounds
    if bounds is None:
        return 'no points'

    def triple(values: np.ndarray) -> str:
        return '(' + ', '.join(f'{value:.2f}' for value in values) + ')'

    size = ' x '.join(f'{value:.2f}' for value in bounds[1] - bounds[0])
    return f'{size} {saved.unit_name}, from {triple(bounds[0])} to {triple(bounds[1])}'


def _sizes(folder: Path) -> str:
    sizes: dict[str, int] = {}
    for item in folder.rglob('*'):
        if item.is_file() and not item.is_symlink():
            part = item.relative_to(folder).parts
            name = part[0] + ('/' if len(part) > 1 else '')
            sizes[name] = sizes.get(name, 0) + item.stat().st_size
    parts = sorted(sizes.items(), key=lambda part: -part[1])
    whole = size_text(sum(sizes.values()))
    return f'{whole}: ' + ', '.join(f'{name} {size_text(size)}' for name, size in parts)
