"""Both maps as pose graphs, and poses of the second map's keyframes in the first.

The model that made both relates each image to a few similar keyframes of the first map,
independently of the other images, so that the agreement of several is evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...core.datatypes import Edge, Frame
from ...core.predictor import Predictor
from ...input.image_decoding import decode_eight_bit
from ...maps.saved_map import SavedMap
from ...streaming.pose_resolution import EdgeNoise, HeldPose, usable_edges
from ...streaming.relocalisation.loaded_map import (
    held_pose,
    in_world,
    known_edges,
    known_landmarks,
    LoadedMap,
)
from ...streaming.relocalisation.search import Relocalisation

#: At most this many images are related, the most similar ones first.
_MAX_IMAGES = 60
#: Keyframes of the first map that one image is related to, and their least similarity.
_CANDIDATES = 6
_MIN_SIMILARITY = 0.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class MapGraph:
    """Keyframes by their ids in the merged map, in the axes of their own map.

    :ivar ids: (N,) increasing, by row of the saved keyframes.
    :ivar held: poses; ``edges``: between them; ``followed_since``: first id of each segment.
    """

    saved: SavedMap
    ids: np.ndarray
    held: dict[int, HeldPose]
    edges: list[Edge]
    followed_since: list[int]

    @classmethod
    def of(cls, saved: SavedMap, first_id: int) -> MapGraph:
        """Assign ids to the keyframes of a map, from ``first_id`` on."""
        keyframes = saved.keyframes
        ids = keyframes.ids + (first_id - int(keyframes.ids[0]))
        T = in_world(np.eye(4), keyframes.T_map_optical, saved.facts.unit)
        held = {i: held_pose(saved, row, T[row]) for row, i in enumerate(ids.tolist())}
        number = dict(zip(keyframes.ids.tolist(), held, strict=True))
        starts = np.flatnonzero(np.diff(keyframes.segments, prepend=-2) != 0)
        return cls(saved, ids, held, list(known_edges(saved, number)), ids[starts].tolist())

    @property
    def S_map_engine(self) -> np.ndarray:
        """The (4, 4) similarity from the engine's unit to that of the map."""
        return np.diag([self.saved.facts.unit] * 3 + [1.0])


@dataclass(frozen=True, eq=False)
class Located:
    """A keyframe of the second map with its pose in the first.

    :ivar frame_id: its id in the merged map.
    :ivar pose: in the first map's engine unit; ``pose.scale`` is the unit of the edges.
    :ivar edges: from keyframes of the first map that agree on the pose.
    """

    frame_id: int
    pose: HeldPose
    edges: tuple[Edge, ...]


def locate(
    first: MapGraph,
    second: MapGraph,
    predictor: Predictor,
    progress: Progress | None = None,
) -> list[Located]:
    """Return the keyframes of the second map whose pose in the first is known."""
    similarity = _similarity(first, second)
    best = similarity.max(axis=1)
    queries = np.argsort(-best)[:_MAX_IMAGES]
    queries = np.sort(queries[best[queries] >= _MIN_SIMILARITY])
    found = []
    for n, row in enumerate(queries.tolist()):
        if progress is not None:
            progress(n, len(queries))
        candidates = np.argsort(-similarity[row])[:_CANDIDATES]
        candidates = np.sort(candidates[similarity[row, candidates] >= _MIN_SIMILARITY])
        located = _relate(first, candidates, second, row, predictor)
        if located is not None:
            found.append(located)
    return found


def _similarity(first: MapGraph, second: MapGraph) -> np.ndarray:
    """Return (M, N) similarities of the second map's keyframes to those of the first.

    0 is the mean similarity within the first map, 1 the same view, -1 a keyframe without an image.
    """
    known, new = first.saved, second.saved
    D = known.keyframes.descriptors
    mean = D.mean(axis=0)
    usual = float(mean @ mean)
    similarity = (new.keyframes.descriptors @ D.T - usual) / max(1.0 - usual, 1e-6)
    similarity[:, [int(i) not in known.images for i in known.keyframes.ids]] = -1.0
    similarity[[int(i) not in new.images for i in new.keyframes.ids]] = -1.0
    return np.asarray(similarity)


def _relate(
    first: MapGraph,
    candidates: np.ndarray,
    second: MapGraph,
    row: int,
    predictor: Predictor,
) -> Located | None:
    sources = first.ids[candidates].tolist()
    held = {i: first.held[i] for i in sources}
    kept = dict(zip(candidates.tolist(), sources, strict=True))
    poses = {i: pose.T_world_camera for i, pose in held.items()}
    landmarks = known_landmarks(first.saved, kept, np.eye(4))
    known = LoadedMap(first.saved, kept, poses, landmarks)
    predictor.reset()
    predictor.restore(known.keyframes(), known.landmarks)
    keyframes, frame_id = second.saved.keyframes, int(second.ids[row])
    frame = Frame(
        decode_eight_bit(second.saved.images[int(keyframes.ids[row])]),
        int(keyframes.stamps_ns[row]),
        keyframes.intrinsics(row),
        frame_id,
    )
    predictor.describe(frame)
    prediction = predictor.predict(frame, sources, depth=False)
    edges = usable_edges((e for e in prediction.edges if e.target_id == frame_id), held)
    noise = EdgeNoise(predictor.confidence_reference, predictor.error_model)
    used, resolved = Relocalisation(sources).locate(edges, held, noise)
    return None if resolved is None else Located(frame_id, resolved.held, tuple(used))
