"""Every golden file of a folder, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import os
from pathlib import Path
import time

import cv2
import PIL
import torch

from ..errors import ModelError, R3Error, SourceError
from ..model.loading import DTYPES
from .arrays import Answer, Answers, kind_of
from .comparison import ArrayResult, compare
from .golden import Golden, Kind, PREFIX, read_golden, short_name, SUFFIX
from .network_runs import network_answers
from .pose_rule_runs import pose_rule_answers
from .pose_runs import pose_answers
from .preprocess_runs import preprocess_answers
from .scale_runs import scale_answers
from .stand_in_weights import Networks, Progress, StandInWeights
from .streaming_runs import stream_answers
from .tolerances import (
    BOUNDS,
    EXACT,
    OPENCV_VERSION,
    PILLOW_VERSION,
    PIXELS_OTHER_LIBRARIES,
    Quantity,
)

#: What computes the answers of files without a network.
_WITHOUT_NETWORK: dict[Kind, Callable[[Golden], Answers]] = {
    Kind.POSES: pose_answers,
    Kind.PREPROCESS: preprocess_answers,
    Kind.POSE_RULES: pose_rule_answers,
    Kind.SCALE: scale_answers,
    Kind.STREAM: stream_answers,
}


@dataclass
class FileResult:
    """What came of one file.

    :ivar problem: why it could not be run, None if it could.
    """

    name: str
    arrays: list[ArrayResult] = field(default_factory=list)
    problem: str | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Say whether everything in the file is as it should be."""
        return self.problem is None and all(array.passed for array in self.arrays)

    def worst(self, quantity: Quantity) -> ArrayResult | None:
        """Return the array of a quantity that is nearest to its bound or farthest beyond it."""
        arrays = [array for array in self.arrays if array.quantity is quantity]
        return max(arrays, key=lambda array: array.load, default=None)


def golden_files(folder: Path, only: str = '') -> list[Path]:
    """Return the golden files of a folder whose names contain a text, by name.

    :raises SourceError: there are none.
    """
    if not os.path.isdir(folder):  # of an impossible name, too
        raise SourceError(f'{folder} is no folder: name the one with the {PREFIX}*{SUFFIX} files')
    paths = sorted(folder.glob(f'{PREFIX}*{SUFFIX}'))
    if not paths:
        raise SourceError(f'no {PREFIX}*{SUFFIX} in {folder}: name the folder that holds them')
    chosen = [path for path in paths if only in path.name]
    if not chosen:
        names = ', '.join(map(short_name, paths))
        raise SourceError(f"no golden file with '{only}' in its name; there are: {names}")
    return chosen


class Runner:
    """Runs files in one precision on one device."""

    def __init__(self, weights_folder: Path, precision: str, device: str) -> None:
        """Prepare; nothing is computed yet.

        :param weights_folder: holds ``deterministic_weights.py``.
        :param precision: a key of ``BOUNDS``.
        :raises ModelError: there is no such device.
        """
        if device == 'cuda' and not torch.cuda.is_available():
            raise ModelError(
                'there is no CUDA device here, or this torch cannot use it: take --device cpu'
            )
        self.bounds = dict(BOUNDS[precision])
        self.exact_bounds = dict(BOUNDS[EXACT])
        if (PIL.__version__, cv2.__version__) != (PILLOW_VERSION, OPENCV_VERSION):
            self.bounds[Quantity.PIXELS] = PIXELS_OTHER_LIBRARIES
            self.exact_bounds[Quantity.PIXELS] = PIXELS_OTHER_LIBRARIES
        weights = StandInWeights(weights_folder)
        self._networks = Networks(weights, DTYPES[precision], torch.device(device))

    def run(self, path: Path, progress: Progress) -> FileResult:
        """Run one file; whatever is wrong with it is in the result."""
        result = FileResult(short_name(path))
        begin = time.perf_counter()
        try:
            golden = read_golden(path)
            answers = self._answers(golden, progress)
            result.arrays = list(self._compared(golden, answers))
            if not result.arrays:
                result.problem = 'it holds no results to compare'
        except R3Error as error:
            result.problem = str(error)
        except Exception as error:
            # A file may hold anything, and memory may end: the other files go on.
            reason = ' '.join(str(error).split())[:200]
            result.problem = f'it could not be run: {type(error).__name__}: {reason}'
        result.seconds = time.perf_counter() - begin
        return result

    def _answers(self, golden: Golden, progress: Progress) -> Answers:
        compute = _WITHOUT_NETWORK.get(golden.subject.kind)
        if compute is not None:
            return compute(golden)
        sky_margin = self.bounds[Quantity.HEAD].worst
        return network_answers(golden, self._networks, progress, sky_margin)

    def _compared(self, golden: Golden, answers: Answers) -> Iterator[ArrayResult]:
        """Yield one result per array that is no input, and per answer without an array."""
        bounds = self.bounds if golden.subject.variant else self.exact_bounds
        for name, array in golden.arrays.items():
            if name in answers.inputs or golden.is_remark(name):
                continue
            answer = answers.values.get(name)
            kind = answer.kind if isinstance(answer, Answer) else None
            kind = kind or kind_of(name.split('.')[-1])
            if isinstance(answer, str):
                yield ArrayResult(name, kind.quantity if kind else None, problem=answer)
            elif kind is None or answer is None:
                yield ArrayResult(name, None, problem='nothing here knows this array')
            else:
                yield compare(name, kind, array, answer, bounds[kind.quantity])
        for name, answer in answers.values.items():
            if isinstance(answer, str) and name not in golden.arrays:
                yield ArrayResult(name, None, problem=answer)
