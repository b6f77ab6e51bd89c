"""Networks small enough for every test, with weights that let every part show in the answers."""

from dataclasses import replace
from functools import lru_cache
import math
import re

from r3_ros.model.backbone import KeyValues
from r3_ros.model.building import build_network
from r3_ros.model.network import FrameCache
from r3_ros.model.variants import (
    BackboneConfig,
    CameraOutput,
    DepthHeadConfig,
    NetworkConfig,
)
import torch

_HEAD = DepthHeadConfig(features=16, channels=(8, 16, 24, 32))
_TINY_HEAD = DepthHeadConfig(features=16, channels=(8, 16, 24, 32), rays=False)
_EVEN = BackboneConfig(width=128, depth=10, taps=(3, 5, 7, 9), alternate_from=2)
#: As in the giant: SwiGLU, and the first block with roles looks across frames.
_ODD = BackboneConfig(width=128, depth=8, taps=(1, 3, 5, 7), alternate_from=1, swiglu_width=96)
_ALONE = BackboneConfig(width=128, depth=5, taps=(0, 1, 3, 4), alternate_from=None)

#: Two blocks for each image, and four pairs of blocks.
_ENCODER_AND_PAIRS = BackboneConfig(width=128, depth=10, taps=(3, 5, 7, 9), alternate_from=2)
_RECTIFIED_HEAD = replace(_TINY_HEAD, rectified_skips=True)

CONFIGS = {
    'r3': NetworkConfig('r3', _EVEN, _HEAD, CameraOutput.PAIRS),
    'r3-odd': NetworkConfig('r3-odd', _ODD, _HEAD, CameraOutput.PAIRS),
    'tiny': NetworkConfig('tiny', _EVEN, _TINY_HEAD, CameraOutput.MATCHES),
    'da3': NetworkConfig('da3', _EVEN, _HEAD, CameraOutput.ABSOLUTE),
    'metric': NetworkConfig(
        'metric',
        _ALONE,
        DepthHeadConfig(features=16, channels=(8, 16, 24, 32)),
        CameraOutput.NONE,
    ),
    'vggt': NetworkConfig('vggt', _ENCODER_AND_PAIRS, _RECTIFIED_HEAD, CameraOutput.REFINED),
    'lingbot-map': NetworkConfig(
        'lingbot-map', _ENCODER_AND_PAIRS, _RECTIFIED_HEAD, CameraOutput.VIDEO
    ),
}

#: Pattern of a parameter's name, its mean and standard deviation; a string: over sqrt(fan in).
#: The first that matches counts.
_SCALES = (
    (r'[qk]_norm\.weight$', 1.5, 0.3),
    (r'norm\d?\.weight$|_aux\.\d\.2\.weight$', 1.0, 0.3),
    (r'gamma$', 0.6, 0.2),
    (r'_tokens?$', 0.0, 1.0),
    (r'temperature$', 2.3, 0.0),
    (r'pos_embed$', 0.0, 0.5),
    (r'qvec\.bias$', 0.5, 0.2),
    (r'pose_branch\.fc2\.bias$', 0.3, 0.05),
    (r'fov\.0\.bias$', 1.0, 0.1),
    (r'(qvec|fov\.0)\.weight$', 0.0, '0.2'),
    (r'pose_branch\.fc2\.weight$', 0.0, '0.1'),
    (r'conv2(_aux\.\d)?\.[25]\.weight$', 0.0, '0.7'),
    (r'cam_dec\..*\.weight$', 0.0, '1.4'),
    (r'weight$', 0.0, '1.0'),
    (r'bias$', 0.0, 0.2),
)


def fill(network, seed=0):
    """Give every parameter numbers of its own: uniform, of a scale that keeps activations near 1.

    :returns: the network, ready to predict.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            mean, deviation = next(s[1:] for s in _SCALES if re.search(s[0], name))
            if isinstance(deviation, str):
                deviation = float(deviation) / math.sqrt(_fan_in(name, parameter.shape))
            noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(mean + deviation * math.sqrt(3) * noise)
    return network.eval()


def _fan_in(name, shape):
    if re.search(r'resize_layers\.[01]\.', name):  # transposed, stride as large as the kernel
        return shape[0]
    return math.prod(shape[1:])


@lru_cache
def shared_network(name):
    """Return a filled network without gradients that no test may change."""
    return fill(build_network(CONFIGS[name])).requires_grad_(False)


def own_network(name):
    """Return a filled network with gradients that the test may change."""
    return fill(build_network(CONFIGS[name]))


def select(cache, frames):
    """Return some frames of a cache, in the order given."""
    index = torch.tensor(list(frames), dtype=torch.int64, device=cache.pair_features[0].device)

    key_values = (
        KeyValues(kv.keys.index_select(2, index), kv.values.index_select(2, index))
        for kv in cache.key_values
    )
    return FrameCache(
        tuple(key_values), tuple(f.index_select(1, index) for f in cache.pair_features)
    )


def sample_images(frames, batch=1, size=(42, 70), seed=1):
    """Return (batch, frames, 3, *size) images between 0 and 1, each of its own brightness."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, frames, 3, *size, generator=generator)
    return noise * torch.rand(batch, frames, 3, 1, 1, generator=generator)


def tensors_of(answer):
    """Return every tensor in a nest of dataclasses, tuples and lists, by its path."""
    if isinstance(answer, torch.Tensor):
        return {'': answer}
    if hasattr(answer, '__dataclass_fields__'):
        items = [(name, getattr(answer, name)) for name in answer.__dataclass_fields__]
    elif hasattr(answer, '_fields'):
        items = list(zip(answer._fields, answer, strict=True))
    elif isinstance(answer, list | tuple):
        items = list(enumerate(answer))
    else:
        return {}
    return {
        f'.{name}{path}': tensor
        for name, part in items
        for path, tensor in tensors_of(part).items()
    }
