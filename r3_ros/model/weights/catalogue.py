"""The published weights: licences, where their files are on this machine, recorded digests.

Standard library only, and no network access. docs/weights.md says where each licence was read.
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
    """One published file of weights.

    :ivar variant: the network that it fills, a key of ``model.variants.VARIANTS``.
    :ivar repo: repository on the Hugging Face hub; ``filename``: the file in it.
    :ivar licence: SPDX identifier.
    :ivar note: what else must be said before a download.
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
    def commercial_use(self) -> bool:
        """Whether the licence allows commercial use."""
        return self.licence == 'Apache-2.0'


def _r3(name: str, purpose: str) -> PublishedWeights:
    return PublishedWeights(
        name,
        'r3-large',
        'KevinXu02/R3',
        f'{name}{SUFFIX}',
        'CC-BY-NC-4.0',
        purpose,
        'This licence is from a secondary source (the pull request of a notebook repository, '
        'September 2026); we could not read the model card, which is what counts.',
    )


def _da3(
    repo: str, licence: str, purpose: str, variant: str = '', note: str = ''
) -> PublishedWeights:
    name = repo.lower()
    return PublishedWeights(
        name,
        variant or name,
        f'depth-anything/{repo}',
        f'model{SUFFIX}',
        licence,
        purpose,
        note,
    )


_RETRAINED = 'Its authors deprecate it in favour of {0}, retrained after a mistake was corrected.'
_TWO_LICENCES = (
    "The model card was seen tagged Apache-2.0 while the authors' table says CC BY-NC 4.0; the "
    'stricter one is assumed here until they agree.'
)

#: Every file that ``r3 weights`` knows, by name.
CATALOGUE: dict[str, PublishedWeights] = {
    weights.name: weights
    for weights in (
        _r3('r3', 'streams: indoors, small scenes'),
        _r3('r3_long', 'streams: outdoors, long trajectories'),
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


def known(name: str) -> PublishedWeights:
    """Return the entry of a name.

    :raises ModelError: no weights have that name.
    """
    if name not in CATALOGUE:
        raise ModelError(f'there are no weights named {name!r}; there are {", ".join(CATALOGUE)}')
    return CATALOGUE[name]


def hub_address() -> str:
    """Return the address of the hub, or of the mirror that ``HF_ENDPOINT`` names."""
    return os.environ.get('HF_ENDPOINT', '').rstrip('/') or 'https://huggingface.co'


def weights_folder() -> Path:
    """Return the folder of this machine's weights, which need not exist.

    ``$R3_ROS_WEIGHTS``, else ``r3_ros/weights`` in the user's data folder.
    """
    chosen = os.environ.get('R3_ROS_WEIGHTS', '')
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    data = os.environ.get('XDG_DATA_HOME', '')
    if not os.path.isabs(data):  # the XDG specification has relative paths ignored
        data = os.path.expanduser('~/.local/share')
    return Path(data) / 'r3_ros' / 'weights'


def local_path(name: str, folder: Path | None = None) -> Path:
    """Return where the file of a name belongs, whether it is there or not."""
    return (folder or weights_folder()) / f'{name}{SUFFIX}'


def find_weights(name: str) -> Path | None:
    """Return the file of a name, from the weights folder or the Hugging Face cache.

    :raises ModelError: no weights have that name.
    """
    weights, path = known(name), local_path(name)
    return path if os.path.isfile(path) else _find_in_hub_cache(weights)


def missing_message(name: str) -> str:
    """Return one line on how to get weights that are not here, with and without internet."""
    return (
        f'the weights {name} are not on this machine: fetch them with `r3 weights get {name}`; '
        f'{by_hand(known(name), local_path(name))}'
    )


def by_hand(weights: PublishedWeights, path: Path) -> str:
    """Return where a file comes from and goes to on a machine without internet."""
    return f'without internet, put {weights.filename} of {weights.page} at {path}'


def record_path(path: Path) -> Path:
    """Return where a download records what a file of weights is."""
    return path.with_suffix('.json')


def recorded_digest(path: Path) -> str | None:
    """Return the SHA-256 recorded when a file was fetched; None where there is no record."""
    try:
        digest = json.loads(record_path(path).read_text(encoding='utf-8'))['sha256']
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else None


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    :raises OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _find_in_hub_cache(weights: PublishedWeights) -> Path | None:
    """Return the file where other programs had the hub's library put it; never fetches."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(weights.repo, weights.filename)
    return Path(found) if isinstance(found, str) else None
