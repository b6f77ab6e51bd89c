"""The authors' code of R3, from a checkout of theirs, with the weights of a network of ours.

For measurements beside ours alone: nothing else of the package needs that code.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib
import io
from pathlib import Path
import sys
from typing import Any
import warnings

import numpy as np
import torch

from ..core.errors import ModelError
from .network import normalised, R3Network
from .transfers import fetched, uploaded
from .variants import NetworkConfig
from .weights.checkpoint import official_name

#: The authors' names of backbones, by width.
_BACKBONES = {384: 'vits', 768: 'vitb', 1024: 'vitl'}


class OfficialR3:
    """Their loop, which keeps every frame in its cache.

    On a GPU in their precision: bfloat16 by autocast, weights in float32.
    """

    def __init__(self, checkout: Path, network: R3Network) -> None:
        """Build their network.

        :param checkout: the folder of a clone of their repository.
        :param network: whose weights are shared where both have the same type and device.
        :raises ModelError: their code cannot be imported or does not take the weights.
        """
        device = network.backbone.cls_token.device
        config = checkout / 'configs' / 'r3-large.yaml'
        if not config.is_file():
            raise ModelError(f"{checkout} is no clone of the authors' code: there is no {config}")
        try:
            # They print about their choices, and libraries of theirs warn.
            with _importable(checkout), contextlib.redirect_stdout(io.StringIO()):
                self._model = _built(config, network.config)
        except ImportError as error:
            raise ModelError(
                f'the code in {checkout} needs a library that is not here ({error}): install what '
                'its requirements.txt lists'
            ) from error
        weights = {
            f'da3.{official_name(name)}': tensor.float()
            for name, tensor in network.state_dict().items()
        }
        try:
            self._model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ModelError(
                f'the network of {checkout} has other weights than ours: {error}'
            ) from error
        self._model.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def step(self, pixels: np.ndarray) -> np.ndarray:
        """Process the next image of a stream.

        :param pixels: (h, w, 3) uint8, prepared for the network.
        :returns: (h, w) float32 depth.
        """
        image = normalised(uploaded(pixels, self._device).permute(2, 0, 1)[None, None], 5)
        on_gpu = self._device.type == 'cuda'
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=on_gpu):
            answer = self._model.forward_online_step(image)
        return fetched(answer['depth'][0, 0, ..., 0].float())


@contextlib.contextmanager
def _importable(checkout: Path) -> Iterator[None]:
    sys.path.insert(0, str(checkout))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        sys.path.remove(str(checkout))


def _built(file: Path, ours: NetworkConfig) -> Any:
    """Return their network with the dimensions of ours."""
    create_object = importlib.import_module('depth_anything_3.cfg').create_object
    kind = importlib.import_module('R3.models.r3').R3
    config = importlib.import_module('omegaconf').OmegaConf.load(file)
    backbone, head = ours.backbone, ours.depth_head
    config.net.name = _BACKBONES[backbone.width]
    config.net.out_layers = list(backbone.taps)
    for name in ('alt_start', 'qknorm_start', 'rope_start'):
        config.net[name] = backbone.alternate_from
    config.head.dim_in = config.cam_dec.dim_in = backbone.feature_width
    config.head.features, config.head.out_channels = head.features, list(head.channels)
    return kind(create_object(config), online_kv_cache_mode='all', online_verbose=False)
