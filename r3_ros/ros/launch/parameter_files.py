"""Parameter files of other packages, with our part laid over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import tempfile
from typing import Any

import yaml

from ...core.errors import ConfigError


def overlaid(base: Any, overlay: Any) -> Any:
    """Return the base with the overlay in it: mappings are merged, anything else is replaced."""
    if not (isinstance(base, Mapping) and isinstance(overlay, Mapping)):
        return overlay
    merged = dict(base)
    for key, value in overlay.items():
        merged[key] = overlaid(base[key], value) if key in base else value
    return merged


def renamed(tree: Any, old: str, new: str) -> Any:
    """Return the tree with every text that is ``old``, or below ``old/``, moved to ``new``."""
    if isinstance(tree, Mapping):
        return {key: renamed(value, old, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [renamed(value, old, new) for value in tree]
    if isinstance(tree, str) and (tree == old or tree.startswith(f'{old}/')):
        return new + tree[len(old) :]
    return tree


def read_tree(path: Path | str) -> dict[str, Any]:
    """Read a parameter file.

    :raises ConfigError: unreadable, or no mapping.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'cannot read the parameter file {path}: {error}') from error
    if not isinstance(tree, dict):
        raise ConfigError(f'{path} holds no parameters')
    return tree


def write_tree(tree: Mapping[str, Any]) -> str:
    """Write a parameter file into the temporary folder and return its path."""
    with tempfile.NamedTemporaryFile(
        'w', prefix='r3_ros_', suffix='.yaml', delete=False, encoding='utf-8'
    ) as file:
        yaml.safe_dump(dict(tree), file, sort_keys=False)
    return file.name
