"""The sources of the package as syntax trees, parsed once."""

import ast
import functools
from pathlib import Path

from paths import ROOT

PACKAGE = ROOT / 'r3_ros'


@functools.cache
def syntax_trees() -> dict[Path, ast.Module]:
    """Return the syntax tree of every file of the package, by its path in r3_ros."""
    return {
        path.relative_to(PACKAGE): ast.parse(path.read_text(encoding='utf-8'))
        for path in sorted(PACKAGE.rglob('*.py'))
    }
