"""Networks from files of weights, and back: safetensors alone, and every tensor accounted for.

A file must hold what the network needs and nothing that is unknown, under any of the official
names (``checkpoint_keys``); its bytes are read by ``checkpoint_file``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
import functools
from pathlib import Path
import re

from safetensors import SafetensorError
from safetensors.torch import save_file
import torch
from torch import nn, Tensor

from ..atomic_files import atomic_path
from ..config import is_image_size
from ..errors import ModelError, OutputError
from .checkpoint_file import CheckpointFile, is_finite, Progress, STORED_DTYPES, WeightStream
from .checkpoint_keys import FileKeys, Fit, NetworkKeys, shown
from .network import build_network, DA3Network, MetricNetwork, R3Network
from .variants import CameraOutput, NetworkConfig, VARIANTS

Network = R3Network | DA3Network | MetricNetwork

#: The entry of a header that names the long side of the pictures of the training.
IMAGE_SIZE = 'image_size'
#: What our own files put before every name, as those of R3 do.
_PREFIX = 'da3.'


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and where it came from.

    :ivar network: in evaluation mode, without gradients.
    :ivar sha256: of the whole file, in hexadecimal.
    :ivar notes: what was ignored or made up for, one line each.
    """

    network: Network
    variant: str
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointInfo:
    """What a file's header says.

    :ivar stored_dtypes: of the tensors that are used, in the words of the format (``F32``).
    :ivar notes: what would be ignored or made up for, one line each.
    :ivar image_size: long side of the pictures it was trained on; None: the file does not say.
    """

    variant: str
    size_bytes: int
    stored_dtypes: tuple[str, ...]
    notes: tuple[str, ...]
    image_size: int | None = None


def inspect_checkpoint(path: Path | str, variant: str | None = None) -> CheckpointInfo:
    """Check a file against a network by its header alone.

    :param variant: a name in ``VARIANTS``; None: the one that the file fits.
    :raises CheckpointError: it is no file of weights, or of another network.
    :raises ModelError: there is no such variant.
    """
    with CheckpointFile(path) as file:
        config, fit = _identify(file, variant)
        used = set(fit.sources.values())
        dtypes = sorted({tensor.dtype for tensor in file.tensors if tensor.key in used})
        return CheckpointInfo(
            config.name, file.size_bytes, tuple(dtypes), tuple(fit.notes), _image_size(file)
        )


def load_network(
    path: Path | str,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = 'cpu',
    progress: Progress | None = None,
) -> LoadedNetwork:
    """Build the network of a file of weights and fill it.

    :param variant: a name in ``VARIANTS``; None: the one that the file fits.
    :param dtype: of the parameters, but for those that the network keeps in float32.
    :param progress: called with the bytes read so far and those of the whole file.
    :raises CheckpointError: it is no file of weights, damaged, or of another network.
    :raises ModelError: there is no such variant, or no room for it on the device.
    """
    if dtype not in STORED_DTYPES.values():
        raise ModelError(f'a network cannot run in {dtype}; use float32, bfloat16 or float16')
    with CheckpointFile(path) as file:
        config, fit = _identify(file, variant)
        with torch.device('meta'):
            network = build_network(config)
        stream = WeightStream(file, progress)
        filled = _read_all(file, stream, fit, _Placing(network, dtype, device))
        sha256 = stream.finish()
    _assign(network, fit.wanted, filled)
    return LoadedNetwork(network, config.name, sha256, tuple(fit.notes))


