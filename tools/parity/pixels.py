"""Images prepared for the networks by both rules, for files of nothing else."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image, ImageOps
from r3_ros.core.errors import SourceError
from r3_ros.input.network_input import da3_geometry, r3_geometry

from .comparison import Output
from .golden import Golden


def pixel_outputs(golden: Golden) -> dict[str, Output]:
    """Prepare the image of every case of a file: ``CASE.settings`` gives ``CASE.pixels``.

    :raises SourceError: settings that no rule knows, or without a source.
    """
    cases = [n.removesuffix('.settings') for n in golden.arrays if n.endswith('.settings')]
    return {f'{case}.pixels': _prepared(golden, case) for case in cases}


def _prepared(golden: Golden, case: str) -> Output:
    rule, *_, method = case.split('.')
    if f'{case}.pixels' not in golden.arrays:
        raise SourceError(f'{case} has settings, but no pixels to compare')
    try:
        options = json.loads(str(golden.arrays[f'{case}.settings']))
        source = golden.arrays[f'source.{options.pop("source")}']
        if rule == 'r3':
            source = _upright(source, options.pop('exif_orientation', 1))
            if options.pop('crop_to_landscape', False):
                source = _landscape(source)
            geometry = r3_geometry(source.shape[1], source.shape[0], **options)
        else:
            geometry = da3_geometry(source.shape[1], source.shape[0], method=method, **options)
        return Output(geometry.apply(source))
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f'{case}.settings cannot be used: {error}') from error


def _upright(image: np.ndarray, exif_orientation: int) -> np.ndarray:
    """Return a stored image as the official loader turns it first."""
    stored = Image.fromarray(image)
    stored.getexif()[0x0112] = exif_orientation
    return np.asarray(ImageOps.exif_transpose(stored))


def _landscape(image: np.ndarray) -> np.ndarray:
    """Return the centred 4:3 part of an image."""
    height, width = image.shape[:2]
    wide, high = min(width, height * 4 // 3), min(height, width * 3 // 4)
    x, y = (width - wide) // 2, (height - high) // 2
    return image[y : y + high, x : x + wide]
