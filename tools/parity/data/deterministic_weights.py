"""Made-up weights that follow from the name and the shape of a parameter, on every machine.

Scales keep activations near 1, depths near 1, fields of view near 1 rad and rotations moderate, so
that a mistake in any layer shows in the outputs.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np

#: Pattern of a name, mean and standard deviation; a text: over the root of the fan-in. The first
#: that matches counts.
_RULES: tuple[tuple[str, float | tuple[float, ...], float | str], ...] = (
    (r'[qk]_norm\.weight$', 1.5, 0.15),
    (r'norm\d?\.weight$', 1.0, 0.1),
    (r'gamma$', 0.6, 0.15),
    (r'(_tokens?|pos_embed)$', 0.0, 0.5),
    (r'pose_branch\.fc2\.bias$', (0, 0, 0, 0, 0, 0, 0.3, 0.2, 0.25), 0.01),
    (r'pose_branch\.fc2\.weight$', 0.0, '0.1'),
    (r'output_conv2\.2\.weight$', 0.0, '0.7'),
    (r'weight$', 0.0, '1.0'),
    (r'bias$', 0.0, 0.05),
)


def unit(key: str, count: int) -> np.ndarray:
    """Return (count,) float64 values, uniform, of mean 0 and variance 1."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], 'little')
    integers = np.random.Philox(key=seed).random_raw(count) >> np.uint64(11)
    return (integers.astype(np.float64) * 2.0**-52 - 1) * 3**0.5


def tensor_for(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 value of a parameter.

    :raises KeyError: no rule for its name.
    """
    rules = (rule[1:] for rule in _RULES if re.search(rule[0], key))
    mean, deviation = next(rules, (None, None))
    if mean is None or deviation is None:
        raise KeyError(f'there is no rule for {key}')
    if isinstance(deviation, str):
        transposed = re.search(r'resize_layers\.[01]\.', key)
        fan_in = shape[0] if transposed else int(np.prod(shape[1:]))
        deviation = float(deviation) / fan_in**0.5
    values = unit(key, int(np.prod(shape))).reshape(shape)
    return (np.asarray(mean) + deviation * values).astype(np.float32)


def small_signal_tensor_for(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a value with which activations are so small that the epsilons of norms matter."""
    small = re.search(r'(patch_embed\.proj\.\w+|_tokens?|pos_embed|gamma|attn\.qkv\.\w+)$', key)
    return tensor_for(key, shape) * np.float32(2e-3 if small else 1)
