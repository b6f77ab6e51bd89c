"""Networks of several views as :class:`~r3_ros.core.predictor.Predictor` of the engine.

Each new frame goes through one pass together with some of the context frames. A pass has a unit
of its own; the depths held of the context frames carry it to the map's. Such networks give no
confidences of poses: these follow from how well the pass agrees with the poses held and with
itself (:mod:`.view_agreement`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
import math

import numpy as np
import torch

from ..core.config import ModelConfig
from ..core.datatypes import (
    DepthMap,
    Edge,
    Frame,
    FramePrediction,
    Intrinsics,
    ModelInfo,
)
from ..core.errors import FrameError
from ..core.geometry import inverse
from ..core.unit_scale import DepthGrid, scale_by_centres, scale_by_depth
from .cache.frame_memory import CacheBudget
from .device_errors import device_errors
from .feature_predictor import FeaturePredictor
from .multi_view import FrameFeatures, MultiViewNetwork, Views
from .network_predictor import finite, finite_depth, NO_POSE, NOT_FINITE
from .view_agreement import agreement, overlap_factors, STRIDE

#: Score of an edge whose pass agrees well with itself and with what is held.
_GOOD_SCORE = 0.75
#: Shares of this score from which a pass confirms the poses of its frames: at a start, and that of
#: the new one where the newest context frame is confirmed. Of the latter the gate is the judge.
_STARTING = 0.5
_CONTINUING = 0.03
#: Frames in the usual confidence of depth.
_USUAL_FRAMES = 30
#: Turns of the choice of context frames: multiples of it spread evenly over 0 to 1.
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class _HeldView:
    """What earlier passes found of a frame.

    :ivar T_world_camera: (4, 4) in the predictor's own world, map units.
    :ivar grid: depth in map units; None of a keyframe of a saved map.
    :ivar confirmed: whether a later pass, or its own, agreed with the poses of others.
    """

    T_world_camera: np.ndarray
    grid: DepthGrid | None
    confirmed: bool


@dataclass(frozen=True, eq=False)
class _Pass:
    """A pass over N context frames and a new one, the last, on the host.

    :ivar ids: of the context frames.
    :ivar T: (N + 1, 4, 4) camera to world.
    :ivar depth: (N + 1, h, w) at every ``STRIDE``-th pixel; ``confidence`` likewise.
    :ivar fov: (2,) of the new frame.
    """

    ids: tuple[int, ...]
    T: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    fov: np.ndarray

    def grid(self, row: int) -> DepthGrid:
        return DepthGrid.of(self.depth[row], self.confidence[row], stride=1)

    def scaled(self, unit: float) -> _Pass:
        """Return the pass in a unit of which its own has this many."""
        T = self.T.copy()
        T[:, :3, 3] *= unit
        return replace(self, T=T, depth=self.depth * np.float32(unit))


class MultiViewPredictor(FeaturePredictor):
    """Depth and relative poses by a network of several views."""

    confidence_reference = _GOOD_SCORE

    def __init__(
        self,
        network: MultiViewNetwork,
        info: ModelInfo,
        config: ModelConfig,
        budget: CacheBudget,
        device: torch.device,
    ) -> None:
        """Take a network in evaluation mode, on its device."""
        super().__init__(network, info, config, budget, device)
        self.descriptor_size = network.descriptor_size
        self._network = network
        self._context_frames = config.context_frames
        self._held: dict[int, _HeldView] = {}
        self._usual: deque[float] = deque(maxlen=_USUAL_FRAMES)

    @device_errors()
    @torch.inference_mode()
    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Predict one frame together with ``model.context_frames`` of the context frames."""
        described = self._taken(frame)
        chosen = spread_out(context_ids, self._context_frames, frame.frame_id)
        context = self._context(chosen, described.features)
        joined = FrameFeatures.join([*context.values(), described.features])
        views = self._network.relate(joined)
        seen = _on_host(views, chosen)
        intrinsics, seen_fov_x = self._intrinsics(frame, described.geometry, seen.fov)
        # Nothing fails from here on, so an unusable frame leaves no state behind.
        self._fovs.append(seen.fov)
        self._features.keep(frame.frame_id, described.features, described.pixels)
        units = self._units(seen)
        unit = 1.0 if units is None else float(np.exp(np.median(np.log(units))))
        seen = seen.scaled(unit)
        fits = self._fits(seen, intrinsics)
        edges: tuple[Edge, ...] = ()
        moved = False
        if units is not None:
            edges, moved = self._edges(frame.frame_id, seen, units / unit, fits)
        # With nothing confirmed to continue from, no pose can be judged yet.
        starting = bool(seen.ids) and not self._held[seen.ids[-1]].confirmed
        least = _GOOD_SCORE * (_STARTING if starting else _CONTINUING)
        if starting and not moved:
            least = math.inf
        doubted = [i for i, view in self._held.items() if not view.confirmed]
        refined = self._hold(frame.frame_id, seen, edges, fits, least)
        depths: tuple[DepthMap, ...] = ()
        if self._with_depth and depth:
            maps = torch.stack([views.depth[-1] * unit, views.confidence[-1]]).cpu().numpy()
            depths = (finite_depth(frame.frame_id, maps, described.pixels, intrinsics),)
        return FramePrediction(
            intrinsics=frame.intrinsics or described.geometry.to_source(intrinsics),
            edges=edges,
            refined=refined,
            depths=depths,
            provisional=starting and not self._held[frame.frame_id].confirmed,
            settled=tuple(i for i in doubted if self._held[i].confirmed),
            intrinsics_estimated=frame.intrinsics is None,
            seen_fov_x=seen_fov_x,
        )

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop these frames."""
        frame_ids = tuple(frame_ids)
        super().forget(frame_ids)
        for frame_id in frame_ids:
            self._held.pop(frame_id, None)

    def _place(self, frame_id: int, T_world_camera: np.ndarray) -> None:
        self._held[frame_id] = _HeldView(T_world_camera, None, confirmed=True)

    def reset(self) -> None:
        """Drop all frames."""
        super().reset()
        self._held.clear()
        self._usual.clear()

    def _units(self, seen: _Pass) -> np.ndarray | None:
        """Return (N,) lengths of the pass's unit at the context frames, in map units.

        By the depth of the same images; in a saved map, which has none, by the distances of its
        cameras. None if it cannot be told.
        """
        held = [self._held[i] for i in seen.ids]
        scales = [
            None if view.grid is None else scale_by_depth([view.grid], [seen.grid(row)])
            for row, view in enumerate(held)
        ]
        known = [scale.value for scale in scales if scale is not None]
        if not known:
            centres = np.array([view.T_world_camera[:3, 3] for view in held]).reshape(-1, 3)
            by_centres = scale_by_centres(centres, seen.T[:-1, :3, 3])
            if by_centres is None:
                return None
            known = [by_centres.value]
        usual = float(np.median(known))
        units: np.ndarray = np.exp([usual if s is None else s.value for s in scales])
        return units

    def _edges(
        self, frame_id: int, seen: _Pass, units: np.ndarray, fits: np.ndarray
    ) -> tuple[tuple[Edge, ...], bool]:
        """Return the edges ``T_i_frame`` of a pass in map units, and whether the camera moved.

        :param units: (N,) factors on its unit at the context frames, 1 where it holds.
        :param fits: see :meth:`_fits`.
        """
        T_held = np.stack([self._held[i].T_world_camera for i in seen.ids])
        agreed = agreement(T_held, seen.T[:-1], units, float(np.nanmedian(seen.depth[-1])))
        scores = agreed.factors * fits
        T_context_frame = inverse(seen.T[:-1]) @ seen.T[-1]
        edges = tuple(
            Edge(i, frame_id, T, float(score), float(score), agreed.evidence)
            for i, T, score in zip(seen.ids, T_context_frame, scores, strict=True)
        )
        return edges, agreed.moved

    def _fits(self, seen: _Pass, intrinsics: Intrinsics) -> np.ndarray:
        """Return (N,) how well this pass fits the new frame to each context frame, 0 to 1.

        By the network's confidence in the depth of the new frame, over the usual one, and by the
        surfaces that both see.
        """
        own = float(np.median(seen.confidence[-1])) - 1.0
        usual = float(np.median(self._usual)) if self._usual else own
        clarity = min(1.0, own / usual) if usual > 0.0 else 1.0
        return clarity * overlap_factors(seen.T, seen.depth, intrinsics, len(seen.ids))[:-1]

    def _hold(
        self,
        frame_id: int,
        seen: _Pass,
        edges: Sequence[Edge],
        fits: np.ndarray,
        least_score: float,
    ) -> tuple[Edge, ...]:
        """Hold the new frame; return edges to frames that this pass is the first to confirm.

        Of the doubted frames it confirms those that fit the new one.
        """
        best = max(edges, key=lambda edge: edge.scores, default=None)
        confirmed = best is not None and best.scores[0] >= least_score
        T_world, refined = inverse(seen.T[-1]) @ seen.T, []
        if best is not None:
            root, doubted = len(seen.ids) - 1, []
            if confirmed:
                root = seen.ids.index(best.source_id)
                fitting = np.flatnonzero(fits >= _GOOD_SCORE * _STARTING).tolist()
                doubted = [row for row in fitting if not self._held[seen.ids[row]].confirmed]
            if root in doubted:
                root = doubted[0]  # of a start: the others follow from it
            T_root = self._held[seen.ids[root]].T_world_camera
            T_world = T_root @ inverse(seen.T[root]) @ seen.T
            for row in doubted:
                i, first = seen.ids[row], doubted[0]
                self._held[i] = replace(self._held[i], T_world_camera=T_world[row], confirmed=True)
                if row != first:
                    T, score = inverse(seen.T[first]) @ seen.T[row], float(min(fits[[first, row]]))
                    refined.append(Edge(seen.ids[first], i, T, score, score, best.evidence))
        grid = seen.grid(len(seen.ids))
        self._held[frame_id] = _HeldView(T_world[-1], grid, confirmed)
        if confirmed:
            self._usual.append(float(np.median(seen.confidence[-1])) - 1.0)
        return tuple(refined)


def spread_out(context_ids: Sequence[int], count: int, turn: int) -> list[int]:
    """Return the newest of the context frames and others, evenly spread, up to a number.

    The others change from turn to turn, so that all of them are seen within a few frames.

    :param context_ids: oldest first.
    """
    *older, newest = context_ids or (-1,)
    if len(context_ids) <= count:
        return list(context_ids)
    stretch = len(older) / (count - 1)
    rows = (np.arange(count - 1) + turn * _GOLDEN % 1.0) * stretch
    return [older[int(row)] for row in rows] + [newest]


def _on_host(views: Views, chosen: Sequence[int]) -> _Pass:
    """Copy a pass to the host, without context frames that have no pose.

    :raises FrameError: the new frame has none.
    """
    maps = torch.stack([views.depth, views.confidence])[..., ::STRIDE, ::STRIDE].cpu().numpy()
    T, fov = views.T_world_camera.double().cpu().numpy(), views.fov[-1].double().cpu().numpy()
    depth, confidence = finite(maps)
    seen, posed = np.isfinite(depth).any(axis=(1, 2)), np.isfinite(T).all(axis=(1, 2))
    if not (seen[-1] and np.isfinite(fov).all()):
        raise FrameError(NOT_FINITE)
    if not posed[-1]:
        raise FrameError(NO_POSE)
    posed &= seen
    ids = tuple(i for i, has_pose in zip(chosen, posed, strict=False) if has_pose)
    return _Pass(ids, T[posed], depth[posed], confidence[posed], fov)
