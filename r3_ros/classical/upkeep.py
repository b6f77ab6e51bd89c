"""What is done to the map beside tracking: adjustments, loops, the focal length, dense depth.

The heavy parts run in two threads; their results enter the world at fixed steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import mapping
from .bundle import BundleResult
from .dense import sweep_job
from .jobs import Background
from .landmarks import HeldFrames, Landmarks
from .pinhole import Pinhole
from .sweep import Swept
from .window import job, Loop, loop_holds, merge, Motion, take_window, Window

#: Steps between queueing an adjustment and taking its result.
ADJUST_DELAY = 2
ADJUST_ITERATIONS = 6
#: A guessed focal length, good to this share, is estimated from the fourth keyframe on ...
FOCAL_SIGMA = 0.3
FOCAL_FIRST = 4
#: ... with this many of the newest keyframes, until so many adjustments in a row have changed it
#: by less than this share, or there are so many keyframes in all.
FOCAL_WINDOW = 20
FOCAL_SETTLED = (4, 0.003)
FOCAL_LAST = 60
#: Steps between queueing a sweep and taking its depth, and between two sweeps at least.
SWEEP_DELAY = 8
SWEEP_PAUSE = 4
#: An adjustment after a loop takes half a second: keyframes moved, and steps until the next.
LOOP_DELAY = 10
LOOP_ITERATIONS = 8
LOOP_KEYFRAMES = 40
LOOP_PAUSE = 10


@dataclass
class World:
    """What is known: the camera, the frames held and the landmarks."""

    camera: Pinhole
    frames: HeldFrames = field(default_factory=HeldFrames)
    landmarks: Landmarks = field(default_factory=Landmarks)


class Upkeep:
    """Queues the work that improves a world, and takes its results over."""

    def __init__(self, world: World, window_size: int, guessed_focal: bool, planes: int):
        """Do nothing before the first keyframe.

        :param guessed_focal: the camera's focal length is a guess, to be improved.
        :param planes: of the plane sweeps; 0 for no dense depth.
        """
        self._world = world
        self._window_size = window_size
        # The focal length assumed at first, if it has to be estimated.
        self._guessed_focal = world.camera.focal if guessed_focal else None
        self._focal_steady = 0
        self._adjusting: Background[tuple[Window, BundleResult]] = Background('bundle')
        self._adjust_wanted = False
        self._loop: Loop | None = None
        self._next_loop = 0
        self._sweeping: Background[Swept] = Background('sweep')
        self._planes = planes
        self._sweep_id = -1
        self._last_sweep = -SWEEP_PAUSE
        self._key_id = -1
        self._step = 0

    def step(self) -> tuple[list[Motion], list[Swept]]:
        """Count a step and take over what is due: motions of the world, and depths."""
        self._step += 1
        merged = self._adjusting.take(self._step)
        motions = self._merge_all(merged)
        if merged:
            # The newest poses are as good now as they get soon.
            self._sweep()
        if self._adjust_wanted:
            self._adjust()
        return motions, self._take_sweeps(self._step)

    def keyframe_added(self, frame_id: int) -> None:
        """Adjust the world around a new keyframe as soon as no adjustment is under way."""
        self._key_id = frame_id
        self._adjust_wanted = True
        self._adjust()

    def offer_loop(self, loop: Loop) -> None:
        """Close a loop with the next adjustment, unless one was closed just now."""
        if self._loop is None and self._step >= self._next_loop:
            self._loop = loop

    def adjust_now(self) -> list[Motion]:
        """Adjust without waiting: few landmarks hold a pose that is about to be told."""
        motions = self._merge_all(self._adjusting.take(self._step + LOOP_DELAY))
        now = take_window(
            self._world.frames, self._world.landmarks, self._world.camera, self._window_size
        )
        if now is not None:
            motions += self._merge_all([job(now, ADJUST_ITERATIONS)()])
            self._adjust_wanted = False
        return motions

    def drain(self) -> tuple[list[Motion], list[Swept]]:
        """Wait for what is under way, and for one adjustment and one sweep after it."""
        motions = []
        for _ in range(2):
            motions += self._merge_all(self._adjusting.take(self._step + LOOP_DELAY))
            self._adjust()
        # Nothing follows that the pause between sweeps could save time for.
        self._last_sweep = self._step - SWEEP_PAUSE
        self._sweep()
        return motions, self._take_sweeps(self._step + SWEEP_DELAY)

    def close(self) -> None:
        """Stop the background threads."""
        self._adjusting.close()
        self._sweeping.close()

    def _adjust(self) -> None:
        """Queue an adjustment unless one is under way: of a loop, or of the newest keyframes."""
        if len(self._adjusting):
            return
        if self._loop is not None and self._adjust_loop(self._loop):
            return
        self._adjust_wanted = False
        size, prior = self._window_size, self._focal_prior()
        if prior is not None:
            size = FOCAL_WINDOW
        window = take_window(
            self._world.frames, self._world.landmarks, self._world.camera, size, prior
        )
        if window is not None:
            self._adjusting.submit(self._step + ADJUST_DELAY, job(window, ADJUST_ITERATIONS))

    def _focal_prior(self) -> tuple[float, float] | None:
        """Return mean and standard deviation of the factor on a guessed focal length, or None."""
        if self._guessed_focal is None or self._focal_steady >= FOCAL_SETTLED[0]:
            return None
        if not FOCAL_FIRST <= len(self._world.frames.keyframes()) <= FOCAL_LAST:
            return None
        mean = self._guessed_focal / self._world.camera.focal
        return mean, FOCAL_SIGMA * mean

    def _adjust_loop(self, loop: Loop) -> bool:
        """Queue the adjustment of everything since the place the camera came back to."""
        self._loop = None
        frame = self._world.frames.get(loop.frame_id)
        if frame is None or loop.old_id not in self._world.frames:
            return False
        loop.seen.keep(loop.seen.alive(self._world.landmarks))
        new = ~np.isin(loop.seen.slots, frame.seen.slots)
        loop.seen.keep(new)
        mapping.note_sightings(frame, self._world.landmarks, loop.seen.slots, loop.seen.pixels)
        since = sum(f.frame_id > loop.old_id for f in self._world.frames.keyframes())
        size = min(max(since, self._window_size), LOOP_KEYFRAMES)
        window = take_window(
            self._world.frames, self._world.landmarks, self._world.camera, size, loop=loop
        )
        if window is None:
            return False
        self._adjusting.submit(self._step + LOOP_DELAY, job(window, LOOP_ITERATIONS))
        self._next_loop = self._step + LOOP_DELAY + LOOP_PAUSE
        return True

    def _merge_all(self, adjusted: list[tuple[Window, BundleResult]]) -> list[Motion]:
        """Take adjustments over; return what they did to the world at its newest end."""
        motions = []
        for window, result in adjusted:
            frames, landmarks = self._world.frames, self._world.landmarks
            if window.loop is not None and not loop_holds(window, window.loop, result):
                # The old landmarks do not fit after all: nothing of it is believed.
                mapping.strike_sightings(frames, landmarks, window.loop)
                continue
            motions.append(merge(window, result, frames, landmarks))
            if window.problem.focal_prior is not None:
                self._take_focal(window, result.focal_factor)
        return motions

    def _take_focal(self, window: Window, factor: float) -> None:
        """Take over an estimate of the focal length, and note whether it still changes."""
        self._world.camera = self._world.camera.with_focal_scaled(factor)
        steady = abs(factor - 1.0) < FOCAL_SETTLED[1]
        many = len(window.frame_ids) >= FOCAL_WINDOW // 2
        self._focal_steady = self._focal_steady + 1 if steady and many else 0

    def _sweep(self) -> None:
        """Queue the sweep of the newest keyframe, if it has not been swept and it is time."""
        key = self._world.frames.get(self._key_id)
        if not self._planes or key is None or self._sweep_id == self._key_id:
            return
        if self._step < self._last_sweep + SWEEP_PAUSE:
            return
        queued = sweep_job(
            key, self._world.frames, self._world.landmarks, self._world.camera, self._planes
        )
        if queued is not None:
            self._sweep_id, self._last_sweep = self._key_id, self._step
            self._sweeping.submit(self._step + SWEEP_DELAY, queued)

    def _take_sweeps(self, step: int) -> list[Swept]:
        """Return the depths that are due, of frames still held."""
        return [s for s in self._sweeping.take(step) if s.frame_id in self._world.frames]
