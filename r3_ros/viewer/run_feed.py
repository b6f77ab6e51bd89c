"""Shows a run while a recording is processed.

The engine's thread leaves snapshots in mailboxes of one place; the viewer's own thread turns them
into what the scene shows. Neither ever waits for the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
import time
import traceback

import numpy as np

from ..core.datatypes import DepthMap, Estimate, Frame
from ..core.errors import SourceError
from ..core.geometry import rigid_part
from ..core.threads import Mailbox, RepeatingThread
from ..core.trajectory_file import NANOSECONDS, PoseList
from ..evaluation.trajectory_errors import true_path
from ..streaming.engine import Engine
from ..streaming.keyframes.keyframe_graph import EdgeKind, GraphEdge, KeyframeGraphView, Keyframes
from ..streaming.scale.estimator import ScaleView
from ..streaming.voxel_map import MapView
from .scene import Scene
from .view_data import LinkKind, ShownKeyframes

#: Shortest time between two snapshots of the frame, and of the map.
_FRAME_PERIOD_S, _MAP_PERIOD_S = 0.2, 1.0
#: Aligning the truth takes time from the engine: Python runs one thread at a time.
_TRUTH_PERIOD_S = 5.0
_MOST_KEYFRAMES = 2000
#: The rate is that of so many frames.
_RATE_FRAMES = 50
_WAIT_S, _STOP_S = 0.5, 5.0


@dataclass(frozen=True, eq=False)
class FrameSnapshot:
    """The newest frame and its estimate; ``count`` frames so far, at ``rate_hz``."""

    frame: Frame
    estimate: Estimate
    depth: DepthMap | None
    count: int
    rate_hz: float


@dataclass(frozen=True, eq=False)
class WorldSnapshot:
    """The map between two frames; lengths in map units.

    :ivar covariances: (3, 3) of the position of keyframes, in the camera, by id.
    :ivar ties: pairs of keyframes, older first, at which loops were closed.
    """

    map_view: MapView
    graph: KeyframeGraphView
    covariances: Mapping[int, np.ndarray]
    ties: frozenset[tuple[int, int]]
    loops_closed: int
    scale: ScaleView


class RunFeed:
    """Feeds a scene from an engine. :meth:`note` belongs to the engine's thread.

    :param T_map_world: (4, 4), the engine's world in the map.
    :param truth: shown aligned with the path so far.
    """

    def __init__(
        self, scene: Scene, engine: Engine, T_map_world: np.ndarray, truth: PoseList | None = None
    ) -> None:
        self._scene, self._engine, self._T_map_world = scene, engine, T_map_world
        self._truth = truth
        self._frames: Mailbox[FrameSnapshot] = Mailbox(1)
        self._worlds: Mailbox[WorldSnapshot] = Mailbox(1)
        self._frame_due_s = self._world_due_s = 0.0
        self._done_s: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._count = 0
        self._depth: DepthMap | None = None
        # Of the viewer's thread.
        self._world: WorldSnapshot | None = None
        self._truth_due_s = 0.0
        self._thread = RepeatingThread('viewer', self._turn, _print_error)
        self._thread.start()

    def note(self, frame: Frame, estimate: Estimate) -> None:
        """Take the snapshots that are due, after a step of the engine."""
        now_s = time.perf_counter()
        self._count += 1
        self._done_s.append(now_s)
        self._depth = estimate.depths[-1] if estimate.depths else self._depth
        if now_s >= self._world_due_s:
            self._worlds.put(world_snapshot(self._engine))
            self._world_due_s = now_s + _MAP_PERIOD_S
        if now_s >= self._frame_due_s:
            span_s = now_s - self._done_s[0]
            rate_hz = (len(self._done_s) - 1) / span_s if span_s > 0 else 0.0
            self._frames.put(FrameSnapshot(frame, estimate, self._depth, self._count, rate_hz))
            self._frame_due_s = now_s + _FRAME_PERIOD_S

    def close(self) -> None:
        """End the thread."""
        self._frames.close()
        self._worlds.close()
        self._thread.stop(_STOP_S)

    # The viewer's thread.

    def _turn(self) -> None:
        frame = self._frames.get(_WAIT_S)
        world = self._worlds.get(0.0)
        if world is not None:
            self._show_world(world)
        if frame is not None:
            self._show_frame(frame)

    def _show_world(self, world: WorldSnapshot) -> None:
        self._world = world
        S_map_world = self._T_map_world @ np.diag([world.scale.published_unit] * 3 + [1.0])
        scene = self._scene
        scene.show_cloud((cloud, S_map_world @ S) for cloud, S in world.map_view.placed)
        keyframes = world.graph.keyframes(_MOST_KEYFRAMES)
        shown = shown_keyframes(keyframes, world, S_map_world)
        scene.show_keyframes(shown)
        scene.show_path(shown.centres)
        if self._truth is not None and time.monotonic() >= self._truth_due_s:
            self._truth_due_s = time.monotonic() + _TRUTH_PERIOD_S
            own = PoseList(keyframes.stamps_ns, shown.T_map_camera)
            try:
                scene.show_truth(true_path(own, self._truth))
            except SourceError:
                pass  # too few poses yet; the evaluation at the end says so if it stays so

    def _show_frame(self, now: FrameSnapshot) -> None:
        estimate, world = now.estimate, self._world
        T_map_camera, unit = None, 1.0
        if world is not None:
            unit = world.scale.published_unit
        if estimate.T_world_camera is not None:
            T_map_camera = self._T_map_world @ _lengthened(estimate.T_world_camera, unit)
        depth = None if now.depth is None else now.depth.depth
        self._scene.show_camera(T_map_camera, now.frame.image, depth, estimate.intrinsics)
        facts = {'why': estimate.reason} if estimate.reason else {}
        facts |= {
            'frame': f'{now.count}, {estimate.stamp_ns / NANOSECONDS:.2f} s',
            'rate': f'{now.rate_hz:.1f} frames/s',
            'confidence': f'{estimate.confidence_ratio:.2f} of the usual',
        }
        if world is not None:
            facts |= world_facts(world)
        self._scene.show_status(estimate.state.value, facts)


def world_snapshot(engine: Engine) -> WorldSnapshot:
    """Take a snapshot; the engine's thread calls it, between two frames."""
    session = engine.session
    return WorldSnapshot(
        map_view=session.map_view(),
        graph=session.graph_view(engine.config.stream.recent_keyframes),
        covariances={
            i: pose.covariance[:3, :3]
            for i in session.bank.ids()
            if (pose := session.graph.in_world(i)) is not None
        },
        ties=frozenset(session.graph.ties),
        loops_closed=session.loops_closed,
        scale=session.scale.view(),
    )


