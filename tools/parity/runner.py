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
    ArrayResult,
    BOUNDS,
    compare,
    EXACT,
    kind_of,
    OPENCV_VERSION,
    Output,
    PILLOW_VERSION,
    PIXELS_OTHER_LIBRARIES,
    Quantity,
    REFINED_INTRINSICS,
)
from .golden import Golden, Kind, read_golden, short_name
from .network_runs import network_outputs
from .pairs import pair_outputs
from .pixels import pixel_outputs
from .poses import pose_outputs
from .stand_in_weights import Networks, StandInWeights

#: Functions for files without a network.
_WITHOUT_NETWORK: dict[Kind, Callable[[Golden], dict[str, Output]]] = {
    Kind.POSES: pose_outputs,
    Kind.PREPROCESS: pixel_outputs,
}


@dataclass
class FileResult:
    """The result of one file.

    :ivar problem: the reason why it could not be run, or None.
    """

    name: str
    arrays: list[ArrayResult] = field(default_factory=list)
    problem: str | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all arrays are within their bounds."""
        return self.problem is None and all(array.passed for array in self.arrays)


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
        self._refined_bounds = self.bounds | {Quantity.INTRINSICS: REFINED_INTRINSICS[precision]}
        weights = StandInWeights(weights_folder)
        self._networks = Networks(weights, DTYPES[precision], torch.device(device))

    def run(self, path: Path) -> FileResult:
        """Run one file; problems are in the result."""
        result = FileResult(short_name(path))
        begin = time.perf_counter()
        try:
            golden = read_golden(path)
            result.arrays = list(self._compared(golden, self._outputs(golden)))
            if not result.arrays:
                result.problem = 'it holds no results to compare'
        except R3Error as error:
            result.problem = str(error)
        except (Exception, SystemExit) as error:
            # Whatever is wrong with a file or the script of weights, the other files are run.
            reason = ' '.join(str(error).split())[:200]
            result.problem = f'it could not be run: {type(error).__name__}: {reason}'
        result.seconds = time.perf_counter() - begin
        return result

    def _outputs(self, golden: Golden) -> dict[str, Output]:
        compute = _WITHOUT_NETWORK.get(golden.subject.kind)
        if compute is not None:
            return compute(golden)
        if golden.subject.kind is Kind.PAIRS:
            return pair_outputs(golden, self._networks)
        return network_outputs(golden, self._networks, self.bounds[Quantity.HEAD].worst)

    def _compared(self, golden: Golden, outputs: dict[str, Output]) -> Iterator[ArrayResult]:
        bounds = self.bounds if golden.subject.variant else self._exact_bounds
        if golden.subject.kind is Kind.VGGT:
            bounds = self._refined_bounds
        for name, array in golden.results().items():
            kind = kind_of(name.split('.')[-1])
            if kind is None or name not in outputs:
                yield ArrayResult(name, None, problem='it is an unknown array')
            else:
                yield compare(name, kind, array, outputs[name], bounds[kind.quantity])
