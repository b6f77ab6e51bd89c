"""The similarity between two maps, from located keyframes, and the corrected poses of both.

Against false merges, most located keyframes must agree on one similarity, and their edges must be
consistent with one pose graph of all others. A refused merge raises the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np

from ...core.config import R3Config
from ...core.errors import MergeError
from ...core.geometry import rigid_part, rotation_angle, scale_of
from ...core.unit_scale import scale_by_centres
from ...streaming.loops.agreement import Agreement
from ...streaming.loops.evidence import FarEdge
from ...streaming.loops.solver_job import correct_poses, Correction, LoopSnapshot
from ...streaming.pose_resolution import EdgeNoise
from ..windows.window_joining import similarity_by_poses
from .locating import Located, MapGraph

#: Keyframes that must agree, and their share of those located.
LEAST_AGREEING = 4
_MIN_SHARE = 0.6
#: Keyframes agree with a similarity within this distance: in the first map's unit, in which the
#: scene at its start is about 1 away, or as a share of the extent of the keyframes.
_SAME_PLACE = 0.1
_SAME_SHARE = 0.05
_SAME_TURN_RAD = math.radians(8.0)
#: Standard deviation of the logarithm of the scale between the maps.
_SCALE_SIGMA = 0.02
#: Metres of two maps may differ by this factor.
_SAME_METRES = 1.25


@dataclass(frozen=True, eq=False)
class Alignment:
    """The pose and scale of the second map in the first.

    :ivar S_first_second: (4, 4) between the engines' units.
    :ivar located: the keyframes that agree on it.
    :ivar scatter: (2,) root mean square of their differences: first map's unit, radians.
    """

    S_first_second: np.ndarray
    located: tuple[Located, ...]
    scatter: np.ndarray


def align(located: Sequence[Located], second: MapGraph) -> Alignment:
    """Return the similarity that most located keyframes agree on.

    :raises MergeError: too few were located, or too few agree.
    """
    if len(located) < LEAST_AGREEING:
        raise MergeError(
            f'{len(located)} keyframes of the second map were found in the first, and '
            f'{LEAST_AGREEING} are needed: the maps show different places, or too little of the '
            'same place from similar directions'
        )
    T_first = np.stack([item.pose.T_world_camera for item in located])
    T_second = np.stack([second.held[item.frame_id].T_world_camera for item in located])
    S, agree = _largest_agreement(T_first, T_second)
    if agree.sum() < max(LEAST_AGREEING, _MIN_SHARE * len(located)):
        raise MergeError(
            f'only {int(agree.sum())} of {len(located)} located keyframes of the second map agree '
            'on one alignment, which is not enough: the places may be different and only look '
            'alike'
        )
    off, turned = _residuals(S, T_first[agree], T_second[agree])
    scatter = np.sqrt([np.mean(off**2), np.mean(turned**2)])
    return Alignment(S, tuple(itertools.compress(located, agree)), scatter)


def _largest_agreement(T_first: np.ndarray, T_second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Try every pair of keyframes; return the best similarity, refined, and (N,) who agree."""
    S_best, best = np.eye(4), np.zeros(len(T_first), bool)
    for pair in map(list, itertools.combinations(range(len(T_first)), 2)):
        S = _fitted(T_first[pair], T_second[pair])
        if S is not None:
            agree = _agreeing(S, T_first, T_second)
            if agree.sum() > best.sum():
                S_best, best = S, agree
    for _ in range(3):
        S = _fitted(T_first[best], T_second[best])
        if S is None:
            break
        S_best, best = S, _agreeing(S, T_first, T_second)
    return S_best, best


def _fitted(T_first: np.ndarray, T_second: np.ndarray) -> np.ndarray | None:
    """Return the similarity from the second map to the first; None if the cameras are too near.

    The rotation is that of the cameras: collinear centres do not determine it.
    """
    scale = scale_by_centres(T_first[:, :3, 3], T_second[:, :3, 3])
    if scale is None:
        return None
    return similarity_by_poses(T_first, T_second, np.ones((len(T_first), 2)), scale.value)


def _agreeing(S: np.ndarray, T_first: np.ndarray, T_second: np.ndarray) -> np.ndarray:
    off, turned = _residuals(S, T_first, T_second)
    extent = float(np.linalg.norm(np.ptp(T_first[:, :3, 3], axis=0)))
    return (off < max(_SAME_PLACE, _SAME_SHARE * extent)) & (turned < _SAME_TURN_RAD)


def _residuals(
    S: np.ndarray, T_first: np.ndarray, T_second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) distances in the first map's unit and (N,) angles."""
    put = rigid_part(S @ T_second)
    off = np.linalg.norm(put[:, :3, 3] - T_first[:, :3, 3], axis=1)
    return off, rotation_angle(np.swapaxes(put[:, :3, :3], 1, 2) @ T_first[:, :3, :3])


def require_same_metres(first: MapGraph, second: MapGraph, alignment: Alignment) -> None:
    """Refuse two metric maps whose scales differ.

    :raises MergeError: they do; the message names the factor.
    """
    known = first.saved.facts.metres_per_unit, second.saved.facts.metres_per_unit
    if known[0] is None or known[1] is None:
        return
    factor = float(scale_of(alignment.S_first_second)) * known[0] / known[1]
    if max(factor, 1.0 / factor) > _SAME_METRES:
        raise MergeError(
            f'a metre of the second map is {factor:.2f} metres of the first where they overlap: '
            'one of the two has a wrong scale (r3 map info)'
        )


def join(
    first: MapGraph, second: MapGraph, alignment: Alignment, reference: float, config: R3Config
) -> Correction:
    """Return the correction of the keyframes of both maps in the merged one.

    :param reference: score of a nominal edge.
    :raises MergeError: the edges between the maps are inconsistent with those within.
    """
    evidence = _evidence(alignment, reference)
    snapshot = LoopSnapshot(
        held={**first.held, **second.held},
        segments={**dict.fromkeys(first.held, 0), **dict.fromkeys(second.held, 1)},
        edges=[*first.edges, *second.edges],
        evidence=evidence,
        followed_since=[*first.followed_since, *second.followed_since],
        clouds={},
        depth=None,
        noise=EdgeNoise(reference),
        config=config.loop,
    )
    # All edges at once, unlike a loop closure, which uses those of a few frames: where the maps
    # overlap widely their drifts differ, and the graph has to reconcile them.
    agreed = Agreement(tuple(evidence), alignment.S_first_second, _SCALE_SIGMA, alignment.scatter)
    correction = correct_poses(snapshot, agreed)
    closing = [] if correction is None else correction.closing
    frames = {target for _, target in closing}
    if correction is None or len(frames) < LEAST_AGREEING or 2 * len(closing) < len(evidence):
        raise MergeError(
            f'the maps do not fit: only {len(closing)} of {len(evidence)} relations between '
            'their keyframes are consistent with those within the maps, so one of the maps is '
            'distorted, or the places only look alike'
        )
    return correction


def _evidence(alignment: Alignment, reference: float) -> list[FarEdge]:
    """Return the edges between the maps, with lengths in the second map's unit."""
    unit = float(scale_of(alignment.S_first_second))
    found = []
    for item in alignment.located:
        length = item.pose.scale / unit
        sigmas = EdgeNoise(reference).sigmas_of(item.edges) * [length, 1.0]
        for edge, sigma in zip(item.edges, sigmas, strict=True):
            T = edge.T_source_target.copy()
            T[:3, 3] *= length
            found.append(
                FarEdge(edge.source_id, item.frame_id, item.frame_id, np.eye(4), T, sigma)
            )
    return found
