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
#: In the place of a licence that nobody recorded.
UNKNOWN = 'unknown'
DIGEST = re.compile('[0-9a-f]{64}')
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class PublishedWeights:
    """One file of weights.

    :ivar variant: the network that it fills, a key of ``model.variants.VARIANTS``.
    :ivar repo: repository on the Hugging Face hub, empty for a file of this package;
        ``filename``: the file in it.
    :ivar licence: SPDX identifier.
    :ivar source: where the licence was read, and its date.
    :ivar note: shown before a download.
    """

    name: str
    variant: str
    repo: str
    filename: str
    licence: str
    purpose: str
    source: str
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
    def is_pickle(self) -> bool:
        """Whether the file is a pickle, which may run code when loaded and is never read here."""
        return not self.filename.endswith(SUFFIX)

    @property
    def commercial_use(self) -> bool:
        """Whether the licence allows commercial use."""
        return allows_commercial_use(self.licence)


_FREE, _NON_COMMERCIAL, _SHARE_ALIKE = 'Apache-2.0', 'CC-BY-NC-4.0', 'CC-BY-NC-SA-4.0'
#: Not in the SPDX list: Meta's VGGT License v1 of 29 July 2025.
_VGGT = 'LicenseRef-VGGT-v1'
#: Licences that allow commercial use.
_COMMERCIAL = (_FREE, _VGGT)


def _r3(name: str, purpose: str) -> PublishedWeights:
    source = 'pull request of a notebook repository (secondary), September 2026'
    note = 'The licence is from a secondary source; the model card, which counts, was not read.'
    file = f'{name}{SUFFIX}'
    return PublishedWeights(
        name, 'r3-large', 'KevinXu02/R3', file, _NON_COMMERCIAL, purpose, source, note
    )


def _da3(
    repo: str, licence: str, purpose: str, note: str = '', variant: str = ''
) -> PublishedWeights:
    network, repo = repo.lower(), f'depth-anything/{repo}'
    name, file = network.replace('-', '_'), f'model{SUFFIX}'
    source = 'README of Depth Anything 3, commit 2c21ea8, December 2025'
    return PublishedWeights(name, variant or network, repo, file, licence, purpose, source, note)


def _naver(name: str, repo: str, purpose: str, source: str) -> PublishedWeights:
    note = (
        'Its authors add that the licences of the training data and of the base weights apply too.'
    )
    file = f'model{SUFFIX}'
    return PublishedWeights(name, name, f'naver/{repo}', file, _SHARE_ALIKE, purpose, source, note)


_RETRAINED = 'Its authors deprecate it in favour of {0}, retrained after a mistake was corrected.'
_TWO_LICENCES = (
    "The model card was seen tagged Apache-2.0 while the authors' table says CC BY-NC 4.0; the "
    'stricter one is assumed here until they agree.'
)
_ANY_VIEW = 'depth and poses of any views'
_LARGE_NOTE, _GIANT_NOTE = map(_RETRAINED.format, ('da3_large_1.1', 'da3_giant_1.1'))
_VGGT_SOURCE = "other projects' reports of its README and licence (secondary), August 2026"

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
            'trained by this project, docs/r3_tiny.md',
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
        PublishedWeights(
            'vggt',
            'vggt',
            'facebook/VGGT-1B',
            f'model{SUFFIX}',
            _NON_COMMERCIAL,
            f'{_ANY_VIEW}, all at once',
            _VGGT_SOURCE,
            'The model card, which counts, was not read.',
        ),
        PublishedWeights(
            'vggt_commercial',
            'vggt',
            'facebook/VGGT-1B-Commercial',
            f'model{SUFFIX}',
            _VGGT,
            f'{_ANY_VIEW}, all at once',
            _VGGT_SOURCE,
            'Access on request; the use policy excludes military use. Neither the licence nor the '
            'model card was read for this list: read them.',
        ),
        PublishedWeights(
            'lingbot_map',
            'lingbot-map',
            'robbyant/lingbot-map',
            'lingbot-map.pt',
            _FREE,
            'streams, long ones too',
            'README and LICENSE.txt of Robbyant/lingbot-map, commit 4cd9860, May 2026',
            "They are for the project as a whole; the hub's listing of the weights (July 2026) "
            'names no licence.',
        ),
        _naver(
            'dust3r',
            'DUSt3R_ViTLarge_BaseDecoder_512_dpt',
            'depth and pose of a pair',
            'README and LICENSE of naver/dust3r, commit 4c24a6e, July 2025; its card',
        ),
        _naver(
            'mast3r',
            'MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric',
            'metric depth, pose and matches of a pair',
            'README, LICENSE and CHECKPOINTS_NOTICE of naver/mast3r, commit f5209af, June 2025; '
            'its card',
        ),
        PublishedWeights(
            'reloc3r',
            'reloc3r',
            'siyan824/reloc3r-512',
            f'model{SUFFIX}',
            _SHARE_ALIKE,
            'pose of a pair',
            'LICENSE of ffrivera0/reloc3r, commit 62ad49e, October 2025',
            "That is the code's licence; the model card was not read, and the name of the file is "
            'the one by which the code loads it.',
        ),
    )
}


def allows_commercial_use(licence: str) -> bool:
    """Return whether a licence, as the catalogue names it, allows commercial use."""
    return licence in _COMMERCIAL


def entry_of(path: Path) -> PublishedWeights | None:
    """Return the entry whose file on this machine a path leads to; None: none."""
    for entry in CATALOGUE.values():
        own = find_weights(entry.name)
        if own is not None and path.exists() and own.samefile(path):
            return entry
    return None


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
    # Files that are retrained, or may be used commercially, come after the others of a network.
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
    by_yourself = by_hand(known(name), local_path(name))
    if known(name).is_pickle:
        return f'the weights {name} are not on this machine: {by_yourself}'
    return (
        f'the weights {name} are not on this machine: fetch them with `r3 weights get {name}`; '
        f'{by_yourself}'
    )


def by_hand(weights: PublishedWeights, path: Path) -> str:
    """Return how to install a file without this program."""
    if weights.is_pickle:
        return (
            f'they are published as a pickle, which may run code when loaded and is never read '
            f'here: convert {weights.filename} of {weights.page} to safetensors, as '
            f'docs/weights.md shows, at {path}'
        )
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
