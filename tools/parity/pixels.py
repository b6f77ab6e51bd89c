"""Images prepared for the networks by both rules, for files of nothing else."""

from __future__ import annotations

import json

from r3_ros.core.errors import SourceError
from r3_ros.input.network_input import DA3Rule, prepare_da3, prepare_r3, R3Rule

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
            orientation = options.pop('exif_orientation', 1)
            return Output(prepare_r3(source, R3Rule(**options), orientation).pixels)
        return Output(prepare_da3(source, DA3Rule(method=method, **options)).pixels)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f'{case}.settings cannot be used: {error}') from error
