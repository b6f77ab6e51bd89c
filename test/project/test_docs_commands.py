"""The commands of the documentation: all `r3` commands parse, and those marked `runnable` run.

A block of shell that begins with three backquotes and `sh runnable` needs nothing but the package
and what earlier blocks of its page have made; the others are shown as skipped.
"""

import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

from paths import ROOT
import pytest
from r3_ros.commands.cli import build_parser

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
GUIDES = [
    page for page in PAGES if page.name == 'README.md' or page.parent.name in ('start', 'how_to')
]
_FENCED = re.compile(r'^( *)```([^\n]*)\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r'(?<=\n\n)(?: {4}.*\n)+')
_COMMENT = re.compile(r'\s#.*$', re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (info string, content) of the fenced blocks of a page."""
    text = page.read_text(encoding='utf-8')
    return [(match[2].strip(), match[3]) for match in _FENCED.finditer(text)]


def r3_commands(page: Path) -> list[str]:
    text = page.read_text(encoding='utf-8')
    code = [content for _, content in blocks(page)] + _INDENTED.findall(text)
    lines = _COMMENT.sub('', '\n'.join(code)).replace('\\\n', ' ').splitlines()
    return [line.strip() for line in lines if line.strip().startswith('r3 ')]


COMMANDS = [(page, command) for page in PAGES for command in r3_commands(page)]
SHELL = [
    pytest.param(page, info, content, id=f'{name_of(page)}: {content.splitlines()[0]}')
    for page in GUIDES
    for info, content in blocks(page)
    if info.startswith('sh') or page.name == 'README.md'
]


def test_commands_are_found():
    assert len(COMMANDS) > 40
    assert sum('runnable' in parameter.values[1] for parameter in SHELL) > 10


@pytest.mark.parametrize(
    ('page', 'command'), COMMANDS, ids=[f'{name_of(p)}: {c}' for p, c in COMMANDS]
)
def test_r3_commands_parse(page, command):
    try:
        build_parser().parse_args(shlex.split(command)[1:])
    except SystemExit:
        pytest.fail(f'{name_of(page)} prints a command that r3 does not take: {command}')


@pytest.fixture(scope='module')
def folder_of(tmp_path_factory):
    folders = {}

    def folder(page):
        return folders.setdefault(page, tmp_path_factory.mktemp(page.stem))

    return folder


@pytest.mark.slow
@pytest.mark.parametrize(('page', 'info', 'content'), SHELL)
def test_runnable_blocks_run(page, info, content, folder_of):
    if 'runnable' not in info.split():
        pytest.skip('not run: it needs ROS, real time, a network, or files of the reader')
    scripts = str(Path(sys.executable).parent)
    ran = subprocess.run(
        ['sh', '-e', '-c', content],
        cwd=folder_of(page),
        env={**os.environ, 'PATH': f'{scripts}{os.pathsep}{os.environ["PATH"]}'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, f'{content}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}'
