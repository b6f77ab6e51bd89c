"""The stream: what the worker thread does with each picture. It alone owns the engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import math
from pathlib import Path
import queue
import time
import traceback
from typing import Any, TYPE_CHECKING

import numpy as np
from rclpy.clock import Clock

from ..config import R3Config
from ..datatypes import Estimate, Frame
from ..errors import DeviceLostError, DeviceMemoryError, FrameError, TransformError
from ..intake import Action, Intake
from ..maps.keyframe_images import KeyframeImages
from ..maps.saved_map import SavedMap
from ..runtime import Mailbox, Worker
from ..streaming.map_snapshot import take_map_snapshot
from .camera_input import CameraInput
from .conversions import Picture, Received
from .frame_tree import Base, TransformTree
from .graph_messages import GraphSnapshot
from .health import Health, StepTimes, StreamState
from .initial_pose import InitialPose
from .map_search import MapSearch, mounting
from .memory_policy import MemoryPolicy, Remedy
from .messages import (
    estimate_fields,
    memory_fields,
    scale_fields,
    stamp_ns_of,
    status_message,
    times_fields,
)
from .outputs import Outputs
from .placing import Placing
from .saving import SaveCode, SaveError, Snapshot
from .scenes import graph_snapshot, ScenePublisher
from .transforms import TransformAuthority

if TYPE_CHECKING:
    from ..streaming.engine import Engine

_SECOND_NS = 1_000_000_000
_IDLE_S = 0.1
#: How often a picture that waits for its calibration or transform is looked at again.
_WAIT_S = 0.02
#: A greater age means that camera and node have different clocks.
_CLOCKS_DIFFER_S = 10.0
_STOP_S = 2.0
_OVERLOAD_FRAMES = 100


class Stream:
    """Takes pictures from a mailbox, has the engine place them, and sends what follows."""

    def __init__(
        self,
        engine: Engine,
        config: R3Config,
        camera: CameraInput,
        outputs: Outputs,
        tree: TransformTree,
        authority: TransformAuthority,
        health: Health,
        clock: Clock,
        logger: Any,
    ) -> None:
        """Prepare; :meth:`start` runs the worker."""
        self.engine = engine
        self.config = config
        self.camera = camera
        self.outputs = outputs
        self.authority = authority
        self.health = health
        self.mailbox: Mailbox[Received] = Mailbox(
            config.input.frame_policy, config.input.queue_size
        )
        self.pictures = KeyframeImages()
        # While the camera is looked for in a map that was loaded.
        self._search: MapSearch | None = None
        #: The folder of the map that the session went on from.
        self.loaded_from: Path | None = None
        #: Where the world of that map lies in it.
        self._T_map_world: np.ndarray | None = None
        self.last_stamp_ns = 0
        #: Whether the camera is to be heard; ``on_wish`` is called when that may have changed.
        self.wants_pictures = True
        self.on_wish: Callable[[], None] = lambda: None
        self.tree = tree
        self._clock = clock
        self._logger = logger
        self._scenes = ScenePublisher(outputs, config, self._on_scene_error, logger.info)
        self.placing = Placing(config, outputs, authority, self._scenes)
        self._intake = Intake(config.input)
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._memory_policy = MemoryPolicy()
        self._worker: Worker | None = None
        self._left_behind: Worker | None = None
        self._waiting: Received | None = None
        self._state_before_pause = StreamState.WAITING_INPUT
        self._counts_at_first: tuple[int, int] | None = None
        self._told_overload = False

    # What other threads may call.

    @property
    def running(self) -> bool:
        """Tell whether the worker runs."""
        return self._worker is not None

    @property
    def occupancy_state(self) -> str:
        """Return what became of the last occupancy grid, in words."""
        return self._scenes.occupancy.state

    @property
    def is_stuck(self) -> bool:
        """Tell whether a worker that was stopped is still at its last frame."""
        return self._left_behind is not None and not self._left_behind.stop(timeout_s=0.0)

    def start(self) -> None:
        """Run the worker and the thread that builds clouds."""
        self.health.active_since_s = time.monotonic()
        if self.health.state is StreamState.UNINITIALIZED:
            self.health.enter(StreamState.WAITING_INPUT)
        self.publish_status()
        self._scenes.start()
        self._worker = Worker('r3_worker', self._run_once, self.fail)
        self._worker.start()

    def stop(self) -> bool:
        """End the worker after its frame; False if that takes longer than 2 s."""
        worker, self._worker = self._worker, None
        self.health.active_since_s = math.nan
        if worker is None:
            return True
        self.mailbox.wake()
        self.camera.info_came.set()
        ended = worker.stop(_STOP_S)
        self._left_behind = None if ended else worker
        self._scenes.stop(_STOP_S if ended else 0.0)
        self._waiting = None
        self.mailbox.clear()
        if ended:
            self._run_commands()
        return ended

    def submit(self, command: Callable[[], Any]) -> Future[Any]:
        """Have the engine's owner run a command between two frames.

        Without a running worker the caller is the owner, and the command runs at once.
        """
        future: Future[Any] = Future()
        self._commands.put((command, future))
        if self.running:
            self.mailbox.wake()
        else:
            self._run_commands()
        return future

    # From here on: the worker's thread only, or any thread while it does not run.

    def update_config(self, config: R3Config) -> None:
        """Take over live parameters."""
        self.config = config
        self.engine.update_config(config)
        self.camera.config = config.input
        self._intake.config = config.input
        self.placing.update_config(config)

    def reset(self, reason: str, keeps_place: bool = True) -> None:
        """Start a new session; the model stays loaded and the counters go on.

        :param keeps_place: a robot whose odometry is corrected stays where it is in map; not if
            time has jumped, which its odometry may have done as well.
        :raises DeviceLostError: the device is gone, so a new session would not help.
        """
        if self.health.device_lost:
            raise DeviceLostError(
                f'{self.health.device_lost}; clean the node up and configure it, or start it anew'
            )
        self._logger.info(f'new session: {reason}')
        self.engine.reset()
        self._put_map_away(f'a new session began: {reason}')
        self.engine.odometry.clear()
        self._scenes.session_id = self.engine.session.session_id
        self.placing.restart(self.last_stamp_ns, keeps_place)
        self._intake.reset()
        if self.health.state is not StreamState.PAUSED:
            active = not math.isnan(self.health.active_since_s)
            state = StreamState.WAITING_INPUT if active else StreamState.UNINITIALIZED
            self.health.enter(state, reason)
        self._state_before_pause = StreamState.WAITING_INPUT
        self.publish_status()
        self._hear(True)

    def load_map(self, saved: SavedMap, T_map_base: np.ndarray | None, path: Path) -> MapSearch:
        """Begin a session in a saved map, and look for the camera there.

        :param T_map_base: (4, 4) where the base is said to be; None: nobody knows.
        :param path: where the map comes from.
        :raises MapError: the map cannot be used; the session goes on.
        :raises R3Error: the model cannot hold it; a new session begins.
        """
        search = MapSearch(saved)
        near = None
        if T_map_base is not None:
            near = search.near(T_map_base, self._mounting(search))
        session = self.engine.session
        try:
            loaded = self.engine.load_map(saved, near)
        except Exception:
            if self.engine.session is not session:
                self.reset('the map could not be held')
            raise
        self._put_map_away('another map was loaded')
        self.pictures.restore(loaded.images)
        self._search, self._T_map_world = search, saved.facts.T_map_world
        self.loaded_from = path
        self.engine.odometry.clear()
        self._scenes.session_id = self.engine.session.session_id
        self.placing.restart(self.last_stamp_ns, False, self._T_map_world)
        self._intake.reset()
        if self.health.state is not StreamState.PAUSED:
            self.health.enter(StreamState.INITIALIZING, 'looking for the place in the loaded map')
        self._state_before_pause = StreamState.INITIALIZING
        self.publish_status()
        return search

    def view_map(self, saved: SavedMap) -> None:
        """Show a saved map in place of the session's own; the session goes on."""
        self._scenes.show(saved, self.last_stamp_ns)

    def _put_map_away(self, reason: str) -> None:
        """Forget the map that was loaded: its session is over."""
        self.pictures.clear()
        self._T_map_world = self.loaded_from = None
        if self._search is not None:
            self._search.end(reason)
            self._search = None

    def _mounting(self, search: MapSearch) -> np.ndarray:
        base = self.placing.base
        return mounting(search.facts, None if base is None else base.T_base_optical)

    def _watch_search(self) -> None:
        """Tell who waits that the camera is found, or give the search up when it takes long."""
        search, timeout_s = self._search, self.config.relocalise.timeout
        if search is None:
            return
        if not self.engine.is_relocalising:
            self._logger.info('the camera is found in the loaded map')
            search.end()
            self._search = None
        elif search.lasts_longer_than(timeout_s):
            reason = f'the camera was not found in the map within {timeout_s:g} s'
            if self.health.reason:
                reason += f' ({self.health.reason})'
            self._search = None
            try:
                self.reset('the camera was not found in the loaded map')
            finally:
                # Not before it is so: who asked may send pictures at once.
                search.end(f'{reason}; a new session begins without it')

    def reset_on_request(self) -> None:
        """Start a new session, out of FAULT as well."""
        self._memory_policy.forgive()
        self.reset('on request')

    def clear_map(self) -> None:
        """Drop the map's points and go on tracking."""
        self.engine.clear_map()
        self._scenes.clear(self.last_stamp_ns, path_too=False)

    def set_scale(self, metres_per_unit: float, lock: bool) -> str:
        """Say how long a map unit is; return what was done, in words.

        :raises ConfigError: it is no length, or one that was measured is locked.
        """
        self.engine.set_scale(metres_per_unit, lock)
        scale = self.engine.session.scale.view()
        self.placing.rescale(scale.metres_per_unit)
        self.publish_status()
        after = 'it stays' if scale.locked else 'later estimates pull it'
        return f'a map unit is {metres_per_unit:g} m; {after}'

    def on_initial_pose(self, given: InitialPose) -> None:
        """Move the map so that the base is where somebody says that it is.

        While the camera is looked for in a loaded map, look around there instead.
        """
        if self._search is not None and self.engine.is_relocalising:
            near = self._search.near_given(given, self._mounting(self._search))
            self.engine.narrow_search(near)
            self._logger.info(f'looking for the camera around the base at {given}')
            return
        if not self._has_been_placed:
            if self.placing.start_at(given):
                self._logger.info(f'the map will start with the base at {given}')
                return
        elif self.placing.move_map(given):
            self.engine.session.map_revision += 1
            self._logger.info(f'the map has moved, the base is at {given}')
            self.publish_status()
            return
        self._logger.error(
            'initialpose is refused: the camera is lost, so nobody knows which place in the map '
            'is meant. Bring it where it has been, or call ~/reset first'
        )

    @property
    def _has_been_placed(self) -> bool:
        return self.placing.chain is not None and self.placing.chain.last is not None

    def pause(self, pause: bool) -> str:
        """Ignore pictures, or take them again; return what was done, in words."""
        paused = self.health.state is StreamState.PAUSED
        if pause == paused:
            return 'already paused' if paused else 'not paused'
        if pause:
            self._state_before_pause = self.health.state
            self.health.enter(StreamState.PAUSED, 'paused on request')
        else:
            self.health.enter(self._state_before_pause, 'resumed')
        self.publish_status()
        return 'paused' if pause else 'resumed'

    def snapshot(self) -> Snapshot:
        """Return all that a save needs, cheap to take and safe to hand to another thread.

        :raises SaveError: there is nothing yet.
        """
        session = self.engine.session
        chain = self.placing.chain
        if chain is None or not session.frame_count:
            raise SaveError(SaveCode.EMPTY_MAP, 'no picture has been processed yet')
        chain = chain.frozen()
        chain.metres_per_unit = session.scale.metres_per_unit
        return Snapshot(
            config=self.config,
            chain=chain,
            base_frame=self.health.base_frame,
            optical_frame=self.health.optical_frame,
            map=take_map_snapshot(
                self.engine.session, self.engine.predictor, self.pictures.view()
            ),
        )

    def keyframe_graph(self) -> GraphSnapshot | None:
        """Return a snapshot of the keyframe graph; None before the first pose."""
        session, chain = self.engine.session, self.placing.chain
        scale = session.scale.view()
        if chain is None or not session.frame_count or scale.awaited:
            return None
        if self.engine.is_relocalising:
            return None
        chain = chain.frozen()
        chain.metres_per_unit = scale.metres_per_unit
        return graph_snapshot(session, chain, self.last_stamp_ns, self.config)

    def on_clock_jump(self) -> None:
        """Handle a node clock that was set back, unless the pictures have told already."""
        behind_ns = self.last_stamp_ns - self._clock.now().nanoseconds
        if behind_ns * 1e-9 < self.config.input.time_jump_threshold:
            return
        action = self.config.input.on_time_jump_back
        if action == 'reset':
            self.tree.clear()
            self.reset('the clock jumped back', keeps_place=False)
        elif action == 'error':
            self._fault('the clock jumped back; call ~/reset to start anew')

    def fail(self, error: Exception) -> None:
        """Stop on an error that nobody foresaw; a reset may help, unless the device is lost."""
        if isinstance(error, DeviceLostError):
            self.health.device_lost = str(error)
            self._fault(f'{error}; the node deactivates itself, start it anew')
            return
        text = ''.join(traceback.format_exception(error))
        self._logger.error(f'internal error, the stream stops until ~/reset:\n{text}')
        self._fault(f'internal error: {type(error).__name__}: {error}; call ~/reset')

    def publish_status(self, **fields: Any) -> None:
        """Publish the state and all counters as they are."""
        session = self.engine.session
        known: dict[str, Any] = {
            'session_id': session.session_id,
            'segment_id': session.segment_id,
            'map_revision': session.map_revision,
            'frame_index': session.frame_count - session.first_frame,
            'keyframes_in_bank': len(session.bank),
            'map_points': len(session.map),
            'frames_received': self.mailbox.received,
            'frames_dropped': self.mailbox.dropped,
            **scale_fields(session.scale.view()),
            **memory_fields(self.engine.predictor.device_memory()),
            **fields,
        }
        stamp_ns = self.last_stamp_ns or self._clock.now().nanoseconds
        message = status_message(stamp_ns, self.health.optical_frame, self.health, **known)
        self.outputs.publish('status', message)

    def _run_once(self) -> None:
        self._run_commands()
        received, self._waiting = self._waiting, None
        if received is None:
            received = self.mailbox.get(_IDLE_S)
            # What was asked for before the picture came holds for the picture.
            self._run_commands()
        if received is not None:
            self._handle(received)
        self._watch_search()
        self.authority.robot.look()
        if not self.engine.is_relocalising:
            # Until then there is nothing in the frame of the saved map.
            self.placing.offer_session(self.engine.session, self.last_stamp_ns)

    def _run_commands(self) -> None:
        while not self._commands.empty():
            command, future = self._commands.get()
            try:
                future.set_result(command())
            except Exception as error:  # it belongs to the one who asked
                future.set_exception(error)

    def _handle(self, received: Received) -> None:
        """Decide whether to look at the picture at all, and look."""
        message = received.message
        if self.health.state is StreamState.PAUSED:
            self.health.frames_paused += 1
            self.placing.seen(stamp_ns_of(message.header.stamp))
            return
        if self.health.state is StreamState.FAULT:
            self.health.reject(self.health.reason, 'fault')
            return
        try:
            if self._has_to_wait(received):
                self._waiting = received
                self.camera.info_came.wait(_WAIT_S)
                return
            self._process(received)
        except (FrameError, TransformError) as error:
            kind = 'no transform' if isinstance(error, TransformError) else 'unusable'
            self._reject(str(error), kind)

    def _has_to_wait(self, received: Received) -> bool:
        """Tell whether a calibration or a transform may still come for the first pictures.

        :raises TransformError: it has not come for too long; the picture cannot be placed.
        """
        if self.camera.waits_for_calibration():
            return True
        message = received.message
        frame = self.camera.optical_frame(message)
        base = self.placing.base
        if base is not None and frame == self.health.optical_frame:
            if not self.tree.is_outdated(base, frame):
                self._check_mount(base, frame)
                waited_s = time.monotonic() - received.time_s
                stamp_ns = stamp_ns_of(message.header.stamp)
                in_time = waited_s < self.config.tf_lookup_timeout
                return in_time and self.placing.waits_for_robot(stamp_ns)
        in_time = self.tree.age_s() < self.config.tf_lookup_timeout
        # Without a named base the camera itself serves, but a driver's frames may still come.
        if in_time and not self.config.base_frame and not self.tree.has_parent(frame):
            return True
        try:
            found = self.tree.find_base(frame)
        except TransformError as error:
            if in_time:
                return True
            self._wait_for_tf(error)
            raise
        self._take_base(found, frame)
        return False

    def _check_mount(self, base: Base, frame: str) -> None:
        try:
            self.tree.check_mount(base, frame)
        except TransformError as error:
            self._wait_for_tf(error)
            raise

    def _wait_for_tf(self, error: TransformError) -> None:
        self.health.fail_lookup(str(error))
        self.health.enter(StreamState.WAITING_TF, str(error))

    def _take_base(self, base: Base, optical_frame: str) -> None:
        """Start with a camera, or with another one: its pictures make a new world."""
        if self.placing.base is not None:
            another = optical_frame != self.health.optical_frame
            if another and self.config.input.on_resolution_change == 'reject':
                raise FrameError(
                    f"frame_id changed from '{self.health.optical_frame}' to '{optical_frame}'"
                )
            self.engine.reset()
            self._scenes.session_id = self.engine.session.session_id
            self._put_map_away('another camera came')
        self.placing.take_camera(base, optical_frame)
        self.placing.restart(self.last_stamp_ns, True, self._T_map_world)
        self.health.base_frame, self.health.optical_frame = base.frame, optical_frame
        self.health.tf_problem = ''
        self._logger.info(f"camera '{optical_frame}', base frame '{base.frame}'")

    def _process(self, received: Received) -> None:
        started_s = time.monotonic()
        picture = self.camera.read(received.message)
        if not self._admit(picture):
            return
        reason = self.camera.choose_calibration(picture)
        session = self.engine.session
        if reason and session.frame_count > session.first_frame:
            self.reset(reason)
            self._admit(picture)
        frame = self.camera.to_frame(picture)
        prepared_s = time.monotonic()
        estimate = self._step(frame)
        if estimate is None:
            return
        stepped_s = time.monotonic()
        self.last_stamp_ns = picture.stamp_ns
        self.pictures.note(frame.image, estimate)
        state, reason = self.placing.publish(estimate)
        waits_for = self.engine.session.scale.view().waits_for
        self.health.enter(state, '; '.join(filter(None, (reason, waits_for, picture.note))))
        self.health.processed(estimate)
        times = StepTimes(
            wait=started_s - received.time_s,
            preprocess=prepared_s - started_s,
            inference=stepped_s - prepared_s,
            publish=time.monotonic() - stepped_s,
            latency=self._latency_s(picture.stamp_ns),
        )
        self.health.times.append(times)
        self.health.busy_s += time.monotonic() - started_s
        self.publish_status(**estimate_fields(estimate), **times_fields(times))
        self.placing.offer_depths(estimate, self.engine.session)
        self._tell_overload()

    def _step(self, frame: Frame) -> Estimate | None:
        """Have the engine place a frame; None if the device has no memory for it.

        Host memory is no exception: CuPy tells of the device's in the same way.
        """
        count = self.engine.session.frame_count
        try:
            return self.engine.step(frame)
        except (DeviceMemoryError, MemoryError) as error:
            can_retry = isinstance(error, DeviceMemoryError)
            can_retry &= self.engine.session.frame_count == count
            remedy = self._take_memory_remedy(error, can_retry)
        return self._step(frame) if remedy is Remedy.SHRINK else None

    def _take_memory_remedy(self, error: Exception, can_retry: bool) -> Remedy:
        policy = self.config.memory.oom_policy
        remedy = self._memory_policy.remedy(policy, time.monotonic(), can_retry)
        self.health.oom_count = self._memory_policy.count
        reason = f'out of memory: {error}'.rstrip(': ')
        told = f'{reason} (oom_count: {self.health.oom_count})'
        if remedy is Remedy.SHRINK:
            try:
                self._scenes.drop_jobs()
                self.engine.shrink()
            except DeviceMemoryError as still:
                return self._take_memory_remedy(still, can_retry=False)
            self._logger.warning(
                f'{told}; the oldest quarter of the keyframes and half of the recent frames go, '
                'and the frame is tried again. Take a smaller memory.max_gpu_mib or '
                'model.image_size'
            )
        elif remedy is Remedy.RESET:
            self._logger.error(f'{told}; the session starts anew')
            self._scenes.drop_jobs()
            self.reset(reason)
            self._reject(reason, 'out of memory')
        else:
            self.health.reject(reason, 'out of memory')
            self._fault(f'{told}; free memory of the device, then call ~/reset')
        return remedy

    def _admit(self, picture: Picture) -> bool:
        """Judge a picture by stamp and size."""
        height, width = picture.image.shape[:2]
        now_ns = self._clock.now().nanoseconds
        self.health.input_age_s = (now_ns - picture.stamp_ns) / _SECOND_NS
        verdict = self._intake.admit(picture.stamp_ns, width, height, now_ns)
        if verdict.action is Action.DROP:
            self._reject(verdict.reason, verdict.reason.split(':')[0])
            return False
        if verdict.action is Action.FAULT:
            self.health.reject(verdict.reason, 'fault')
            self._fault(verdict.reason)
            return False
        if verdict.action is Action.RESET:
            if verdict.time_jumped:
                self.tree.clear()
            self.reset(verdict.reason, keeps_place=not verdict.time_jumped)
            self._intake.admit(picture.stamp_ns, width, height, now_ns)
        return True

    def _reject(self, reason: str, kind: str) -> None:
        self.health.reject(reason, kind)
        count = self.health.frames_rejected
        self._logger.warning(
            f'frame rejected: {reason} (frames_rejected: {count})', throttle_duration_sec=5.0
        )
        self.publish_status()

    def _fault(self, reason: str) -> None:
        self.health.enter(StreamState.FAULT, reason)
        self._logger.error(f'fault: {reason}')
        self.publish_status()
        self._hear(False)

    def _hear(self, wanted: bool) -> None:
        """Want the camera to be heard or not: in FAULT its pictures are only a burden."""
        self.wants_pictures = wanted
        self.on_wish()

    def _latency_s(self, stamp_ns: int) -> float:
        latency_s = (self._clock.now().nanoseconds - stamp_ns) / _SECOND_NS
        return latency_s if 0 <= latency_s < _CLOCKS_DIFFER_S else math.nan

    def _tell_overload(self) -> None:
        """Say once that pictures come faster than they can be processed."""
        now = (self.mailbox.received, self.mailbox.dropped)
        if self._counts_at_first is None:
            # Those dropped while the first one waited for its calibration tell nothing.
            self._counts_at_first = now
        received, dropped = (
            count - at for count, at in zip(now, self._counts_at_first, strict=True)
        )
        if not self._told_overload and received > _OVERLOAD_FRAMES and dropped > received / 2:
            self._told_overload = True
            self._logger.info(
                f'{dropped} of {received} pictures were dropped (frames_dropped) because they '
                'come faster than they are processed: lower the camera rate, input.max_rate or, '
                'of R3, model.image_size'
            )

    def _on_scene_error(self, error: Exception) -> None:
        text = ''.join(traceback.format_exception(error))
        self._logger.error(f'a cloud or picture was not published:\n{text}')
