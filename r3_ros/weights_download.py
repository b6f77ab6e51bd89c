"""Weights from the Hugging Face hub: asked for, fetched so that a cut can be mended, verified.

The hub's own download function begins anew after an interrupt (since its version 1.31 no partial
file is kept), which is hard on files of gigabytes. So this module asks the hub for address, size
and SHA-256, and has the library's ``http_get`` append to a file that stays in a hidden folder
until it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
import fcntl
import json
import os
from pathlib import Path
import re
import shutil
from typing import BinaryIO, cast

from .atomic_files import atomic_write
from .errors import ModelError, OutputError
from .weights import by_hand, hub_address, Record, record_path, sha256_of, size_text, Weights

#: Hidden, so that nobody takes what is in it for weights.
PARTIAL_FOLDER = '.partial'


@dataclass(frozen=True)
class HubFile:
    """What the hub says of a file.

    :ivar revision: the commit, whatever branch or tag was asked for.
    """

    url: str
    revision: str
    sha256: str
    size_bytes: int


def ask_hub(weights: Weights, revision: str | None, target: Path) -> HubFile:
    """Ask the hub for a file without fetching it.

    :param revision: branch, tag or commit; None: the main branch.
    :param target: where the file will go, for the messages.
    :raises ModelError: there is no connection, no such file, or no permission.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    def address(of: str) -> str:
        return hf_hub_url(weights.repo, weights.filename, revision=of, endpoint=hub_address())

    wanted = revision or 'main'
    with _told_plainly(weights, wanted, target):
        answer = get_hf_file_metadata(address(wanted), endpoint=hub_address())
    if not answer.commit_hash or not answer.size:
        raise ModelError(f'{hub_address()} does not answer as a hub does; check HF_ENDPOINT')
    if not re.fullmatch('[0-9a-f]{64}', answer.etag or ''):
        raise ModelError(
            f'{hub_address()} names no SHA-256 for {weights.filename} of {weights.repo}, so it '
            'could not be verified and is not fetched'
        )
    # The address of the commit: the branch may move before the download is complete.
    return HubFile(address(answer.commit_hash), answer.commit_hash, str(answer.etag), answer.size)


def fetch(weights: Weights, hub: HubFile, target: Path) -> None:
    """Fetch a file, or the rest of it, verify it, and only then give it its name.

    Shows the hub library's progress bar. What an interrupt leaves in the hidden folder is used by
    the next call.

    :raises ModelError: the connection broke off, or the content is not what the hub says it is.
    :raises OutputError: the disk is full, or the folder cannot be written.
    """
    partial = partial_path(target, hub)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_room(hub, target)
        partial.parent.mkdir(exist_ok=True)
        with _opened_alone(partial, target) as file:
            _fetch_rest(weights, hub, target, file)
            os.fsync(file.fileno())
            _verify(weights, hub, target)
            # Never a new file beside the record of an old one.
            record_path(target).unlink(missing_ok=True)
            os.replace(partial, target)
        write_record(weights, hub, target)
        _tidy(partial.parent, target)


def write_record(weights: Weights, hub: HubFile, target: Path) -> None:
    """Write down beside a verified file what it is.

    :raises OutputError: the record cannot be written.
    """
    record = Record(
        weights.name,
        weights.repo,
        weights.filename,
        hub.revision,
        hub.sha256,
        hub.size_bytes,
        weights.licence,
        datetime.now(timezone.utc).isoformat(timespec='seconds'),
    )
    with atomic_write(record_path(target)) as file:
        file.write(json.dumps(asdict(record), indent=2).encode() + b'\n')


def partial_path(target: Path, hub: HubFile) -> Path:
    """Return where a file grows. Another content has another name, so two never mix."""
    return target.parent / PARTIAL_FOLDER / f'{target.stem}@{hub.sha256[:16]}'


def fetched_bytes(target: Path, hub: HubFile) -> int:
    """Return how much of a file an earlier call has left."""
    path = partial_path(target, hub)
    return path.stat().st_size if path.is_file() else 0


def digest_with_progress(path: Path) -> str:
    """Return the SHA-256 of a file, with a progress bar while it takes.

    :raises ModelError: the file cannot be read.
    """
    from tqdm import tqdm

    try:
        with tqdm(
            total=path.stat().st_size,
            unit='B',
            unit_scale=True,
            desc='checking SHA-256',
            disable=None,
            leave=False,
        ) as bar:
            return sha256_of(path, bar.update)
    except OSError as error:
        raise ModelError(f'cannot read {path}: {error.strerror}') from error


