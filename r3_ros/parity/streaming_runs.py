"""Whole streams by the authors' loop, around a network that answers from tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import re

import numpy as np

from ..streaming.official.fallback import Attempt, Outcome
from ..streaming.official.loop import Loop, Step
from ..streaming.official.segment import Segment
from .arrays import Answer, Answers, ArrayKind
from .golden import Golden
from .pose_rule_runs import signed_as
from .stream_tables import scenario_of, TableNetwork, Tables
from .tolerances import Quantity

_INPUTS = 'in'
#: Fills rows of frame numbers.
_NO_FRAME = -1
_BATCH_ANSWER = 'keyframe_ids'


@dataclass
class Trace:
    """What a stream gave out, and what it held after each frame."""

    steps: list[Step] = field(default_factory=list)
    held: list[list[int]] = field(default_factory=list)
    bank: list[list[int]] = field(default_factory=list)
    keyframes: list[list[int]] = field(default_factory=list)
    anchors: list[list[int]] = field(default_factory=list)
    last_fallback: list[int] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    def take(self, step: Step, segment: Segment) -> None:
        """Add a frame."""
        self.steps.append(step)
        self.held.append(list(segment.frames))
        self.bank.append(list(segment.bank_frames))
        self.keyframes.append(segment.bank.frames)
        self.anchors.append(list(segment.anchors))
        self.last_fallback.append(segment.last_fallback)
        self.scale.append(segment.scale)


def stream_answers(golden: Golden) -> Answers:
    """Run every scenario of a file.

    :raises SourceError: the tables are incomplete.
    """
    tables = Tables(golden.named(_INPUTS))
    inputs = frozenset(name for name in golden.arrays if name.split('.')[0] == _INPUTS)
    values: dict[str, Answer | str] = {}
    for name in sorted({name.split('.')[0] for name in golden.arrays if name not in inputs}):
        stored = golden.named(name)
        scenario = scenario_of(name)
        if scenario is None:
            problem = f'{name} names no settings that are known'
            values |= {f'{name}.{part}': problem for part in stored}
            continue
        network = TableNetwork(tables)
        loop, trace = Loop(network, scenario.options, network.metres), Trace()
        for frame in range(len(tables)):
            step = loop.step(frame)
            trace.take(step, loop.segment)
        if scenario.from_batch:
            answers = {_BATCH_ANSWER: _numbers(np.array(trace.keyframes[-1]))}
        else:
            answers = _answers(trace, loop.segment, stored)
        values |= {f'{name}.{part}': answer for part, answer in answers.items()}
    return Answers(values, inputs)


def _answers(trace: Trace, segment: Segment, stored: dict[str, np.ndarray]) -> dict[str, Answer]:
    steps = trace.steps
    answers = {
        name: _numbers(_rows(frames, stored.get(name)))
        for name, frames in {
            'cache_ids': trace.held,
            'bank_ids': trace.bank,
            'keyframe_ids': trace.keyframes,
            'anchor_ids': trace.anchors,
        }.items()
    }
    scores = [np.nan if step.refused else step.post_score for step in steps]
    refused = [step.frame for step in steps if step.refused]
    nowhere = np.full(9, np.nan)
    final = [segment.poses.get(step.frame, nowhere) for step in steps]
    answers |= {
        'last_fallback': _numbers(np.array(trace.last_fallback)),
        'evicted': _numbers(np.array(refused)),
        'edge_log_len': _numbers(np.array(segment.edges.count)),
        'scale': Answer(np.array(trace.scale), kind=ArrayKind(Quantity.SCALE, '.')),
        'post_score': Answer(np.array(scores), kind=ArrayKind(Quantity.SCORE, '.')),
        'depth_mean': Answer(
            np.array([step.depth.mean() for step in steps]), kind=ArrayKind(Quantity.DEPTH, '.')
        ),
    }
    for name, poses in {
        'pose_enc': [step.pose for step in steps],
        'final_state_pose_enc': final,
    }.items():
        if name in stored:
            signed = signed_as(np.stack(poses), stored[name])
            answers[name] = Answer(signed, kind=ArrayKind(Quantity.TRACK, '..'))
    if 'events' in stored:
        answers['events'] = _events([step.attempt for step in steps], stored['events'])
    return answers


def _numbers(values: np.ndarray) -> Answer:
    return Answer(values, kind=ArrayKind(Quantity.HELD, '.' * values.ndim))


def _rows(frames: Sequence[Sequence[int]], golden: np.ndarray | None) -> np.ndarray:
    """Return frame numbers as rows, as wide as the golden ones or as need be."""
    width = max(map(len, frames))
    if golden is not None and golden.ndim == 2:
        width = max(width, golden.shape[1])
    rows = np.full((len(frames), width), _NO_FRAME)
    for row, held in zip(rows, frames, strict=True):
        row[: len(held)] = held
    return rows


def _events(attempts: Sequence[Attempt | None], golden: np.ndarray) -> Answer:
    """Return 0 for each event, to be compared with 1 for each golden one that is not ours."""
    ours = [_comparable(event_text(attempt)) for attempt in attempts if attempt is not None]
    theirs = [_comparable(str(text)) for text in golden.ravel()]
    differs = [
        float(i >= len(ours) or i >= len(theirs) or ours[i] != theirs[i])
        for i in range(max(len(ours), len(theirs)))
    ]
    kind = ArrayKind(Quantity.HELD, '.')
    return Answer(np.zeros(len(differs)), kind=kind, golden=np.array(differs))


def event_text(attempt: Attempt) -> str:
    """Return what theirs prints of an attempt, and the frames that were run again."""
    parts = []
    if attempt.forced:
        parts.append(
            f'[MAX_SEGMENT] forcing fallback at frame {attempt.frame} (segment={attempt.length})'
        )
    if attempt.outcome is Outcome.ACCEPTED:
        parts.append(
            f'[FALLBACK] accepted: ref={attempt.reference}, bridge={list(attempt.bridge)}, '
            f'scale={attempt.scale:.4f}'
        )
    replayed = attempt.outcome is not Outcome.TOO_FEW_FRAMES
    text = f'{attempt.frame}: {" | ".join(parts)}'
    return f'{text} replay={list(attempt.bridge)}' if replayed else text


def _comparable(text: str) -> str:
    """Return an event without its scale, which is compared as a number elsewhere."""
    return ' '.join(re.sub(r'scale=[-\d.e+]+', 'scale', text).split())
