"""All state that changes between two frames. A reset starts a new one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.datatypes import DepthMap, DeviceMemory, Intrinsics, ModelInfo
from ..core.predictor import Predictor
from .gate import Gate
from .image_check import ImageCheck
from .keyframes.admission import Admission
from .keyframes.bank import KeyframeBank
from .keyframes.keyframe_graph import KeyframeGraphView
from .loops.evidence import LoopEvidence, no_evidence
from .pose_graph import PoseGraph
from .relocalisation.search import Relocalisation
from .scale.estimator import ScaleView
from .scale.tracker import ScaleTracker
from .trajectory import Trajectory, TrajectoryView
from .voxel_map import MapView, VoxelMap

#: Relative change of an estimated focal length that changes nothing: 0.1 pixels at the border.
_SAME_FOCAL = 3e-4


@dataclass(frozen=True)
class StreamSnapshot:
    """Numbers of a stream between two frames, for other threads than the one that owns it.

    :ivar frame_index: frames of this session so far, without those of a loaded map.
    :ivar map_points: kept points, those in a shared voxel counted each.
    :ivar evicted_points: dropped since there were too many.
    :ivar is_relocalising: the camera is still searched for in a loaded map.
    :ivar memory: of the device; None on a CPU.
    """

    session_id: int
    segment_id: int
    map_revision: int
    frame_index: int
    loops_closed: int
    keyframes: int
    map_points: int
    evicted_points: int
    is_relocalising: bool
    scale: ScaleView
    model: ModelInfo
    memory: DeviceMemory | None


@dataclass(eq=False)
class Session:
    """The state of one stream, from its first frame on. One thread owns it.

    :ivar recent: ids of the newest frames with a publishable pose, oldest first.
    :ivar doubtful: keyframes that the predictor chose while confidence was low; their points
        stay out of the map until their edges have been refined.
    :ivar leaving: frames that have left the recent window or the bank in this step.
    :ivar evicted: keyframes that have left the bank and have not been reported yet.
    :ivar followed_since: frames at which the camera was found again, after a loss or a gap: poses
        on both sides of one do not follow from one another. Starts with the first frame.
    :ivar frame_count: the next frame's id. Frames of a loaded map come first.
    :ivar relocalisation: the search for the camera in a loaded map, until it is found.
    :ivar segment_id: the present segment; only segment 0 is in the world.
    :ivar newest_segment: the highest segment id so far.
    :ivar lost_frames: frames since the camera was lost; 0 while it is tracked.
    :ivar last_published: the newest frame whose pose was published.
    :ivar path: length of the way along the published poses, those of a loaded map included; map
        units. It follows the corrections of loops.
    :ivar map_revision: increases when a published pose has changed.
    :ivar intrinsics: of the newest frame, and of all others if they are estimated.
    :ivar evidence: edges to old keyframes that contradict the poses of the last frames.
    :ivar evidence_depth: of the newest frame among those, as predicted.
    """

    bank: KeyframeBank
    admission: Admission
    graph: PoseGraph
    gate: Gate
    map: VoxelMap
    trajectory: Trajectory
    scale: ScaleTracker
    session_id: int
    segment_id: int = 0
    newest_segment: int = 0
    lost_frames: int = 0
    last_published: int | None = None
    path: float = 0.0
    map_revision: int = 0
    loops_closed: int = 0
    frame_count: int = 0
    first_frame: int = 0
    relocalisation: Relocalisation | None = None
    last_stamp_ns: int | None = None
    intrinsics: Intrinsics | None = None
    recent: deque[int] = field(default_factory=deque)
    doubtful: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    evicted: list[int] = field(default_factory=list)
    followed_since: deque[int] = field(default_factory=lambda: deque([0], maxlen=1000))
    evidence: LoopEvidence = field(default_factory=no_evidence)
    evidence_depth: DepthMap | None = None
    images: ImageCheck = field(default_factory=ImageCheck)

    def take_intrinsics(self, intrinsics: Intrinsics, estimated: bool) -> None:
        """Take the intrinsics of a frame.

        One camera took all frames, so a new estimate replaces the earlier one in all keyframes and
        in their points. Tiny changes are ignored.
        """
        before = self.intrinsics
        if before is not None and estimated:
            across, down = before.fx / intrinsics.fx, before.fy / intrinsics.fy
            if max(abs(across - 1.0), abs(down - 1.0)) < _SAME_FOCAL:
                return
            changed = self.bank.replace_intrinsics(before, intrinsics)
            self.map.widen(changed, across, down)
        self.intrinsics = intrinsics

    def map_view(self) -> MapView:
        """Return a snapshot of the map at the present keyframe poses."""
        return self.map.view(self.graph.similarities)

    def trajectory_view(self, keyframes_only: bool = False) -> TrajectoryView:
        """Return a snapshot of the trajectory with all corrections so far."""
        return self.trajectory.view(self.graph.similarities, keyframes_only)

    def graph_view(self, recent_keyframes: int) -> KeyframeGraphView:
        """Return a snapshot of the keyframes and of the edges among those in the bank.

        :param recent_keyframes: an edge spans at most so many keyframes to count as recent.
        """
        return KeyframeGraphView(
            record=self.trajectory_view(keyframes_only=True),
            resident_ids=tuple(self.bank.ids()),
            held_edges=tuple(self.graph.edges()),
            bridges=frozenset(self.graph.bridges),
            scales={i: self.graph.held[i].scale for i in self.bank.ids()},
            reference=self.gate.reference,
            recent_keyframes=recent_keyframes,
        )

    def keep_recent(self, count: int) -> None:
        """Keep the ``count`` newest frames; older ones stay only as keyframes."""
        while len(self.recent) > count:
            self.leaving.add(self.recent.popleft())

    def remove_keyframes(self, frame_ids: Sequence[int]) -> None:
        """Take frames out of the bank."""
        for frame_id in frame_ids:
            self.bank.remove(frame_id)
        self.note_evicted(frame_ids)

    def note_evicted(self, frame_ids: Sequence[int]) -> None:
        """Release and report keyframes that are no longer in the bank."""
        self.leaving.update(frame_ids)
        self.evicted.extend(frame_ids)

    def take_evicted(self) -> tuple[int, ...]:
        """Return the keyframes that have left the bank since the last call."""
        evicted, self.evicted = self.evicted, []
        return tuple(evicted)

    def take_leaving(self) -> list[int]:
        """Return the frames that need not be held any more, oldest first, once."""
        leaving, self.leaving = self.leaving, set()
        return sorted(i for i in leaving if i not in self.bank and i not in self.recent)

    def snapshot(self, predictor: Predictor) -> StreamSnapshot:
        """Return the numbers of the stream, in constant time."""
        return StreamSnapshot(
            session_id=self.session_id,
            segment_id=self.segment_id,
            map_revision=self.map_revision,
            frame_index=self.frame_count - self.first_frame,
            loops_closed=self.loops_closed,
            keyframes=len(self.bank),
            map_points=len(self.map),
            evicted_points=self.map.evicted,
            is_relocalising=self.relocalisation is not None,
            scale=self.scale.view(),
            model=predictor.info,
            memory=predictor.device_memory(),
        )
