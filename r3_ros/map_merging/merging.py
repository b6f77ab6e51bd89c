"""``r3 map merge``: from two maps and the model that made both to one."""

from __future__ import annotations

from dataclasses import dataclass
import math

from ..config import R3Config
from ..errors import MergeError
from ..geometry import rotation_angle
from ..maps.saved_map import SavedMap
from ..predictor import Predictor
from ..streaming.similarity import rigid_part, scale_of
from .graph_of_map import MapGraph
from .locating import locate, Progress
from .map_alignment import align, join, require_same_metres
from .merged_map import merged_map


@dataclass(frozen=True, eq=False)
class Merge:
    """The merged map, and how it came about.

    :ivar located: keyframes of the second map that have a place in the first; ``agreeing``: those
        that agree on one similarity.
    :ivar scale: of the second map's lengths in the first; ``turn_deg``: between their axes.
    """

    saved: SavedMap
    located: int
    agreeing: int
    scale: float
    turn_deg: float


def merge_maps(
    first: SavedMap,
    second: SavedMap,
    predictor: Predictor,
    config: R3Config,
    progress: Progress | None = None,
) -> Merge:
    """Join two maps of places that overlap, in frame and unit of the first.

    :param predictor: the model that made both; it forgets all that it holds.
    :raises MapError: another model made one of them.
    :raises MergeError: no common place is found, or not surely; nothing is merged then.
    """
    for name, saved in (('first', first), ('second', second)):
        saved.require_model(predictor.info, predictor.descriptor_size)
        _require_images(name, saved)
    a = MapGraph.of(first, int(first.keyframes.ids[0]))
    b = MapGraph.of(second, int(a.ids[-1]) + 1)
    located = locate(a, b, predictor, config, progress)
    alignment = align(located, b)
    require_same_metres(a, b, alignment)
    correction = join(a, b, alignment, predictor.confidence_reference, config)
    S = alignment.S_first_second
    return Merge(
        saved=merged_map(a, b, correction, alignment.located),
        located=len(located),
        agreeing=len(alignment.located),
        scale=float(scale_of(S)) * first.facts.unit / second.facts.unit,
        turn_deg=math.degrees(float(rotation_angle(rigid_part(S)[:3, :3]))),
    )


def _require_images(name: str, saved: SavedMap) -> None:
    if len(saved.keyframes) < 2 or len(saved.images) < 2:
        raise MergeError(
            f'the {name} map has {len(saved.images)} keyframes with images, which are what '
            'maps are merged by: save it with include_images, and after more motion'
        )
