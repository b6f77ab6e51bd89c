"""The published weights: what they are for, under which licence, and where they lie here.

Nothing in this module touches the network. Where each statement about a licence was read is told
in docs/weights.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
import difflib
import hashlib
import json
import os
from pathlib import Path
import re
import stat
from typing import Any

from .errors import ModelError

SUFFIX = '.safetensors'
#: What SPDX says where a licence is not known.
NO_LICENCE_KNOWN = 'NOASSERTION'
#: 8 MiB: large enough for full disk speed, small enough for a smooth progress bar.
_BLOCK_BYTES = 1 << 23
_DIGEST = re.compile('[0-9a-f]{64}')


@dataclass(frozen=True)
class Weights:
    """One published file of weights.

    :ivar variant: the network that it fills, a key of ``model.variants.VARIANTS``.
    :ivar repo: repository on the Hugging Face hub.
    :ivar licence: SPDX identifier.
    :ivar commercial_use: None: not known.
    :ivar training_views: least and most views of a training sample; None: not stated.
    :ivar note: what else has to be said before the file is fetched.
    """

    name: str
    variant: str
    repo: str
    filename: str
    licence: str
    commercial_use: bool | None
    purpose: str
    training_views: tuple[int, int] | None = None
    note: str = ''

    @property
    def page(self) -> str:
        """The address of the model card."""
        return f'{hub_address()}/{self.repo}'

    def licence_text(self) -> str:
        """Return the licence and what it means, for people."""
        return {
            True: f'{self.licence}: commercial use is allowed',
            False: f'{self.licence}: not for commercial use',
            None: 'not stated where we could see it: whether commercial use is allowed is unknown',
        }[self.commercial_use]


@dataclass(frozen=True)
class Record:
    """What was written down when a file was fetched (``<name>.json`` beside it)."""

    name: str
    repo: str
    file: str
    revision: str
    sha256: str
    size_bytes: int
    licence: str
    fetched: str


def _r3(name: str, views: tuple[int, int], purpose: str) -> Weights:
    return Weights(
        name,
        'r3-large',
        'KevinXu02/R3',
        f'{name}{SUFFIX}',
        NO_LICENCE_KNOWN,
        None,
        purpose,
        views,
        'R3 is built on Depth Anything 3 large, whose weights are CC BY-NC 4.0 (not for '
        'commercial use): treat these as non-commercial unless their card says otherwise.',
    )


def _da3(repo: str, licence: str, purpose: str, variant: str = '', note: str = '') -> Weights:
    name = repo.lower()
    return Weights(
        name,
        variant or name,
        f'depth-anything/{repo}',
        f'model{SUFFIX}',
        licence,
        licence == 'Apache-2.0',
        purpose,
        note=note,
    )


_RETRAINED = 'Its authors deprecate it in favour of {0}, trained again after a mistake was mended.'
_TWO_LICENCES = (
    "The model card was seen tagged Apache-2.0 while the authors' table says CC BY-NC 4.0; the "
    'stricter one is taken here until they agree.'
)

#: Every file that ``r3 weights`` knows, by name.
CATALOGUE: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        _r3('r3', (4, 32), 'streams: indoors, small scenes'),
        _r3('r3_long', (32, 100), 'streams: outdoors, long trajectories'),
        _da3('DA3-SMALL', 'Apache-2.0', 'depth and poses of any views; smallest'),
        _da3('DA3-BASE', 'Apache-2.0', 'depth and poses of any views; small'),
        _da3(
            'DA3-LARGE',
            'CC-BY-NC-4.0',
            'depth and poses of any views (old)',
            note=_RETRAINED.format('da3-large-1.1'),
        ),
        _da3(
            'DA3-LARGE-1.1',
            'CC-BY-NC-4.0',
            'depth and poses of any views; large',
            'da3-large',
            _TWO_LICENCES,
        ),
        _da3(
            'DA3-GIANT',
            'CC-BY-NC-4.0',
            'depth and poses of any views (old)',
            note=_RETRAINED.format('da3-giant-1.1'),
        ),
        _da3(
            'DA3-GIANT-1.1',
            'CC-BY-NC-4.0',
            'depth and poses of any views; largest',
            'da3-giant',
        ),
        _da3('DA3METRIC-LARGE', 'Apache-2.0', 'depth of one view in metres, and sky'),
    )
}


def known(name: str) -> Weights:
    """Return the entry of a name.

    :raises ModelError: no weights have that name.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    close = difflib.get_close_matches(name.lower(), CATALOGUE, n=1)
    hint = f' (did you mean {close[0]}?)' if close else ''
    raise ModelError(
        f'there are no weights named {name!r}{hint}; `r3 weights list` shows all names'
    )


