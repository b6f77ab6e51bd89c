"""Weights from the Hugging Face hub: fetched by its library, verified, recorded."""

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
    """What the hub says of a file.

    :ivar revision: the commit, whatever branch or tag was asked for.
    """

    revision: str
    sha256: str
    size_bytes: int


def ask_hub(weights: PublishedWeights, revision: str | None, target: Path) -> HubFile:
    """Ask the hub about a file without fetching it.

    :param revision: branch, tag or commit; None: the main branch.
    :param target: where the file will go, for the messages.
    :raises ModelError: no connection, no such file, or no permission.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = hub_address()
    url = hf_hub_url(weights.repo, weights.filename, revision=revision, endpoint=endpoint)
    with _hub_errors(weights, target):
        answer = get_hf_file_metadata(url, endpoint=endpoint)
    if not answer.commit_hash or not answer.size or not DIGEST.fullmatch(answer.etag or ''):
        raise ModelError(
            f'{endpoint} gives no commit, size and SHA-256 for {weights.filename} of '
            f'{weights.repo}, so it could not be verified and is not fetched; check HF_ENDPOINT'
        )
    return HubFile(answer.commit_hash, str(answer.etag), answer.size)


def fetch(weights: PublishedWeights, hub: HubFile, target: Path) -> None:
    """Fetch a file, verify it, and only then give it its name and its record.

    :raises ModelError: the connection broke off, or the content is not what the hub says it is.
    :raises OutputError: the disk is full, or the folder cannot be written.
    """
    from huggingface_hub import hf_hub_download

    with atomic_path(target) as temporary:
        with _hub_errors(weights, target):
            fetched = hf_hub_download(
                weights.repo,
                weights.filename,
                revision=hub.revision,  # the branch may have moved since it was asked for
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
        # Never a new file beside the record of an old one.
        record_path(target).unlink(missing_ok=True)
    write_record(weights, hub, target)


def write_record(weights: PublishedWeights, hub: HubFile, target: Path) -> None:
    """Record beside a verified file what it is.

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
    """Turn the errors of the hub's library and of the network into one line each."""
    from huggingface_hub import errors

    # The base class of the HTTP library beneath, which differs between versions of the hub's.
    http_error = cast('type[Exception]', errors.HfHubHTTPError.__bases__[0])
    page, file = weights.page, weights.filename
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(
            'HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or '
            + by_hand(weights, target)
        ) from error
    except errors.GatedRepoError as error:
        raise ModelError(
            f'{page} is given after a request on that page alone: log in there, accept the '
            'terms, and set HF_TOKEN to a token of yours'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f'{page} does not exist, or needs a login: set HF_TOKEN to a token that may read it'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f'{page} has no such revision') from error
    except errors.RemoteEntryNotFoundError as error:
        raise ModelError(f'{page} holds no file {file} at that revision') from error
    except (http_error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of a file here
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip('.')
        raise ModelError(
            f'{hub_address()} cannot be reached, or broke off ({reason}); try again, or '
            + by_hand(weights, target)
        ) from error
