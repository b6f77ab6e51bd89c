"""What leaves the node for an estimate: transforms, then poses, then clouds of known places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import R3Config
from ..datatypes import Estimate
from ..geometry import is_rigid
from .health import StreamState
from .messages import odometry_message, pose_message
from .outputs import Outputs
from .poses import Placement, PoseChain, without_motion
from .scenes import DepthScene, ScenePublisher
from .transforms import Base, TransformAuthority

if TYPE_CHECKING:
    from ..streaming.session import Session

#: Depth may come later than its frame, though not by more frames than this.
_STAMPS_KEPT = 256


class Placing:
    """Keeps the chain of frames of a session and publishes on it. Worker thread.

    :ivar base: the moving frame; None until the first picture has told its camera.
    :ivar chain: of the present session; None without a base.
    """

    def __init__(
        self,
        config: R3Config,
        outputs: Outputs,
        authority: TransformAuthority,
        scenes: ScenePublisher,
    ) -> None:
        """Start without a camera."""
        self.config = config
        self.base: Base | None = None
        self.chain: PoseChain | None = None
        self.optical_frame = ''
        self._outputs = outputs
        self._authority = authority
        self._scenes = scenes
        self._stamps_ns: dict[int, int] = {}

    def update_config(self, config: R3Config) -> None:
        """Take over live parameters."""
        self.config = config
        self._scenes.config = config
        self._authority.update_config(config)

    def take_camera(self, base: Base, optical_frame: str) -> None:
        """Publish for a camera from now on; :meth:`restart` begins its session."""
        self.base, self.optical_frame = base, optical_frame

    def restart(self, stamp_ns: int) -> None:
        """Begin a session: odom and map start at the origin, map and path are empty."""
        self.chain = None if self.base is None else self.base.new_chain()
        self._stamps_ns.clear()
        self._authority.reset()
        self._scenes.clear(stamp_ns, path_too=True)

    def seen(self, stamp_ns: int) -> None:
        """Note a picture that gets no pose: ``map -> odom`` goes on."""
        self._authority.seen(stamp_ns)

    def publish(self, estimate: Estimate) -> tuple[StreamState, str]:
        """Send the transforms, then what refers to them; return the state and its reason."""
        assert self.base is not None and self.chain is not None, 'take_camera comes first'
        state, stamp_ns = StreamState[estimate.state.name], estimate.stamp_ns
        self.seen(stamp_ns)
        self.chain.metres_per_unit = estimate.metres_per_unit
        if estimate.T_world_camera is None:
            repeats = state is StreamState.LOST and self.config.tracking.publish_when_lost
            if repeats and self.chain.last is not None:
                self._publish_placement(stamp_ns, without_motion(self.chain.last))
            return state, estimate.reason
        if self._waits_for_metres:
            # Metres were asked for: whoever listens must never take another unit for them.
            return StreamState.INITIALIZING, estimate.reason
        if not is_rigid(estimate.T_world_camera):
            # The last line of defence: nothing that is no pose leaves this node.
            return StreamState.LOW_CONFIDENCE, 'the estimate was no rigid motion'
        placement = self.chain.advance(
            stamp_ns,
            estimate.T_world_camera,
            estimate.T_previous_camera,
            estimate.covariance,
            self.config.covariance.unscaled_factor,
            self.config.input.max_time_gap,
        )
        self._authority.send(stamp_ns, placement, self.base.frame)
        self._publish_placement(stamp_ns, placement)
        return state, estimate.reason

    def offer_depths(self, estimate: Estimate, session: Session) -> None:
        """Hand depth maps on, each with the stamp and the present pose of its own frame."""
        assert self.chain is not None, 'take_camera comes first'
        unit = self.chain.unit
        self._stamps_ns[estimate.frame_id] = estimate.stamp_ns
        self._stamps_ns.pop(estimate.frame_id - _STAMPS_KEPT, None)
        for depth_map in estimate.depths:
            frame_id = depth_map.frame_id
            stamp_ns = self._stamps_ns.get(frame_id)
            if stamp_ns is None or self._waits_for_metres:
                continue
            T_map_optical = None
            T_world_camera = session.graph.poses.get(frame_id)
            if frame_id in session.bank and T_world_camera is not None:
                T_map_optical = self.chain.T_map_optical(T_world_camera)
            scene = DepthScene(depth_map, stamp_ns, self.optical_frame, T_map_optical, unit)
            self._scenes.offer_depth(scene)

    def offer_session(self, session: Session, stamp_ns: int) -> None:
        """Have map, grid and path published if they are due."""
        if self.chain is None:
            return
        self.chain.metres_per_unit = session.scale.metres_per_unit
        if not self._waits_for_metres:
            self._scenes.offer_session(session, self.chain.frozen(), stamp_ns)

    @property
    def _waits_for_metres(self) -> bool:
        assert self.chain is not None
        return self.config.scale.source != 'none' and self.chain.metres_per_unit is None

    def _publish_placement(self, stamp_ns: int, placement: Placement) -> None:
        assert self.base is not None
        config = self.config
        pose = pose_message(
            stamp_ns, config.map_frame, placement.T_map_base, placement.map_covariance
        )
        self._outputs.publish('pose', pose)
        odometry = odometry_message(stamp_ns, config.odom_frame, self.base.frame, placement)
        self._outputs.publish('odometry', odometry)
