"""Relocalisation by another model than the one that tracks (``relocalise.model``).

The other model relates a frame to the images of the map; where enough of them agree, the place of
the frame is known. The tracking predictor cannot go on from a bare pose, and its unit is another:
it begins a segment of its own. When the places of several frames lie as the segment does, turned,
moved and scaled, the segment joins the map there.
"""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np

from ...core.config import R3Config
from ...core.datatypes import Frame
from ...core.errors import FrameError
from ...core.geometry import (
    inverse_similarity,
    make_T,
    mean_rotation,
    rigid_part,
    rotation_angle,
    scale_of,
    similarity,
)
from ...core.predictor import Predictor
from ...core.unit_scale import scale_by_centres
from ..gate import best_scores
from ..loops.solver_job import Correction
from ..pose_resolution import EdgeNoise, usable_edges
from ..session import Session
from .loaded_map import LoadedMap
from .search import FoundPlace, Relocalisation

#: Frames whose places must agree, and their least share of all that were found.
_LEAST_PLACES = 6
_LEAST_SHARE = 0.75
#: Largest scatter of the places, as a share of the extent of the way through them, and the largest
#: standard error of the scale that follows.
_MOST_SCATTER = 0.2
_MOST_SCALE_ERROR = 0.01
#: Places this many times farther off than most are left out.
_OUTLIER = 3.0
_ROUNDING = 1e-6
#: Largest root mean square of the rotations between places and segment, radians.
_MOST_TURN_RAD = 0.05
_ROUNDS = 5


