"""``r3 map``: inspects, exports and merges saved maps."""

from __future__ import annotations

from typing import Any

from . import map_export, map_info, map_merge


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'map',
        help='inspect, export and merge saved maps',
        description='Inspect, export and merge map folders of the node (~/save_map) and r3 run.',
    )
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    for action in (map_info, map_export, map_merge):
        action.add_action(actions)
