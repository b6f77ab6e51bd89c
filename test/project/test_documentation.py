"""Links in the documentation lead somewhere; the files and messages that it names exist."""

import ast
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob('*.md'), *sorted((ROOT / 'docs').rglob('*.md'))]
FOLDERS = ('benchmarks', 'docs', 'examples', 'launch', 'r3_ros', 'scripts', 'test', 'tools')
NAMES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')}
NAMES |= {path.name for path in ROOT.glob('*.py')}
#: Written by a user or by others, not part of the repository.
FOREIGN = {'deterministic_weights.py'}


def anchors(page: Path) -> set[str]:
    headings = re.findall(r'^#+ (.+)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
        path, _, anchor = link.partition('#')
        if not link.startswith('http'):
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_python_files_exist(page):
    named = re.findall(r'\w[\w./]*\.py\b', page.read_text(encoding='utf-8'))
    for name in set(named) - FOREIGN:
        assert name.split('/')[-1] in NAMES, name
        if name.startswith(('benchmarks/', 'scripts/', 'tools/', 'r3_ros/', 'launch/')):
            assert (ROOT / name).exists(), name
        if '/' in name and not (ROOT / name).exists():
            assert list((ROOT / 'r3_ros').rglob(name)), name


def test_the_index_lists_every_page():
    index = (ROOT / 'docs' / 'index.md').read_text(encoding='utf-8')
    for page in PAGES:
        name = page.relative_to(ROOT / 'docs') if page.is_relative_to(ROOT / 'docs') else None
        assert name is None or str(name) == 'index.md' or f'({name})' in index, name


def test_quoted_messages_are_those_of_the_package():
    texts = [(ROOT / 'scripts' / 'in_environment').read_text(encoding='utf-8')]
    for source in (ROOT / 'r3_ros').rglob('*.py'):
        for node in ast.walk(ast.parse(source.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    printed = '\n'.join(texts)
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (`.+?`) \|', page, re.MULTILINE)
    messages = [message for row in rows for message in re.findall('`(.+?)`', row)]
    assert len(messages) > 50
    for message in messages:
        for piece in re.split(r'\.\.\.+', message):
            assert piece.strip() in printed, message