def hub_address() -> str:
    """Return the address of the hub, or of the mirror that ``HF_ENDPOINT`` names."""
    return os.environ.get('HF_ENDPOINT', '').rstrip('/') or 'https://huggingface.co'


def weights_folder() -> Path:
    """Return the folder of this machine's weights, which need not exist.

    ``$R3_ROS_WEIGHTS``, else ``r3_ros/weights`` in the user's data folder.

    :raises ModelError: this machine does not say where the user's home is.
    """
    chosen = os.environ.get('R3_ROS_WEIGHTS', '')
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    data = os.environ.get('XDG_DATA_HOME', '')
    if os.path.isabs(data):  # the XDG specification has relative paths ignored
        return Path(data) / 'r3_ros' / 'weights'
    try:
        return Path.home() / '.local' / 'share' / 'r3_ros' / 'weights'
    except RuntimeError as error:
        raise ModelError(
            'this user has no home folder to look for weights in: set R3_ROS_WEIGHTS to a folder'
        ) from error


def local_path(name: str, folder: Path | None = None) -> Path:
    """Return where the file of a name belongs, there or not."""
    return (folder or weights_folder()) / f'{name}{SUFFIX}'


def find_weights(name: str) -> Path | None:
    """Return the file of a name, from the weights folder or the Hugging Face cache.

    :raises ModelError: no weights have that name, or the folder may not be looked into.
    """
    weights, path = known(name), local_path(name)
    return path if is_there(path) else find_in_hub_cache(weights)


def is_there(path: Path) -> bool:
    """Say whether there is a file at a path.

    :raises ModelError: that cannot be seen: no permission, a name that is too long.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ModelError(f'cannot look for weights at {path}: {error.strerror}') from error


def find_in_hub_cache(weights: Weights) -> Path | None:
    """Return the file where other programs had the hub's library put it; never fetches."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(weights.repo, weights.filename)
    return Path(found) if isinstance(found, str) else None


def missing_message(name: str) -> str:
    """Say in one line how to get weights that are not here, with and without internet."""
    return (
        f'the weights {name} are not on this machine: fetch them with `r3 weights get {name}`; '
        f'{by_hand(known(name), local_path(name))}'
    )


def by_hand(weights: Weights, path: Path) -> str:
    """Say where a file goes on a machine without internet, and where it comes from."""
    return f'without internet, put {weights.filename} of {weights.page} at {path}'


def read_record(path: Path) -> Record | None:
    """Return the record beside a file of weights; None if there is none that can be read."""
    try:
        content: Any = json.loads(record_path(path).read_text(encoding='utf-8'))
        record = Record(**content)
    except (OSError, ValueError, TypeError):
        return None
    wanted = {name: int if name == 'size_bytes' else str for name in asdict(record)}
    whole = all(isinstance(getattr(record, name), kind) for name, kind in wanted.items())
    return record if whole and _DIGEST.fullmatch(record.sha256) else None


def record_path(path: Path) -> Path:
    """Return where the record of a file of weights lies."""
    return path.with_suffix('.json')


def digest_in_hub_cache(path: Path) -> str | None:
    """Return the SHA-256 a file in the Hugging Face cache is stored under; None elsewhere."""
    stored = path.resolve()
    in_cache = stored.parent.name == 'blobs' and _DIGEST.fullmatch(stored.name)
    return stored.name if in_cache else None


def sha256_of(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    :param on_bytes: called with the size of each block, for a progress bar.
    :raises OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def size_text(size_bytes: float) -> str:
    """Return a size for people: 1.42 GB, 137 MB, 12.0 kB."""
    for unit in ('B', 'kB', 'MB'):
        if size_bytes < 999.5:
            return f'{size_bytes:.3g} {unit}'
        size_bytes /= 1000
    return f'{size_bytes:.3g} GB'
