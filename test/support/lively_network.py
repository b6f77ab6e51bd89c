"""Small networks with lively random weights, and frames for them."""

from dataclasses import replace

import numpy as np
from r3_ros.core.datatypes import Frame, Intrinsics
from r3_ros.model.building import build_network
from r3_ros.model.variants import VARIANTS
import torch

SIZE = (112, 168)  # height, width; 154 pixels are the shortest long side that is allowed

K = Intrinsics(150.0, 151.0, 80.0, 60.0, SIZE[1], SIZE[0])


#: R3's layout in the size of r3-tiny.
R3_LAYOUT = replace(
    VARIANTS['r3-small'],
    backbone=VARIANTS['r3-tiny'].backbone,
    depth_head=replace(VARIANTS['r3-tiny'].depth_head, rays=True),
)


def lively(variant=None, seed=0):
    """Return a network whose random weights give answers that differ from frame to frame.

    :param variant: None: R3's layout in a small size.
    """
    torch.manual_seed(seed)
    network = build_network(VARIANTS[variant] if variant else R3_LAYOUT)
    for name, parameter in network.named_parameters():
        kept = ('norm' in name and name.endswith('weight')) or parameter.ndim < 1
        if not kept:
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            parameter.data.normal_(0.0, min(1.0, fan_in**-0.5))
        if name.endswith('gamma'):
            parameter.data.fill_(0.5)
    if hasattr(network, 'cam_dec'):
        network.cam_dec.fc_fov[0].weight.data *= 0.1
        network.cam_dec.fc_fov[0].bias.data = torch.tensor([0.9, 1.1])
    return network.eval().requires_grad_(False)


def frame(number, intrinsics=K, size=SIZE):
    """Return an image of its own, with structure at several scales."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (size[0] // 8 + 1, size[1] // 8 + 1, 3))
    blocks = np.kron(coarse, np.ones((8, 8, 1)))[: size[0], : size[1]]
    image = blocks + rng.normal(0, 8, (*size, 3))
    return Frame(image.clip(0, 255).astype(np.uint8), number * 10**8, intrinsics, number)
