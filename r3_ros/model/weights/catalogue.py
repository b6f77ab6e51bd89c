"""The weights that exist: licences, file paths on this machine, recorded digests.

Standard library only, and no network access. docs/weights.md lists the sources of the licences.
"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import json
import os
from pathlib import Path
import re

from ...core.errors import ModelError

SUFFIX = '.safetensors'
DIGEST = re.compile('[0-9a-f]{64}')
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class PublishedWeights:
    """One file of weights.

    :ivar variant: the network that it fills, a key of ``model.variants.VARIANTS``.
    :ivar repo: repository on the Hugging Face hub, empty for a file of this package;
        ``filename``: the file in it.
    :ivar licence: SPDX identifier.
    :ivar note: shown before a download.
    """

    name: str
    variant: str
    repo: str
    filename: str
    licence: str
    purpose: str
    note: str = ''

    @property
    def page(self) -> str:
        """Address of the model card."""
        return f'{hub_address()}/{self.repo}'

    @property
    def included(self) -> bool:
        """Whether the file comes with this package."""
        return not self.repo

    @property
    def commercial_use(self) -> bool:
        """Whether the licence allows commercial use."""
        return self.licence == _FREE


def _r3(name: str, purpose: str) -> PublishedWeights:
    note = (
        'This licence is from a secondary source (the pull request of a notebook repository, '
        'September 2026); we could not read the model card, which is what counts.'
    )
    filename = f'{name}{SUFFIX}'
    return PublishedWeights(
        name, 'r3-large', 'KevinXu02/R3', filename, 'CC-BY-NC-4.0', purpose, note
    )


def _da3(
    repo: str, licence: str, purpose: str, note: str = '', variant: str = ''
) -> PublishedWeights:
    name, repo = repo.lower(), f'depth-anything/{repo}'
    return PublishedWeights(name, variant or name, repo, f'model{SUFFIX}', licence, purpose, note)


_RETRAINED = 'Its authors deprecate it in favour of {0}, retrained after a mistake was corrected.'
_TWO_LICENCES = (
    "The model card was seen tagged Apache-2.0 while the authors' table says CC BY-NC 4.0; the "
    'stricter one is assumed here until they agree.'
)
_FREE, _NON_COMMERCIAL, _ANY_VIEW = 'Apache-2.0', 'CC-BY-NC-4.0', 'depth and poses of any views'
_LARGE_NOTE, _GIANT_NOTE = map(_RETRAINED.format, ('da3-large-1.1', 'da3-giant-1.1'))

#: All files, by name.
CATALOGUE: dict[str, PublishedWeights] = {
    weights.name: weights
    for weights in (
        PublishedWeights(
            'r3_tiny',
            'r3-tiny',
            '',
            f'r3_tiny{SUFFIX}',
            _FREE,
            'streams on a CPU',
        ),
        _r3('r3', 'streams: indoors, small scenes'),
        _r3('r3_long', 'streams: outdoors, long trajectories'),
        _da3('DA3-SMALL', _FREE, f'{_ANY_VIEW}; smallest'),
        _da3('DA3-BASE', _FREE, f'{_ANY_VIEW}; small'),
        _da3('DA3-LARGE', _NON_COMMERCIAL, f'{_ANY_VIEW} (old)', _LARGE_NOTE),
        _da3('DA3-LARGE-1.1', _NON_COMMERCIAL, f'{_ANY_VIEW}; large', _TWO_LICENCES, 'da3-large'),
        _da3('DA3-GIANT', _NON_COMMERCIAL, f'{_ANY_VIEW} (old)', _GIANT_NOTE),
        _da3('DA3-GIANT-1.1', _NON_COMMERCIAL, f'{_ANY_VIEW}; largest', variant='da3-giant'),
        _da3('DA3METRIC-LARGE', _FREE, 'depth of one view in metres, and sky'),
    )
}


def known(name: str) -> PublishedWeights:
    """Return the entry of a name.

    :raises ModelError: no weights have that name.
    """
    if name not in CATALOGUE:
        raise ModelError(f'there are no weights named {name!r}; there are {", ".join(CATALOGUE)}')
    return CATALOGUE[name]


def model_weights(model_name: str) -> list[str]:
    """Return the names of the weights for a ``model.name``, the recommended ones first."""
    variant = model_name.replace('_', '-')
    # Retrained files come after those that they replace.
    return [w.name for w in CATALOGUE.values() if w.variant == variant][::-1] or [model_name]


def hub_address() -> str:
    """Return the address of the hub, or of the mirror that ``HF_ENDPOINT`` names."""
    return os.environ.get('HF_ENDPOINT', '').rstrip('/') or 'https://huggingface.co'


def weights_folder() -> Path:
    """Return the folder of the weights, which need not exist.

    ``$R3_ROS_WEIGHTS``, else ``r3_ros/weights`` in the user's data folder.
    """
    chosen = os.environ.get('R3_ROS_WEIGHTS', '')
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    data = os.environ.get('XDG_DATA_HOME', '')
    if not os.path.isabs(data):  # the XDG specification ignores relative paths
        data = os.path.expanduser('~/.local/share')
    return Path(data) / 'r3_ros' / 'weights'


def local_path(name: str, folder: Path | None = None) -> Path:
    """Return the path of the file of a name, which need not exist."""
    return (folder or weights_folder()) / f'{name}{SUFFIX}'


def find_weights(name: str) -> Path | None:
    """Return the file of a name: in this package, the weights folder or the Hugging Face cache.

    :raises ModelError: no weights have that name.
    """
    weights, path = known(name), local_path(name)
    if weights.included:
        path = Path(__file__).with_name('included') / weights.filename
        return path if path.is_file() else None
    return path if os.path.isfile(path) else _find_in_hub_cache(weights)


def missing_message(name: str) -> str:
    """Return one line on how to get missing weights, with and without internet."""
    if known(name).included:
        return f'the weights {name} are part of this package, but not installed: install it again'
    return (
        f'the weights {name} are not on this machine: fetch them with `r3 weights get {name}`; '
        f'{by_hand(known(name), local_path(name))}'
    )


def by_hand(weights: PublishedWeights, path: Path) -> str:
    """Return how to install a file without internet."""
    return f'without internet, put {weights.filename} of {weights.page} at {path}'


def record_path(path: Path) -> Path:
    """Return the path of the record that a download writes beside a file."""
    return path.with_suffix('.json')


def recorded_digest(path: Path) -> str | None:
    """Return the SHA-256 recorded by the download of a file; None without a record."""
    try:
        digest = json.loads(record_path(path).read_text(encoding='utf-8'))['sha256']
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else None


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    :raises OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _find_in_hub_cache(weights: PublishedWeights) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(weights.repo, weights.filename)
    return Path(found) if isinstance(found, str) else None
