"""The state of a training in one file, from which it continues to the last bit.

A safetensors file: tensors, and texts in its header. It holds no code.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path

from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import nn, Tensor

from ...core.atomic_files import atomic_path
from ...core.errors import CheckpointError, ConfigError, OutputError
from ...core.parameter_fields import flattened
from .training_settings import TrainingSettings

FORMAT = 'r3_ros training 2'
#: The state of AdamW for each parameter.
_ADAMW = ('step', 'exp_avg', 'exp_avg_sq')
#: Settings that, beside those of ``report``, may change when a training continues.
_FREE = ('data.clips', 'matching.steps', 'joint.steps', 'large.steps')


def save_state(
    path: Path,
    progress: tuple[int, Mapping[str, str]],
    settings: TrainingSettings,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write the state of a training, completely or not at all.

    :param progress: steps done, and the provenance of the weights.
    :raises OutputError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        tensors[f'network.{name}'] = parameter
        for part, value in optimiser.state.get(parameter, {}).items():
            tensors[f'{part}.{name}'] = value
    tensors |= {f'average.{name}': p for name, p in average.named_parameters()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    about = {
        'format': FORMAT,
        'step': str(progress[0]),
        'provenance': json.dumps(dict(progress[1])),
        'settings': json.dumps(flattened(settings)),
    }
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, about)
        except SafetensorError as error:
            raise OutputError(f'cannot write {path}: {error}') from error


def load_state(
    path: Path,
    settings: TrainingSettings,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> tuple[int, dict[str, str]]:
    """Load networks and optimiser; return the steps done and the provenance of the weights.

    :raises CheckpointError: missing, damaged, or of another network.
    :raises ConfigError: it was made with other settings; those of ``report``, the
        number of clips and the steps of stages may differ.
    """
    try:
        with safe_open(path, framework='pt') as file:
            about = file.metadata() or {}
            if about.get('format') != FORMAT:
                raise CheckpointError(f'{path} is not a state of a training ({FORMAT})')
            _refuse_other_settings(path, json.loads(about['settings']), flattened(settings))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f'cannot go on from {path}: {error}; start again in another folder'
        ) from error
    step = int(about['step'])
    for prefix, module in (('network', network), ('average', average)):
        for name, parameter in module.named_parameters():
            _fill(path, parameter, tensors, f'{prefix}.{name}')
    for name, parameter in network.named_parameters():
        if f'{_ADAMW[0]}.{name}' in tensors:
            state = optimiser.state[parameter]
            state['step'] = torch.tensor(0.0)
            for part in _ADAMW[1:]:
                state[part] = torch.zeros_like(parameter)
            for part in _ADAMW:
                _fill(path, state[part], tensors, f'{part}.{name}')
    return step, json.loads(about.get('provenance', '{}'))


def _fill(path: Path, target: Tensor, tensors: Mapping[str, Tensor], key: str) -> None:
    source = tensors.get(key)
    if source is None or source.shape != target.shape:
        raise CheckpointError(f'cannot go on from {path}: {key} is missing or of another shape')
    with torch.no_grad():
        target.copy_(source)


def _refuse_other_settings(
    path: Path, before: Mapping[str, object], now: Mapping[str, object]
) -> None:
    # A setting that did not exist when the state was written has its default; one that does not
    # exist any more is of no effect.
    before = {**flattened(TrainingSettings()), **before}
    differ = [
        f'{name} was {before.get(name)!r} and is {now.get(name)!r}'
        for name in sorted(now)
        if before.get(name) != now.get(name)
        and name not in _FREE
        and not name.startswith('report.')
    ]
    if differ:
        raise ConfigError(
            f'cannot go on from {path} with other settings: {"; ".join(differ)}. Take the same '
            'ones, or start in another folder'
        )
