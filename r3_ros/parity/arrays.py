"""What the arrays of golden files mean: the quantity they belong to, and the roles of their axes.

Axes are written one letter each: ``f`` frames (none is left out), ``t`` may be thinned by a step
of its own, ``g`` rows or columns, which are thinned together, ``.`` complete.
"""

from __future__ import annotations

from dataclasses import dataclass
import re

import numpy as np

from .tolerances import Quantity

#: The ways to run a clip, each a prefix of array names.
FULL, CAUSAL, ONLINE = 'full', 'causal', 'online'
MODES = (FULL, CAUSAL, ONLINE)
#: Pair outputs of the last streamed frame alone.
LAST = '_last'
FIRST_OF_CHUNK = 'head_first_frame_of_chunk'


@dataclass(frozen=True)
class ArrayKind:
    """What an array is."""

    quantity: Quantity
    axes: str


@dataclass(frozen=True)
class Answer:
    """What our code makes of an input.

    :ivar values: complete, as if nothing were thinned.
    :ivar counts: of the shape of the values: entries that the golden array has to agree with; the
        others mean nothing. None: all.
    :ivar kind: what the array is, where its name alone does not say it.
    :ivar golden: numbers that follow from the golden array, to be compared in its place.
    """

    values: np.ndarray
    counts: np.ndarray | None = None
    kind: ArrayKind | None = None
    golden: np.ndarray | None = None


@dataclass(frozen=True)
class Answers:
    """What our code makes of a golden file.

    :ivar values: by the name of the golden array; a text says why there is no answer.
    :ivar inputs: names of arrays that are no results.
    """

    values: dict[str, Answer | str]
    inputs: frozenset[str]


_PATTERNS = (
    (r'net_input_sample', Quantity.INPUT, 'f.gg'),
    (r'tokens_in', Quantity.INPUT, 'ftt'),
    (r'block\d+', Quantity.BACKBONE, 'ftt'),
    (r'feat\d', Quantity.BACKBONE, 'ftt'),
    (r'cam_token\d', Quantity.BACKBONE, 'ft'),
    (r'cam_projected', Quantity.BACKBONE, 'ft'),
    (r'(layer\d_rn|refinenet\d)', Quantity.HEAD, 'ftgg'),
    (r'(depth|raw_depth)', Quantity.DEPTH, 'fgg'),
    (r'depth_conf', Quantity.CONFIDENCE, 'fgg'),
    (r'ray', Quantity.HEAD, 'fgg.'),
    (r'(ray_conf|sky)', Quantity.HEAD, 'fgg'),
    (r'abs_pose_enc', Quantity.PAIRS, '..'),
    (r'rel_pose_enc(_last)?', Quantity.PAIRS, '...'),
    (r'rel_pose_(conf|conf_t|conf_r|mask)(_last)?', Quantity.PAIRS, '..'),
    (r'reference_view', Quantity.PAIRS, ''),
    (r'(pose_enc|composed)', Quantity.POSES, '..'),
    (r'(w2c|c2w|extrinsics)', Quantity.POSES, '...'),
    (r'intrinsics', Quantity.INTRINSICS, '...'),
    (r'pixels', Quantity.PIXELS, '...'),
)


def kind_of(name: str) -> ArrayKind | None:
    """Return what an array is by its name without prefix, None if that says nothing."""
    for pattern, quantity, axes in _PATTERNS:
        if re.fullmatch(pattern, name):
            return ArrayKind(quantity, axes)
    return None
