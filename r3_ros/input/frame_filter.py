"""Accepts or drops live and recorded frames by stamp (integer nanoseconds) and size."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
import enum

from ..core.config import InputConfig
from ..core.trajectory_file import NANOSECONDS

#: A smaller image is an error, and must not reset the session as a change of size.
_SMALLEST_SIDE_PX = 16
#: So many changes of camera or clock, among so many frames: several cameras take turns.
_TURNS, _AMONG = 4, 60
#: Reason of frames that are dropped as the user asked.
RATE = 'faster than input.max_rate'
#: Share of the period by which a frame may be early under max_rate.
_RATE_SLACK = 0.1


class Action(enum.Enum):
    """Consequence of a verdict."""

    ACCEPT = 'accept'
    DROP = 'drop'
    RESET = 'reset'  # accept as the first frame of a new session
    FAULT = 'fault'  # stop until a reset


@dataclass(frozen=True)
class FrameVerdict:
    """The decision on one frame and its reason.

    :ivar time_jumped: back, so that data indexed by time is stale.
    """

    action: Action
    reason: str = ''
    time_jumped: bool = False


class FrameFilter:
    """Judges frames in order. Not thread-safe."""

    def __init__(self, config: InputConfig) -> None:
        self.config = config
        self.rejected: Counter[str] = Counter()
        self._changes: deque[bool] = deque(maxlen=_AMONG)
        self._seen: tuple[str, int, int] | None = None
        self._camera: tuple[str, int, int] | None = None
        self._stepped_back = False
        self.reset()

    def reset(self) -> None:
        """Forget the last frame; the counters stay, and what is known of several cameras."""
        self._last_ns: int | None = None
        self._due_ns = 0.0  # when input.max_rate allows the next frame
        self._size: tuple[int, int] | None = None

    def drop_other_camera(self, name: str, width: int, height: int) -> str:
        """Return why a frame is dropped that is of a second camera; empty if it is not.

        Each change of the camera may begin a session; two drivers on one topic would begin one
        with every frame. To be asked before :meth:`admit`.

        :param name: of the camera, its frame_id.
        """
        seen, self._seen = self._seen, (name, width, height)
        self._changes.append(seen not in (None, self._seen))
        if not self._takes_turns or self._seen == self._camera:
            self._camera = self._seen
            return ''
        assert self._camera is not None
        reason = 'of another camera: {} of {}x{} among {} of {}x{}'.format(
            *self._seen, *self._camera
        )
        self.rejected['of another camera'] += 1
        return f'{reason}. Do two drivers publish on one topic?'

    @property
    def _takes_turns(self) -> bool:
        return sum(self._changes) >= _TURNS

    def admit(
        self, stamp_ns: int, width: int, height: int, now_ns: int | None = None
    ) -> FrameVerdict:
        """Judge a frame; an accepted one becomes the reference for the next.

        :param now_ns: current time, for ``input.max_age``.
        """
        verdict = self._judge(stamp_ns, (width, height), now_ns)
        if verdict.action is Action.DROP:
            self.rejected[verdict.reason.split(':')[0]] += 1
        elif verdict.action is not Action.FAULT:
            self._plan_next(stamp_ns, follows=verdict.action is Action.ACCEPT)
            self._last_ns = stamp_ns
            self._size = (width, height)
        return verdict

    def _judge(self, stamp_ns: int, size: tuple[int, int], now_ns: int | None) -> FrameVerdict:
        config = self.config
        if min(size) < _SMALLEST_SIDE_PX:
            return FrameVerdict(Action.DROP, 'too small: {}x{} pixels'.format(*size))
        if config.max_age > 0 and now_ns is not None:
            age_s = (now_ns - stamp_ns) / NANOSECONDS
            if age_s > config.max_age:
                return FrameVerdict(
                    Action.DROP, f'too old: {age_s:.2f} s, input.max_age allows less'
                )
        if self._last_ns is None:
            return FrameVerdict(Action.ACCEPT)
        step_s = (stamp_ns - self._last_ns) / NANOSECONDS
        stepped_back, self._stepped_back = self._stepped_back, step_s < 0
        if step_s <= 0:
            return self._judge_step_back(step_s, is_first=not stepped_back)
        if size != self._size:
            assert self._size is not None
            reason = 'size changed: {}x{} to {}x{}'.format(*self._size, *size)
            resets = config.on_resolution_change == 'reset'
            return FrameVerdict(Action.RESET if resets else Action.DROP, reason)
        if config.max_rate > 0:
            early_s = (self._due_ns - stamp_ns) / NANOSECONDS
            if early_s > _RATE_SLACK / config.max_rate:
                return FrameVerdict(Action.DROP, RATE)
        return FrameVerdict(Action.ACCEPT)

    def _plan_next(self, stamp_ns: int, follows: bool) -> None:
        """Set when input.max_rate allows the next frame.

        Counted from the plan, not from the frame: a camera a little faster than the limit then
        loses single frames instead of every second one.
        """
        if self.config.max_rate > 0:
            period_ns = NANOSECONDS / self.config.max_rate
            keeps_pace = follows and stamp_ns - self._due_ns < period_ns
            self._due_ns = (self._due_ns if keeps_pace else stamp_ns) + period_ns

    def _judge_step_back(self, step_s: float, is_first: bool) -> FrameVerdict:
        if step_s == 0:
            return FrameVerdict(Action.DROP, 'duplicate stamp')
        if -step_s < self.config.time_jump_threshold:
            return FrameVerdict(
                Action.DROP, f'out of order: {-step_s:.3f} s before the last frame'
            )
        reason = f'time jumped back by {-step_s:.3f} s'
        self._changes.append(is_first)
        if self._takes_turns and self.config.on_time_jump_back == 'reset':
            return FrameVerdict(
                Action.DROP, f'of another clock: {reason}. Do two drivers publish on one topic?'
            )
        return {
            'reset': FrameVerdict(Action.RESET, reason, time_jumped=True),
            'ignore': FrameVerdict(Action.DROP, f'earlier than frames before: {reason}'),
            'error': FrameVerdict(Action.FAULT, f'{reason}; call ~/reset to start anew'),
        }[self.config.on_time_jump_back]
