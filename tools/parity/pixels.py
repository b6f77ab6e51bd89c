"""Images prepared for the networks by both rules, for files of nothing else."""

from __future__ import annotations

import json

from r3_ros.core.errors import SourceError
from r3_ros.core.resize_geometry import image_size
from r3_ros.input.network_input import da3_geometry, r3_geometry

from .comparison import Output
from .golden import Golden

#: Settings of the official rule that the package has no use for.
_R3_DEFAULTS = {'exif_orientation': 1, 'crop_to_landscape': False, 'rotate_clockwise_90': False}
_R3_SQUARE_SIZE = 224
_DA3_METHOD = 'upper_bound_resize'


def pixel_outputs(golden: Golden) -> dict[str, Output | None]:
    """Prepare the image of every case of a file: ``CASE.settings`` gives ``CASE.pixels``.

    :returns: None for a case that is not covered: another method or setting than the package's.
    :raises SourceError: settings that no rule knows, or without a source.
    """
    cases = [n.removesuffix('.settings') for n in golden.arrays if n.endswith('.settings')]
    return {f'{case}.pixels': _prepared(golden, case) for case in cases}


def _prepared(golden: Golden, case: str) -> Output | None:
    rule, *_, method = case.split('.')
    if f'{case}.pixels' not in golden.arrays:
        raise SourceError(f'{case} has settings, but no pixels to compare')
    try:
        options = json.loads(str(golden.arrays[f'{case}.settings']))
        source = golden.arrays[f'source.{options.pop("source")}']
        width, height = image_size(source)
        if rule != 'r3':
            geometry, covered = da3_geometry(width, height, **options), method == _DA3_METHOD
        else:
            others = {name: options.pop(name, usual) for name, usual in _R3_DEFAULTS.items()}
            square_ok = options.pop('square_ok', False) or width != height
            geometry = r3_geometry(width, height, **options)
            covered = others == _R3_DEFAULTS and square_ok and options['size'] != _R3_SQUARE_SIZE
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f'{case}.settings cannot be used: {error}') from error
    return Output(geometry.apply(source)) if covered else None
