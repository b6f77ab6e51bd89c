"""Messages of the keyframe graph: the graph itself, and two markers with its frusta and edges."""

from __future__ import annotations

import math

from geometry_msgs.msg import Point
import numpy as np
from r3_ros.msg import Keyframe, KeyframeGraph, RelativePoseEdge
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from ...core.config import R3Config
from ...streaming.keyframes.keyframe_graph import GraphEdge, Keyframes
from ...streaming.session import Session
from ..tf.pose_chain import PoseChain
from .messages import header_message, pose_messages, time_message, transform_content

#: Depth of a frustum in map units; the scene at the start is about one unit away.
_FRUSTUM_LENGTH = 0.04
#: Its corners at depth 1: of a 4:3 image and a usual lens.
_CORNERS = np.array([[-0.6, -0.45, 1.0], [0.6, -0.45, 1.0], [0.6, 0.45, 1.0], [-0.6, 0.45, 1.0]])
#: Ends of its lines: from the centre (0) to the corners (1 to 4), and around.
_LINES = np.array([0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1])
_LINE_WIDTH = 0.002
#: Only the newest are drawn.
_MOST_EDGES = 20_000
_IN_BANK = ColorRGBA(r=0.1, g=0.6, b=1.0, a=1.0)
_LEFT_BANK = ColorRGBA(r=0.5, g=0.5, b=0.5, a=0.6)


class GraphSnapshot:
    """The graph and its pose in map. Taken in the worker, immutable, for any thread."""

    def __init__(
        self, session: Session, chain: PoseChain, stamp_ns: int, config: R3Config
    ) -> None:
        self._view = session.graph_view(config.stream.recent_keyframes)
        self._chain = chain
        self._header = header_message(stamp_ns, config.map_frame)
        self._session_id, self._map_revision = session.session_id, session.map_revision
        self._limit = config.path_max_size

    def graph(self) -> KeyframeGraph:
        """Return the message of keyframes and edges."""
        keyframes = self._view.keyframes(self._limit)
        return KeyframeGraph(
            header=self._header,
            session_id=self._session_id,
            map_revision=self._map_revision,
            keyframes=_keyframe_messages(keyframes, self._chain),
            edges=[_edge_message(e, self._chain.unit) for e in self._view.edges(keyframes)],
        )

    def markers(self) -> MarkerArray:
        """Return the markers, which replace those before."""
        keyframes, chain = self._view.keyframes(self._limit), self._chain
        edges = self._view.edges(keyframes)[-_MOST_EDGES:]
        cameras, lines = self._marker('keyframes'), self._marker('edges')
        T_map_optical = chain.T_map_optical(keyframes.T_world_camera)
        _draw_cameras(cameras, T_map_optical, keyframes.resident, chain.unit)
        _draw_edges(lines, T_map_optical[:, :3, 3], keyframes, edges)
        return MarkerArray(markers=[cameras, lines])

    def _marker(self, namespace: str) -> Marker:
        marker = Marker(header=self._header, ns=namespace, type=Marker.LINE_LIST)
        marker.pose.orientation.w = 1.0
        marker.scale.x = _LINE_WIDTH * self._chain.unit
        return marker


def empty_graph(stamp_ns: int, map_frame: str, session_id: int) -> KeyframeGraph:
    """Return the graph of a session without keyframes."""
    return KeyframeGraph(header=header_message(stamp_ns, map_frame), session_id=session_id)


def no_markers(stamp_ns: int, map_frame: str) -> MarkerArray:
    """Return the message that deletes every marker."""
    header = header_message(stamp_ns, map_frame)
    return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])


def _keyframe_messages(keyframes: Keyframes, chain: PoseChain) -> list[Keyframe]:
    if not len(keyframes.frame_ids):
        return []
    return [
        Keyframe(
            id=int(keyframes.frame_ids[row]),
            stamp=time_message(int(keyframes.stamps_ns[row])),
            pose=pose,
            confidence=float(keyframes.confidence[row]),
            segment_id=int(keyframes.segment_ids[row]),
            resident=bool(keyframes.resident[row]),
        )
        for row, pose in enumerate(pose_messages(chain.T_map_base(keyframes.T_world_camera)))
    ]


def _edge_message(edge: GraphEdge, unit: float) -> RelativePoseEdge:
    T_source_target = edge.T_source_target.copy()
    T_source_target[:3, 3] *= unit
    return RelativePoseEdge(
        from_id=edge.source_id,
        to_id=edge.target_id,
        transform=transform_content(T_source_target),
        confidence_translation=edge.confidence_translation,
        confidence_rotation=edge.confidence_rotation,
        type=int(edge.kind),
    )


def _draw_cameras(marker: Marker, T: np.ndarray, resident: np.ndarray, unit: float) -> None:
    """Add the frusta of cameras at (N, 4, 4) poses."""
    outline = np.vstack([np.zeros(3), _CORNERS * _FRUSTUM_LENGTH * unit])[_LINES]
    ends = np.einsum('nij,kj->nki', T[:, :3, :3], outline) + T[:, None, :3, 3]
    marker.points = _points(ends.reshape(-1, 3))
    colors = [_IN_BANK if is_resident else _LEFT_BANK for is_resident in resident.tolist()]
    marker.colors = [color for color in colors for _ in _LINES]


def _draw_edges(
    marker: Marker, centres: np.ndarray, keyframes: Keyframes, edges: list[GraphEdge]
) -> None:
    """Add a line for each edge, coloured by its confidence."""
    row = {frame_id: n for n, frame_id in enumerate(keyframes.frame_ids.tolist())}
    ends = [row[end] for edge in edges for end in (edge.source_id, edge.target_id)]
    marker.points = _points(centres[ends])
    marker.colors = [color for edge in edges for color in [confidence_color(edge.ratio)] * 2]


def confidence_color(ratio: float) -> ColorRGBA:
    """Return the colour of a score relative to the usual one: 0 red, 0.5 yellow, >= 1 green."""
    level = min(max(ratio, 0.0), 1.0) if math.isfinite(ratio) else 0.0
    return ColorRGBA(r=min(2.0 - 2.0 * level, 1.0), g=min(2.0 * level, 1.0), b=0.0, a=0.8)


def _points(positions: np.ndarray) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in positions.tolist()]
