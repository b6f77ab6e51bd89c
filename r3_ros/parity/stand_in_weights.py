"""Networks with made-up weights that a script computes from the name of each parameter.

The script, ``deterministic_weights.py``, lies beside the golden files or where the user says; it
is run.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ..errors import ModelError, SourceError
from ..model.checkpoint import official_name
from ..model.network import build_network, DA3Network, MetricNetwork, R3Network
from ..model.variants import VARIANTS

SCRIPT = 'deterministic_weights.py'
#: Said to whoever waits.
Progress = Callable[[str], None]
Network = R3Network | DA3Network | MetricNetwork


class StandInWeights:
    """The script, loaded when it is first needed."""

    def __init__(self, folder: Path) -> None:
        """Remember where the script should be.

        :param folder: the one that holds ``deterministic_weights.py``.
        """
        self._path = folder / SCRIPT
        self._script: ModuleType | None = None

    def unit(self, key: str, count: int) -> np.ndarray:
        """Return float64 values of mean 0 and variance 1 that follow from a key.

        :raises SourceError: the script is missing or does not give them.
        """
        return self._call('unit', key, count, shape=(count,))

    def parameter(self, name: str, shape: tuple[int, ...], small_signal: bool) -> np.ndarray:
        """Return the float32 value of an official name.

        :raises SourceError: the script is missing or does not give it.
        """
        function = 'small_signal_tensor_for' if small_signal else 'tensor_for'
        return self._call(function, name, shape, shape=shape)

    def _call(self, function: str, *args: Any, shape: tuple[int, ...]) -> np.ndarray:
        if self._script is None:
            self._script = self._load()
        try:
            array = np.asarray(getattr(self._script, function)(*args))
        except Exception as error:
            raise SourceError(
                f'{self._path}: {function}({args[0]!r}, ...) failed: {_one_line(error)}'
            ) from error
        if array.shape != shape or array.dtype.kind != 'f':
            raise SourceError(
                f'{self._path}: {function}({args[0]!r}, ...) gave {array.dtype} {array.shape}, '
                f'floating point {shape} is needed'
            )
        return array

    def _load(self) -> ModuleType:
        if not self._path.is_file():
            raise SourceError(
                f'no {SCRIPT} in {self._path.parent}: name the folder that holds it by --weights'
            )
        spec = importlib.util.spec_from_file_location('r3_parity_stand_in_weights', self._path)
        assert spec is not None and spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(script)
        except (Exception, SystemExit) as error:
            raise SourceError(f'{self._path} cannot be run: {_one_line(error)}') from error
        return script


class Networks:
    """The network in use, kept while files ask for the same one: a large one fills the memory."""

    def __init__(self, weights: StandInWeights, dtype: torch.dtype, device: torch.device) -> None:
        """Prepare for networks in one precision on one device."""
        self.weights = weights
        self.device = device
        self._dtype = dtype
        self._held: tuple[tuple[str, bool], Network] | None = None

    def get(self, variant: str, small_signal: bool, progress: Progress) -> Network:
        """Return a network, filled.

        :raises SourceError: the script is missing or fails.
        :raises ModelError: there is no room for the network.
        """
        key = (variant, small_signal)
        if self._held is None or self._held[0] != key:
            self._held = None
            progress('computing weights')
            self._held = key, self._filled(variant, small_signal)
        return self._held[1]

    def _filled(self, variant: str, small_signal: bool) -> Network:
        with torch.device('meta'):
            network = build_network(VARIANTS[variant])
        tensors = {}
        for parameter, empty in network.state_dict().items():
            name, shape = official_name(parameter), tuple(empty.shape)
            dtype = torch.float32 if network.keeps_float32(parameter) else self._dtype
            value = torch.from_numpy(self.weights.parameter(name, shape, small_signal))
            try:
                tensors[parameter] = value.to(self.device, dtype)
            except RuntimeError as error:
                raise ModelError(f'no room for {variant}: {_one_line(error)}') from error
        network.load_state_dict(tensors, assign=True)
        return network.eval().requires_grad_(False)


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
