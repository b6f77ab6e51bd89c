"""Our networks of image pairs on the images of a golden file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from r3_ros.core.errors import SourceError
from r3_ros.model.pairs.croco import PointNetwork, PoseNetwork
from r3_ros.model.pairs.heads import PointMap
from r3_ros.model.variants import CrocoConfig, PAIR_VARIANTS
import torch
from torch import Tensor

from .comparison import Output
from .golden import Golden
from .stand_in_weights import Networks

#: Pairs of images in every file, and their height and width: with even and odd rows of patches.
SIZES = {'even': (96, 160), 'odd': (80, 112)}


def config_of(name: str, numbers: Mapping[str, np.ndarray]) -> CrocoConfig:
    """Return the configuration of a network whose sizes are among the numbers of a file."""
    sizes: dict[str, Any] = {
        field.name: int(numbers[field.name])
        for field in fields(CrocoConfig)
        if field.name in numbers
    }
    return replace(PAIR_VARIANTS[name], **sizes)


def pair_outputs(golden: Golden, networks: Networks) -> dict[str, Output]:
    """Run the network of a file on its pairs of images.

    :raises SourceError: there are none, or no weights.
    """
    assert golden.subject.variant is not None
    network = networks.get(config_of(golden.subject.variant, golden.arrays), False)
    assert isinstance(network, PointNetwork | PoseNetwork)
    outputs: dict[str, Output] = {}
    for name in SIZES:
        pixels = golden.arrays.get(f'{name}.images')
        if pixels is None:
            raise SourceError(f'it holds no {name}.images: there is no input')
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(networks.device)
        with torch.inference_mode():
            first, second = (network.encode(image[None]) for image in images)
            arrays = _arrays(*network(first, second))
        outputs |= {f'{name}.{key}': Output(value) for key, value in arrays.items()}
    return outputs


def _arrays(first: PointMap | Tensor, second: PointMap | Tensor) -> dict[str, np.ndarray]:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return {'T_second_first': _numpy(first), 'T_first_second': _numpy(second)}
    assert isinstance(first, PointMap) and isinstance(second, PointMap)
    return {
        f'{name}{view}': _numpy(value)
        for view, point_map in enumerate((first, second), start=1)
        for name, value in point_map._asdict().items()
        if value is not None
    }


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
