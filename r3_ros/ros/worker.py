"""The worker: one thread takes images from a mailbox to poses. It alone owns the engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import math
import queue
import threading
import time
import traceback
from typing import Any, TYPE_CHECKING

from rclpy.clock import Clock
from sensor_msgs.msg import CompressedImage, Image

from ..core.config import R3Config
from ..core.datatypes import Estimate, Frame
from ..core.errors import DeviceLostError, FrameError, R3Error, TransformError
from ..core.threads import Mailbox, RepeatingThread, thread_name
from ..input.frame_filter import Action, FrameFilter
from .inputs.camera_input import CameraInput
from .inputs.conversions import CameraImage, Received
from .memory_policy import FrameStepper, NoMemoryError, Remedy
from .outputs.cloud_publisher import ScenePublisher
from .outputs.health import Health, NodeHealth, StepTimes, StreamState, TransformHealth
from .outputs.messages import estimate_fields, stamp_ns_of, times_fields
from .outputs.outputs import Outputs
from .pose_output import Placing
from .readiness import Readiness
from .session_control import KEPT, ORIGIN, SessionControl
from .stream_report import NodeSnapshot, StreamReport
from .tf.frame_tree import Base, TransformTree
from .tf.transforms import TransformAuthority

if TYPE_CHECKING:
    from ..streaming.engine import Engine

_SECOND_NS = 1_000_000_000
#: The longest sleep of a worker that waits for an image, or with one for what it needs.
_IDLE_S = 0.1
#: A greater age means that camera and node have different clocks.
_CLOCKS_DIFFER_S = 10.0
_STOP_S = 2.0


class WorkerStuckError(R3Error):
    """The worker was stopped and is still at its last frame, so nobody may touch its engine."""

    def __init__(self) -> None:
        super().__init__(
            'the node was deactivated, and its last frame is still being processed: try again '
            'when it is done, or end the process'
        )


class StreamWorker:
    """Has the engine process images, and hands what follows to the publishers.

    What is not marked otherwise belongs to the worker's thread, or to the executor's while the
    worker has ended.

    :ivar config: the parameters in force; replaced as a whole, so any thread may read them.
    :ivar mailbox: any thread.
    :ivar node_health: the executor's.
    :ivar transform_health: any thread.
    :ivar odometry: of the robot, for ``scale.source`` odometry; any thread.
    """

    def __init__(
        self,
        engine: Engine,
        config: R3Config,
        camera: CameraInput,
        outputs: Outputs,
        tree: TransformTree,
        authority: TransformAuthority,
        health: Health,
        transform_health: TransformHealth,
        clock: Clock,
        logger: Any,
    ) -> None:
        """Prepare; :meth:`start` runs the thread."""
        self.engine = engine
        self.config = config
        self.camera = camera
        self.outputs = outputs
        self.tree = tree
        self.authority = authority
        self.health = health
        self.node_health = NodeHealth()
        self.transform_health = transform_health
        self.odometry = engine.odometry
        self.mailbox: Mailbox[Received] = Mailbox(
            config.input.frame_policy, config.input.queue_size
        )
        self._clock = clock
        self._logger = logger
        self._frame_filter = FrameFilter(config.input)
        self._clouds = ScenePublisher(outputs, config, self._on_cloud_error, logger.info)
        self.placing = Placing(config, outputs, authority, self._clouds)
        self.report = StreamReport(
            engine,
            health,
            self.placing,
            lambda: self._clouds.occupancy.state,
            outputs,
            self.mailbox,
            clock,
            logger,
        )
        self.control = SessionControl(
            engine,
            config,
            self._frame_filter,
            self.placing,
            self._clouds,
            tree,
            health,
            transform_health,
            self.report,
            logger,
        )
        self._readiness = Readiness(config, camera, tree, self.placing)
        self._stepper = FrameStepper(engine, config.memory, health, self._clouds.drop_jobs, logger)
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        # Something has come that an image may have waited for.
        self._news = threading.Event()
        self._waiting: Received | None = None
        self._thread: RepeatingThread | None = None
        camera.on_change = tree.on_change = self._news.set
        self.report.is_silent = lambda: self._is_abandoned
        self.control.is_active = lambda: self.running

    # What other threads may call.

    @property
    def running(self) -> bool:
        """Return whether the worker runs and is to go on."""
        return self._thread is not None and not self._thread.stopping

    @property
    def is_stuck(self) -> bool:
        """Return whether a worker that was stopped is still at its last frame."""
        return self._thread is not None and self._thread.stopping and self._thread.alive

    @property
    def snapshot(self) -> NodeSnapshot:
        """Return what the worker left after its last turn or command."""
        return self.report.snapshot

    def receive(self, message: Image | CompressedImage) -> None:
        """Take an image from the camera (executor thread)."""
        self.node_health.received_rate.tick()
        self.node_health.last_received_s = time.monotonic()
        self.mailbox.put(Received.now(message))

    def start(self) -> None:
        """Run the worker and the thread that builds clouds (executor thread)."""
        assert not self.is_stuck, 'asked before'
        self.node_health.active_since_s = time.monotonic()
        if self.health.state is StreamState.UNINITIALIZED:
            self.health.enter(StreamState.WAITING_INPUT)
        self._waiting = None
        self.report.publish_status()
        self._clouds.start()
        self._thread = RepeatingThread('worker', self._turn, self.fail)
        self._thread.start()

    def stop(self) -> bool:
        """End the worker after its frame; False if that takes longer than 2 s (executor thread).

        A worker that does not end keeps the engine: commands are refused until it has ended.
        """
        thread = self._thread
        self.node_health.active_since_s = math.nan
        if thread is None:
            return True
        thread.stop(0.0)
        self._wake()
        ended = thread.stop(_STOP_S)
        self._clouds.stop(_STOP_S if ended else 0.0)
        self.mailbox.clear()
        self._settle_commands()
        return ended

    def close(self) -> None:
        """Close the engine; one that a stuck worker is in, as soon as that worker has ended."""
        if not self.is_stuck:
            self.engine.close()
            return
        closer = threading.Thread(
            target=self._close_later, name=thread_name('closer'), daemon=True
        )
        closer.start()

    def submit(self, command: Callable[[], Any]) -> Future[Any]:
        """Have the engine's owner run a command between two frames.

        Without a worker the caller is the owner, and the command runs at once. While one is
        stuck, the answer is :class:`WorkerStuckError`.
        """
        future: Future[Any] = Future()
        self._commands.put((command, future))
        if self.running:
            self._wake()
        else:
            self._settle_commands()
        return future

    def _wake(self) -> None:
        self._news.set()
        self.mailbox.wake()

    def _settle_commands(self) -> None:
        """Run the commands in the place of a worker that has ended; refuse them if it is stuck."""
        self._run_commands(lambda: self.is_stuck)

    def _close_later(self) -> None:
        assert self._thread is not None
        self._thread.join()
        try:
            self.engine.close()
        except Exception as error:  # the edge of the thread
            self._logger.error(f'cannot close the engine: {type(error).__name__}: {error}')

    # From here on: the worker's thread, or the executor's while the worker has ended.

    def update_config(self, config: R3Config) -> None:
        """Take over live parameters."""
        self.config = config
        self.engine.update_config(config)
        self.camera.config = self._frame_filter.config = config.input
        self.control.config = self._readiness.config = config
        self._stepper.config = config.memory
        self.placing.update_config(config)

    def reset_on_request(self) -> str:
        """Start a new session, out of FAULT as well; return what was done, in words."""
        self._stepper.policy.forgive()
        return self.control.reset_on_request()

    def on_clock_jump(self) -> None:
        """Handle a node clock that was set back, unless the images have shown it already."""
        behind_ns = self.health.last_stamp_ns - self._clock.now().nanoseconds
        if behind_ns * 1e-9 < self.config.input.time_jump_threshold:
            return
        action = self.config.input.on_time_jump_back
        if action == 'reset':
            self.tree.clear()
            self.control.reset('the clock jumped back', ORIGIN)
        elif action == 'error':
            self.report.fault('the clock jumped back; call ~/reset to start anew')

    def fail(self, error: Exception) -> None:
        """Stop on an error that nobody foresaw; a reset may help, unless the device is lost."""
        if isinstance(error, DeviceLostError):
            self.health.device_lost = str(error)
            self.report.fault(f'{error}; the node deactivates itself, start it anew')
            return
        text = ''.join(traceback.format_exception(error))
        self._logger.error(f'internal error, the stream stops until ~/reset:\n{text}')
        self.report.fault(f'internal error: {type(error).__name__}: {error}; call ~/reset')

    @property
    def _is_abandoned(self) -> bool:
        """Return whether this is a worker that nobody waits for: nothing may leave it any more."""
        return self._thread is not None and self._thread.is_current and self._thread.stopping

    def _turn(self) -> None:
        self._news.clear()
        self._run_commands(lambda: False)
        received = self._next_image()
        if received is not None:
            self._handle(received)
        if not self._is_abandoned:
            self._tend()
        self.report.leave_snapshot()

    def _next_image(self) -> Received | None:
        received, self._waiting = self._waiting, None
        if received is None:
            received = self.mailbox.get(_IDLE_S)
            # What was asked for before the image came holds for the image.
            self._run_commands(lambda: False)
        return received

    def _tend(self) -> None:
        """Do what is due with or without an image."""
        self.control.watch_search()
        self.authority.robot.look()
        if not self.engine.is_relocalising:
            # Until then there is nothing in the frame of the saved map.
            self.placing.offer_session(self.engine.session, self.health.last_stamp_ns)

    def _run_commands(self, refuses: Callable[[], bool]) -> None:
        """Run what was submitted; whoever gets an answer finds the snapshot up to date."""
        while not self._is_abandoned:
            try:
                command, future = self._commands.get_nowait()
            except queue.Empty:
                return
            try:
                if refuses():
                    raise WorkerStuckError
                try:
                    answer = command()
                finally:
                    self.report.leave_snapshot()
            except Exception as error:  # it belongs to the caller
                future.set_exception(error)
            else:
                future.set_result(answer)

    def _handle(self, received: Received) -> None:
        """Decide whether to look at the image at all, and look."""
        if self.health.state is StreamState.PAUSED:
            self.health.frames_paused += 1
            self.placing.seen(stamp_ns_of(received.message.header.stamp))
            return
        if self.health.state is StreamState.FAULT:
            self.health.reject(self.health.reason, 'fault')
            return
        try:
            base = self._readiness.base_for(received)
        except TransformError as error:
            self.transform_health.fail_lookup(str(error))
            self.health.enter(StreamState.WAITING_TF, str(error))
            self.report.reject(str(error), 'no transform')
            return
        if base is None:
            self._waiting = received
            self._news.wait(_IDLE_S)
            return
        try:
            self._process(received, base)
        except FrameError as error:
            self.report.reject(str(error), 'unusable')

    def _process(self, received: Received, base: Base) -> None:
        started_s = time.monotonic()
        if base is not self.placing.base:
            self.control.take_camera(base, self.camera.optical_frame(received.message))
        picture = self.camera.read(received.message)
        if not self._is_admitted(picture):
            return
        frame = self._calibrated(picture)
        prepared_s = time.monotonic()
        estimate = self._estimate(frame)
        if estimate is None:
            return
        stepped_s = time.monotonic()
        self._publish_pose(estimate, picture.note)
        times = StepTimes(
            wait=started_s - received.time_s,
            preprocess=prepared_s - started_s,
            inference=stepped_s - prepared_s,
            publish=time.monotonic() - stepped_s,
            latency=self._latency_s(picture.stamp_ns),
        )
        self.health.times.append(times)
        self.health.busy_s += time.monotonic() - started_s
        self.report.publish_status(**estimate_fields(estimate), **times_fields(times))
        self.placing.offer_depths(estimate, self.engine.session)
        self.report.warn_of_overload()

    def _is_admitted(self, picture: CameraImage) -> bool:
        """Return whether the frame filter takes an image, by its stamp and size."""
        height, width = picture.image.shape[:2]
        now_ns = self._clock.now().nanoseconds
        self.health.input_age_s = (now_ns - picture.stamp_ns) / _SECOND_NS
        verdict = self._frame_filter.admit(picture.stamp_ns, width, height, now_ns)
        if verdict.action is Action.DROP:
            self.report.reject(verdict.reason, verdict.reason.split(':')[0])
            return False
        if verdict.action is Action.FAULT:
            self.health.reject(verdict.reason, 'fault')
            self.report.fault(verdict.reason)
            return False
        if verdict.action is Action.RESET:
            if verdict.time_jumped:
                self.tree.clear()
            self.control.reset(verdict.reason, ORIGIN if verdict.time_jumped else KEPT)
            self._frame_filter.admit(picture.stamp_ns, width, height, now_ns)
        return True

    def _calibrated(self, picture: CameraImage) -> Frame:
        """Return the frame of an image; a calibration that has come late begins a new session.

        :raises FrameError: the image does not fit the calibration.
        """
        reason, session = self.camera.choose_calibration(picture), self.engine.session
        if reason and session.frame_count > session.first_frame:
            self.control.reset(reason)
            self._is_admitted(picture)
        return self.camera.to_frame(picture)

    def _estimate(self, frame: Frame) -> Estimate | None:
        """Return what the engine says of a frame; None if there is nothing to publish."""
        try:
            estimate = self._stepper.step(frame, lambda: self._is_abandoned)
        except NoMemoryError as error:
            self._end_for_want_of_memory(error)
            return None
        # The engine holds the frame from here on, so its image is kept as well.
        self.control.images.note(frame.image, estimate)
        if self._is_abandoned:
            self.health.reject('the node was deactivated before the frame was done', 'deactivated')
            return None
        return estimate

    def _end_for_want_of_memory(self, error: NoMemoryError) -> None:
        reason, count = str(error), self.health.oom_count
        if error.remedy is Remedy.RESET:
            self._logger.error(f'{reason} (oom_count: {count}); the session starts anew')
            self.control.reset(reason)
            self.report.reject(reason, 'out of memory')
        else:
            self.health.reject(reason, 'out of memory')
            self.report.fault(
                f'{reason} (oom_count: {count}); free memory of the device, then call ~/reset'
            )

    def _publish_pose(self, estimate: Estimate, note: str) -> None:
        self.health.last_stamp_ns = estimate.stamp_ns
        state, reason = self.placing.publish(estimate)
        waits_for = self.engine.session.scale.view().waits_for
        self.health.enter(state, '; '.join(filter(None, (reason, waits_for, note))))
        self.health.processed(estimate)

    def _latency_s(self, stamp_ns: int) -> float:
        latency_s = (self._clock.now().nanoseconds - stamp_ns) / _SECOND_NS
        return latency_s if 0 <= latency_s < _CLOCKS_DIFFER_S else math.nan

    def _on_cloud_error(self, error: Exception) -> None:
        text = ''.join(traceback.format_exception(error))
        self._logger.error(f'a cloud or picture was not published:\n{text}')
