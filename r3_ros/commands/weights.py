"""``r3 weights``: lists, fetches and checks the weights of the networks."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from ..core.errors import ModelError
from ..model.weights.catalogue import (
    allows_commercial_use,
    CATALOGUE,
    entry_of,
    find_weights,
    known,
    local_path,
    missing_message,
    PublishedWeights,
    recorded_digest,
    sha256_of,
    UNKNOWN,
    weights_folder,
)
from .options import print_rows, size_text

EXIT_DECLINED = 1


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'weights',
        help='list, fetch and check the weights of the networks',
        description='The weights of the R3 and Depth Anything 3 networks, from the Hugging Face '
        'hub. Nothing is fetched automatically; licences are in docs/weights.md.',
    )
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)

    lists = actions.add_parser('list', help='list the weights with their licences and sizes')
    lists.set_defaults(func=run_list)

    get = actions.add_parser(
        'get',
        help='fetch one file of weights, after showing its licence',
        description='Show the licence, ask, fetch into the folder that `r3 weights list` names '
        '(another one: $R3_ROS_WEIGHTS), and verify.',
    )
    get.add_argument('name', metavar='NAME', help='one of: ' + ', '.join(CATALOGUE))
    get.add_argument('--yes', action='store_true', help='agree to the licence without a question')
    get.add_argument('--revision', metavar='R', help='branch, tag or commit (default: main)')
    get.set_defaults(func=run_get)

    check = actions.add_parser(
        'check',
        help='compare a file with its record and load it into its network',
        description='Compare the SHA-256 of a file with the one recorded when it was fetched, '
        'and load every tensor into its network. Exit status 2: it cannot be used.',
    )
    check.add_argument('name_or_path', metavar='NAME_OR_PATH')
    check.set_defaults(func=run_check)


def run_list(args: argparse.Namespace) -> int:
    row = '{:<16} {:<9} {:<18} {:<9} {}'
    print(row.format('name', 'may ship', 'licence', 'here', 'purpose'))
    elsewhere = []
    # A stable sort: those that may be shipped in a product first.
    for weights in sorted(CATALOGUE.values(), key=lambda entry: not entry.commercial_use):
        path = find_weights(weights.name)
        if path and not weights.included and path.parent != weights_folder():
            elsewhere.append(f'{weights.name} is in the Hugging Face cache: {path}')
        state = size_text(path.stat().st_size) if path else 'absent'
        use = 'yes' if weights.commercial_use else 'no'
        print(row.format(weights.name, use, weights.licence, state, weights.purpose))
    print(f'\nFolder: {weights_folder()}', *elsewhere, sep='\n')
    print(
        'may ship: whether the licence allows use in a product; docs/weights.md tells its source'
    )
    print('`r3 weights get NAME` shows the licence of one, asks, and fetches it.')
    return 0


def run_get(args: argparse.Namespace) -> int:
    from ..model.weights.download import fetch, query_hub, write_record

    weights = known(args.name)
    if weights.included:
        raise ModelError(f'the weights {weights.name} come with this package: nothing to fetch')
    target = local_path(weights.name, weights_folder())
    if weights.is_pickle:
        raise ModelError(missing_message(weights.name))
    _print_licence(weights)
    try:
        here = sha256_of(target) if target.exists() else None
    except OSError as error:
        raise ModelError(f'cannot read {target}: {error.strerror}') from error
    recorded = recorded_digest(target)
    if here and here == recorded and args.revision is None:
        print(f'{target} is here already, with the SHA-256 recorded: nothing to fetch')
        return 0
    if not args.yes and not sys.stdin.isatty():
        raise ModelError(
            'the licence above needs agreement, and the input is not a terminal: '
            f'`r3 weights get {weights.name} --yes` agrees to it'
        )
    hub = query_hub(weights, args.revision, target)
    if here == hub.sha256:
        write_record(weights, hub, target)
        print(f'{target} is the file of that revision already: nothing to fetch')
        return 0
    if here and recorded is None:
        raise ModelError(
            f'{target} was put there by hand and is not the file of {weights.repo} at revision '
            f'{hub.revision[:12]}; move it away to fetch that one'
        )
    if not args.yes and not _agreed(target, hub.size_bytes):
        print('nothing was fetched')
        return EXIT_DECLINED
    fetch(weights, hub, target)
    print(f'{target}: {size_text(hub.size_bytes)}, with the SHA-256 of the hub')
    return 0


def run_check(args: argparse.Namespace) -> int:
    from ..model.weights.checkpoint import load_network

    name = args.name_or_path
    variant = CATALOGUE[name].variant if name in CATALOGUE else None
    path = find_weights(name) if name in CATALOGUE else Path(name)
    if path is None:
        raise ModelError(missing_message(name))
    loaded = load_network(path, variant=variant)
    recorded = recorded_digest(path)
    if recorded and loaded.sha256 != recorded:
        raise ModelError(
            f'{path} is damaged or was changed: its SHA-256 is {loaded.sha256}, and {recorded} '
            'was recorded; remove it and fetch it again'
        )
    print(f'{path}: a whole {loaded.variant} network', *loaded.notes, sep='\n')
    entry = entry_of(path)
    origin = f'{"as" if recorded else "none"} recorded by r3 weights get'
    if entry is not None and entry.included:
        origin = 'of this package'
    print(f'SHA-256 {loaded.sha256}, {origin}')
    if entry is not None:
        print_rows([('licence', _licence_text(entry.licence))], 9)
    elif loaded.origin:
        rows = [('from', loaded.origin), ('licence', _licence_text(loaded.licence))]
        print_rows(rows, 9)
    else:
        print_rows([('licence', _licence_text(UNKNOWN))], 9)
    return 0


def _licence_text(licence: str) -> str:
    if licence == UNKNOWN:
        return 'unknown: nothing here says where these weights come from'
    if not licence:
        return 'yours to choose'
    if allows_commercial_use(licence):
        return f'{licence}: commercial use is allowed'
    return f'{licence}: not for commercial use'


def _print_licence(weights: PublishedWeights) -> None:
    rows = [
        ('weights', f'{weights.name} ({weights.purpose})'),
        ('from', f'{weights.page}, {weights.filename}'),
        ('licence', _licence_text(weights.licence)),
        ('read in', weights.source),
        ('note', weights.note),
    ]
    print_rows((row for row in rows if row[1]), 9)


def _agreed(target: Path, size_bytes: int) -> bool:
    print(f'to       {target}')
    try:
        answer = input(f'Agree to the licence and fetch {size_text(size_bytes)}? [y/N] ')
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ('y', 'yes')