def _require_room(hub: HubFile, target: Path) -> None:
    missing = hub.size_bytes - fetched_bytes(target, hub)
    free = shutil.disk_usage(target.parent).free
    if free < missing:
        raise OutputError(
            f'{target.parent} has {size_text(free)} free and {target.name} needs '
            f'{size_text(missing)}; make room, or choose another folder with --folder or '
            'R3_ROS_WEIGHTS'
        )


def _fetch_rest(weights: Weights, hub: HubFile, target: Path, file: BinaryIO) -> None:
    from huggingface_hub.file_download import http_get

    # Documented, though not marked as exported.
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if file.tell() > hub.size_bytes:
        file.seek(0)
        file.truncate()
    have = file.tell()
    if have == hub.size_bytes:
        return
    with _told_plainly(weights, hub.revision, target, hub):
        try:
            http_get(
                hub.url,
                file,
                resume_size=have,
                # A compressed answer cannot be continued in the middle.
                headers={**build_hf_headers(), 'Accept-Encoding': 'identity'},
                expected_size=hub.size_bytes,
                displayed_filename=target.name,
            )
        finally:
            file.flush()  # so that a message says how much there is


def _verify(weights: Weights, hub: HubFile, target: Path) -> None:
    partial = partial_path(target, hub)
    digest = digest_with_progress(partial)
    if digest != hub.sha256:
        _tidy(partial.parent, target)
        raise ModelError(
            f'what {hub_address()} sent for {weights.name} has the SHA-256 {digest} and should '
            f'have {hub.sha256}; it was removed. Try again; if it happens twice, a proxy or '
            'mirror on the way changes files'
        )


@contextmanager
def _opened_alone(partial: Path, target: Path) -> Iterator[BinaryIO]:
    """Open the growing file for this process alone."""
    with open(partial, 'ab') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not partial.exists() or not os.path.samestat(
                os.fstat(file.fileno()), partial.stat()
            )
        except BlockingIOError:
            taken = True
        except OSError:
            # A file system without locks: two at once would cost a failed verification.
            taken = False
        if taken:
            raise ModelError(f'another process is fetching {target}; wait until it is done')
        yield file


def _tidy(folder: Path, target: Path) -> None:
    """Remove what there is of a file half-fetched, and the hidden folder if it is empty."""
    for leftover in folder.glob(f'{target.stem}@*'):
        leftover.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f'cannot write {target}: {error.strerror or error}') from error


@contextmanager
def _told_plainly(
    weights: Weights, revision: str, target: Path, begun: HubFile | None = None
) -> Iterator[None]:
    """Turn the errors of the hub's library and of the network into one line each.

    :param begun: the download was under way.
    """
    from huggingface_hub import errors

    # The HTTP library beneath differs between versions of the hub's (requests, httpx, httpx2), and
    # its errors need not be OSErrors; their base class is that of the hub's own errors too.
    bases = cast('tuple[type[Exception], ...]', errors.HfHubHTTPError.__bases__)
    connection_errors: tuple[type[Exception], ...] = (OSError, *bases)
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(
            'HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or '
            + by_hand(weights, target)
        ) from error
    except errors.GatedRepoError as error:
        raise ModelError(
            f'{weights.page} is given after a request on that page alone: log in there, accept '
            'the terms, and set HF_TOKEN to a token of yours'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f'{weights.page} does not exist, or needs a login: look at the page, and set HF_TOKEN '
            'to a token that may read it'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f'{weights.page} has no revision {revision!r}') from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f'{weights.page} holds no file {weights.filename} at revision {revision!r}; its '
            'authors may have moved it: look at the page'
        ) from error
    except connection_errors as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of a file, and told by the caller
        raise ModelError(_connection_trouble(error, weights, target, begun)) from error


def _connection_trouble(
    error: Exception, weights: Weights, target: Path, begun: HubFile | None
) -> str:
    response = getattr(error, 'response', None)
    if response is not None:
        return f'{hub_address()} answered {response.status_code} for {weights.repo}; try later'
    if begun is not None:
        kept = size_text(fetched_bytes(target, begun))
        return (
            f'the connection to {hub_address()} broke off; {kept} of '
            f'{size_text(begun.size_bytes)} are kept, and the same command goes on from there'
        )
    reason = str(error).splitlines()[0].rstrip('.') if str(error) else type(error).__name__
    return f'cannot reach {hub_address()} ({reason}); {by_hand(weights, target)}'
