"""Finding the camera in a map that was loaded.

The saved keyframes are in the bank and in the pose graph, as if they had been seen in this
session; the camera is lost among them. Each frame is related to the saved keyframes that look most
like it. Each edge gives a candidate, the candidates are averaged by their confidences, and the
frame has a place if enough keyframes agree on it. The gate believes it when several frames in a
row do. Until then no pose is given out: one that is off by a room is worse than none.

Keyframes fix the unit, too: the map is as large as it was when it was saved, and a predictor
without metres may see it at another scale now. How far apart a frame sees several keyframes, over
how far apart they are, is the ratio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
import itertools
import math

import numpy as np

from ..config import CovarianceConfig
from ..datatypes import Edge
from ..geometry import rotation_angle
from .loops.evidence import sigmas_of
from .pose_resolution import HeldPose, ResolvedPose

#: Keyframes that must agree on a place, and the share that they must be of those that match the
#: frame nearly as well as the best.
LEAST_KEYFRAMES = 3
_LEAST_SHARE = 0.5
_NEARLY_AS_WELL = 0.5
#: What candidates may be off their mean by: standard deviations, or whatever those say, which are
#: a heuristic, a share of the length of the edges, and radians.
_SIGMAS = 3.0
_SLACK_LENGTH = 0.1
_SLACK_RAD = 0.03
#: Keyframes this near to one another, over how far the frame is from them, tell no scale.
_LEAST_APART = 0.03
#: Frames in a row may differ in scale by this factor.
_SAME_SCALE = 1.25
#: Rounds in which the keyframes that do not agree are left out.
_ROUNDS = 3

#: Takes edges, and the scale of their target.
Resolve = Callable[[Sequence[Edge], float | None], ResolvedPose | None]


@dataclass(frozen=True, eq=False)
class Vicinity:
    """Where the camera is thought to be.

    :ivar T_world_camera: (4, 4), in map units.
    :ivar radius: how far from there it may be, map units.
    :ivar angle: how far it may be turned, radians.
    """

    T_world_camera: np.ndarray
    radius: float
    angle: float = math.pi

    def holds(self, T_world_camera: np.ndarray) -> bool:
        """Tell whether a pose is within."""
        shift = np.linalg.norm(T_world_camera[:3, 3] - self.T_world_camera[:3, 3])
        turn = rotation_angle(self.T_world_camera[:3, :3].T @ T_world_camera[:3, :3])
        return bool(shift <= self.radius and turn <= self.angle)

    def distance(self, T_world_camera: np.ndarray) -> float:
        """Return how far a pose is from the middle."""
        return float(np.linalg.norm(T_world_camera[:3, 3] - self.T_world_camera[:3, 3]))


class Relocalisation:
    """The search, from the loading of a map until the camera is found in it.

    :ivar keyframe_ids: of the saved map.
    """

    def __init__(self, keyframe_ids: Collection[int], near: Vicinity | None = None) -> None:
        """Begin.

        :param keyframe_ids: of the saved map.
        :param near: where to look; None for everywhere.
        """
        self.keyframe_ids = frozenset(keyframe_ids)
        self._near = near
        self._log_scales: deque[float] = deque(maxlen=8)

    def narrow(self, near: Vicinity) -> None:
        """Look around there only, from now on."""
        self._near = near

    def not_wanted(self, poses: Mapping[int, HeldPose]) -> set[int]:
        """Return the keyframes that no frame should be related to: far from where it can be.

        If hardly any are left, all are wanted: what is found is held to the vicinity anyway.
        """
        if self._near is None:
            return set()
        near = self._near
        # A view reaches farther than the camera may be off.
        reach = 2.0 * near.radius
        far = {
            i
            for i in self.keyframe_ids
            if i in poses and near.distance(poses[i].T_world_camera) > reach
        }
        left = sum(i in poses for i in self.keyframe_ids) - len(far)
        return far if left >= LEAST_KEYFRAMES else set()

    def place(
        self,
        edges: Sequence[Edge],
        held: Mapping[int, HeldPose],
        reference: float,
        covariance: CovarianceConfig,
        resolve: Resolve,
    ) -> tuple[list[Edge], ResolvedPose | None]:
        """Return the edges that agree on a place, and it; none if it is in any doubt.

        :param edges: into one frame, of saved keyframes, all usable.
        """
        used, resolved = self._agreed(edges, held, reference, covariance, resolve)
        if resolved is None:
            self._log_scales.clear()
            return [], None
        return used, resolved

    def _agreed(
        self,
        edges: Sequence[Edge],
        held: Mapping[int, HeldPose],
        reference: float,
        covariance: CovarianceConfig,
        resolve: Resolve,
    ) -> tuple[list[Edge], ResolvedPose | None]:
        strong = _strong(edges)
        used = strong
        resolved: ResolvedPose | None = None
        for _ in range(_ROUNDS):
            if len(used) < LEAST_KEYFRAMES:
                return [], None
            scale = scale_of_edges(used, held)
            if scale is None:
                return [], None
            resolved = resolve(used, scale)
            if resolved is None:
                return [], None
            agreeing = _agreeing(strong, resolved, held, reference, covariance)
            if len(agreeing) == len(used):
                break
            used = agreeing
        if resolved is None or len(used) < max(LEAST_KEYFRAMES, _LEAST_SHARE * len(strong)):
            return [], None
        if self._near is not None and not self._near.holds(resolved.held.T_world_camera):
            return [], None
        return used, self._of_common_scale(used, resolved, resolve)

    def _of_common_scale(
        self, used: Sequence[Edge], resolved: ResolvedPose, resolve: Resolve
    ) -> ResolvedPose | None:
        """Return the place by the scale of all frames in a row that had one."""
        log_scale = math.log(resolved.held.scale)
        usual = float(np.mean(self._log_scales)) if self._log_scales else log_scale
        if abs(log_scale - usual) > math.log(_SAME_SCALE):
            return None
        self._log_scales.append(log_scale)
        common = float(np.mean(self._log_scales))
        return resolved if common == log_scale else resolve(used, math.exp(common))


def _strong(edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges that are nearly as sure as the best."""
    scores = [edge.confidence_translation + edge.confidence_rotation for edge in edges]
    least = _NEARLY_AS_WELL * max(scores, default=0.0)
    return [edge for edge, score in zip(edges, scores, strict=True) if score >= least]


