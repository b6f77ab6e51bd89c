"""From relative poses without length to edges, by triangulation (Reloc3r, arXiv 2412.08376).

Reloc3r gives the rotation between two frames and the direction from one to the other. Where the
positions p_i of several context frames are known, the new frame's is where the lines through them
along the directions d_i meet: the least sum of ``w_i |(1 - d_i d_i^T) (p - p_i)|^2`` (its section
3.4). Lines that are nearly parallel leave the place along them open, as when the camera moves
straight ahead; then it is guessed that it goes on as fast as before, and the standard deviation of
the edge says so. Positions are in a world of this module; its unit is the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np

from ...core.datatypes import Edge
from ...core.errors import FrameError
from ...core.geometry import inverse, make_T, mean_rotation, rotation_angle
from ..multi_view import FrameFeatures
from ..network_predictor import NOT_FINITE
from .croco import PoseNetwork

#: Largest disagreement of the two rotations of a pair, radians.
_SAME_TURN_RAD = 0.15
#: Least standard deviations of a rotation and a direction, radians.
_LEAST_SIGMA_RAD = 0.01
#: A direction that differs by more standard deviations belongs to another place.
_SAME_PLACE_SIGMAS = 4.0
#: Standard deviation of a step that is guessed, over its length.
_GUESS = 0.5
_ROUNDS = 10
#: Standard deviation over the length of an edge up to which its translation has the full score.
_GOOD_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class PosePair:
    """The rotation and direction of a new frame f as seen by a context frame i.

    :ivar direction: (3,) unit vector from i to f, in the camera of i.
    :ivar sigma_turn: standard deviation of the rotation, ``sigma_direction``: of the direction;
        radians.
    """

    source_id: int
    R_i_f: np.ndarray
    direction: np.ndarray
    sigma_turn: float
    sigma_direction: float


def relate_poses(
    network: PoseNetwork, frame: FrameFeatures, context: Mapping[int, FrameFeatures]
) -> list[PosePair]:
    """Relate a frame to context frames.

    Those whose output is not finite, or whose two rotations contradict, are left out.

    :raises FrameError: no output is finite.
    """
    pairs, finite = [], not context
    for source_id, source in context.items():
        T_f_i, T_i_f = (T[0].double().cpu().numpy() for T in network(source, frame))
        if not np.isfinite([T_f_i, T_i_f]).all():
            continue
        finite = True
        lengths = np.linalg.norm(T_f_i[:3, 3]), np.linalg.norm(T_i_f[:3, 3])
        back = inverse(T_f_i)
        turn = float(rotation_angle(back[:3, :3].T @ T_i_f[:3, :3]))
        if turn > _SAME_TURN_RAD or not min(lengths) > 0:
            continue
        one, two = T_i_f[:3, 3] / lengths[1], back[:3, 3] / lengths[0]
        apart = math.atan2(np.linalg.norm(np.cross(one, two)), one @ two)
        mean = one + two
        direction = mean / np.linalg.norm(mean) if apart < 3.0 else one
        R = mean_rotation(np.stack([T_i_f[:3, :3], back[:3, :3]]), np.ones(2))
        sigmas = (max(half / 2, _LEAST_SIGMA_RAD) for half in (turn, apart))
        pairs.append(PosePair(source_id, R, direction, *sigmas))
    if not finite:
        raise FrameError(NOT_FINITE)
    return pairs


class PairWorld:
    """Where the held frames are, as far as directions tell.

    Frames whose places are not known relative to one another are on different islands.
    """

    def __init__(self) -> None:
        self._T_world: dict[int, np.ndarray] = {}
        self._island: dict[int, int] = {}
        self._newest: int | None = None
        self._step = 1.0

    def place(self, frame_id: int, T_world_camera: np.ndarray, island: int = 0) -> None:
        """Hold a frame whose pose is known."""
        self._T_world[frame_id] = T_world_camera
        self._island[frame_id] = island

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop frames."""
        for frame_id in frame_ids:
            self._T_world.pop(frame_id, None)
            self._island.pop(frame_id, None)

    def edges(self, frame_id: int, pairs: Sequence[PosePair]) -> list[Edge]:
        """Place a frame by its pairs, and return its edges with their lengths.

        Pairs that do not meet where the others do are placed among themselves: after a loop, old
        frames see the new one elsewhere than the newest do. A single pair of them has no length.
        """
        edges: list[Edge] = []
        islands = dict.fromkeys(self._island[pair.source_id] for pair in reversed(pairs))
        for island in islands:
            left = [pair for pair in pairs if self._island[pair.source_id] == island]
            while left:
                same = self._same_turn(left)
                group = [pair for pair, agrees in zip(left, same, strict=True) if agrees]
                guess = self._guess(group) if frame_id not in self._T_world else None
                if guess is not None or len(group) > 1:
                    position, covariance, meets = self._meeting_point(group, guess)
                    group = [pair for pair, at in zip(group, meets, strict=True) if at]
                if not group or (guess is None and len(group) < 2):
                    break
                edges += [self._edge(pair, frame_id, position, covariance) for pair in group]
                if frame_id not in self._T_world:
                    self._keep(frame_id, group, position)
                used = {pair.source_id for pair in group}
                left = [pair for pair in left if pair.source_id not in used]
        if frame_id not in self._T_world:
            self.place(frame_id, np.eye(4), 1 + max(self._island.values(), default=0))
            self._step = 1.0
        self._newest = frame_id
        return [edge for edge in edges if np.linalg.norm(edge.T_source_target[:3, 3]) > 0]

    def _same_turn(self, pairs: Sequence[PosePair]) -> np.ndarray:
        """Return which pairs agree on the rotation: the largest group, of the newest frames."""
        R = np.array([self._T_world[pair.source_id][:3, :3] @ pair.R_i_f for pair in pairs])
        sigma = np.array([pair.sigma_turn for pair in pairs])
        apart = rotation_angle(np.swapaxes(R, 1, 2)[:, None] @ R)
        agree = apart <= _SAME_PLACE_SIGMAS * np.hypot(sigma[:, None], sigma)
        best = max(range(len(pairs)), key=lambda n: (agree[n].sum(), pairs[n].source_id))
        same: np.ndarray = agree[best]
        return same

    def _guess(self, pairs: Sequence[PosePair]) -> tuple[np.ndarray, float] | None:
        """Return the position after a step as long as the last, and its standard deviation."""
        newest = next((pair for pair in pairs if pair.source_id == self._newest), None)
        if newest is None:
            return None
        T = self._T_world[newest.source_id]
        alone = list(self._island.values()).count(self._island[newest.source_id]) == 1
        # The first step is the unit: its length is right by definition.
        sigma = 1e-6 if alone else _GUESS * self._step
        return T[:3, 3] + self._step * T[:3, :3] @ newest.direction, sigma

    def _meeting_point(
        self, pairs: Sequence[PosePair], guess: tuple[np.ndarray, float] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the point nearest to the lines of the pairs.

        :returns: (3,) the point, its (3, 3) covariance, and which pairs agree with it.
        """
        T = np.array([self._T_world[pair.source_id] for pair in pairs])
        centres = T[:, :3, 3]
        d = np.einsum('nij,nj->ni', T[:, :3, :3], np.array([pair.direction for pair in pairs]))
        across = np.eye(3) - d[:, :, None] * d[:, None, :]
        sigma = np.array([pair.sigma_direction for pair in pairs])
        A0, b0 = np.zeros((3, 3)), np.zeros(3)
        position = centres.mean(axis=0) + d.mean(axis=0) * self._step
        if guess is not None:
            A0, b0, position = np.eye(3) / guess[1] ** 2, guess[0] / guess[1] ** 2, guess[0]
        off = np.zeros(len(pairs))
        for _ in range(_ROUNDS):
            # Across a line an angle counts by the distance.
            reach = np.maximum(np.linalg.norm(position - centres, axis=1), 1e-3 * self._step)
            w = 1.0 / ((sigma * reach) ** 2 * (1.0 + (off / 2.0) ** 2))
            A = A0 + np.einsum('n,nij->ij', w, across)
            b = b0 + np.einsum('n,nij,nj->i', w, across, centres)
            position = np.linalg.lstsq(A, b, rcond=1e-12)[0]
            ahead = position - centres
            angles = np.arctan2(
                np.linalg.norm(np.cross(d, ahead), axis=1), (d * ahead).sum(axis=1)
            )
            off = angles / sigma
        return position, np.linalg.pinv(A, rcond=1e-12), off < _SAME_PLACE_SIGMAS

    def _keep(self, frame_id: int, group: Sequence[PosePair], position: np.ndarray) -> None:
        sources = [self._T_world[pair.source_id][:3, :3] for pair in group]
        turned = np.array([R @ pair.R_i_f for R, pair in zip(sources, group, strict=True)])
        weights = np.array([1.0 / pair.sigma_turn**2 for pair in group])
        island = self._island[group[0].source_id]
        if self._newest is not None and self._island.get(self._newest) == island:
            step = float(np.linalg.norm(position - self._T_world[self._newest][:3, 3]))
            self._step = step if step > 0 else self._step
        self.place(frame_id, make_T(mean_rotation(turned, weights), position), island)

    def _edge(
        self, pair: PosePair, frame_id: int, position: np.ndarray, covariance: np.ndarray
    ) -> Edge:
        T_world_i = self._T_world[pair.source_id]
        length = float(np.linalg.norm(position - T_world_i[:3, 3]))
        d = T_world_i[:3, :3] @ pair.direction
        along = math.sqrt(max(float(d @ covariance @ d), 0.0))
        across = length * pair.sigma_direction
        sigma = math.hypot(along, across)
        score_t = min(1.0, _GOOD_SHARE * length / sigma)
        score_r = _LEAST_SIGMA_RAD / pair.sigma_turn
        T_i_f = make_T(pair.R_i_f, length * pair.direction)
        evidence = (sigma, pair.sigma_turn)
        return Edge(pair.source_id, frame_id, T_i_f, score_t, score_r, evidence=evidence)
