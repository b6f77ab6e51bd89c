"""Networks loaded from and saved to safetensors files, every tensor accounted for.

A *key* is a name in the file (``model.da3.backbone.pretrained.cls_token``), a *name* the official
one without prefix (``backbone.pretrained.cls_token``), a *parameter* a name in the ``state_dict``
of our network.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import functools
import math
import os
from pathlib import Path
import re
from typing import Any

from safetensors import safe_open, SafetensorError
from safetensors.torch import save_file
import torch
from torch import nn, Tensor

from ...core.atomic_files import atomic_path
from ...core.config import is_image_size
from ...core.errors import CheckpointError, ModelError, OutputError
from ..building import build_network, Network
from ..variants import CrocoConfig, NetworkConfig, PAIR_VARIANTS, VARIANTS
from .catalogue import sha256_of

Shape = tuple[int, ...]

#: Header entries: the long side of the training images; which weights the training began with, and
#: their licence.
IMAGE_SIZE, ORIGIN, LICENCE = 'image_size', 'origin', 'licence'
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Every network.
_CONFIGS = ChainMap[str, Any](VARIANTS, PAIR_VARIANTS)
#: Prefix of the names in our own files, as in those of R3.
_PREFIX = 'da3.'
#: Prefixes left by training code.
_PREFIXES = re.compile(r'((net|module|model|da3)\.)*')
#: Their widths narrow down the networks before they are compared parameter by parameter.
_WIDTHS = re.compile(r'(backbone\.pretrained|aggregator\.patch_embed)\.cls_token|enc_norm\.weight')
#: Parameters listed by torch under several names: the norm of the four ray branches, and the
#: levels of the heads of image pairs.
_SHARED_NORM = re.compile(r'(output_conv2_aux\.)\d(\.2\.)')
_SHARED_LEVEL = re.compile(r'scratch\.layer_rn\.(\d)\.')
#: The heads of image pairs, from our names to official ones.
_PAIR_HEADS = (
    (re.compile(r'\.dpt\.projects\.(\d)\.'), r'.dpt.act_postprocess.\1.0.'),
    (re.compile(r'\.dpt\.resize_layers\.(\d)\.'), r'.dpt.act_postprocess.\1.1.'),
    (re.compile(r'\.dpt\.(layer|refinenet)'), r'.dpt.scratch.\1'),
    (re.compile(r'\.dpt\.output_conv1\.'), '.dpt.head.0.'),
    (re.compile(r'\.dpt\.output_conv2\.0\.'), '.dpt.head.2.'),
    (re.compile(r'\.dpt\.output_conv2\.2\.'), '.dpt.head.4.'),
)
#: Modules in ``scratch`` of the official dense heads, and in the heads themselves of ours.
_SCRATCH = re.compile(r'^(\w*head)\.(layer|refinenet|output_conv|sky_output_conv)')
#: Parts of official files that our networks may lack: the pose encoder, additional camera heads,
#: the Gaussian head, projections and masks used in training; VGGT's tracks, and its points in
#: files of LingBot-Map.
_OPTIONAL_PARTS = re.compile(
    r'(cam_enc|aux_cam_decs|gs_head|gs_adapter|projections|track_head|point_head)(?=\.)'
    r'|(aggregator\.patch_embed\.)?mask_token'
)
#: Older files have one confidence, used for translation too.
_CONFIDENCE_T, _CONFIDENCE = 'cam_dec.fc_rel_conf_t.', 'cam_dec.fc_rel_conf.'
#: First bytes of files mistaken for weights.
_OTHER_FORMATS = {
    b'PK\x03\x04': 'it is a pickle, which may run code when loaded: convert it to safetensors',
    b'\x80': 'it is a pickle, which may run code when loaded: convert it to safetensors',
    b'version ': 'it is a Git LFS pointer: fetch the file itself (git lfs pull)',
    b'<': 'it is a web page: fetch the file again',
}
_LISTED, _LONGEST_SHOWN = 5, 120


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and facts of its file.

    :ivar network: in evaluation mode, without gradients.
    :ivar sha256: of the whole file, in hexadecimal.
    :ivar notes: what was ignored or copied, one line each.
    :ivar image_size: long side of the training images; None: unknown.
    :ivar origin: what weights of ``r3 train`` and ``r3 finetune`` were trained from; else empty.
    :ivar licence: of their origin, ``unknown``, or empty.
    """

    network: Network
    variant: str
    sha256: str
    notes: tuple[str, ...]
    image_size: int | None
    origin: str = ''
    licence: str = ''


