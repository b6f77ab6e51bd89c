"""Networks with made-up weights that a script computes from the name of each parameter.

The script, ``deterministic_weights.py``, is beside the golden files or in a given folder; it is
run.
"""

from __future__ import annotations

from functools import cached_property
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from r3_ros.core.errors import SourceError
from r3_ros.model.building import build_network, Network
from r3_ros.model.variants import CrocoConfig, VARIANTS
from r3_ros.model.weights.checkpoint import official_name
import torch

SCRIPT = 'deterministic_weights.py'


class StandInWeights:
    """The script in a folder, run when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SCRIPT

    def unit(self, key: str, count: int) -> np.ndarray:
        """Return (count,) float64 values of mean 0 and variance 1, determined by a key.

        :raises SourceError: the script is missing.
        """
        return np.asarray(self._script.unit(key, count))

    def parameter(self, name: str, shape: tuple[int, ...], small_signal: bool) -> np.ndarray:
        """Return the float32 value of an official name.

        :raises SourceError: the script is missing.
        """
        function = 'small_signal_tensor_for' if small_signal else 'tensor_for'
        return np.asarray(getattr(self._script, function)(name, shape))

    @cached_property
    def _script(self) -> ModuleType:
        if not self._path.is_file():
            raise SourceError(
                f'no {SCRIPT} in {self._path.parent}: name the folder that holds it by --weights'
            )
        spec = importlib.util.spec_from_file_location('parity_stand_in_weights', self._path)
        assert spec is not None and spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        return script


class Networks:
    """Keeps the last network only: a large one fills the memory."""

    def __init__(self, weights: StandInWeights, dtype: torch.dtype, device: torch.device) -> None:
        self.weights = weights
        self.device = device
        self._dtype = dtype
        self._held: tuple[tuple[str | CrocoConfig, bool], Network] | None = None

    def get(self, variant: str | CrocoConfig, small_signal: bool) -> Network:
        """Return a network, filled.

        :raises SourceError: the script is missing.
        """
        key = (variant, small_signal)
        if self._held is None or self._held[0] != key:
            self._held = None  # frees the last one before the next takes its room
            self._held = key, self._filled(variant, small_signal)
        return self._held[1]

    def _filled(self, variant: str | CrocoConfig, small_signal: bool) -> Network:
        with torch.device('meta'):
            network = build_network(VARIANTS[variant] if isinstance(variant, str) else variant)
        tensors = {}
        for parameter, empty in network.state_dict().items():
            name, shape = official_name(parameter), tuple(empty.shape)
            dtype = torch.float32 if network.keeps_float32(parameter) else self._dtype
            value = torch.from_numpy(self.weights.parameter(name, shape, small_signal))
            tensors[parameter] = value.to(self.device, dtype)
        network.load_state_dict(tensors, assign=True)
        return network.eval().requires_grad_(False)
