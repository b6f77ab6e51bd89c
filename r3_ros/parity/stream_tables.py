"""A network that answers from the tables of a golden file, and the settings behind its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import re

import numpy as np

from ..errors import SourceError
from ..frame_relations import Relations, Replay, View
from ..streaming.official.options import (
    BankOptions,
    CacheMode,
    CacheOptions,
    FallbackOptions,
    GateOptions,
    MetricOptions,
    StreamOptions,
)
from .input_shapes import check_shapes

_INPUTS = {
    'rel': 'nn9',
    'ct': 'nn',
    'cr': 'nn',
    'sel': 'nd',
    'drought': 'n',
    'depth': 'nhw',
    'dconf': 'nhw',
    'seg_scale': 's',
}
#: Logits are lowered by so much into and out of a frame in a drought, in the first segment.
_INTO_DROUGHT, _OUT_OF_DROUGHT = 4.0, 1.0
#: What the stand-in metric network makes of the depth.
_METRES_PER_UNIT = 2.5


class Tables:
    """The tables of a file, checked."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the tables by name.

        :raises SourceError: one is missing or its shape does not fit.
        """
        check_shapes(arrays, _INPUTS)
        self.rel = arrays['rel'].astype(np.float64)
        self.logits_t = arrays['ct'].astype(np.float64)
        self.logits_r = arrays['cr'].astype(np.float64)
        self.features = arrays['sel'].astype(np.float64)
        self.depth = arrays['depth'].astype(np.float64)
        self.confidence = arrays['dconf'].astype(np.float64)
        self.segment_scales = arrays['seg_scale'].astype(np.float64)
        drought = arrays['drought'].astype(bool)
        self.lowered = _OUT_OF_DROUGHT * drought[:, None] + _INTO_DROUGHT * drought[None, :]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.rel)


class TableNetwork:
    """Answers from tables; a picture is the number of its frame."""

    def __init__(self, tables: Tables) -> None:
        """Begin in the first segment."""
        self._tables = tables
        self._segment = 0

    def relate(self, frame: int, picture: int, memory: Sequence[int]) -> Relations:
        """See :class:`~r3_ros.frame_relations.Network`."""
        sources, tables = list(memory), self._tables
        logits_t, logits_r = self._logits(np.array(sources, dtype=int), picture)
        return Relations(
            rel=self._scaled(tables.rel[sources, picture]),
            logits_t=logits_t,
            logits_r=logits_r,
            fov=tables.rel[picture, picture, 7:],
            feature=tables.features[picture],
            view=self._view(picture),
        )

    def replay(self, frames: Sequence[int], pictures: Sequence[int]) -> Replay:
        """See :class:`~r3_ros.frame_relations.Network`.

        :raises SourceError: there is no scale for another segment.
        """
        self._segment += 1
        if self._segment >= len(self._tables.segment_scales):
            raise SourceError(f'in.seg_scale has no entry {self._segment}, and a replay needs it')
        rows, columns = np.ix_(pictures, pictures)
        logits_t, logits_r = self._logits(rows, columns)
        return Replay(
            rel=self._scaled(self._tables.rel[rows, columns]),
            logits_t=logits_t,
            logits_r=logits_r,
            features=self._tables.features[list(pictures)],
            views=tuple(self._view(picture) for picture in pictures),
        )

    def take_over(self, frames: Sequence[int]) -> None:
        """Hold nothing: the tables have it all."""

    def keep(self, frames: Sequence[int]) -> None:
        """Hold nothing: the tables have it all."""

    def metres(self, pictures: Sequence[int]) -> np.ndarray:
        """Return depths in metres, as the metric network would."""
        return _METRES_PER_UNIT * self._tables.depth[list(pictures)]

    @property
    def _scale(self) -> float:
        return float(self._tables.segment_scales[self._segment])

    def _scaled(self, rel: np.ndarray) -> np.ndarray:
        return np.concatenate([rel[..., :3] * self._scale, rel[..., 3:]], axis=-1)

    def _logits(
        self, sources: np.ndarray, targets: np.ndarray | int
    ) -> tuple[np.ndarray, np.ndarray]:
        tables = self._tables
        lowered = tables.lowered[sources, targets] if self._segment == 0 else 0.0
        return (
            tables.logits_t[sources, targets] - lowered,
            tables.logits_r[sources, targets] - lowered,
        )

    def _view(self, picture: int) -> View:
        depth = self._tables.depth[picture] * self._scale
        return View(depth, self._tables.confidence[picture])


@dataclass(frozen=True)
class Scenario:
    """What the name of a scenario says."""

    options: StreamOptions
    from_batch: bool = False


def scenario_of(name: str) -> Scenario | None:
    """Return the settings behind a name, None if it has no meaning here."""
    from_batch = name.startswith('batch_')
    for pattern, make in _SCENARIOS:
        match = re.fullmatch(pattern, name.removeprefix('batch_'))
        if match:
            options = make(*match.groups())
            bank = replace(options.bank, evict_oldest=from_batch)
            return Scenario(replace(options, bank=bank), from_batch)
    return None


_DYNAMIC = CacheOptions(CacheMode.DYNAMIC)


def _local(keyframes: str) -> StreamOptions:
    return StreamOptions(_DYNAMIC, BankOptions(max_keyframes=int(keyframes)))


def _recent(frames: str) -> StreamOptions:
    cache = replace(_DYNAMIC, recent_frames=int(frames))
    return StreamOptions(cache, BankOptions(max_keyframes=12))


def _ratio(digits: str) -> StreamOptions:
    ratio = float(f'{digits[0]}.{digits[1:]}')
    return StreamOptions(_DYNAMIC, BankOptions(confidence_ratio=ratio))


def _interval(frames: str) -> StreamOptions:
    return StreamOptions(_DYNAMIC, BankOptions(interval=int(frames)))


def _gated(percent: str) -> StreamOptions:
    return StreamOptions(gate=GateOptions(percent=float(percent)))


def _segments(kind: str, frames: str, metric: str | None) -> StreamOptions:
    return StreamOptions(
        cache=_DYNAMIC if kind == 'long' else CacheOptions(),
        fallback=FallbackOptions(max_segment_frames=int(frames)),
        metric=MetricOptions() if metric else None,
    )


def _drought_only() -> StreamOptions:
    return StreamOptions(fallback=FallbackOptions(), metric=MetricOptions())


_SCENARIOS = (
    (r'local_k(\d+)', _local),
    (r'local_recent(\d+)', _recent),
    (r'local_gate(\d\d+)', _ratio),
    (r'interval([1-9]\d*)', _interval),
    (r'all_evict(\d+)', _gated),
    (r'(long|strided)_seg([1-9]\d*)(_metric)?', _segments),
    (r'all_drought_only', _drought_only),
)
