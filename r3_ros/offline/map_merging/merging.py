"""Two saved maps merged by the model that made both (``r3 map merge``)."""

from __future__ import annotations

from dataclasses import dataclass
import math

from ...core.config import R3Config
from ...core.errors import MergeError
from ...core.geometry import rigid_part, rotation_angle, scale_of
from ...core.predictor import Predictor
from ...maps.saved_map import SavedMap
from .graph_of_map import MapGraph
from .locating import locate, Progress
from .map_alignment import align, join, require_same_metres
from .merged_map import merged_map


@dataclass(frozen=True, eq=False)
class Merge:
    """The merged map and figures of its alignment.

    :ivar located: keyframes of the second map located in the first; ``agreeing``: those that
        agree on one similarity.
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
    """Merge two maps of overlapping places, in frame and unit of the first.

    :param predictor: the model that made both; it is reset.
    :raises MapError: another model made one of them.
    :raises MergeError: no common place is found, or not with certainty.
    """
    for name, saved in (('first', first), ('second', second)):
        saved.require_model(predictor.info, predictor.descriptor_size)
        if len(saved.keyframes) < 2 or len(saved.images) < 2:
            raise MergeError(
                f'the {name} map has {len(saved.images)} keyframes with images, and maps are '
                'merged by their images: save it with include_images, and after more motion'
            )
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
