"""Optimisation of the map beside tracking: adjustments, loops, focal length, dense depth.

Adjustments, searches and plane sweeps run in threads; their results are merged at fixed steps, so
that runs repeat exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ..core.threads import thread_name
from . import mapping
from .bundle import BundleResult
from .focal import FocalEstimate
from .landmarks import SparseMap
from .sweep import sweep_job, Swept
from .window import (
    adjustment_job,
    AdjustmentWindow,
    Loop,
    loop_holds,
    merge,
    Motion,
    sharing,
    take_window,
)

#: Steps between queueing an adjustment and taking its result.
ADJUST_DELAY = 2
ADJUST_ITERATIONS = 6
#: Iterations of an adjustment that estimates the focal length too.
FOCAL_ITERATIONS = 30
#: Keyframes that are searched again for landmarks with each new one, and steps until the result.
SEARCHED_AGAIN = 2
SEARCH_DELAY = 4
#: Steps between queueing a sweep and taking its depth, and least steps between two sweeps.
SWEEP_DELAY = 8
SWEEP_PAUSE = 4
#: An adjustment after a loop takes half a second: its keyframes, and steps until the next loop.
LOOP_DELAY = 10
LOOP_ITERATIONS = 8
LOOP_KEYFRAMES = 40
LOOP_PAUSE = 10
#: At the end so many keyframes are adjusted together, at most: a few seconds, and 150 MB.
GLOBAL_KEYFRAMES = 100
GLOBAL_ITERATIONS = 12


T = TypeVar('T')


class Background(Generic[T]):
    """One thread that runs jobs in order.

    A result is taken a fixed number of steps after its job was queued, and waited for if need be:
    results do not depend on the speed of the machine.
    """

    def __init__(self, what: str):
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=thread_name(what))
        self._pending: deque[tuple[int, Future[T]]] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, due_step: int, job: Callable[[], T]) -> None:
        """Queue a job whose result is taken at ``due_step``; due steps never decrease."""
        self._pending.append((due_step, self._executor.submit(job)))

    def take(self, step: int) -> list[T]:
        """Return the results due at this step; an exception of a job is raised here."""
        results = []
        while self._pending and self._pending[0][0] <= step:
            results.append(self._pending.popleft()[1].result())
        return results

    def close(self) -> None:
        """Drop jobs not begun and wait for the thread to end."""
        self._pending.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)


class Backend:
    """Queues the jobs that improve a map, and merges their results.

    :param focal: the estimate of the camera's focal length; None if it is known.
    :param planes: of the plane sweeps; 0 for no dense depth.
    :param fill: give every pixel of a keyframe a depth.
    """

    def __init__(
        self,
        sparse_map: SparseMap,
        window_size: int,
        focal: FocalEstimate | None,
        planes: int,
        fill: bool,
    ) -> None:
        self._map = sparse_map
        self._window_size = window_size
        self._focal = focal
        self._adjusting: Background[tuple[AdjustmentWindow, BundleResult]] = Background('bundle')
        self._adjust_wanted = False
        self._loop: Loop | None = None
        self._next_loop = 0
        self._searching: Background[mapping.Sought] = Background('search')
        self._sweeping: Background[Swept] = Background('sweep')
        self._planes, self._fill = planes, fill
        self._sweep_id = -1
        self._last_sweep = -SWEEP_PAUSE
        self._key_id = -1
        self._step = 0

    def step(self) -> tuple[list[Motion], list[Swept]]:
        """Count a step and return what is due: motions of the world, and depths."""
        self._step += 1
        merged = self._adjusting.take(self._step)
        motions = self._merge_all(merged)
        self._take_searches(self._step)
        if merged:
            # The newest poses have just been adjusted.
            self._sweep()
        if self._adjust_wanted:
            self._adjust()
        return motions, self._take_sweeps(self._step)

    def keyframe_added(self, frame_id: int) -> None:
        """Search for landmarks near a new keyframe, and adjust as soon as nothing is adjusted."""
        self._key_id = frame_id
        self._search_again()
        self._adjust_wanted = True
        self._adjust()

    def offer_loop(self, loop: Loop) -> None:
        """Close a loop with the next adjustment, unless one was closed just now."""
        if self._loop is None and self._step >= self._next_loop:
            self._loop = loop

    def adjust_now(self) -> list[Motion]:
        """Adjust immediately, before a pose from few landmarks is reported."""
        motions = self._merge_all(self._adjusting.take(self._step + LOOP_DELAY))
        now = take_window(self._map, self._window_size)
        if now is not None:
            motions += self._merge_all([adjustment_job(now, ADJUST_ITERATIONS)()])
            self._adjust_wanted = False
        return motions

    def drain(self) -> tuple[list[Motion], list[Swept]]:
        """Wait for running jobs, adjust all keyframes together twice, and sweep once more."""
        motions = self._merge_all(self._adjusting.take(self._step + LOOP_DELAY))
        self._take_searches(self._step + SEARCH_DELAY)
        # A loop or a focal length may be waiting.
        self._adjust()
        motions += self._merge_all(self._adjusting.take(self._step + LOOP_DELAY))
        motions += self._adjust_everything()
        # Where keyframes lie better, more landmarks are found.
        for frame in self._map.keyframes()[-GLOBAL_KEYFRAMES:]:
            if not frame.saved:
                sought = mapping.search_job(frame, self._map)()
                mapping.add_found(frame, self._map, sought.seen)
        motions += self._adjust_everything()
        # The pause between sweeps does not matter any more.
        self._last_sweep = self._step - SWEEP_PAUSE
        self._sweep()
        return motions, self._take_sweeps(self._step + SWEEP_DELAY)

    def close(self) -> None:
        """Stop the background threads."""
        self._adjusting.close()
        self._searching.close()
        self._sweeping.close()

    def _adjust_everything(self) -> list[Motion]:
        window = take_window(self._map, GLOBAL_KEYFRAMES)
        if window is None:
            return []
        return self._merge_all([adjustment_job(window, GLOBAL_ITERATIONS)()])

    def _search_again(self) -> None:
        """Queue searches in keyframes of the same place, those first that have waited longest.

        Landmarks that are younger than a keyframe, or that it lost, hold it in its place.
        """
        newest = self._map.frames[self._key_id]
        near = sharing(newest, self._map)
        near.sort(key=lambda f: max(f.frame_id, f.searched_by))
        for frame in near[:SEARCHED_AGAIN]:
            frame.searched_by = newest.frame_id
            self._searching.submit(self._step + SEARCH_DELAY, mapping.search_job(frame, self._map))

    def _take_searches(self, step: int) -> None:
        for sought in self._searching.take(step):
            frame = self._map.frames.get(sought.frame_id)
            if frame is not None:
                mapping.add_found(frame, self._map, sought.seen)

    def _adjust(self) -> None:
        """Queue an adjustment of a loop or of the newest keyframes, unless one is running."""
        if len(self._adjusting):
            return
        if self._loop is not None and self._adjust_loop(self._loop):
            return
        self._adjust_wanted = False
        if self._adjust_focal():
            return
        window = take_window(self._map, self._window_size)
        if window is not None:
            self._adjusting.submit(
                self._step + ADJUST_DELAY, adjustment_job(window, ADJUST_ITERATIONS)
            )

    def _adjust_focal(self) -> bool:
        """Queue an adjustment of all keyframes and the focal length, if one is due."""
        keyframes = len(self._map.keyframes())
        if self._focal is None or not self._focal.is_due(keyframes):
            return False
        window = take_window(self._map, keyframes, self._focal.prior(self._map.camera))
        if window is None:
            return False
        self._focal.begun(keyframes)
        self._adjusting.submit(self._step + LOOP_DELAY, adjustment_job(window, FOCAL_ITERATIONS))
        return True

    def _adjust_loop(self, loop: Loop) -> bool:
        """Queue the adjustment of all keyframes since the one that the camera returned to."""
        self._loop = None
        frame = self._map.frames.get(loop.frame_id)
        if frame is None or loop.old_id not in self._map.frames:
            return False
        mapping.add_found(frame, self._map, loop.seen)
        since = sum(f.frame_id > loop.old_id for f in self._map.keyframes())
        size = min(max(since, self._window_size), LOOP_KEYFRAMES)
        window = take_window(self._map, size, loop=loop)
        if window is None or loop.frame_id not in window.frame_ids:
            # Landmarks do not determine the keyframe.
            mapping.remove_loop_observations(self._map, loop)
            return False
        self._adjusting.submit(self._step + LOOP_DELAY, adjustment_job(window, LOOP_ITERATIONS))
        self._next_loop = self._step + LOOP_DELAY + LOOP_PAUSE
        return True

    def _merge_all(self, adjusted: list[tuple[AdjustmentWindow, BundleResult]]) -> list[Motion]:
        """Merge adjustments; return the motions of the world around the newest keyframes."""
        motions = []
        for window, result in adjusted:
            if window.loop is not None and not loop_holds(window, window.loop, result):
                # The old landmarks do not fit: the result is dropped.
                mapping.remove_loop_observations(self._map, window.loop)
                continue
            zoomed = window.problem.focal_prior is not None
            if zoomed and not self._accepts_focal(window, result):
                self._adjust_wanted = True
                continue
            motion = merge(window, result, self._map)
            if window.segment == self._map.segment:
                motions.append(motion)
            if zoomed:
                mapping.refocus(self._map, window, result.focal_factor)
        return motions

    def _accepts_focal(self, window: AdjustmentWindow, result: BundleResult) -> bool:
        """Return whether a focal length is used; another start may have changed it since."""
        if self._focal is None or window.segment != self._map.segment:
            return False
        sigma = result.focal_sigma / result.focal_factor
        return self._focal.accepts(window.problem.focal * result.focal_factor, sigma)

    def _sweep(self) -> None:
        key = self._map.frames.get(self._key_id)
        if not self._planes or key is None or self._sweep_id == self._key_id:
            return
        if self._step < self._last_sweep + SWEEP_PAUSE:
            return
        queued = sweep_job(key, self._map, self._planes, self._fill)
        if queued is not None:
            self._sweep_id, self._last_sweep = self._key_id, self._step
            self._sweeping.submit(self._step + SWEEP_DELAY, queued)

    def _take_sweeps(self, step: int) -> list[Swept]:
        return [s for s in self._sweeping.take(step) if s.frame_id in self._map.frames]
