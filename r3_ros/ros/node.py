"""The node: a lifecycle around one stream. Wiring only; the work is in the modules beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
import traceback
from typing import Any

from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from ..core.config import R3Config
from ..core.errors import ConfigError, R3Error
from ..factory import load_engine
from .inputs.camera_input import CameraInput
from .inputs.camera_topics import CameraTopics, image_topic_name
from .inputs.odometry_input import OdometryInput
from .node_parameters import (
    accepted,
    changed_config,
    declare_parameters,
    read_config,
    refused,
    require_qos,
    unknown_parameters,
)
from .outputs.diagnostics import Diagnostics
from .outputs.health import Health, TransformHealth
from .outputs.outputs import Outputs
from .rcl_errors import one_line, RCLError
from .services.services import Services
from .tf.frame_tree import TransformTree
from .tf.initial_pose import InitialPose, InitialPoseInput
from .tf.transforms import corrects_robot, TransformAuthority
from .worker import StreamWorker

#: Exit status of a process whose device or memory could not be given back.
UNCLEAN = 3
#: By ``scale.require_metric_for_tf``.
_NO_METRES = {
    True: 'it waits for ~/set_scale. Set scale.source to have metres measured',
    False: 'it takes map units for metres, which is wrong unless they happen to be',
}
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _logged(transition: Transition) -> Transition:
    """Have what a transition did not expect logged: rclpy makes ERROR of it without a word."""

    @wraps(transition)
    def logged(self: R3StreamNode, state: LifecycleState) -> TransitionCallbackReturn:
        name = transition.__name__.removeprefix('on_')
        try:
            return transition(self, state)
        except RCLError as error:
            self.get_logger().error(f'cannot {name}: ROS refuses: {one_line(error)}')
            raise
        except Exception as error:
            text = ''.join(traceback.format_exception(error))
            self.get_logger().error(f'cannot {name}: internal error:\n{text}')
            raise

    return logged


class R3StreamNode(LifecycleNode):
    """One camera stream in; poses, depth and maps out.

    :param engine_loader: makes the engine from the configuration; tests put their own here.
    :raises ConfigError: a parameter was given a value that is not allowed.
    """

    def __init__(
        self,
        node_name: str = 'r3',
        *,
        engine_loader: Callable[[R3Config], Any] = load_engine,
        **options: Any,
    ) -> None:
        """Declare the parameters; nothing else happens before configure."""
        super().__init__(node_name, **options)
        self._load_engine = engine_loader
        self.stream: StreamWorker | None = None
        #: Other than 0 if the process has to end, since something could not be cleaned up.
        self.exit_status = 0
        #: Makes saves that run give up, also after the node was closed.
        self.cancel_saves: Callable[[], None] = lambda: None
        #: Whether the map is being saved because the node ends.
        self.saves_at_the_end = False
        self._own_services: Services | None = None
        self._config: R3Config | None = None
        self._closers: list[Callable[[], Any]] = []
        self._active: list[Callable[[], Any]] = []
        self._diagnostics: Diagnostics | None = None
        self._tf_timer: Timer | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        try:
            declare_parameters(self)
            require_qos(self)
        except ConfigError:
            self.destroy_node()
            raise
        for line in unknown_parameters(self):
            self.get_logger().warning(line)
        self.add_on_set_parameters_callback(self._judge_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)

    # Lifecycle.

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and make everything but the subscriptions to the camera."""
        try:
            config = read_config(self)
            self._refuse_twin()
            self._set_up(config, self._load_engine(config))
        except (R3Error, ImportError, MemoryError) as error:
            self.get_logger().error(f'cannot configure: {error}')
            self._tear_down()
            return FAILURE
        return SUCCESS

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        assert self.stream is not None and self._config is not None
        if self.stream.is_stuck:
            self.get_logger().error('cannot activate: the last frame is still being processed')
            return FAILURE
        health = self.stream.snapshot.health
        if health.device_lost:
            self.get_logger().error(f'cannot activate: {health.device_lost}')
            return FAILURE
        if self.stream.config != self._config:
            # Changed while the worker was stuck, so it has not taken them over.
            self.stream.update_config(self._config)
        self.stream.start()
        topics = CameraTopics(self, self._config.input, self.stream.node_health)
        self._active.append(topics.close)
        demand = self.create_guard_condition(lambda: self._follow_worker(topics))
        self._active.append(lambda: self.destroy_guard_condition(demand))
        self.stream.report.on_demand = demand.trigger
        self._follow_camera(topics)
        if self._config.scale.source == 'odometry':
            self._active.append(OdometryInput(self, self.stream).close)
        self._active.append(self._take_initial_poses(self.stream, self._config))
        self._start_tf_timer(self._config.tf_publish_rate)
        if self.stream.snapshot.wants_images:
            self.get_logger().info(f"active, waits for pictures on '{topics.image}'")
        else:
            self.get_logger().error(f'active, but {health.reason}')
        return super().on_activate(state)

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop taking pictures; model, bank and map stay."""
        self._deactivate()
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        self._tear_down()
        return SUCCESS

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state; save the map before if that is asked for."""
        self._tear_down(saves=True)
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, so that the node can be configured again."""
        self._tear_down()
        return SUCCESS

    def autostart(self) -> bool:
        """Configure and activate; False if that failed, which the log explains."""
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    def close(self) -> None:
        """End everything that runs, before the node is destroyed; save the map if asked to."""
        self._tear_down(saves=True)

    # Configure.

    def _refuse_twin(self) -> None:
        """Two nodes of one name share topics and services, and their poses would mix."""
        if self._count_twins():
            raise ConfigError(
                f"a node named '{self.get_fully_qualified_name()}' runs already: stop it, or "
                'start this one under another name (--ros-args -r __node:=NAME) or namespace '
                '(-r __ns:=/NAME)'
            )

    def _count_twins(self) -> int:
        own = (self.get_name(), self.get_namespace())
        return max(self.get_node_names_and_namespaces().count(own) - 1, 0)

    def _set_up(self, config: R3Config, engine: Any) -> None:
        logger, clock = self.get_logger(), self.get_clock()
        health, transform_health = Health(), TransformHealth()
        self._closers.append(lambda: self._close_engine(engine))
        outputs = Outputs(self, config.occupancy.enabled)
        self._closers.append(outputs.close)
        tree = TransformTree(self, config, transform_health)
        self._closers.append(tree.close)
        authority = TransformAuthority(self, config, tree, transform_health)
        self._closers.append(authority.close)
        camera = CameraInput(
            config.input,
            config.camera_optical_frame,
            image_topic_name(self, config.input),
            clock,
            health,
            logger,
        )
        self.stream = StreamWorker(
            engine,
            config,
            camera,
            outputs,
            tree,
            authority,
            health,
            transform_health,
            clock,
            logger,
        )
        self._config = config
        services = Services(self, self.stream)
        self._closers.append(services.close)
        self._own_services, self.cancel_saves = services, services.cancel_saves
        self._diagnostics = Diagnostics(self.stream, clock)
        timer = self.create_timer(
            config.diagnostics.period, self._publish_diagnostics, clock=self._steady
        )
        self._closers.append(lambda: self.destroy_timer(timer))
        threshold = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
        )
        jump = clock.create_jump_callback(threshold, post_callback=self._on_clock_jump)
        self._closers.append(jump.unregister)
        if corrects_robot(config) and config.scale.source == 'none':
            logger.warning(
                'map -> odom corrects odometry in metres, and scale.source is none: '
                + _NO_METRES[config.scale.require_metric_for_tf]
            )
        info = self.stream.snapshot.stream.model
        logger.info(f"configured with model '{info.name}' on {info.device} in {info.precision}")
        for note in info.notes:
            logger.info(f'weights: {note}')

    def _tear_down(self, saves: bool = False) -> None:
        self._deactivate()
        stuck = self.stream is not None and self.stream.is_stuck
        services, self._own_services = self._own_services, None
        if saves and services is not None and not stuck:
            # The snapshot is taken now, before there is nothing left to take it of.
            self.saves_at_the_end = services.save_at_the_end()
        for close in reversed(self._closers):
            self._close_one(close)
        self._closers.clear()
        self.stream, self._config, self._diagnostics = None, None, None

    def _close_engine(self, engine: Any) -> None:
        # Before there is a worker, the engine is nobody's.
        (engine if self.stream is None else self.stream).close()

    def _close_one(self, close: Callable[[], Any]) -> None:
        try:
            close()
        except Exception as error:  # the others must be closed all the same
            self.get_logger().fatal(
                f'cannot clean up: {type(error).__name__}: {error}; the process has to end'
            )
            self.exit_status = UNCLEAN

    # Activate.

    def _follow_camera(self, topics: CameraTopics) -> None:
        assert self.stream is not None
        wants_images = self.stream.snapshot.wants_images
        if wants_images and not topics.is_open:
            topics.open(self.stream.receive, self.stream.camera.on_camera_info, self._steady)
        elif not wants_images:
            topics.close()

    def _follow_worker(self, topics: CameraTopics) -> None:
        """Do what the worker cannot: subscribe to the camera or not, and deactivate."""
        stream = self.stream
        if stream is None or not stream.running:
            return
        if stream.snapshot.health.device_lost:
            self.trigger_deactivate()
            return
        self._follow_camera(topics)

    def _take_initial_poses(self, stream: StreamWorker, config: R3Config) -> Callable[[], None]:
        def take(given: InitialPose) -> None:
            stream.submit(lambda: stream.control.on_initial_pose(given))

        return InitialPoseInput(self, config, stream.tree, stream.authority, take).close

    def _start_tf_timer(self, rate_hz: float) -> None:
        assert self.stream is not None
        if rate_hz > 0:
            self._tf_timer = self.create_timer(
                1.0 / rate_hz, self.stream.authority.repeat, clock=self._steady
            )

    def _stop_tf_timer(self) -> None:
        if self._tf_timer is not None:
            self.destroy_timer(self._tf_timer)
            self._tf_timer = None

    def _deactivate(self) -> None:
        self._stop_tf_timer()
        stream = self.stream
        if stream is not None:
            stream.report.on_demand = lambda: None
        while self._active:
            self._active.pop()()
        if stream is not None and stream.running and not stream.stop():
            self.get_logger().error('the frame in work does not end; it is abandoned')

    # While it runs.

    def _publish_diagnostics(self) -> None:
        if self.stream is None or self._diagnostics is None:
            return
        twins, health = self._count_twins(), self.stream.node_health
        if twins > health.twins:
            name = self.get_fully_qualified_name()
            self.get_logger().error(f"another node named '{name}' has appeared: stop one of them")
        health.twins = twins
        self.stream.outputs.publish('diagnostics', self._diagnostics.message())

    def _on_clock_jump(self, jump: TimeJump) -> None:
        if self.stream is not None:
            self.stream.submit(self.stream.on_clock_jump)

    def _judge_parameters(self, changes: list[Parameter]) -> Any:
        try:
            config = self._config or read_config(self)
            changed_config(config, changes, is_configured=self._config is not None)
        except ConfigError as error:
            return refused(error)
        return accepted()

    def _take_parameters(self, changes: list[Parameter]) -> None:
        stream = self.stream
        if self._config is None or stream is None:
            return
        rate_hz = self._config.tf_publish_rate
        self._config = config = changed_config(self._config, changes, is_configured=True)
        stream.submit(lambda: stream.update_config(config))
        if config.tf_publish_rate != rate_hz and stream.running:
            self._stop_tf_timer()
            self._start_tf_timer(config.tf_publish_rate)