def world_facts(world: WorldSnapshot) -> dict[str, str]:
    """Return labels and values about the map."""
    points = sum(len(cloud) for cloud, _ in world.map_view.placed)
    facts = {
        'keyframes': f'{len(world.graph.record.frame_ids)}, {len(world.graph.resident_ids)} held',
        'points': f'{points:,}',
        'loops closed': str(world.loops_closed),
    }
    metres = world.scale.metres_per_unit
    return facts | {'lengths': 'map units' if metres is None else f'm ({metres:.3g} m per unit)'}


def shown_keyframes(
    keyframes: Keyframes, world: WorldSnapshot, S_map_world: np.ndarray
) -> ShownKeyframes:
    """Return keyframes as the scene shows them."""
    unknown = np.full((3, 3), np.nan)
    unit = world.scale.published_unit
    covariances = [
        unit**2 * world.covariances.get(i, unknown) for i in keyframes.frame_ids.tolist()
    ]
    row = {frame_id: n for n, frame_id in enumerate(keyframes.frame_ids.tolist())}
    edges = world.graph.edges(keyframes)
    links = [(row[edge.source_id], row[edge.target_id]) for edge in edges]
    return ShownKeyframes(
        T_map_camera=rigid_part(S_map_world @ keyframes.T_world_camera),
        confidence=keyframes.confidence,
        covariances=np.array(covariances).reshape(-1, 3, 3),
        links=np.array(links, np.int64).reshape(-1, 2),
        kinds=np.array([_kind(edge, world) for edge in edges], np.int64),
    )


def _kind(edge: GraphEdge, world: WorldSnapshot) -> LinkKind:
    ends = edge.source_id, edge.target_id
    if edge.kind is EdgeKind.BRIDGE or (min(ends), max(ends)) in world.ties:
        return LinkKind.LOOP
    return LinkKind.MEMORY if edge.kind is EdgeKind.MEMORY else LinkKind.RECENT


def _lengthened(T: np.ndarray, unit: float) -> np.ndarray:
    T = T.copy()
    T[:3, 3] *= unit
    return T


def _print_error(error: Exception) -> None:
    traceback.print_exception(error)
