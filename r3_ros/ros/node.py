"""The lifecycle node. It only creates and connects the objects of the modules beside it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
import re
import traceback
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from ..core.config import R3Config
from ..core.errors import ConfigError, R3Error
from ..factory import load_engine
from .inputs.input_thread import InputThread
from .inputs.subscriptions import CameraTopics, image_topic_name, subscribe_odometry
from .node_parameters import (
    changed_config,
    declare_parameters,
    PARAMETER_NAMES,
    read_config,
    require_qos,
    unknown_parameters,
)
from .outputs.diagnostics import Diagnostics
from .outputs.outputs import Outputs
from .services.services import Services
from .tf.frame_tree import TransformTree
from .tf.initial_pose import InitialPose, subscribe_initial_pose
from .tf.transforms import corrects_robot, TransformAuthority
from .worker import StreamWorker, WorkerStuckError

#: Exit status of a process that could not release its device or memory.
UNCLEAN = 3
#: Warnings, by ``scale.require_metric_for_tf``.
_NO_METRIC_SCALE = {
    True: 'it waits for ~/set_scale. Set scale.source to estimate the scale',
    False: 'it uses map units as metres, which is wrong unless the scale happens to be 1',
}
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]
#: Raised by rclpy for errors of the layers below: security, middleware, names.
RCLError = rclpy_implementation.RCLError


def one_line(error: BaseException) -> str:
    """Return the text of an error of rcl without line breaks and locations in its sources."""
    text = ' '.join(str(error).split())
    return re.sub(r',? at [^\s,]+\.(?:c|cpp|h|hpp):\d+', '', text)


def _logged(transition: Transition) -> Transition:
    """Log unexpected exceptions of a transition: rclpy returns ERROR for them without a log."""

    @wraps(transition)
    def logged(self: R3StreamNode, state: LifecycleState) -> TransitionCallbackReturn:
        name = transition.__name__.removeprefix('on_')
        try:
            return transition(self, state)
        except Exception as error:
            text = f'internal error:\n{"".join(traceback.format_exception(error))}'
            if isinstance(error, RCLError):
                text = f'ROS error: {one_line(error)}'
            self.get_logger().error(f'cannot {name}: {text}')
            raise

    return logged


class R3StreamNode(LifecycleNode):
    """One camera stream in; poses, depth and maps out.

    :param engine_loader: creates the engine from the configuration; tests replace it.
    :ivar exit_status: not 0 if the process has to end because something could not be cleaned up.
    :ivar cancel_saves: aborts running saves, also after the node was closed.
    :ivar saves_at_the_end: the map is being saved because the node ends.
    :raises ConfigError: a parameter has a value that is not allowed.
    """

    def __init__(
        self,
        node_name: str = 'r3',
        *,
        engine_loader: Callable[[R3Config], Any] = load_engine,
        **options: Any,
    ) -> None:
        super().__init__(node_name, **options)
        self._load_engine = engine_loader
        self.worker: StreamWorker | None = None
        self.exit_status = 0
        self.cancel_saves: Callable[[], None] = lambda: None
        self.saves_at_the_end = False
        self._own_services: Services | None = None
        self._config: R3Config | None = None
        self._closers: list[Callable[[], Any]] = []
        self._active: list[Callable[[], Any]] = []
        self._diagnostics: Diagnostics | None = None
        self._inputs: InputThread | None = None
        self._tf_timer: Timer | None = None
        self._demand: GuardCondition | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        try:
            declare_parameters(self)
            require_qos(self)
        except ConfigError:
            self.destroy_node()
            raise
        for line in unknown_parameters(self):
            self.get_logger().warning(line)
        self.add_on_set_parameters_callback(self._validate_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)

    # Lifecycle.

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create everything except the camera subscriptions."""
        try:
            config = read_config(self)
            # Two nodes with one name share topics and services, so their poses would mix.
            if self._count_duplicates():
                raise ConfigError(
                    f"a node named '{self.get_fully_qualified_name()}' already runs: stop it, or "
                    'start this one under another name (--ros-args -r __node:=NAME) or namespace '
                    '(-r __ns:=/NAME)'
                )
            self._set_up(config, self._load_engine(config))
        except (R3Error, ImportError, MemoryError) as error:
            self.get_logger().error(f'cannot configure: {error}')
            self._tear_down()
            return FAILURE
        return SUCCESS

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        worker, config, inputs = self.worker, self._config, self._inputs
        assert worker is not None and config is not None and inputs is not None
        if worker.is_stuck:
            self.get_logger().error('cannot activate: the last frame is still being processed')
            return FAILURE
        health = worker.snapshot.health
        if health.device_lost:
            self.get_logger().error(f'cannot activate: {health.device_lost}')
            return FAILURE
        if worker.config != config:
            # Changed while the worker was stuck, so not applied yet.
            worker.update_config(config)
        topics = CameraTopics(
            self,
            inputs,
            config.input,
            worker.node_health,
            worker.receive,
            worker.camera.on_camera_info,
        )
        self._active.append(topics.close)
        # Before the worker starts: it reports a lost device once.
        self._demand = self.create_guard_condition(lambda: self._follow_worker(topics))
        worker.report.on_demand = self._demand.trigger
        worker.start()
        self._follow_worker(topics)
        if config.scale.source == 'odometry':
            odometry = subscribe_odometry(
                self, inputs, worker.odometry, lambda: worker.snapshot.base
            )
            self._active.append(lambda: inputs.destroy_subscription(odometry))

        def on_initial_pose(given: InitialPose) -> None:
            self._submit(lambda: worker.control.on_initial_pose(given))

        poses = subscribe_initial_pose(
            self, config, worker.tree, worker.authority, on_initial_pose
        )
        self._active.append(lambda: self.destroy_subscription(poses))
        self._set_tf_timer(config.tf_publish_rate)
        if worker.snapshot.wants_images:
            self.get_logger().info(f"active, waits for images on '{topics.image}'")
        else:
            self.get_logger().error(f'active, but {health.reason}')
        return super().on_activate(state)

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing images; model, bank and map stay."""
        self._deactivate()
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self._tear_down()
        return SUCCESS

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save the map if ``map.save_on_shutdown`` is set, then release everything."""
        self._tear_down(saves=True)
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that the node can be configured again."""
        self._tear_down()
        return SUCCESS

    def autostart(self) -> bool:
        """Configure and activate; return whether both succeeded."""
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    def close(self) -> None:
        """Do the same as :meth:`on_shutdown`; call it before the node is destroyed."""
        self._tear_down(saves=True)

    # Configure.

    def _count_duplicates(self) -> int:
        own = (self.get_name(), self.get_namespace())
        return max(self.get_node_names_and_namespaces().count(own) - 1, 0)

    def _set_up(self, config: R3Config, engine: Any) -> None:
        logger, clock = self.get_logger(), self.get_clock()
        # A worker owns the engine; without one it is closed directly.
        self._closers.append(lambda: (self.worker or engine).close())
        outputs = Outputs(self, config.occupancy.enabled)
        self._closers.append(outputs.close)
        self._inputs = inputs = InputThread(self)
        self._closers.append(inputs.close)
        tree = TransformTree(self, inputs, config)
        self._closers.append(tree.close)
        authority = TransformAuthority(self, config, tree)
        self._closers.append(authority.close)
        image_topic = image_topic_name(self, config.input)
        self.worker = worker = StreamWorker(
            engine, config, outputs, tree, authority, image_topic, clock, logger
        )
        self._config = config
        services = Services(self, worker)
        self._closers.append(services.close)
        self._own_services, self.cancel_saves = services, services.cancel_saves
        self._diagnostics = Diagnostics(worker, clock)
        timer = self.create_timer(
            config.diagnostics.period, self._publish_diagnostics, clock=self._steady
        )
        self._closers.append(lambda: self.destroy_timer(timer))
        back = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
        )
        jump = clock.create_jump_callback(
            back, post_callback=lambda _: self._submit(worker.on_clock_jump)
        )
        self._closers.append(jump.unregister)
        if corrects_robot(config) and config.scale.source == 'none':
            logger.warning(
                'map -> odom corrects odometry in metres, and scale.source is none: '
                + _NO_METRIC_SCALE[config.scale.require_metric_for_tf]
            )
        info = worker.snapshot.stream.model
        logger.info(f"configured with model '{info.name}' on {info.device} in {info.precision}")
        for note in info.notes:
            logger.info(f'weights: {note}')

    def _tear_down(self, saves: bool = False) -> None:
        self._deactivate()
        stuck = self.worker is not None and self.worker.is_stuck
        services, self._own_services = self._own_services, None
        if saves and services is not None and not stuck:
            # The snapshot has to be taken before the engine is closed.
            self.saves_at_the_end = services.save_at_the_end()
        for close in reversed(self._closers):
            try:
                close()
            except Exception as error:  # the others must be closed all the same
                self.get_logger().fatal(
                    f'cannot clean up: {type(error).__name__}: {error}; the process has to end'
                )
                self.exit_status = UNCLEAN
        self._closers.clear()
        self.worker = self._config = self._diagnostics = self._inputs = None

    # Activate.

    def _follow_worker(self, topics: CameraTopics) -> None:
        """Carry out, on the executor, what the worker requests by its snapshot."""
        worker = self.worker
        if worker is None or not worker.running:
            return
        if worker.snapshot.health.device_lost:
            self.trigger_deactivate()
        elif not worker.snapshot.wants_images:
            topics.close()
        elif not topics.is_open:
            topics.open(self._steady)

    def _set_tf_timer(self, rate_hz: float) -> None:
        """Replace the timer that repeats ``map -> odom``; 0 for none."""
        inputs = self._inputs
        if inputs is None:
            return
        if self._tf_timer is not None:
            inputs.destroy_timer(self._tf_timer)
            self._tf_timer = None
        if rate_hz > 0 and self.worker is not None:
            repeat, period_s = self.worker.authority.repeat, 1.0 / rate_hz
            # Where images come faster than the timer, it has little to add.
            self._tf_timer = inputs.create_timer(
                period_s, lambda: repeat(after_s=period_s / 2), self._steady
            )

    def _deactivate(self) -> None:
        self._set_tf_timer(0.0)
        worker = self.worker
        if worker is not None:
            worker.report.on_demand = lambda: None
        while self._active:
            self._active.pop()()
        if worker is not None and worker.running and not worker.stop():
            self.get_logger().error('the current frame does not finish; it is abandoned')
        if self._demand is not None:
            # Not before: the worker triggers it.
            self.destroy_guard_condition(self._demand)
            self._demand = None

    def _submit(self, command: Callable[[], Any]) -> None:
        """Run a command that no caller waits for in the worker, and log its error."""

        def log(future: Future[Any]) -> None:
            error = future.exception()
            if error is not None and not isinstance(error, WorkerStuckError):
                self.get_logger().error(f'{type(error).__name__}: {error}')

        if self.worker is not None:
            self.worker.submit(command).add_done_callback(log)

    # While it runs.

    def _publish_diagnostics(self) -> None:
        if self.worker is None or self._diagnostics is None:
            return
        duplicates, health = self._count_duplicates(), self.worker.node_health
        if duplicates > health.duplicates:
            name = self.get_fully_qualified_name()
            self.get_logger().error(f"another node named '{name}' has started: stop one of them")
        health.duplicates = duplicates
        self.worker.outputs.publish('diagnostics', self._diagnostics.message())

    def _validate_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        # rclpy also asks for each QoS parameter of each publisher that it creates.
        if PARAMETER_NAMES.isdisjoint(change.name for change in changes):
            return SetParametersResult(successful=True)
        try:
            config = self._config or read_config(self)
            changed_config(config, changes, is_configured=self._config is not None)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, changes: list[Parameter]) -> None:
        worker, before = self.worker, self._config
        if before is None or worker is None:
            return
        self._config = config = changed_config(before, changes, is_configured=True)
        if config is not before:
            self._submit(lambda: worker.update_config(config))
        if config.tf_publish_rate != before.tf_publish_rate and worker.running:
            self._set_tf_timer(config.tf_publish_rate)
