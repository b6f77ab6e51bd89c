"""The services. Their commands run in the worker between two frames.

No handler blocks the executor: each is a coroutine that awaits the worker or the thread that reads
or writes files.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
import functools
import math
import os
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np
from r3_ros.srv import GetKeyframeGraph, LoadMap, SaveMap, SaveTrajectory, SetScale
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future as RosFuture
from std_srvs.srv import SetBool, Trigger

from ...core.config import R3Config
from ...core.errors import MapError, R3Error, TransformError
from ...core.threads import thread_name
from ...maps.reading import read_map
from ..outputs.health import StreamState
from ..tf.initial_pose import checked_pose
from ..worker import StreamWorker
from .saving import (
    save_map,
    save_trajectory,
    Saved,
    ServiceCode,
    ServiceError,
    Snapshot,
    target_path,
    TRAJECTORY_FORMATS,
)

SAVE_TIMEOUT_S = 60.0
#: Name of the thread that saves files.
WRITER = 'writer'
#: The worker answers between two frames; only a stuck one takes so long.
_WORKER_TIMEOUT_S = 30.0


class Services:
    """All services of a configured node, also while it is inactive."""

    def __init__(self, node: Node, worker: StreamWorker) -> None:
        self._node = node
        self._worker = worker
        # A waiting handler keeps its group busy; images must be received meanwhile.
        group = ReentrantCallbackGroup()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=thread_name(WRITER))
        # A separate thread, so a save to a slow disk does not delay reading.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix=thread_name('reader'))
        self._closed = False
        # One event per running save, set to cancel it.
        self._running: set[threading.Event] = set()
        self._last_save: Future[None] | None = None
        self._timers: set[threading.Timer] = set()
        handlers: list[tuple[Any, str, Callable[[Any, Any], Awaitable[str]]]] = [
            (Trigger, '~/reset', self._reset),
            (Trigger, '~/clear_map', self._clear_map),
            (SetBool, '~/pause', self._pause),
            (SetScale, '~/set_scale', self._set_scale),
            (SaveMap, '~/save_map', self._save_map),
            (LoadMap, '~/load_map', self._load_map),
            (SaveTrajectory, '~/save_trajectory', self._save_trajectory),
        ]
        graph = (GetKeyframeGraph, '~/get_keyframe_graph', self._get_keyframe_graph)
        self._services = [node.create_service(*graph, callback_group=group)]
        for kind, name, handler in handlers:
            respond = functools.partial(self._respond, handler)
            self._services.append(node.create_service(kind, name, respond, callback_group=group))

    def cancel_saves(self) -> None:
        """Cancel running saves; their files are removed."""
        for cancelled in list(self._running):
            cancelled.set()

    def close(self) -> None:
        """Destroy the services; a running save is completed."""
        self._closed = True
        for timer in self._timers.copy():
            timer.cancel()
        for service in self._services:
            self._node.destroy_service(service)
        # The save at the end may be queued behind another one.
        self._writer.shutdown(wait=False, cancel_futures=self._last_save is None)
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _respond(
        self, handler: Callable[[Any, Any], Awaitable[str]], request: Any, response: Any
    ) -> Any:
        """Fill in the response: the message that the handler returns, or its error."""
        code = ServiceCode.OK
        try:
            response.message = await handler(request, response)
        except ServiceError as error:
            code, response.message = error.code, str(error)
        except MapError as error:
            code, response.message = ServiceCode[error.problem.name], str(error)
        except R3Error as error:
            code, response.message = ServiceCode.INTERNAL, str(error)
        except Exception as error:  # must not end the executor
            code = ServiceCode.INTERNAL
            response.message = f'internal error: {type(error).__name__}: {error}'
            self._node.get_logger().error(f'service failed: {response.message}')
        response.success = code is ServiceCode.OK
        if code and hasattr(response, 'code'):
            response.code = int(getattr(type(response), code.name, ServiceCode.INTERNAL))
        if isinstance(response, SaveMap.Response | SaveTrajectory.Response):
            health = self._worker.node_health
            health.save_failed, health.last_save = not response.success, response.message
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Awaitable[str]:
        return self._answer(self._worker.submit(self._worker.reset_on_request))

    def _clear_map(self, request: Trigger.Request, response: Trigger.Response) -> Awaitable[str]:
        if not self._worker.config.map.enabled:
            raise R3Error('there is no map: map.enabled is false')
        return self._answer(self._worker.submit(self._worker.control.clear_map))

    def _pause(self, request: SetBool.Request, response: SetBool.Response) -> Awaitable[str]:
        if not self._worker.running:
            raise R3Error('the node is not active')
        return self._answer(self._worker.submit(lambda: self._worker.control.pause(request.data)))

    def _set_scale(self, request: SetScale.Request, response: SetScale.Response) -> Awaitable[str]:
        control, before = self._worker.control, self._worker.snapshot.stream.scale.metres_per_unit
        response.previous_scale = math.nan if before is None else before
        return self._answer(
            self._worker.submit(lambda: control.set_scale(request.scale, request.lock))
        )

    async def _get_keyframe_graph(
        self, request: GetKeyframeGraph.Request, response: GetKeyframeGraph.Response
    ) -> GetKeyframeGraph.Response:
        worker = self._worker
        try:
            build = await self._answer(worker.submit(worker.control.keyframe_graph))
            response.graph = await self._answer(self._reader.submit(build))
        except Exception as error:  # must not end the executor
            self._node.get_logger().error(f'service failed: {type(error).__name__}: {error}')
        return response

    async def _save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> str:
        def write(snapshot: Snapshot, cancelled: threading.Event) -> Saved:
            path = target_path(request.name, snapshot.config.map.directory, 'map')
            formats, images = list(request.formats), request.include_images
            return save_map(path, snapshot, formats, images, request.overwrite, cancelled)

        saved = await self._save(write, response)
        response.points = saved.points
        holds = f'{saved.path}: {saved.points} points, {saved.poses} poses'
        if request.include_images:
            return holds
        return f'{holds}; without images (include_images), so it cannot be used to relocalise'

    async def _save_trajectory(
        self, request: SaveTrajectory.Request, response: SaveTrajectory.Response
    ) -> str:
        kind = request.format or TRAJECTORY_FORMATS[0]

        def write(snapshot: Snapshot, cancelled: threading.Event) -> Saved:
            path = target_path(request.name, snapshot.config.map.directory, 'trajectory')
            if not request.name and kind in TRAJECTORY_FORMATS:
                path = path.with_suffix(f'.{kind}')
            frame, keyframes_only = request.frame or 'base', request.keyframes_only
            return save_trajectory(
                path, snapshot, kind, frame, keyframes_only, request.overwrite, cancelled
            )

        saved = await self._save(write, response)
        response.poses = saved.poses
        return f'{saved.path}: {saved.poses} poses'

    async def _save(
        self, write: Callable[[Snapshot, threading.Event], Saved], response: Any
    ) -> Saved:
        """Take a snapshot in the worker, and write it in the writer."""
        snapshot = await self._answer(self._worker.submit(self._worker.control.map_snapshot))
        cancelled = threading.Event()
        job = self._writer.submit(write, snapshot, cancelled)
        self._running.add(cancelled)
        job.add_done_callback(lambda _: self._running.discard(cancelled))
        try:
            saved: Saved = await self._answer(job, SAVE_TIMEOUT_S)
        except ServiceError:
            cancelled.set()
            raise
        response.path, response.keyframes = str(saved.path), saved.keyframes
        response.bytes = saved.bytes
        return saved

    async def _load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> str:
        """Load a map, and wait until the camera is found in it."""
        worker = self._worker
        T_map_base = _initial_pose(request)
        path = _map_path(request.name, worker.config)
        read = self._reader.submit(read_map, path, with_images=request.localize)
        saved = await self._answer(read, SAVE_TIMEOUT_S)
        response.points, response.keyframes = len(saved.points), len(saved.keyframes)
        holds = f'{path}: {len(saved.points)} points, {len(saved.keyframes)} keyframes'
        if not request.localize:
            await self._answer(worker.submit(lambda: worker.control.view_map(saved)))
            response.code = LoadMap.Response.LOADED_VIEW_ONLY
            return f'{holds}; published instead of the map until ~/clear_map or ~/reset'
        health, problem = worker.snapshot.health, ''
        if not worker.running:
            problem = (
                'the node is not active, so the camera cannot be found: activate it first, or '
                'load the map for display (localize: false)'
            )
        elif health.state is StreamState.FAULT:
            problem = f'the stream has stopped ({health.reason}): call ~/reset first'
        else:
            load = worker.submit(lambda: worker.control.load_map(saved, T_map_base, path))
            search = await self._answer(load, SAVE_TIMEOUT_S)
            # The worker ends the search in time, unless it is stuck.
            limit_s = worker.config.relocalise.timeout + _WORKER_TIMEOUT_S
            problem = await self._answer(search.answer, limit_s)
        if problem:
            raise ServiceError(ServiceCode.NOT_LOCALISED, problem)
        return f'{holds}; the camera was found in it'

    def save_at_the_end(self) -> bool:
        """Save the map if ``map.save_on_shutdown`` is set; the writer continues after close.

        :returns: whether a save was started.
        """
        worker, log = self._worker, self._node.get_logger()
        name, cancelled = worker.config.map.save_on_shutdown, threading.Event()
        if not name or worker.snapshot.stream.is_relocalising:
            return False
        try:
            path = target_path(name, worker.config.map.directory, 'map')
            snapshot = worker.submit(worker.control.map_snapshot).result(_WORKER_TIMEOUT_S)
        except ServiceError as error:
            log.warning(f'the map is not saved: {error}')
            return False
        is_continued = worker.control.loaded_from == path
        # Not Path.exists, which raises for a name that is too long.
        if os.path.exists(path) and not is_continued:
            # Never replace the map of another session.
            path = path.with_name(time.strftime(f'{path.name}_%Y%m%d_%H%M%S'))

        def write() -> None:
            try:
                saved = save_map(path, snapshot, [], True, is_continued, cancelled)
                log.info(f'map saved: {saved.path}, {saved.points} points')
            except ServiceError as error:
                log.error(f'the map is not saved: {error}')
            finally:
                self._running.discard(cancelled)

        self._running.add(cancelled)
        self._last_save = self._writer.submit(write)
        return True

    async def _answer(self, future: Future[Any], timeout_s: float = _WORKER_TIMEOUT_S) -> Any:
        """Await another thread's result without blocking the executor, or raise TIMEOUT."""
        done: RosFuture = RosFuture(executor=self._node.executor)
        lock = threading.Lock()

        def finish(_: object = None) -> None:
            with lock:
                # Once the node is closed, its executor may not exist any more.
                if not (done.done() or self._closed):
                    done.set_result(None)

        # A callback makes the future wake the executor.
        done.add_done_callback(lambda _: None)
        timer = threading.Timer(timeout_s, finish)
        timer.name = thread_name('timeout')
        timer.daemon = True
        self._timers.add(timer)
        timer.start()
        future.add_done_callback(finish)
        await done
        timer.cancel()
        self._timers.discard(timer)
        if not future.done():
            raise ServiceError(ServiceCode.TIMEOUT, f'no answer within {timeout_s:g} s')
        return future.result()


def _initial_pose(request: LoadMap.Request) -> np.ndarray | None:
    """Return the requested pose of the base (4, 4), None without one; or raise BAD_FORMAT."""
    if not request.use_initial_pose:
        return None
    try:
        return checked_pose(request.initial_pose)
    except TransformError as error:
        text = f'initial_pose is no pose: {error}'
        raise ServiceError(ServiceCode.BAD_FORMAT, text) from error


def _map_path(name: str, config: R3Config) -> Path:
    """Return the folder of a map's name, or raise NOT_FOUND."""
    if name:
        try:
            return target_path(name, config.map.directory, 'map')
        except ServiceError:
            pass
    text = f"'{name}' is no name of a map: give the name it was saved with, or an absolute path"
    raise ServiceError(ServiceCode.NOT_FOUND, text)
