"""Paths of the project and of the recordings beside it; the skip where these are absent."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / 'test' / 'support'
#: Recordings and golden files of the official code, which are not part of the repository.
SHARED = ROOT.parent / 'shared'
DATA = SHARED / 'data'
PARITY = SHARED / 'parity'


def needs(path: Path) -> pytest.MarkDecorator:
    """Return the marker that skips a test where a file or folder of ``SHARED`` is absent."""
    return pytest.mark.skipif(
        not path.exists(), reason=f'needs {path.name}, which is not part of the repository'
    )
