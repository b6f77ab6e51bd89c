"""Inner arrays of a network while it runs, by the names of golden arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
import re
from types import TracebackType
from typing import Any

import numpy as np
from r3_ros.model.network import R3Network
import torch
from torch import nn, Tensor


class Recording:
    """A context that records inner arrays of a network, concatenated along the frames."""

    def __init__(self, network: R3Network, names: Iterable[str]) -> None:
        """Record arrays of these names; unknown names are ignored."""
        self._network = network
        self._names = set(names)
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Recording:
        network, blocks = self._network, self._network.backbone.blocks
        self._keep_input('net_input_sample', network.backbone.patch_embed)
        self._keep_input('tokens_in', blocks[0])
        for name in self._names:
            if (found := re.fullmatch(r'block(\d+)', name)) and int(found[1]) < len(blocks):
                self._keep_output(name, blocks[int(found[1])])
            elif re.fullmatch(r'(layer[1-4]_rn|refinenet[1-4])', name):
                self._keep_output(name, getattr(network.head, name))
        if any(re.fullmatch(r'(feat|cam_token)\d', name) for name in self._names):
            self._keep_taps()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for undo in self._undo:
            undo()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the recorded arrays, float32, frames first."""
        return {name: torch.cat(parts).numpy() for name, parts in self._parts.items()}

    def _keep(self, name: str, value: Tensor) -> None:
        if name in self._names:
            self._parts[name].append(value.detach().float().cpu())

    def _keep_input(self, name: str, module: nn.Module) -> None:
        if name in self._names:
            hook = module.register_forward_pre_hook(lambda _, args: self._keep(name, args[0]))
            self._undo.append(hook.remove)

    def _keep_output(self, name: str, module: nn.Module) -> None:
        hook = module.register_forward_hook(lambda _, args, output: self._keep(name, output))
        self._undo.append(hook.remove)

    def _keep_taps(self) -> None:
        """Wrap ``relate``: taps are no output of a module."""
        backbone = self._network.backbone
        relate = backbone.relate

        def kept(*args: Any, **kwargs: Any) -> Any:
            taps = relate(*args, **kwargs)
            pairs = zip(taps.features, taps.camera_tokens, strict=True)
            for i, (feature, camera_token) in enumerate(pairs):
                self._keep(f'feat{i}', feature[0])
                self._keep(f'cam_token{i}', camera_token[0])
            return taps

        backbone.relate = kept  # type: ignore[method-assign]
        self._undo.append(lambda: delattr(backbone, 'relate'))
