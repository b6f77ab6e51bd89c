"""Inputs of a golden file that have to be there and to fit one another."""

from __future__ import annotations

import numpy as np

from ..errors import SourceError

#: Axis whose size is free.
ANY = '.'


def check_shapes(arrays: dict[str, np.ndarray], needed: dict[str, str]) -> None:
    """Look for arrays and compare their shapes.

    :param needed: a digit or letter per axis by the name of the array: a digit is the size of the
        axis, axes of one letter have one size.
    :raises SourceError: one is missing, empty, or does not fit.
    """
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise SourceError(f'it lacks {", ".join(missing)}: nothing can be computed without')
    sizes: dict[str, int] = {str(digit): digit for digit in range(10)}
    for name, axes in needed.items():
        shape = arrays[name].shape
        fits = len(shape) == len(axes)
        for axis, size in zip(axes, shape, strict=False):
            fits &= size > 0 and (axis == ANY or sizes.setdefault(axis, size) == size)
        if not fits:
            raise SourceError(f'the shape of {name} does not fit: {shape}')