def _agreeing(
    edges: Sequence[Edge],
    resolved: ResolvedPose,
    held: Mapping[int, HeldPose],
    reference: float,
    covariance: CovarianceConfig,
) -> list[Edge]:
    """Return the edges that say what the pose says, within their uncertainty."""
    pose, scale = resolved.held.T_world_camera, resolved.held.scale
    T_edges = np.array([edge.T_source_target for edge in edges])
    T_edges[:, :3, 3] *= scale
    candidates = np.array([held[edge.source_id].T_world_camera for edge in edges]) @ T_edges
    shift = np.linalg.norm(candidates[:, :3, 3] - pose[:3, 3], axis=1)
    turn = rotation_angle(pose[:3, :3].T @ candidates[:, :3, :3])
    levers = np.linalg.norm(T_edges[:, :3, 3], axis=1)
    sigmas = _SIGMAS * sigmas_of(edges, reference, covariance) * [scale, 1.0]
    # A keyframe very near is not surer of the place than the scene's size makes it.
    slack = _SLACK_LENGTH * np.maximum(levers, np.median(levers))
    agrees = (shift <= np.maximum(sigmas[:, 0], slack)) & (
        turn <= np.maximum(sigmas[:, 1], _SLACK_RAD)
    )
    return list(itertools.compress(edges, agrees))


def scale_of_edges(edges: Sequence[Edge], held: Mapping[int, HeldPose]) -> float | None:
    """Return the length of the edges' unit in the world, None if they do not tell.

    Of pairs of keyframes that are far enough apart: how far apart they are, over how far apart the
    frame sees them; the median, weighted by the confidences and by how far apart they are.
    """
    poses = np.array([held[edge.source_id].T_world_camera for edge in edges])
    T_edges = np.array([edge.T_source_target for edge in edges])
    levers = (poses[:, :3, :3] @ T_edges[:, :3, 3:])[..., 0]
    scores = np.array([edge.confidence_translation for edge in edges])
    first, second = np.triu_indices(len(edges), 1)
    apart = np.linalg.norm(poses[first, :3, 3] - poses[second, :3, 3], axis=1)
    # From keyframe to frame and from there to the other one: the frame itself drops out.
    seen = np.linalg.norm(levers[first] - levers[second], axis=1)
    lengths = np.linalg.norm(levers, axis=1)
    usable = (seen > _LEAST_APART * np.maximum(lengths[first], lengths[second])) & (apart > 0)
    usable &= seen > 0
    if not usable.any():
        return None
    ratios = apart[usable] / seen[usable]
    weights = np.minimum(scores[first], scores[second])[usable] * apart[usable]
    order = np.argsort(ratios)
    cumulated = np.cumsum(weights[order])
    if not cumulated[-1] > 0:
        return None
    return float(ratios[order][np.searchsorted(cumulated, 0.5 * cumulated[-1])])
