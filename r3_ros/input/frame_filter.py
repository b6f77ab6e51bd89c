"""What happens to a frame by its stamp and size, before its pixels are used.

One rule for the node and for recorded input. Stamps are integers in nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
import enum

from ..config import InputConfig

_SECOND_NS = 1_000_000_000
#: No camera's image is smaller; a stray one must not end the session as a change of size.
_SMALLEST_SIDE_PX = 16
#: A frame may come this share of the period early and still count as on time for max_rate.
_RATE_SLACK = 0.1


class Action(enum.Enum):
    """What to do with a frame."""

    ACCEPT = 'accept'
    DROP = 'drop'
    RESET = 'reset'  # accept it as the first frame of a new session
    FAULT = 'fault'  # stop until a reset


@dataclass(frozen=True)
class FrameVerdict:
    """The decision on one frame, and why.

    :ivar time_jumped: back, so what is known of other times is of no use.
    """

    action: Action
    reason: str = ''
    time_jumped: bool = False


class FrameFilter:
    """Decide on each frame in order; not thread-safe, one owner."""

    def __init__(self, config: InputConfig) -> None:
        """Start with no frame seen."""
        self.config = config
        self.rejected: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget the frames seen; the counters stay."""
        self._last_ns: int | None = None
        self._due_ns = 0.0  # when input.max_rate allows the next frame
        self._size: tuple[int, int] | None = None

    def admit(
        self, stamp_ns: int, width: int, height: int, now_ns: int | None = None
    ) -> FrameVerdict:
        """Decide on the frame; an accepted one becomes the reference for the next.

        :param now_ns: the clock the stamps are compared with for ``input.max_age``.
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
            age_s = (now_ns - stamp_ns) / _SECOND_NS
            if age_s > config.max_age:
                return FrameVerdict(
                    Action.DROP, f'too old: {age_s:.2f} s, input.max_age allows less'
                )
        if self._last_ns is None:
            return FrameVerdict(Action.ACCEPT)
        step_s = (stamp_ns - self._last_ns) / _SECOND_NS
        if step_s <= 0:
            return self._judge_step_back(step_s)
        if size != self._size:
            return self._judge_size(size)
        if config.max_rate > 0:
            early_s = (self._due_ns - stamp_ns) / _SECOND_NS
            if early_s > _RATE_SLACK / config.max_rate:
                return FrameVerdict(Action.DROP, 'rate: faster than input.max_rate')
        return FrameVerdict(Action.ACCEPT)

    def _plan_next(self, stamp_ns: int, follows: bool) -> None:
        """Date the next frame that input.max_rate allows.

        From the plan, not from the frame: a camera a little faster than the limit then loses
        one frame now and again instead of every second one.
        """
        if self.config.max_rate > 0:
            period_ns = _SECOND_NS / self.config.max_rate
            keeps_pace = follows and stamp_ns - self._due_ns < period_ns
            self._due_ns = (self._due_ns if keeps_pace else stamp_ns) + period_ns

    def _judge_step_back(self, step_s: float) -> FrameVerdict:
        if step_s == 0:
            return FrameVerdict(Action.DROP, 'duplicate stamp')
        if -step_s < self.config.time_jump_threshold:
            return FrameVerdict(
                Action.DROP, f'out of order: {-step_s:.3f} s before the last frame'
            )
        reason = f'time jumped back by {-step_s:.3f} s'
        return {
            'reset': FrameVerdict(Action.RESET, reason, time_jumped=True),
            'ignore': FrameVerdict(Action.DROP, f'before the jump: {reason}'),
            'error': FrameVerdict(Action.FAULT, f'{reason}; call ~/reset to start anew'),
        }[self.config.on_time_jump_back]

    def _judge_size(self, size: tuple[int, int]) -> FrameVerdict:
        assert self._size is not None
        reason = 'size changed: {}x{} to {}x{}'.format(*self._size, *size)
        if self.config.on_resolution_change == 'reset':
            return FrameVerdict(Action.RESET, reason)
        return FrameVerdict(Action.DROP, reason)