def load_network(
    path: Path | str,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = 'cpu',
) -> LoadedNetwork:
    """Load a network without a second copy of the file in memory.

    :param variant: a name in ``VARIANTS`` or ``PAIR_VARIANTS``; None: the one that fits the file.
    :param dtype: of the parameters, except those that the network keeps in float32.
    :raises CheckpointError: the file holds no weights, is damaged, or of another network.
    :raises ModelError: no such variant, or no memory for it on the device.
    """
    if variant is not None and variant not in _CONFIGS:
        raise ModelError(f'there is no network {variant}; choose one of {", ".join(_CONFIGS)}')
    with _read_errors(path), _unchanged(path):
        sha256 = sha256_of(path)
        # Read, not mapped: overwriting the file later must not change or crash the program.
        with safe_open(path, 'pt', backend='pread') as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            about = file.metadata() or {}
            image_size = _image_size(about)
            name, match = _identify(shapes, variant)
            with torch.device('meta'):
                network = build_network(_CONFIGS[name])
            _fill(network, match.keys, file, dtype, device)
    network.requires_grad_(False).eval()
    origin, licence = (_shown(about.get(entry, '')) for entry in (ORIGIN, LICENCE))
    return LoadedNetwork(network, name, sha256, tuple(match.notes), image_size, origin, licence)


