"""``r3 map``: saved maps: what is in one, other formats of it, two made one."""

from __future__ import annotations

from typing import Any

from . import map_export, map_info, map_merge


def register(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        'map',
        help='look into saved maps, export and merge them',
        description='Work with the map folders that the node (~/save_map) and r3 run write.',
    )
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    for action in (map_info, map_export, map_merge):
        action.add_action(actions)