class MapLocator:
    """Finds frames in a loaded map. The engine's thread."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._ids = np.empty(0, np.int64)
        self._descriptors = np.empty((0, predictor.descriptor_size), np.float32)
        self._search: Relocalisation | None = None

    def enter(self, loaded: LoadedMap) -> None:
        """Hold the keyframes of a map, and describe their images.

        :raises FrameError: an image cannot be used.
        :raises ModelError: the images do not fit into ``memory.max_host_mib``.
        """
        self._predictor.restore(loaded.keyframes(), None)
        ids, descriptors = [], []
        for known in loaded.keyframes():
            frame = Frame(known.image, known.stamp_ns, known.intrinsics, known.frame_id)
            descriptors.append(self._predictor.describe(frame))
            ids.append(known.frame_id)
        self._ids, self._descriptors = np.array(ids), np.array(descriptors)
        self._search = Relocalisation(ids)

    def locate(self, frame: Frame, session: Session, config: R3Config) -> FoundPlace | None:
        """Return where a frame is in the map of the session; None if it is in any doubt.

        :raises DeviceMemoryError: the device has no memory left for it.
        :raises DeviceLostError: the device is gone.
        """
        search, held = session.relocalisation, session.graph.held
        if search is None or self._search is None:
            return None
        predictor, found = self._predictor, len(search.places)
        self._search.near = search.near
        search.note = f'{predictor.info.name} has found {found} frames' if found else ''
        try:
            order = np.argsort(self._descriptors @ predictor.describe(frame))[::-1]
            out_of_reach = search.out_of_reach(held)
            usable = [i for i in self._ids[order].tolist() if i in held and i not in out_of_reach]
            count = config.stream.recent_keyframes + config.stream.retrieved_keyframes
            prediction = predictor.predict(frame, sorted(usable[:count]), depth=False)
        except FrameError as error:
            search.note = f'{predictor.info.name}: {error}'
            return None
        predictor.forget([frame.frame_id])
        edges = (edge for edge in prediction.edges if edge.target_id == frame.frame_id)
        noise = EdgeNoise(predictor.confidence_reference, predictor.error_model)
        used, pose = self._search.locate(usable_edges(edges, held), held, noise)
        score = float(np.mean(best_scores(used)))
        if pose is None or score < config.tracking.low_confidence_ratio * noise.reference:
            return None
        return FoundPlace(pose.held.T_world_camera, tuple(edge.source_id for edge in used))

    def leave(self) -> None:
        """Forget the map."""
        self._search = None
        self._predictor.reset()

    def shrink(self) -> None:
        """Use less memory of the device from now on."""
        self._predictor.shrink()

    def close(self) -> None:
        """Free the device."""
        self._predictor.close()


def note_place(session: Session, frame_id: int, found: FoundPlace) -> None:
    """Keep the place of a frame that is tracked in a segment of its own."""
    search, graph = session.relocalisation, session.graph
    newest = session.bank.newest(1, session.segment_id)
    if search is not None and session.segment_id and newest:
        S_anchor_world = inverse_similarity(graph.held[newest[0]].S_world_camera)
        S_anchor_frame = S_anchor_world @ graph.held[frame_id].S_world_camera
        place = replace(found, anchor_id=newest[0], S_anchor_frame=S_anchor_frame)
        search.places.append(place)


def joint(session: Session) -> Correction | None:
    """Return what moves the present segment to the places of its frames; None if they disagree."""
    held, segments = session.graph.held, session.graph.segments
    places = [
        place
        for place in (session.relocalisation.places if session.relocalisation else ())
        if place.anchor_id in held and segments[place.anchor_id] == session.segment_id
    ]
    if not session.segment_id or len(places) < _LEAST_PLACES:
        return None
    S_own = np.array([held[p.anchor_id].S_world_camera @ p.S_anchor_frame for p in places])
    fit = fit_places(S_own, np.array([place.T_world_camera for place in places]))
    if fit is None:
        return None
    S, misfit = fit
    last = places[-1]
    units = [float(scale_of(S)) ** 2, 1.0]
    base = held[last.source_ids[0]].variances + misfit
    anchor = held[last.anchor_id].variances
    keyframes = session.bank.in_segment(session.segment_id)
    variances = {i: base + np.abs(held[i].variances - anchor) * units for i in keyframes}
    return Correction(
        S_corrected_world=dict.fromkeys(keyframes, S),
        segments=dict.fromkeys(keyframes, session.segment_id),
        variances={i: (float(v[0]), float(v[1])) for i, v in variances.items()},
        closing=[(source_id, last.anchor_id) for source_id in last.source_ids],
        joined=(session.segment_id, 0),
    )


def fit_places(S_own: np.ndarray, T_map: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the (4, 4) similarity from one world to another; None if it is in any doubt.

    :param S_own: (N, 4, 4) frames in the one, ``T_map``: in the other.
    :returns: and the (2,) mean squared deviations of an axis, of translation and rotation.
    """
    turns = T_map[:, :3, :3] @ np.swapaxes(rigid_part(S_own)[:, :3, :3], 1, 2)
    here, there = S_own[:, :3, 3], T_map[:, :3, 3]
    known = scale_by_centres(there, here)
    if known is None:
        return None
    scale = math.exp(known.value)
    apart = rotation_angle(np.swapaxes(turns, 1, 2)[:, None] @ turns)
    R = turns[np.argmin(np.median(apart, axis=1))]
    offset = np.median(there - scale * here @ R.T, axis=0)
    for _ in range(_ROUNDS):
        shift = np.linalg.norm(there - scale * here @ R.T - offset, axis=1)
        turn = rotation_angle(R.T @ turns)
        chosen = shift <= _OUTLIER * np.median(shift) + _ROUNDING
        chosen &= turn <= _OUTLIER * np.median(turn) + _ROUNDING
        count = int(chosen.sum())
        if count < _LEAST_PLACES:
            return None
        R = mean_rotation(turns[chosen], np.full(count, 1.0 / count))
        a = (here[chosen] - here[chosen].mean(axis=0)) @ R.T
        b = there[chosen] - there[chosen].mean(axis=0)
        scale = float((a * b).sum() / (a**2).sum())
        offset = there[chosen].mean(axis=0) - scale * R @ here[chosen].mean(axis=0)
    if scale <= 0.0 or count < _LEAST_SHARE * len(turns):
        return None
    squares = np.array([((b - scale * a) ** 2).sum() / count, np.mean(turn[chosen] ** 2)])
    scatter = math.sqrt(squares[0] / ((b**2).sum() / count))
    steady = scatter <= min(_MOST_SCATTER, _MOST_SCALE_ERROR * math.sqrt(count))
    if not steady or squares[1] > _MOST_TURN_RAD**2:
        return None
    return similarity(make_T(R, offset), scale), squares / 3.0
