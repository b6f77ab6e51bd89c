"""YAML and documentation agree with the code."""

import re

from paths import ROOT
import pytest
from r3_ros.commands.parameters import as_markdown, as_yaml
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import flattened, load_config, parameters
import yaml

STREAM_YAML = ROOT / 'config' / 'r3_stream.yaml'


def test_yaml_is_what_the_command_writes():
    assert STREAM_YAML.read_text() == as_yaml(), (
        'run: r3 parameters --yaml > config/r3_stream.yaml'
    )


def test_page_is_what_the_command_writes():
    page = ROOT / 'docs' / 'parameters.md'
    assert page.read_text() == as_markdown(), 'run: r3 parameters --markdown > docs/parameters.md'


def test_yaml_holds_every_default_in_its_type():
    content = yaml.safe_load(STREAM_YAML.read_text())['/**']['ros__parameters']

    def flat(group, prefix=''):
        for name, value in group.items():
            if isinstance(value, dict):
                yield from flat(value, f'{prefix}{name}.')
            else:
                yield f'{prefix}{name}', value

    values = dict(flat(content))
    assert values == flattened(R3Config())
    # ROS is strict: 20 is no double.
    assert all(type(values[p.name]) is p.kind for p in parameters(R3Config()))
    assert load_config(STREAM_YAML, R3Config()) == R3Config()


def rows_of(section):
    """Return the first cells of a table in docs/node.md, without code marks."""
    text = (ROOT / 'docs' / 'node.md').read_text().split(f'## {section}\n')[1].split('\n## ')[0]
    rows = [line.split('|')[1].strip() for line in text.splitlines() if line.startswith('| `')]
    return [row.strip('`') for row in rows]


@pytest.mark.ros
def test_page_of_the_node_lists_its_topics():
    from r3_ros.ros.outputs.outputs import TOPICS

    expected = {f'~/{topic}' for topic in TOPICS} | {'/diagnostics'}
    assert set(rows_of('Published topics')) == expected


def test_page_of_the_node_lists_its_services_and_encodings():
    from r3_ros.input.image_decoding import ENCODINGS

    source = (ROOT / 'r3_ros' / 'ros' / 'services' / 'services.py').read_text()
    listed = rows_of('Services')
    assert set(listed) == set(re.findall(r"'(~/\w+)'", source))
    page = (ROOT / 'docs' / 'node.md').read_text()
    for encoding in ENCODINGS:
        assert encoding in page or encoding.startswith('bayer_'), encoding