def save_network(
    network: nn.Module, path: Path | str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network under its official names, each parameter once.

    :param metadata: kept in the header.
    :raises OutputError: the file cannot be written, or could not be loaded again.
    """
    tensors = {
        f'{_PREFIX}{_name(official_name(parameter))}': tensor.detach().cpu().contiguous()
        for parameter, tensor in network.state_dict().items()
    }
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES or not _is_finite(tensor):
            raise OutputError(
                f'cannot write {path}: {key} is {tensor.dtype} or not finite, and could not be '
                'loaded again'
            )
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the user's umask; the library sets 0600
        try:
            save_file(tensors, temporary, {'format': 'pt', **(metadata or {})})
        except SafetensorError as error:
            raise OutputError(f'cannot write {path}: {error}') from error
        temporary.chmod(mode)


def official_name(parameter: str) -> str:
    """Return the official name, without prefix, of a parameter of ours."""
    part, _, rest = parameter.partition('.')
    if part == 'backbone':
        return f'backbone.pretrained.{rest}'
    if part.startswith('downstream_head'):
        for pattern, official in _PAIR_HEADS:
            parameter = pattern.sub(official, parameter)
        return parameter
    return _SCRATCH.sub(r'\1.scratch.\2', parameter)


class _Unusable(Exception):
    """The reason why a file cannot be used, without its path."""


@contextmanager
def _read_errors(path: Path | str) -> Iterator[None]:
    """Raise errors of a file as :class:`CheckpointError` of one line."""
    try:
        if not os.path.isfile(path):
            raise _Unusable('there is no such file; r3 weights get fetches weights')
        yield
    except _Unusable as error:
        what = str(error)
    except OSError as error:
        what = f'it cannot be read: {error.strerror or error}'
    except SafetensorError as error:
        with open(path, 'rb') as opened:
            start = opened.read(8)
        other = (text for magic, text in _OTHER_FORMATS.items() if start.startswith(magic))
        damaged = f'it is damaged, cut off, or no safetensors file ({_shown(str(error))})'
        what = next(other, f'{damaged}: fetch it again')
    else:
        return
    raise CheckpointError(f'cannot use {path} as weights: {what}')


@contextmanager
def _unchanged(path: Path | str) -> Iterator[None]:
    """Refuse a file that is changed or replaced meanwhile."""
    before = os.stat(path)
    yield
    after = os.stat(path)
    if not os.path.samestat(before, after) or before.st_mtime_ns != after.st_mtime_ns:
        raise _Unusable('it was changed while it was being read; try again')


def _image_size(metadata: Mapping[str, str]) -> int | None:
    text = metadata.get(IMAGE_SIZE)
    if text is None:
        return None
    if not re.fullmatch(r'\d{1,4}', text) or not is_image_size(int(text)):
        raise _Unusable(
            f'according to its header it was trained on images of {_shown(text)} pixels, which no '
            'network takes; correct that entry, or train it again'
        )
    return int(text)


# --- Keys ---


@dataclass
class _Match:
    """The comparison of a file with a network.

    :ivar keys: of the file, by name.
    :ivar problems: missing, unexpected and misshaped names, by kind.
    :ivar notes: ignored and copied tensors.
    """

    keys: dict[str, str]
    problems: dict[str, list[str]]
    notes: list[str]

    @property
    def differences(self) -> int:
        return sum(map(len, self.problems.values()))

    def __str__(self) -> str:
        return '; '.join(_listed(what, found) for what, found in self.problems.items() if found)


def _identify(shapes: Mapping[str, Shape], variant: str | None) -> tuple[str, _Match]:
    """Return the variant that fits a file, and the match."""
    widths = {shape[-1:] for key, shape in shapes.items() if _WIDTHS.fullmatch(_name(key))}
    matches = {
        name: _match(shapes, _wanted(config))
        for name, config in _CONFIGS.items()
        if name == variant or (_width(config),) in widths
    }
    if not matches:
        raise _Unusable(f'it is of no known network ({", ".join(_CONFIGS)})')
    nearest = min(matches, key=lambda name: matches[name].differences)
    name = variant or nearest
    match = matches[name]
    if not match.differences:
        return name, match
    if variant is None:
        raise _Unusable(f'it fits no known network; the nearest is {nearest}: {match}')
    if not matches[nearest].differences:
        raise _Unusable(f'it is a {nearest} file and not {variant}: {match}')
    raise _Unusable(f'it does not fit {variant}: {match}')


def _width(config: NetworkConfig | CrocoConfig) -> int:
    return config.encoder_width if isinstance(config, CrocoConfig) else config.backbone.width


@functools.cache
def _wanted(config: NetworkConfig | CrocoConfig) -> Mapping[str, Shape]:
    """Return the parameter shapes of a network by name."""
    with torch.device('meta'):
        state = build_network(config).state_dict()
    return {_name(official_name(key)): tuple(tensor.shape) for key, tensor in state.items()}


def _name(key: str) -> str:
    """Return the name of a key, the same for all keys of a shared parameter."""
    name = _SHARED_NORM.sub(r'\g<1>0\2', _PREFIXES.sub('', key, count=1))
    return _SHARED_LEVEL.sub(lambda found: f'scratch.layer{int(found[1]) + 1}_rn.', name)


def _is_shared(key: str) -> bool:
    return bool(_SHARED_NORM.search(key) or _SHARED_LEVEL.search(key))


def _match(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> _Match:
    keys: dict[str, str] = {}
    unexpected, misshaped, ignored = [], [], []
    parts = {name.partition('.')[0] for name in wanted}
    for key in sorted(shapes):
        name = _name(key)
        optional = _OPTIONAL_PARTS.match(name)
        if optional and optional[0] not in parts:
            ignored.append(name if optional[0] == name else f'{optional[0]}.*')
        elif name not in wanted or (name in keys and not _is_shared(key)):
            unexpected.append(_shown(key))
        elif shapes[key] != wanted[name]:
            misshaped.append(f'{_shown(key)} ({_text(shapes[key])}, not {_text(wanted[name])})')
        # Of several keys of a shared parameter the last is used, as in torch.
        keys[name] = key
    notes = [f'ignored {ignored.count(part)} tensors {part}' for part in sorted({*ignored})]
    older = {name: name.replace(_CONFIDENCE_T, _CONFIDENCE) for name in wanted}
    copied = {name: keys[old] for name, old in older.items() if name != old and old in keys}
    if copied and not copied.keys() & keys.keys():
        keys.update(copied)
        notes.append(f'copied {_CONFIDENCE}* to {_CONFIDENCE_T}*: a file of an older form')
    missing = [name for name in wanted if name not in keys]
    problems = {'missing': missing, 'unexpected': unexpected, 'of another shape': misshaped}
    return _Match(keys, problems, notes)


def _listed(what: str, found: Sequence[str]) -> str:
    more = f' and {len(found) - _LISTED} more' if len(found) > _LISTED else ''
    return f'{len(found)} {what}: {", ".join(found[:_LISTED])}{more}'


def _shown(text: str) -> str:
    """Return a text of a possibly damaged file for a one-line message."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST_SHOWN else f'{text[:_LONGEST_SHOWN]}...'


def _text(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'a scalar'


# --- Tensors ---


def _fill(
    network: Network,
    keys: Mapping[str, str],
    file: Any,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Assign the tensors of a file to a network on the meta device."""
    filled: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for parameter in network.state_dict():
        name = _name(official_name(parameter))
        if name not in filled:
            wanted = torch.float32 if network.keeps_float32(parameter) else dtype
            tensor = _converted(file.get_tensor(keys[name]), keys[name], wanted, device)
            filled[name] = nn.Parameter(tensor)
        state[parameter] = filled[name]
    network.load_state_dict(state, strict=True, assign=True)


def _converted(tensor: Tensor, key: str, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return a finite tensor in a type and on a device.

    :raises ModelError: the device does not accept it.
    """
    if tensor.dtype not in DTYPES:
        known = ', '.join(map(str, DTYPES))
        raise _Unusable(f'{_shown(key)} is stored as {tensor.dtype}; convert it to one of {known}')
    try:
        converted = tensor.to(device, dtype)
    # The error depends on the device and the build of torch.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition('\n')[0]
        raise ModelError(
            f'cannot move the weights to {device}: {reason}; free memory, or set model.device'
        ) from error
    if _is_finite(converted):
        return converted
    if _is_finite(tensor):
        raise _Unusable(f'{_shown(key)} holds a value too large for {dtype}; use another type')
    raise _Unusable(f'{_shown(key)} holds a value that is not finite: fetch it again')


def _is_finite(values: Tensor) -> bool:
    return not values.numel() or all(math.isfinite(limit) for limit in torch.aminmax(values))
