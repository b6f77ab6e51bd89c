"""Publishes an estimate: transforms, then poses, then depth and clouds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..core.config import R3Config
from ..core.datatypes import Estimate
from ..core.errors import TransformError
from ..core.geometry import inverse, is_rigid
from ..streaming.scale.odometry_buffer import OdometryBuffer
from ..streaming.session import Session
from .outputs.cloud_publisher import CloudPublisher, DepthJob
from .outputs.health import StreamState
from .outputs.keyframe_clouds import KeyframePlace
from .outputs.messages import odometry_message, pose_message
from .outputs.outputs import Outputs
from .tf.frame_tree import Base
from .tf.initial_pose import InitialPose
from .tf.pose_chain import Placement, PoseChain, without_motion
from .tf.transforms import corrects_robot, TransformAuthority

#: Depth may come later than its frame, by up to so many frames.
_STAMPS_KEPT = 256
#: The stamp of an initial pose may be so many frames old.
_TRACK_FRAMES = 1000


@dataclass(eq=False)
class PoseOutput:
    """Keeps a session's chain of frames and publishes its poses. Worker thread.

    :ivar base: the moving frame; None before the first image. :meth:`restart` begins its session.
    :ivar chain: of the current session; None without a base.
    """

    config: R3Config
    _outputs: Outputs
    _authority: TransformAuthority
    _clouds: CloudPublisher
    base: Base | None = field(default=None, init=False)
    chain: PoseChain | None = field(default=None, init=False)
    optical_frame: str = field(default='', init=False)
    _stamps_ns: dict[int, int] = field(default_factory=dict, init=False)
    #: ``map -> odom`` that the next session starts with, so a robot keeps its pose in map.
    _T_map_odom_kept: np.ndarray | None = field(default=None, init=False)
    #: Initial pose given before the session's first pose.
    _start: InitialPose | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        #: The newest pose of the camera, published or not; None while it is lost.
        self._T_world_camera: np.ndarray | None = np.eye(4)
        self._track = OdometryBuffer(_TRACK_FRAMES)

    def update_config(self, config: R3Config) -> None:
        """Apply changed live parameters."""
        self.config = config
        self._clouds.config = config
        self._authority.update_config(config)

    def restart(
        self, stamp_ns: int, keeps_place: bool, T_map_world: np.ndarray | None = None
    ) -> None:
        """Begin a session with empty map and path, and odom and map at the origin.

        :param keeps_place: a robot whose odometry is corrected keeps its pose in map instead.
        :param T_map_world: of a loaded map, whose frame the session uses.
        """
        self._authority.reset(keeps_place)
        self._T_map_odom_kept = self._authority.T_map_odom
        self._T_world_camera = np.eye(4)
        self._track.clear()
        base = self.base
        self.chain = None if base is None else PoseChain(base.T_base_optical, base.is_named)
        if T_map_world is not None:
            self._T_map_odom_kept = self._start = None
            if self.chain is not None:
                self.chain.T_map_world = T_map_world
        if self._start is not None:
            self.start_at(self._start)
        self._stamps_ns.clear()
        self._clouds.clear(stamp_ns, path_too=True)

    def publish(self, estimate: Estimate) -> tuple[StreamState, str]:
        """Publish transforms, pose and odometry; return the state and its reason."""
        assert self.base is not None and self.chain is not None
        state, stamp_ns = StreamState[estimate.state.name], estimate.stamp_ns
        self._authority.note_image(stamp_ns)
        self.chain.metres_per_unit = estimate.metres_per_unit
        if estimate.T_world_camera is None:
            self._T_world_camera = None
            repeats = state is StreamState.LOST and self.config.tracking.publish_when_lost
            if repeats and self.chain.last is not None:
                self._publish_placement(stamp_ns, without_motion(self.chain.last))
            return state, estimate.reason
        if not is_rigid(estimate.T_world_camera):
            return StreamState.LOW_CONFIDENCE, 'the estimate was no rigid motion'
        self._T_world_camera = estimate.T_world_camera
        if self._waits_for_metres:
            # A scale source is configured, so subscribers expect metres.
            return StreamState.INITIALIZING, estimate.reason
        if self._T_map_odom_kept is not None:
            # The session's map starts so that map -> odom does not change.
            try:
                T_odom_base = self._authority.robot.at(stamp_ns, self.base.frame)
            except TransformError as error:
                self._authority.robot.fail(str(error))
                reason = "odom -> base is needed to keep the robot's pose in map"
                return StreamState.INITIALIZING, f'{reason}: {error}'
            T_map_base = self._T_map_odom_kept @ T_odom_base
            self.chain.start = T_map_base, estimate.T_world_camera, False
            self._T_map_odom_kept = None
        placement = self._advance(estimate)
        self._start = None
        self._track.add(stamp_ns, placement.T_odom_base)
        reason = estimate.reason
        if self.correction_waits_for_metres:
            reason = '; '.join(filter(None, (reason, 'map -> odom waits for metres')))
        else:
            self._authority.send(stamp_ns, placement, self.base.frame)
        self._publish_placement(stamp_ns, placement)
        return state, reason

    def follow(self, estimate: Estimate) -> None:
        """Take the motion of an unpublished frame, so that odom does not miss it."""
        T_world_camera = estimate.T_world_camera
        if self.chain is None or self.chain.last is None or T_world_camera is None:
            return
        if is_rigid(T_world_camera) and not self._waits_for_metres:
            self._advance(estimate)

    def _advance(self, estimate: Estimate) -> Placement:
        assert self.chain is not None
        config = self.config
        return self.chain.advance(
            estimate, config.covariance.unscaled_factor, config.input.max_time_gap
        )

    @property
    def correction_waits_for_metres(self) -> bool:
        """Return whether ``map -> odom`` is not sent because the scale is unknown."""
        unknown = self.chain is None or self.chain.metres_per_unit is None
        needed = self.config.scale.require_metric_for_tf and corrects_robot(self.config)
        return needed and unknown

    def waits_for_robot(self, stamp_ns: int) -> bool:
        """Return whether an image is the first of a session and needs the robot's transform."""
        if self._T_map_odom_kept is None or self.base is None or not stamp_ns:
            return False
        try:
            self._authority.robot.at(stamp_ns, self.base.frame)
        except TransformError:
            return True
        return False

    def start_at(self, given: InitialPose) -> bool:
        """Set the base's current pose in map before the session's first pose.

        :returns: False if the camera was lost since the session began.
        """
        if self._T_world_camera is None:
            return False
        self._start, self._T_map_odom_kept = given, None
        # Without a camera, restart applies it.
        if self.base is not None and self.chain is not None:
            self.chain.start = given.T_map_base, self._T_world_camera, not self.base.is_named
        return True

    def move_map(self, given: InitialPose) -> bool:
        """Move the map so that the base has a pose; return False if its pose is unknown now."""
        assert self.base is not None and self.chain is not None
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
        """Change the metric scale; poses in odom remain continuous."""
        if self.chain is None or self.chain.metres_per_unit == metres_per_unit:
            return
        self.chain.metres_per_unit = metres_per_unit
        self.chain.replace_last()
        self._authority.move_map(self.chain.placed_again)

    def offer_depths(self, estimate: Estimate, session: Session) -> None:
        """Offer depth maps for publishing, with the stamps and current poses of their frames."""
        assert self.chain is not None
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
            job = DepthJob(depth_map, stamp_ns, self.optical_frame, place, unit)
            self._clouds.offer_depth(job)

    def offer_session(self, session: Session, stamp_ns: int) -> None:
        """Offer map, grid, path and graph for publishing."""
        if self.chain is None:
            return
        unit = self.chain.metres_per_unit = session.scale.metres_per_unit
        if not self._waits_for_metres:
            self._clouds.offer_session(session, self.chain.frozen(unit), stamp_ns)

    @property
    def _waits_for_metres(self) -> bool:
        assert self.chain is not None
        return self.config.scale.source != 'none' and self.chain.metres_per_unit is None

    def _publish_placement(self, stamp_ns: int, placement: Placement) -> None:
        assert self.base is not None
        config = self.config
        self._outputs.publish('pose', pose_message(stamp_ns, config.map_frame, placement))
        own = self._authority.odometry_of(placement)
        if own is not None:
            odometry = odometry_message(stamp_ns, config.odom_frame, self.base.frame, own)
            self._outputs.publish('odometry', odometry)
