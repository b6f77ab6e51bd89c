"""The worker thread: takes images from a mailbox and publishes poses. It owns the engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
import math
import queue
import threading
import time
import traceback
from typing import Any

from rclpy.clock import Clock
from sensor_msgs.msg import CompressedImage, Image

from ..core.config import R3Config
from ..core.datatypes import Frame
from ..core.errors import DeviceLostError, FrameError, R3Error, TransformError
from ..core.threads import Mailbox, RepeatingThread, thread_name
from ..input.frame_filter import Action, FrameFilter
from ..streaming.engine import Engine
from .frame_policies import FrameStepper, NoMemoryError, Readiness, Remedy
from .inputs.camera_input import CameraImage, CameraInput, Received
from .outputs.cloud_publisher import CloudPublisher
from .outputs.health import Health, NodeHealth, StepTimes, StreamState
from .outputs.messages import estimate_fields, stamp_ns_of
from .outputs.outputs import Outputs
from .pose_output import PoseOutput
from .session_control import SessionControl
from .stream_report import NodeSnapshot, StreamReport
from .tf.frame_tree import Base, TransformTree
from .tf.transforms import TransformAuthority

_SECOND_NS = 1_000_000_000
#: The longest sleep while waiting for an image, its calibration or a transform.
_IDLE_S = 0.1
#: A greater age of an image means that camera and node have different clocks.
CLOCKS_DIFFER_S = 10.0
_STOP_S = 2.0


class WorkerStuckError(R3Error):
    """The worker was stopped and still processes its last frame, so its engine is in use."""

    def __init__(self) -> None:
        super().__init__(
            'the node was deactivated, and its last frame is still being processed: try again '
            'when it is done, or end the process'
        )


@dataclass(eq=False)
class StreamWorker:
    """Runs the engine on images and publishes the results.

    Belongs to the worker thread, or to the executor while no worker runs, except:

    :ivar config: current parameters; replaced as a whole, so any thread may read them.
    :ivar mailbox: any thread.
    :ivar node_health: executor thread, and that of the inputs.
    :ivar odometry: external odometry, for ``scale.source`` odometry; any thread.
    """

    engine: Engine
    config: R3Config
    outputs: Outputs
    tree: TransformTree
    authority: TransformAuthority
    _image_topic: str
    _clock: Clock
    _logger: Any

    def __post_init__(self) -> None:
        engine, config, outputs = self.engine, self.config, self.outputs
        clock, logger = self._clock, self._logger
        self.health = health = Health()
        self.node_health, self.odometry = NodeHealth(), engine.odometry
        self.camera = CameraInput(
            config.input, config.camera_optical_frame, self._image_topic, clock, health, logger
        )
        self.mailbox: Mailbox[Received] = Mailbox(config.input.frames_waiting)
        self._frame_filter = FrameFilter(config.input)
        self._clouds = CloudPublisher(outputs, config, self._on_cloud_error, logger.info)
        self.pose_output = PoseOutput(config, outputs, self.authority, self._clouds)
        self.report = StreamReport(
            engine,
            health,
            self.pose_output,
            lambda: self._clouds.occupancy,
            outputs,
            self.mailbox,
            clock,
            logger,
        )
        self.control = SessionControl(
            engine,
            config,
            self._frame_filter,
            self.pose_output,
            self._clouds,
            self.tree,
            health,
            self.report,
            logger,
        )
        self._readiness = Readiness(config, self.camera, self.tree, self.pose_output)
        self._stepper = FrameStepper(engine, config.memory, health, self._clouds.drop_jobs, logger)
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        # Set by a CameraInfo, transform or command that a waiting image may need.
        self._wake_event = threading.Event()
        self._waiting: Received | None = None
        self._thread: RepeatingThread | None = None
        self.camera.on_change = self.tree.on_change = self._wake_event.set
        self.report.is_silent = lambda: self._is_abandoned
        self.control.is_active = lambda: self.running

    # Other threads may call these.

    @property
    def running(self) -> bool:
        return self._thread is not None and not self._thread.stopping

    @property
    def is_stuck(self) -> bool:
        """Return whether the worker was stopped and still processes its last frame."""
        return self._thread is not None and self._thread.stopping and self._thread.alive

    @property
    def snapshot(self) -> NodeSnapshot:
        return self.report.snapshot

    def receive(self, message: Image | CompressedImage) -> None:
        """Put an image into the mailbox (input thread)."""
        now_s = time.monotonic()
        self.node_health.note_image(now_s)
        self.mailbox.put(Received(message, now_s))

    def start(self) -> None:
        """Start the worker thread and the cloud thread (executor thread)."""
        assert not self.is_stuck
        self.node_health.active_since_s = time.monotonic()
        if self.health.state is StreamState.UNINITIALIZED:
            self.health.enter(StreamState.WAITING_INPUT)
        self._waiting = None
        self.report.publish_status()
        self._clouds.start()
        self._thread = RepeatingThread('worker', self._turn, self.fail)
        self._thread.start()

    def stop(self) -> bool:
        """Stop the worker after its frame (executor thread).

        :returns: False if it is stuck: it did not end within 2 s. It keeps the engine, and
            commands are refused until it ends.
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
        self._run_commands()
        return ended

    def close(self) -> None:
        """Close the engine; if the worker is stuck, as soon as it has ended."""
        if not self.is_stuck:
            self.engine.close()
            return
        threading.Thread(target=self._close_later, name=thread_name('closer'), daemon=True).start()

    def submit(self, command: Callable[[], Any]) -> Future[Any]:
        """Run a command in the worker thread, between two frames.

        While no worker runs, the command runs at once in the calling thread. While the worker is
        stuck, the future raises :class:`WorkerStuckError`.
        """
        future: Future[Any] = Future()
        self._commands.put((command, future))
        if self.running:
            self._wake()
        else:
            self._run_commands()
        return future

    def _wake(self) -> None:
        self._wake_event.set()
        self.mailbox.wake()

    def _close_later(self) -> None:
        assert self._thread is not None
        self._thread.join()
        try:
            self.engine.close()
        except Exception as error:  # the edge of the thread
            self._logger.error(f'cannot close the engine: {type(error).__name__}: {error}')

    # From here on: the worker thread, or the executor while no worker runs.

    def update_config(self, config: R3Config) -> None:
        """Apply changed live parameters."""
        self.config = config
        self.engine.update_config(config)
        self.camera.config = self._frame_filter.config = config.input
        self.control.config = self._readiness.config = config
        self._stepper.config = config.memory
        self.pose_output.update_config(config)

    def reset_on_request(self) -> str:
        """Start a new session, also from FAULT; return a message for the caller."""
        self._stepper.recent_s.clear()
        self.control.reset('on request')
        return f'session {self.engine.session.session_id} starts'

    def on_clock_jump(self) -> None:
        """Handle a node clock that jumped back, unless the image stamps jumped back before."""
        behind_ns = self.health.last_stamp_ns - self._clock.now().nanoseconds
        if behind_ns * 1e-9 < self.config.input.time_jump_threshold:
            return
        action = self.config.input.on_time_jump_back
        if action == 'reset':
            self.tree.clear()
            self.control.reset('the clock jumped back', keeps_robot=False)
        elif action == 'error':
            self.report.fault('the clock jumped back; call ~/reset to restart')

    def fail(self, error: Exception) -> None:
        """Enter FAULT after an unexpected exception; if the device is lost, for good."""
        if isinstance(error, DeviceLostError):
            self.health.device_lost = str(error)
            self.report.fault(f'{error}; the node deactivates itself, restart it')
            return
        text = ''.join(traceback.format_exception(error))
        self._logger.error(f'internal error, the stream stops until ~/reset:\n{text}')
        self.report.fault(f'internal error: {type(error).__name__}: {error}; call ~/reset')

    @property
    def _is_abandoned(self) -> bool:
        """Return whether the calling thread is a stopped worker, which must not publish."""
        return self._thread is not None and self._thread.is_current and self._thread.stopping

    def _turn(self) -> None:
        self._wake_event.clear()
        self._run_commands()
        received, self._waiting = self._waiting, None
        if received is None:
            received = self.mailbox.get(_IDLE_S)
            # Commands from before the image apply to it.
            self._run_commands()
        if received is not None:
            self._handle(received)
        if not self._is_abandoned:
            self.control.watch_search()
            self.authority.robot.look()
            # While relocalising, the session has nothing in the frame of the saved map.
            if not self.engine.is_relocalising:
                self.pose_output.offer_session(self.engine.session, self.health.last_stamp_ns)
        self.report.update_snapshot()

    def _run_commands(self) -> None:
        """Run the submitted commands; the snapshot is updated before the caller has the answer."""
        while not self._is_abandoned:
            try:
                command, future = self._commands.get_nowait()
            except queue.Empty:
                return
            try:
                if self.is_stuck and not self._is_abandoned:  # called by another thread
                    raise WorkerStuckError
                try:
                    answer = command()
                finally:
                    self.report.update_snapshot()
            except Exception as error:  # it belongs to the caller
                future.set_exception(error)
            else:
                future.set_result(answer)

    def _handle(self, received: Received) -> None:
        """Process an image, unless the state forbids it or a transform is missing."""
        if self.health.state is StreamState.PAUSED:
            self.health.frames_paused += 1
            self.authority.note_image(stamp_ns_of(received.message.header.stamp))
            return
        if self.health.state is StreamState.FAULT:
            self.health.reject(self.health.reason)
            return
        try:
            base = self._readiness.base_for(received)
        except TransformError as error:
            self.tree.health.fail_lookup(str(error))
            self.health.enter(StreamState.WAITING_TF, str(error))
            self.report.reject(str(error))
            return
        if base is None:
            self._waiting = received
            self._wake_event.wait(_IDLE_S)
            return
        try:
            self._process(received, base)
        except NoMemoryError as error:
            self._handle_no_memory(error)
        except (FrameError, TransformError) as error:
            self.report.reject(str(error))

    def _process(self, received: Received, base: Base) -> None:
        started_s = time.monotonic()
        camera = self.camera.optical_frame(received.message)
        decoded = self.camera.read(received.message)
        height, width = decoded.image.shape[:2]
        if reason := self._frame_filter.drop_other_camera(camera, width, height):
            self.report.reject(reason)
            return
        if base is not self.pose_output.base:
            self.control.set_camera(base, camera)
        if not self._is_admitted(decoded):
            return
        frame = self._calibrated(decoded)
        prepared_s = time.monotonic()
        estimate = self._stepper.step(frame, lambda: self._is_abandoned)
        stepped_s = time.monotonic()
        # The engine holds the frame from here on, so its image is kept, too.
        self.control.images.note(frame.image, estimate)
        if self._is_abandoned:
            self.pose_output.follow(estimate)
            self.health.reject('the node was deactivated before the frame was done')
            return
        self.health.last_stamp_ns = estimate.stamp_ns
        state, reason = self.pose_output.publish(estimate)
        waits_for = self.engine.session.scale.view().waits_for
        self.health.enter(state, '; '.join(filter(None, (reason, waits_for, decoded.note))))
        self.health.processed(estimate)
        latency_s = (self._clock.now().nanoseconds - decoded.stamp_ns) / _SECOND_NS
        times = StepTimes(
            time_wait=started_s - received.time_s,
            time_preprocess=prepared_s - started_s,
            time_inference=stepped_s - prepared_s,
            time_publish=time.monotonic() - stepped_s,
            latency=latency_s if 0 <= latency_s < CLOCKS_DIFFER_S else math.nan,
        )
        self.health.times.append(times)
        self.health.busy_s += time.monotonic() - started_s
        self.report.publish_status(**estimate_fields(estimate), **asdict(times))
        self.pose_output.offer_depths(estimate, self.engine.session)
        self.report.warn_of_overload()

    def _is_admitted(self, decoded: CameraImage) -> bool:
        """Return whether the frame filter takes an image, by its stamp and size."""
        height, width = decoded.image.shape[:2]
        now_ns = self._clock.now().nanoseconds
        self.health.input_age_s = (now_ns - decoded.stamp_ns) / _SECOND_NS
        verdict = self._frame_filter.admit(decoded.stamp_ns, width, height, now_ns)
        if verdict.action is Action.DROP:
            self.report.reject(verdict.reason)
            return False
        if verdict.action is Action.FAULT:
            self.health.reject(verdict.reason)
            self.report.fault(verdict.reason)
            return False
        if verdict.action is Action.RESET:
            if verdict.time_jumped:
                self.tree.clear()
            self.control.reset(verdict.reason, keeps_robot=not verdict.time_jumped)
            self._frame_filter.admit(decoded.stamp_ns, width, height, now_ns)
        return True

    def _calibrated(self, decoded: CameraImage) -> Frame:
        """Return the frame of an image; a late calibration begins a new session.

        :raises FrameError: the image does not fit the calibration.
        """
        reason, session = self.camera.choose_calibration(decoded), self.engine.session
        if reason and session.frame_count > session.first_frame:
            self.control.reset(reason)
            self._is_admitted(decoded)
        return self.camera.to_frame(decoded)

    def _handle_no_memory(self, error: NoMemoryError) -> None:
        reason, count = str(error), self.health.oom_count
        if error.remedy is Remedy.RESET:
            self._logger.error(f'{reason} (oom_count: {count}); a new session starts')
            self.control.reset(reason)
            self.report.reject(reason)
        else:
            self.health.reject(reason)
            self.report.fault(
                f'{reason} (oom_count: {count}); free memory of the device, then call ~/reset'
            )

    def _on_cloud_error(self, error: Exception) -> None:
        text = ''.join(traceback.format_exception(error))
        self._logger.error(f'a cloud or image was not published:\n{text}')
