"""``r3 weights``: which weights there are, fetching them, checking them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
import json
import os
from pathlib import Path
import sys
import textwrap
from typing import Any, TYPE_CHECKING

from ..errors import ModelError
from ..weights import (
    CATALOGUE,
    digest_in_hub_cache,
    find_in_hub_cache,
    find_weights,
    is_there,
    known,
    local_path,
    missing_message,
    read_record,
    size_text,
    Weights,
    weights_folder,
)

if TYPE_CHECKING:
    from ..weights_download import HubFile

EXIT_DECLINED = 1
_WIDTH = 96


def register(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        'weights',
        help='list, fetch and check the weights of the networks',
        description='The weights of the R3 and Depth Anything 3 networks, from the Hugging Face '
        'hub. Nothing is fetched unless asked for; licences are in docs/weights.md.',
    )
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)

    lists = actions.add_parser('list', help='what there is, what is here, under which licence')
    lists.add_argument('--json', action='store_true', help='everything known, for programs')
    lists.set_defaults(func=run_list)

    get = actions.add_parser(
        'get',
        help='fetch one file of weights, after showing its licence',
        description='Show the licence, ask, fetch and verify. An interrupted download goes on '
        'where it stopped when the command is given again.',
    )
    get.add_argument('name', metavar='NAME', help='one of: ' + ', '.join(CATALOGUE))
    get.add_argument('--yes', action='store_true', help='agree to the licence without being asked')
    get.add_argument('--revision', metavar='R', help='branch, tag or commit (default: main)')
    get.add_argument(
        '--folder',
        metavar='DIR',
        help="where to (default: $R3_ROS_WEIGHTS, or r3_ros/weights in the user's data folder)",
    )
    get.set_defaults(func=run_get)

    check = actions.add_parser(
        'check',
        help='compare a file with its record and with the network it is for',
        description='Compute the SHA-256 of a file, compare it with what was recorded when it was '
        'fetched, and see whether every tensor of the network is there. Exit status 2: it is not '
        'as it should be.',
    )
    check.add_argument('name_or_path', metavar='NAME_OR_PATH')
    check.set_defaults(func=run_check)


def run_list(args: argparse.Namespace) -> int:
    """Print the table."""
    here = {name: find_weights(name) for name in CATALOGUE}
    if args.json:
        print(json.dumps([_as_json(w, here[name]) for name, w in CATALOGUE.items()], indent=2))
        return 0
    row = '{:<16} {:<9} {:<13} {:<11} {}'
    print(row.format('name', 'here', 'licence', 'commercial', 'purpose'))
    for name, weights in CATALOGUE.items():
        path = here[name]
        state = size_text(path.stat().st_size) if path else 'absent'
        commercial = {True: 'yes', False: 'no', None: 'unknown'}[weights.commercial_use]
        licence = 'not stated' if weights.commercial_use is None else weights.licence
        print(row.format(name, state, licence, commercial, weights.purpose).rstrip())
    print(f'\nFolder: {weights_folder()}')
    for name, path in here.items():
        if path and path.parent != weights_folder():
            print(f'{name} is in the Hugging Face cache: {path}')
    print('`r3 weights get NAME` shows the licence of one, asks, and fetches it.')
    return 0


def run_get(args: argparse.Namespace) -> int:
    """Show the licence, ask, fetch."""
    from ..weights_download import ask_hub, digest_with_progress, write_record

    weights = known(args.name)
    folder = Path(os.path.expanduser(args.folder)).absolute() if args.folder else weights_folder()
    target = local_path(weights.name, folder)
    _print_licence(weights)
    if args.revision is None and _already_here(weights, target, in_cache=not args.folder):
        return 0
    if not args.yes and not sys.stdin.isatty():
        raise ModelError(
            'nobody can be asked to agree to the licence above, because the input is not a '
            f'terminal: `r3 weights get {weights.name} --yes` agrees to it'
        )
    hub = ask_hub(weights, args.revision, target)
    if is_there(target):
        if digest_with_progress(target) == hub.sha256:
            write_record(weights, hub, target)
            print(f'{target} is the file of that revision already: nothing to fetch')
            return 0
        if read_record(target) is None:
            raise ModelError(
                f'{target} was put there by hand and is not the file of {weights.repo} at '
                f'revision {hub.revision[:12]}; move it away to fetch that one'
            )
    if not args.yes and not _agreed(weights, hub, target):
        print('nothing was fetched')
        return EXIT_DECLINED
    _fetch(weights, hub, target)
    print(f'{target}: {size_text(hub.size_bytes)}, SHA-256 as the hub says')
    if folder != weights_folder():
        print(f'It is found there with R3_ROS_WEIGHTS={folder}')
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Verify one file."""
    from ..model.checkpoint import inspect_checkpoint
    from ..weights_download import digest_with_progress

    path, weights = _file_to_check(args.name_or_path)
    record = read_record(path)
    if weights is None and record:
        weights = CATALOGUE.get(record.name)
    info = inspect_checkpoint(path, weights.variant if weights else None)
    digest = digest_with_progress(path)
    expected = record.sha256 if record else digest_in_hub_cache(path)
    if expected and digest != expected:
        raise ModelError(
            f'{path} is damaged or was changed: its SHA-256 is {digest}, and {expected} was '
            'recorded; remove it and fetch it again'
        )
    if record:
        compared = f'as recorded on {record.fetched[:10]} ({record.repo}, {record.revision[:12]})'
    elif expected:
        compared = 'as the Hugging Face cache has it'
    else:
        compared = 'not compared: there is no record of what it should be'
    rows = (
        ('file', str(path)),
        ('size', size_text(info.size_bytes)),
        ('SHA-256', digest),
        ('', compared),
        ('network', f'{info.variant}: every tensor is there, in its shape'),
        ('stored as', ', '.join(info.stored_dtypes)),
        *(('note', note) for note in info.notes),
    )
    for label, value in rows:
        print(f'{label:<10}{value}')
    return 0