def save_network(
    network: nn.Module,
    path: Path | str,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a network under its official names, each parameter once.

    :param metadata: kept in the header for whoever reads it.
    :raises OutputError: the file cannot be written, or ``load_network`` would refuse it.
    """
    wanted, state = NetworkKeys.of(network), network.state_dict()
    tensors = {
        f'{_PREFIX}{name}': state[wanted.parameters[name]].detach().cpu().contiguous()
        for name, *_ in wanted.groups
    }
    for key, tensor in tensors.items():
        if tensor.dtype not in STORED_DTYPES.values() or not is_finite(tensor):
            raise OutputError(
                f'cannot write {path}: {key} is {tensor.dtype} or not finite, so that nobody '
                'could load it; go back to weights that are sound'
            )
    with atomic_path(path, overwrite) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask leaves; the library takes 0600
        try:
            save_file(tensors, temporary, {'format': 'pt', **(metadata or {})})
            temporary.chmod(mode)
        except SafetensorError as error:
            raise OutputError(f'cannot write {path}: {error}') from error


class _Placing:
    """Makes empty tensors of the right type in the right place."""

    def __init__(self, network: Network, dtype: torch.dtype, device: torch.device | str) -> None:
        self._keeps_float32 = network.keeps_float32
        self._dtype = dtype
        self._device = device

    def empty_for(self, parameter: str, shape: tuple[int, ...]) -> Tensor:
        """Return room for a parameter of ours.

        :raises ModelError: there is none.
        """
        dtype = torch.float32 if self._keeps_float32(parameter) else self._dtype
        try:
            return torch.empty(shape, dtype=dtype, device=self._device)
        # What torch raises depends on the device, and on whether it was built for it.
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition('\n')[0]
            raise ModelError(f'cannot put the weights on {self._device}: {reason}') from error


def _image_size(file: CheckpointFile) -> int | None:
    """Return the size of pictures that a file names.

    :raises CheckpointError: no network takes such pictures.
    """
    text = file.metadata.get(IMAGE_SIZE)
    if text is None:
        return None
    if not re.fullmatch(r'\d{1,4}', text) or not is_image_size(int(text)):
        raise file.error(
            f'it says that it was trained on pictures of {shown(text)} pixels, which no network '
            'takes; set that entry of its header right, or train it again'
        )
    return int(text)


def _identify(file: CheckpointFile, variant: str | None) -> tuple[NetworkConfig, Fit]:
    """Return the network of a file and how it fits.

    :raises CheckpointError: it does not.
    :raises ModelError: there is no such variant.
    """
    try:
        keys = FileKeys({tensor.key: tensor.shape for tensor in file.tensors})
    except ValueError as error:
        raise file.error(str(error)) from None
    if variant is not None:
        fit = _fit(keys, _config(variant))
        if fit.problems:
            raise file.error(f'{_verdict(keys, variant, fit)}: {fit.description()}')
    else:
        variant, fit = _best_fit(keys)
        if not fit.sources:
            known = ', '.join(VARIANTS)
            raise file.error(f'none of its tensors belongs to a known network ({known})')
        if fit.problems:
            raise file.error(
                f'it fits no known network; nearest is {variant}: {fit.description()}'
            )
    _check_dtypes(file, fit)
    return VARIANTS[variant], fit


def _config(variant: str) -> NetworkConfig:
    try:
        return VARIANTS[variant]
    except KeyError:
        known = ', '.join(VARIANTS)
        raise ModelError(f'there is no network {variant}; choose one of {known}') from None


def _fit(keys: FileKeys, config: NetworkConfig) -> Fit:
    return keys.fit(_keys_of(config), metric=config.camera is CameraOutput.NONE)


@functools.cache
def _keys_of(config: NetworkConfig) -> NetworkKeys:
    with torch.device('meta'):
        return NetworkKeys.of(build_network(config))


def _best_fit(keys: FileKeys) -> tuple[str, Fit]:
    """Return the network with the fewest tensors that do not fit."""
    fits = {
        name: _fit(keys, config)
        for name, config in VARIANTS.items()
        # The metric network within a nested file is had by asking for it.
        if not (keys.holds_both and config.camera is CameraOutput.NONE)
    }
    return min(fits.items(), key=lambda item: item[1].problems)


def _verdict(keys: FileKeys, asked: str, fit: Fit) -> str:
    """Say that the file is not of the network asked for, and of which it is."""
    name, best = _best_fit(keys)
    if not best.problems:
        return f'it is a {name} file and not {asked}'
    if best.problems < fit.problems:
        return f'it does not fit {asked} (nearer is {name}, with {best.problems} differences)'
    return f'it does not fit {asked}'


def _check_dtypes(file: CheckpointFile, fit: Fit) -> None:
    used = set(fit.sources.values())
    for tensor in file.tensors:
        if tensor.key in used and tensor.dtype not in STORED_DTYPES:
            known = ', '.join(STORED_DTYPES)
            raise file.error(
                f'{shown(tensor.key)} is stored as {tensor.dtype}; convert it to one of {known}'
            )


def _read_all(
    file: CheckpointFile, stream: WeightStream, fit: Fit, placing: _Placing
) -> dict[str, Tensor]:
    """Return the parameters of a network by the first of their names."""
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, key in fit.sources.items():
        names_of[key].append(name)
    filled: dict[str, Tensor] = {}
    for stored in file.tensors:
        if stored.key not in names_of:
            stream.skip(stored)
            continue
        first, *copies = names_of[stored.key]
        for name in (first, *copies):
            filled[name] = placing.empty_for(fit.wanted.parameters[name], stored.shape)
        stream.read(stored, filled[first])
        for name in copies:
            filled[name].copy_(filled[first])
    return filled


def _assign(network: Network, wanted: NetworkKeys, filled: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of a network's own, which may be on the meta device."""
    state = {}
    for group in wanted.groups:
        parameter = nn.Parameter(filled[group[0]], requires_grad=False)
        state.update({wanted.parameters[name]: parameter for name in group})
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()
