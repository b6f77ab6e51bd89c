"""Search for the camera in a loaded map.

The saved keyframes are in the bank and in the pose graph, as if they had been seen in this
session, and the camera is lost. A frame is located if enough of the keyframes most similar to it
agree on its pose. The gate publishes a pose when several frames in a row agree: no pose is better
than one that is off by a room.

Keyframes also give the scale, as the ratio of their distances in the map and as seen by one frame:
a predictor without metres may have another unit now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
import itertools
import math

import numpy as np

from ...core.datatypes import Edge
from ...core.geometry import rotation_angle, weighted_median
from ..loops.evidence import AGREE_SIGMAS, deviations, SLACK_LENGTH, SLACK_RAD
from ..pose_resolution import (
    EdgeNoise,
    HeldPose,
    resolve_pose,
    ResolvedPose,
    stacked,
)

#: Number of keyframes that must agree on a place, and their least share of those that match the
#: frame nearly as well as the best.
LEAST_KEYFRAMES = 3
_LEAST_SHARE = 0.5
_NEARLY_AS_WELL = 0.5
#: Least distance between keyframes that give a scale, over their distance to the frame.
_LEAST_APART = 0.03
#: Largest ratio of the scales of frames in a row.
_SAME_SCALE = 1.25
#: Rounds in which the keyframes that do not agree are left out.
_ROUNDS = 3
#: Frames found by another model that are kept: at 30 Hz the way of some seconds.
_PLACES = 100


@dataclass(frozen=True, eq=False)
class Vicinity:
    """A region in which the camera is searched for.

    :ivar T_world_camera: (4, 4), its centre, in map units.
    :ivar radius: largest distance from there, map units.
    :ivar angle: largest rotation from there, radians.
    """

    T_world_camera: np.ndarray
    radius: float
    angle: float = math.pi

    def holds(self, T_world_camera: np.ndarray) -> bool:
        """Return whether a pose is within."""
        turn = rotation_angle(self.T_world_camera[:3, :3].T @ T_world_camera[:3, :3])
        return bool(self.distance(T_world_camera) <= self.radius and turn <= self.angle)

    def distance(self, T_world_camera: np.ndarray) -> float:
        """Return the distance of a pose from the centre."""
        return float(np.linalg.norm(T_world_camera[:3, 3] - self.T_world_camera[:3, 3]))


@dataclass(frozen=True, eq=False)
class FoundPlace:
    """Where another model found a frame in the map.

    :ivar T_world_camera: (4, 4), in map units.
    :ivar source_ids: keyframes of the map that agree on it.
    :ivar anchor_id: the newest keyframe of the segment in which the frame was tracked, and
        ``S_anchor_frame``: (4, 4) the frame there.
    """

    T_world_camera: np.ndarray
    source_ids: tuple[int, ...]
    anchor_id: int = -1
    S_anchor_frame: np.ndarray = field(default_factory=lambda: np.eye(4))


class Relocalisation:
    """The search, from loading a map until the camera is found in it.

    :ivar keyframe_ids: of the saved map.
    :ivar near: where to search; None for everywhere.
    :ivar places: frames that ``relocalise.model`` found, oldest first.
    :ivar note: how far that model is, or why it cannot use the newest frame; may be empty.
    """

    def __init__(self, keyframe_ids: Collection[int], near: Vicinity | None = None) -> None:
        self.keyframe_ids = frozenset(keyframe_ids)
        self.near = near
        self.places: deque[FoundPlace] = deque(maxlen=_PLACES)
        self.note = ''
        self._log_scales: deque[float] = deque(maxlen=8)

    def out_of_reach(self, poses: Mapping[int, HeldPose]) -> set[int]:
        """Return the keyframes that no frame should be related to: too far from ``near``.

        Empty if hardly any others are left: the result is checked against ``near`` anyway.
        """
        near = self.near
        if near is None:
            return set()
        held = [i for i in self.keyframe_ids if i in poses]
        # A view reaches farther than the camera's position is uncertain.
        far = {i for i in held if near.distance(poses[i].T_world_camera) > 2.0 * near.radius}
        return far if len(held) - len(far) >= LEAST_KEYFRAMES else set()

    def locate(
        self, edges: Sequence[Edge], held: Mapping[int, HeldPose], noise: EdgeNoise
    ) -> tuple[list[Edge], ResolvedPose | None]:
        """Return the edges that agree on a pose, and it; none if it is in any doubt.

        :param edges: into one frame, of saved keyframes, all usable.
        """
        used, resolved = _agreed(edges, held, noise)
        if resolved is not None and self.near is not None:
            resolved = resolved if self.near.holds(resolved.held.T_world_camera) else None
        if resolved is None:
            self._log_scales.clear()
            return [], None
        # The scale is the mean over the frames in a row that were located; it must not jump.
        log_scale = math.log(resolved.held.scale)
        usual = float(np.mean(self._log_scales)) if self._log_scales else log_scale
        if abs(log_scale - usual) > math.log(_SAME_SCALE):
            self._log_scales.clear()
            return [], None
        self._log_scales.append(log_scale)
        common = float(np.mean(self._log_scales))
        if common != log_scale:
            resolved = resolve_pose(used, held, noise, math.exp(common))
        return used, resolved


def _agreed(
    edges: Sequence[Edge], held: Mapping[int, HeldPose], noise: EdgeNoise
) -> tuple[list[Edge], ResolvedPose | None]:
    used = strong = _strong(edges)
    resolved: ResolvedPose | None = None
    for _ in range(_ROUNDS):
        scale = scale_of_edges(used, held) if len(used) >= LEAST_KEYFRAMES else None
        if scale is None:
            return [], None
        resolved = resolve_pose(used, held, noise, scale)
        if resolved is None:
            return [], None
        agreeing = _agreeing(strong, resolved.held, held, noise)
        if len(agreeing) == len(used):
            break
        used = agreeing
    enough = len(used) >= max(LEAST_KEYFRAMES, _LEAST_SHARE * len(strong))
    return used, resolved if enough else None


def _strong(edges: Sequence[Edge]) -> list[Edge]:
    """Return the edges with a score near the best, and as many as have to agree at least.

    One or two keyframes may show much more of the view than all others.
    """
    scores = [sum(edge.scores) for edge in edges]
    least = _NEARLY_AS_WELL * max(scores, default=0.0)
    least = min([least, *sorted(scores)[-LEAST_KEYFRAMES:]])
    return [edge for edge, score in zip(edges, scores, strict=True) if score >= least]


def _agreeing(
    edges: Sequence[Edge], pose: HeldPose, held: Mapping[int, HeldPose], noise: EdgeNoise
) -> list[Edge]:
    off = deviations(edges, held, pose)
    levers = np.linalg.norm(stacked(edges)[0][:, :3, 3] * pose.scale, axis=1)
    most = AGREE_SIGMAS * noise.sigmas_of(edges) * [pose.scale, 1.0]
    # A very near keyframe does not give the place better than the scene's size allows.
    slack = SLACK_LENGTH * np.maximum(levers, np.median(levers))
    agrees = (off[:, 0] <= np.maximum(most[:, 0], slack)) & (
        off[:, 1] <= np.maximum(most[:, 1], SLACK_RAD)
    )
    return list(itertools.compress(edges, agrees))


def scale_of_edges(edges: Sequence[Edge], held: Mapping[int, HeldPose]) -> float | None:
    """Return the length of the edges' unit in the world, None if it cannot be measured.

    The ratio of the distance between two keyframes to that seen by the frame, for pairs far enough
    apart; the median, weighted by confidence and distance.
    """
    poses = np.array([held[edge.source_id].T_world_camera for edge in edges])
    T_edges, scores = stacked(edges)
    levers = (poses[:, :3, :3] @ T_edges[:, :3, 3:])[..., 0]
    first, second = np.triu_indices(len(edges), 1)
    apart = np.linalg.norm(poses[first, :3, 3] - poses[second, :3, 3], axis=1)
    # From one keyframe to the other by way of the frame, whose own pose cancels.
    seen = np.linalg.norm(levers[first] - levers[second], axis=1)
    lengths = np.linalg.norm(levers, axis=1)
    usable = (seen > _LEAST_APART * np.maximum(lengths[first], lengths[second])) & (apart > 0)
    usable &= seen > 0
    if not usable.any():
        return None
    ratios = apart[usable] / seen[usable]
    weights = np.minimum(scores[first, 0], scores[second, 0])[usable] * apart[usable]
    return weighted_median(ratios, weights) if weights.sum() > 0 else None
