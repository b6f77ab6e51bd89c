"""What leaves the node for an estimate: transforms, then poses, then clouds of known places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.config import R3Config
from ..core.datatypes import Estimate
from ..core.errors import TransformError
from ..core.geometry import inverse, is_rigid
from ..streaming.scale.odometry_buffer import OdometryBuffer
from .outputs.cloud_publisher import DepthScene, ScenePublisher
from .outputs.health import StreamState
from .outputs.keyframe_clouds import KeyframePlace
from .outputs.messages import odometry_message, pose_message
from .outputs.outputs import Outputs
from .tf.frame_tree import Base
from .tf.initial_pose import InitialPose
from .tf.pose_chain import Placement, PoseChain, without_motion
from .tf.transforms import corrects_robot, TransformAuthority

if TYPE_CHECKING:
    from ..streaming.session import Session

#: Depth may come later than its frame, though not by more frames than this.
_STAMPS_KEPT = 256
#: How far back an initial pose may be meant, in frames.
_TRACK_FRAMES = 1000


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
        #: ``map -> odom`` that the next session starts with, so that a robot stays where it is.
        self._T_map_odom_kept: np.ndarray | None = None
        #: Where the next session starts, if somebody has said so before its first picture.
        self._start: InitialPose | None = None
        #: The newest pose of the camera, also if it is not given out; None: not known now.
        self._T_world_camera: np.ndarray | None = np.eye(4)
        self._track = OdometryBuffer(_TRACK_FRAMES)

    def update_config(self, config: R3Config) -> None:
        """Take over live parameters."""
        self.config = config
        self._scenes.config = config
        self._authority.update_config(config)

    def take_camera(self, base: Base, optical_frame: str) -> None:
        """Publish for a camera from now on; :meth:`restart` begins its session."""
        self.base, self.optical_frame = base, optical_frame

    def restart(
        self, stamp_ns: int, keeps_place: bool, T_map_world: np.ndarray | None = None
    ) -> None:
        """Begin a session: map and path are empty, odom and map start at the origin.

        :param keeps_place: a robot that is corrected stays where it is in map instead.
        :param T_map_world: of a map that was loaded: the session is in its frame.
        """
        self._authority.reset(keeps_place)
        self._T_map_odom_kept = self._authority.T_map_odom
        self._T_world_camera = np.eye(4)
        self._track.clear()
        self.chain = None if self.base is None else self.base.new_chain()
        if T_map_world is not None:
            self._T_map_odom_kept = self._start = None
            if self.chain is not None:
                self.chain.T_map_world = T_map_world
        if self._start is not None:
            self._start_at(self._start)
        self._stamps_ns.clear()
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
            self._T_world_camera = None
            repeats = state is StreamState.LOST and self.config.tracking.publish_when_lost
            if repeats and self.chain.last is not None:
                self._publish_placement(stamp_ns, without_motion(self.chain.last))
            return state, estimate.reason
        if not is_rigid(estimate.T_world_camera):
            # The last line of defence: nothing that is no pose leaves this node.
            return StreamState.LOW_CONFIDENCE, 'the estimate was no rigid motion'
        self._T_world_camera = estimate.T_world_camera
        if self._waits_for_metres:
            # Metres were asked for: whoever listens must never take another unit for them.
            return StreamState.INITIALIZING, estimate.reason
        if self._T_map_odom_kept is not None:
            try:
                self._keep_place(stamp_ns, estimate.T_world_camera)
            except TransformError as error:
                self._authority.robot.fail(str(error))
                reason = 'odom -> base is needed to keep the robot where it was'
                return StreamState.INITIALIZING, f'{reason}: {error}'
        placement = self.chain.advance(
            stamp_ns,
            estimate.T_world_camera,
            estimate.T_previous_camera,
            estimate.covariance,
            estimate.step_covariance,
            self.config.covariance.unscaled_factor,
            self.config.input.max_time_gap,
        )
        self._start = None
        self._track.add(stamp_ns, placement.T_odom_base)
        reason = estimate.reason
        if self.holds_back_correction:
            reason = '; '.join(filter(None, (reason, 'map -> odom waits for metres')))
        else:
            self._authority.send(stamp_ns, placement, self.base.frame)
        self._publish_placement(stamp_ns, placement)
        return state, reason

    @property
    def holds_back_correction(self) -> bool:
        """Tell whether a robot is not corrected because our lengths are no metres as its own."""
        unknown = self.chain is None or self.chain.metres_per_unit is None
        needed = self.config.scale.require_metric_for_tf and corrects_robot(self.config)
        return needed and unknown

    def waits_for_robot(self, stamp_ns: int) -> bool:
        """Tell whether a picture is the first of a session that needs the robot's transform."""
        if self._T_map_odom_kept is None or self.base is None or not stamp_ns:
            return False
        try:
            self._authority.robot.at(stamp_ns, self.base.frame)
        except TransformError:
            return True
        return False

    def start_at(self, given: InitialPose) -> bool:
        """Have the map of the next first pose start so that the base is at a pose now.

        :returns: False if the camera has been lost since the session began.
        """
        if self._T_world_camera is None:
            return False
        self._start, self._T_map_odom_kept = given, None
        self._start_at(given)
        return True

    def move_map(self, given: InitialPose) -> bool:
        """Move the map so that the base is at a pose; False if nobody knows where it is now."""
        assert self.base is not None and self.chain is not None, 'there is a pose'
        T_map_now = self._authority.T_map_base_now(given.stamp_ns, self.base.frame)
        if not corrects_robot(self.config) or T_map_now is None:
            if self._T_world_camera is None or self.chain.last is None:
                return False
            T_map_now = self.chain.last.T_map_base
            T_odom_then = self._track.at(given.stamp_ns)
            if T_odom_then is not None:
                T_map_now = T_map_now @ inverse(self.chain.last.T_odom_base) @ T_odom_then
        self.chain.move_map(T_map_now, given.T_map_base, keeps_tilt=not self.base.is_named)
        self._authority.move_map(self.chain.placed_again)
        return True

    def rescale(self, metres_per_unit: float | None) -> None:
        """Go on with another length of the engine's unit; odom goes on where it is."""
        if self.chain is None or self.chain.metres_per_unit == metres_per_unit:
            return
        self.chain.metres_per_unit = metres_per_unit
        self.chain.replace_last()
        self._authority.move_map(self.chain.placed_again)

    def _start_at(self, given: InitialPose) -> None:
        # Without a camera it is taken over when one comes.
        if self.base is not None and self.chain is not None:
            assert self._T_world_camera is not None, 'asked before'
            self.chain.start = given.T_map_base, self._T_world_camera, not self.base.is_named

    def _keep_place(self, stamp_ns: int, T_world_camera: np.ndarray) -> None:
        """Start the session's map so that ``map -> odom`` stays as it was."""
        assert (
            self.base is not None and self.chain is not None and self._T_map_odom_kept is not None
        )
        T_odom_base = self._authority.robot.at(stamp_ns, self.base.frame)
        T_map_base, self._T_map_odom_kept = self._T_map_odom_kept @ T_odom_base, None
        self.chain.start = T_map_base, T_world_camera, False

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
            place, pose = None, session.graph.in_world(frame_id)
            if frame_id in session.bank and pose is not None:
                S_map_own = self.chain.S_map_world @ pose.S_world_camera
                place = KeyframePlace(frame_id, stamp_ns, S_map_own)
            scene = DepthScene(depth_map, stamp_ns, self.optical_frame, place, unit)
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
        own = self._authority.odometry_of(placement)
        if own is not None:
            odometry = odometry_message(stamp_ns, config.odom_frame, self.base.frame, own)
            self._outputs.publish('odometry', odometry)
