"""Pictures made ready by both rules, for files of nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import ConfigError, R3Error, SourceError
from ..input.network_input import DA3Rule, prepare_da3, prepare_r3, R3Rule
from .arrays import Answer, Answers
from .golden import Golden

_SETTINGS, _PIXELS, _SOURCE = '.settings', '.pixels', 'source.'


def preprocess_answers(golden: Golden) -> Answers:
    """Prepare the pictures of every case of a file."""
    values: dict[str, Answer | str] = {}
    inputs = {name for name in golden.arrays if name.startswith(_SOURCE)}
    for name in golden.arrays:
        case = name.removesuffix(_SETTINGS)
        if case == name or name in inputs:
            continue
        inputs.add(name)
        try:
            values[case + _PIXELS] = Answer(_prepared(golden, case))
        except R3Error as error:
            values[case + _PIXELS] = str(error)
    return Answers(values, frozenset(inputs))


def _prepared(golden: Golden, case: str) -> np.ndarray:
    """Return our pixels of one case.

    :raises R3Error: its settings are none of ours, or the picture cannot be prepared so.
    """
    if case + _PIXELS not in golden.arrays:
        raise SourceError(f'{case} has settings, but no pixels to compare')
    options = _options(golden.text(case + _SETTINGS))
    source = _SOURCE + str(options.pop('source', ''))
    if source not in golden.arrays:
        raise SourceError(f'there is no {source} in the file')
    rule, *_, method = case.split('.')
    try:
        if rule == 'r3':
            orientation = options.pop('exif_orientation', 1)
            return prepare_r3(golden.arrays[source], R3Rule(**options), orientation).pixels
        if rule == 'da3':
            return prepare_da3(golden.arrays[source], DA3Rule(method=method, **options)).pixels
    except TypeError as error:
        raise ConfigError(f'settings that the rule {rule} does not know: {error}') from error
    raise SourceError(f'there is no rule {rule}, only r3 and da3')


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise SourceError(f'settings are not JSON: {error}') from error
    if not isinstance(options, dict):
        raise SourceError(f'settings should be a JSON object, got {text!r}')
    return options
