"""Download of weights from the Hugging Face hub, with verification and a record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
import json
import os
from pathlib import Path
from typing import cast

from ...core.atomic_files import atomic_path, atomic_write
from ...core.errors import ModelError
from .catalogue import by_hand, DIGEST, hub_address, PublishedWeights, record_path, sha256_of


@dataclass(frozen=True)
class HubFile:
    """The hub's metadata of a file.

    :ivar revision: the commit.
    """

    revision: str
    sha256: str
    size_bytes: int


def query_hub(weights: PublishedWeights, revision: str | None, target: Path) -> HubFile:
    """Return the metadata of a file.

    :param revision: branch, tag or commit; None: the main branch.
    :param target: path of the file on this machine, for the messages.
    :raises ModelError: no connection, no such file, or no permission.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = hub_address()
    url = hf_hub_url(weights.repo, weights.filename, revision=revision, endpoint=endpoint)
    with _hub_errors(weights, target):
        found = get_hf_file_metadata(url, endpoint=endpoint)
    if not found.commit_hash or not found.size or not DIGEST.fullmatch(found.etag or ''):
        raise ModelError(
            f'{endpoint} gives no commit, size and SHA-256 for {weights.filename} of '
            f'{weights.repo}, so it could not be verified and is not fetched; check HF_ENDPOINT'
        )
    return HubFile(found.commit_hash, str(found.etag), found.size)


def fetch(weights: PublishedWeights, hub: HubFile, target: Path) -> None:
    """Fetch a file, verify it, move it to its path and record it.

    :raises ModelError: the connection failed, or the content has the wrong SHA-256.
    :raises OutputError: the disk is full, or the folder cannot be written.
    """
    from huggingface_hub import hf_hub_download

    with atomic_path(target) as temporary:
        with _hub_errors(weights, target):
            fetched = hf_hub_download(
                weights.repo,
                weights.filename,
                revision=hub.revision,  # the branch may have moved since the query
                local_dir=temporary.with_suffix('.hub'),
                endpoint=hub_address(),
            )
        digest = sha256_of(fetched)
        if digest != hub.sha256:
            raise ModelError(
                f'what {hub_address()} sent for {weights.name} has the SHA-256 {digest} and '
                f'should have {hub.sha256}; it was removed. Try again; if it happens twice, a '
                'proxy or mirror on the way changes files'
            )
        os.replace(fetched, temporary)
        # No new file beside the record of an old one.
        record_path(target).unlink(missing_ok=True)
    write_record(weights, hub, target)


def write_record(weights: PublishedWeights, hub: HubFile, target: Path) -> None:
    """Write the record of a verified file beside it.

    :raises OutputError: the record cannot be written.
    """
    record = {
        'name': weights.name,
        'repo': weights.repo,
        'file': weights.filename,
        'revision': hub.revision,
        'sha256': hub.sha256,
        'size_bytes': hub.size_bytes,
        'licence': weights.licence,
        'fetched': datetime.now(timezone.utc).isoformat(timespec='seconds'),
    }
    with atomic_write(record_path(target)) as file:
        file.write(json.dumps(record, indent=2).encode() + b'\n')


@contextmanager
def _hub_errors(weights: PublishedWeights, target: Path) -> Iterator[None]:
    """Raise errors of the hub's library and of the network as one line each."""
    from huggingface_hub import errors

    # The error class of the HTTP library, which depends on the version of the hub's library.
    http_error = cast('type[Exception]', errors.HfHubHTTPError.__bases__[0])
    page = weights.page
    problems: dict[type[Exception], str] = {
        errors.OfflineModeIsEnabled: 'HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or '
        + by_hand(weights, target),
        errors.GatedRepoError: f'{page} grants access only on request: log in there, accept the '
        'terms, and set HF_TOKEN to a token of yours',
        errors.RepositoryNotFoundError: f'{page} does not exist, or needs a login: set HF_TOKEN '
        'to a token that may read it',
        errors.RevisionNotFoundError: f'{page} has no such revision',
        errors.RemoteEntryNotFoundError: f'{page} holds no file {weights.filename} at that '
        'revision',
    }
    try:
        yield
    except tuple(problems) as error:
        # A gated repository is also a repository not found, so the first match counts.
        problem = next(text for kind, text in problems.items() if isinstance(error, kind))
        raise ModelError(problem) from error
    except (http_error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of a file here
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip('.')
        raise ModelError(
            f'{hub_address()} cannot be reached, or broke off ({reason}); try again, or '
            + by_hand(weights, target)
        ) from error