def _as_json(weights: Weights, path: Path | None) -> dict[str, Any]:
    return {
        **asdict(weights),
        'page': weights.page,
        'path': str(path) if path else None,
        'size_bytes': path.stat().st_size if path else None,
    }


def _print_licence(weights: Weights) -> None:
    rows = [
        ('weights', f'{weights.name} ({weights.purpose})'),
        ('from', f'{weights.page}, {weights.filename}'),
        ('licence', weights.licence_text()),
    ]
    if weights.note:
        rows.append(('note', weights.note))
    for label, value in rows:
        print(
            textwrap.fill(
                value,
                _WIDTH,
                initial_indent=f'{label:<9}',
                subsequent_indent=' ' * 9,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )


def _already_here(weights: Weights, target: Path, in_cache: bool) -> bool:
    """Say whether the weights are here and known to be whole, which needs no connection.

    :param in_cache: the Hugging Face cache counts as here.
    """
    from ..weights_download import digest_with_progress

    if is_there(target):
        path, record = target, read_record(target)
        expected = record.sha256 if record else None
    else:
        cached = find_in_hub_cache(weights) if in_cache else None
        if cached is None:
            return False
        path, expected = cached, digest_in_hub_cache(cached)
    if expected is None:
        return False
    if digest_with_progress(path) == expected:
        print(f'{path} is here already and verified: nothing to fetch')
        return True
    print(f'{path} is damaged: its SHA-256 is not the recorded one; it has to be fetched again')
    return False


def _agreed(weights: Weights, hub: HubFile, target: Path) -> bool:
    print(f'to       {target}')
    try:
        answer = input(f'Agree to the licence and fetch {size_text(hub.size_bytes)}? [y/N] ')
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ('y', 'yes')


def _fetch(weights: Weights, hub: HubFile, target: Path) -> None:
    from ..weights_download import fetch, fetched_bytes

    have = fetched_bytes(target, hub)
    if have:
        print(f'{size_text(have)} of {size_text(hub.size_bytes)} are here from an earlier attempt')
    try:
        fetch(weights, hub, target)
    except KeyboardInterrupt:
        kept = size_text(fetched_bytes(target, hub))
        print(
            f'\n{kept} of {size_text(hub.size_bytes)} are kept; the same command goes on from '
            'there',
            file=sys.stderr,
        )
        raise


def _file_to_check(name_or_path: str) -> tuple[Path, Weights | None]:
    if name_or_path in CATALOGUE:
        path = find_weights(name_or_path)
        if path is None:
            raise ModelError(missing_message(name_or_path))
        return path, CATALOGUE[name_or_path]
    path = Path(name_or_path)
    if not is_there(path):
        raise ModelError(
            f'{name_or_path!r} is neither a file nor a name that `r3 weights list` shows'
        )
    return path, None
