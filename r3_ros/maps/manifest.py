"""``manifest.yaml``: the facts of a map and the counts of its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from ..core.config import REPORTED_SCALE_SOURCES
from ..core.errors import MapError, MapProblem
from ..core.geometry import is_rigid
from . import map_layout
from .saved_map import FORMAT_VERSION, MapFacts, SavedMap


@dataclass(frozen=True)
class Counts:
    """Counts that all other files must match."""

    points: int
    poses: int
    keyframes: int
    keyframe_images: int
    edges: int
    landmarks: int
    sightings: int


def manifest_text(saved: SavedMap, images: int) -> str:
    """Return the text of the file.

    :param images: number of images written.
    """
    facts, keyframes, marks = saved.facts, saved.keyframes, saved.landmarks
    bounds, stamps_ns = saved.bounds, saved.stamps_ns
    content = {
        'format_version': FORMAT_VERSION,
        'r3_ros_version': facts.r3_ros_version,
        'model': {
            'name': facts.model_name,
            'checkpoint_sha256': facts.checkpoint_sha256,
            'descriptor_size': facts.descriptor_size,
        },
        'image_size': None if facts.image_size is None else list(facts.image_size),
        'K': keyframes.K[-1].tolist() if len(keyframes) else None,
        'frames': {
            'map': facts.map_frame,
            'base': facts.base_frame,
            'optical': facts.optical_frame,
        },
        'T_base_optical': facts.T_base_optical.tolist(),
        'T_map_world': facts.T_map_world.tolist(),
        'scale': {'metres_per_unit': facts.metres_per_unit, 'source': facts.scale_source},
        'voxel_size': float(facts.voxel_size),
        'bounds': None
        if bounds is None
        else {'min': bounds[0].tolist(), 'max': bounds[1].tolist()},
        'counts': {
            'points': len(saved.points),
            'poses': len(saved.trajectory),
            'keyframes': len(keyframes),
            'keyframe_images': images,
            'edges': len(saved.edges),
            'landmarks': 0 if marks is None else len(marks),
            'sightings': 0 if marks is None else len(marks.frame_ids),
        },
        'stamps_ns': {
            'first': None if stamps_ns is None else stamps_ns[0],
            'last': None if stamps_ns is None else stamps_ns[1],
            'saved': facts.saved_ns,
        },
        'session_id': facts.session_id,
    }
    return yaml.safe_dump(content, sort_keys=False)


def parse_manifest(text: str) -> tuple[MapFacts, Counts]:
    """Return the content of a manifest.

    :raises MapError: VERSION_MISMATCH for another version of the layout, BAD_FORMAT if anything
        is missing or wrong.
    """
    try:
        content = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = str(error).partition('\n')[0]
        raise _bad(f'it is no YAML that r3_ros wrote ({first})') from error
    root = _Section(content, '')
    version = root.integer('format_version', 0, 1 << 31)
    if version != FORMAT_VERSION:
        raise MapError(
            MapProblem.VERSION_MISMATCH,
            f'the map has format version {version}, this r3_ros reads {FORMAT_VERSION}: load it '
            f'with r3_ros {root.text("r3_ros_version")}, which wrote it, or map the place anew',
        )
    model, frames, counts = root.section('model'), root.section('frames'), root.section('counts')
    metres_per_unit, scale_source = _scale(root.section('scale'))
    sha = 'checkpoint_sha256'
    facts = MapFacts(
        r3_ros_version=root.text('r3_ros_version'),
        model_name=model.text('name'),
        checkpoint_sha256=None if model.value(sha) is None else model.text(sha),
        descriptor_size=model.integer('descriptor_size', 1, map_layout.MOST_DESCRIPTOR_NUMBERS),
        image_size=None if root.value('image_size') is None else root.size('image_size'),
        map_frame=frames.text('map'),
        base_frame=frames.text('base'),
        optical_frame=frames.text('optical'),
        T_base_optical=root.motion('T_base_optical'),
        T_map_world=root.motion('T_map_world'),
        metres_per_unit=metres_per_unit,
        scale_source=scale_source,
        voxel_size=root.number('voxel_size', *map_layout.VOXEL_SIZES),
        session_id=root.integer('session_id', 0, (1 << 32) - 1),
        saved_ns=root.section('stamps_ns').integer('saved', 0, (1 << 63) - 1),
    )
    return facts, Counts(**{n: counts.integer(n, 0, most) for n, most in map_layout.MOST.items()})


def _scale(scale: _Section) -> tuple[float | None, str]:
    metres = None
    if scale.value('metres_per_unit') is not None:
        metres = scale.number('metres_per_unit', *map_layout.METRES_PER_UNIT)
    source = scale.text('source')
    if source not in REPORTED_SCALE_SOURCES:
        raise _bad(f"'scale.source' must be one of {', '.join(REPORTED_SCALE_SOURCES)}")
    if metres is not None and source == 'none':
        raise _bad("'scale.source' must say where 'scale.metres_per_unit' comes from")
    return metres, source


def _bad(message: str) -> MapError:
    return map_layout.bad_format(map_layout.MANIFEST, message)


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, with which a small file can expand to a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError('it has aliases')
        return super().compose_node(parent, index)


class _Section:
    """A mapping of the manifest, whose values are checked when they are read."""

    def __init__(self, content: Any, name: str) -> None:
        if not isinstance(content, Mapping):
            raise _bad(f"'{name}' must be a mapping" if name else 'it must be a mapping')
        self._content = content
        self._prefix = f'{name}.' if name else ''

    def value(self, key: str) -> Any:
        if key not in self._content:
            raise _bad(f"'{self._prefix}{key}' is missing")
        return self._content[key]

    def section(self, key: str) -> _Section:
        return _Section(self.value(key), f'{self._prefix}{key}')

    def text(self, key: str) -> str:
        value = self.value(key)
        # Control characters could change the terminal on which it is shown.
        if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
            raise self._wrong(key, 'a text')
        return value

    def integer(self, key: str, least: int, most: int) -> int:
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(key, f'a whole number from {least} to {most}')
        return value

    def number(self, key: str, least: float, most: float) -> float:
        value = self.value(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise self._wrong(key, f'a number from {least:g} to {most:g}')
        return float(value)

    def size(self, key: str) -> tuple[int, int]:
        value = self.value(key)
        fits = isinstance(value, list) and len(value) == 2
        most = map_layout.MOST_IMAGE_SIDE
        if not fits or not all(type(side) is int and 0 < side <= most for side in value):
            raise self._wrong(key, 'width and height in pixels')
        return value[0], value[1]

    def motion(self, key: str) -> np.ndarray:
        try:
            T = np.array(self.value(key), dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._wrong(key, 'a 4x4 rigid motion') from error
        if not (np.abs(T) < map_layout.FARTHEST).all() or not is_rigid(T):
            raise self._wrong(key, 'a 4x4 rigid motion')
        return T

    def _wrong(self, key: str, wanted: str) -> MapError:
        return _bad(f"'{self._prefix}{key}' must be {wanted}")
