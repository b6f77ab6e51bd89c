"""Golden files run through our code, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
import time

import cv2
import PIL
from r3_ros.core.errors import ModelError, R3Error
from r3_ros.model.loading import DTYPES
import torch

from .comparison import (
    Answer,
    ArrayResult,
    BOUNDS,
    compare,
    EXACT,
    kind_of,
    OPENCV_VERSION,
    PILLOW_VERSION,
    PIXELS_OTHER_LIBRARIES,
    Quantity,
)
from .golden import Golden, Kind, read_golden, short_name
from .network_runs import network_answers
from .pixels import pixel_answers
from .poses import pose_answers
from .stand_in_weights import Networks, StandInWeights

#: What computes the answers of files without a network.
_WITHOUT_NETWORK: dict[Kind, Callable[[Golden], dict[str, Answer]]] = {
    Kind.POSES: pose_answers,
    Kind.PREPROCESS: pixel_answers,
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
        """Return whether everything in the file is as it should be."""
        return self.problem is None and all(array.passed for array in self.arrays)

    def worst(self, quantity: Quantity) -> ArrayResult | None:
        """Return the array of a quantity that is nearest to its bound or farthest beyond it."""
        arrays = [array for array in self.arrays if array.quantity is quantity]
        return max(arrays, key=lambda array: array.load, default=None)


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
        self.bounds, self._exact_bounds = dict(BOUNDS[precision]), dict(BOUNDS[EXACT])
        if (PIL.__version__, cv2.__version__) != (PILLOW_VERSION, OPENCV_VERSION):
            self.bounds[Quantity.PIXELS] = PIXELS_OTHER_LIBRARIES
            self._exact_bounds[Quantity.PIXELS] = PIXELS_OTHER_LIBRARIES
        weights = StandInWeights(weights_folder)
        self._networks = Networks(weights, DTYPES[precision], torch.device(device))

    def run(self, path: Path) -> FileResult:
        """Run one file; whatever is wrong with it is in the result."""
        result = FileResult(short_name(path))
        begin = time.perf_counter()
        try:
            golden = read_golden(path)
            result.arrays = list(self._compared(golden, self._answers(golden)))
            if not result.arrays:
                result.problem = 'it holds no results to compare'
        except R3Error as error:
            result.problem = str(error)
        except (Exception, SystemExit) as error:
            # A file and the script of weights may hold anything, and memory may end: the other
            # files go on.
            reason = ' '.join(str(error).split())[:200]
            result.problem = f'it could not be run: {type(error).__name__}: {reason}'
        result.seconds = time.perf_counter() - begin
        return result

    def _answers(self, golden: Golden) -> dict[str, Answer]:
        compute = _WITHOUT_NETWORK.get(golden.subject.kind)
        if compute is not None:
            return compute(golden)
        return network_answers(golden, self._networks, self.bounds[Quantity.HEAD].worst)

    def _compared(self, golden: Golden, answers: dict[str, Answer]) -> Iterator[ArrayResult]:
        bounds = self.bounds if golden.subject.variant else self._exact_bounds
        for name, array in golden.results().items():
            kind = kind_of(name.split('.')[-1])
            if kind is None or name not in answers:
                yield ArrayResult(name, None, problem='nothing here knows this array')
            else:
                yield compare(name, kind, array, answers[name], bounds[kind.quantity])
