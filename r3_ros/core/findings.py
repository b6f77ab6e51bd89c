"""What a check found: how bad it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
import enum


class Level(enum.Enum):
    """How much a finding matters."""

    OK = 'ok'
    NOTE = 'note'
    PROBLEM = 'problem'


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    :ivar subject: what was checked, in a word or two.
    :ivar text: what was found and what it means.
    :ivar change: what to do; empty if there is nothing to do.
    """

    level: Level
    subject: str
    text: str
    change: str = ''
