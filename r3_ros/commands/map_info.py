"""``r3 map info``: what a map holds, and whether it can be loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
import textwrap
import time
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ..maps.saved_map import SavedMap

_WIDTH = 96


def add_action(actions: Any) -> None:
    """Add the action to ``r3 map``."""
    parser = actions.add_parser('info', help='what a map holds, and whether it can be loaded')
    parser.add_argument('folder', metavar='FOLDER', help='a map folder, or the output of r3 run')
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from ..maps.reading import read_map
    from ..run_files import map_folder

    folder = map_folder(args.folder)
    saved = read_map(folder)
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
        ('points', f'{len(saved.points)}, voxels of {facts.voxel_size:.3g} {saved.unit_name}'),
        ('poses', f'{len(saved.trajectory)}'),
        ('keyframes', f'{len(keyframes)}, {len(saved.images)} with an image'
                      f'{_image_size(saved)}'),
        ('edges', f'{len(saved.edges)}'),
    ]  # fmt: skip
    if saved.landmarks is not None:
        observations = len(saved.landmarks.frame_ids)
        rows.append(('landmarks', f'{len(saved.landmarks)}, seen {observations} times'))
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
    if not saved.images:
        return 'for display only: it was saved without images'
    if facts.model_name == 'classical':
        from ..classical.describe import SIZE

        same = facts.descriptor_size == SIZE and facts.checkpoint_sha256 is None
        return 'yes' if same else 'no: another version of the classical model made it'
    if facts.model_name not in MODEL_NAMES:
        return f"no: this r3_ros has no model '{facts.model_name}'"
    return _weights_say(facts.model_name, facts.checkpoint_sha256)


def _weights_say(name: str, sha256: str | None) -> str:
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
    return f'{size} {saved.unit_name}, from {triple(bounds[0])} to {triple(bounds[1])}'


def _image_size(saved: SavedMap) -> str:
    size = saved.facts.image_size
    return f' of {size[0]}x{size[1]}' if size is not None and saved.images else ''


def _sizes(folder: Path) -> str:
    """Return the whole and its parts, the largest first."""
    from ..command_options import size_text

    sizes: dict[str, int] = {}
    for item in folder.rglob('*'):
        if item.is_file() and not item.is_symlink():
            part = item.relative_to(folder).parts
            name = part[0] + ('/' if len(part) > 1 else '')
            sizes[name] = sizes.get(name, 0) + item.stat().st_size
    parts = sorted(sizes.items(), key=lambda part: -part[1])
    whole = size_text(sum(sizes.values()))
    return f'{whole}: ' + ', '.join(f'{name} {size_text(size)}' for name, size in parts)
