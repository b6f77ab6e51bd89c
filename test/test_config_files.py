"""YAML, documentation, launch and RViz files say what the code says."""

import ast
from pathlib import Path

import pytest
from r3_ros.commands.parameters import as_markdown, as_text, as_yaml
from r3_ros.config import flattened, load_config, parameters, R3Config
import yaml

ROOT = Path(__file__).resolve().parents[1]
STREAM_YAML = ROOT / 'config' / 'r3_stream.yaml'


def launch_constants():
    """Return the literal tables of the launch file, without launch being installed."""
    tree = ast.parse((ROOT / 'launch' / 'stream.launch.py').read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found[node.targets[0].id] = node.value
    return found


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
    assert all(type(values[p.name]) is p.kind for p in parameters())
    assert load_config(STREAM_YAML) == R3Config()


def test_every_parameter_is_listed_for_the_terminal():
    text = as_text()
    for parameter in parameters():
        assert f'{parameter.name} = ' in text
        assert parameter.meta.help[:40] in text


def test_launch_arguments_set_parameters_that_exist_in_their_types():
    table = launch_constants()['PARAMETERS']
    known = {p.name: p.kind for p in parameters()} | {'use_sim_time': bool}
    kinds = {'str': str, 'bool': bool, 'float': float, 'int': int}
    for value in table.values:
        name, kind = value.elts
        assert known[name.value] is kinds[kind.id], name.value


def test_launch_arguments_are_declared_and_explained():
    constants = launch_constants()
    declared = {item.elts[0].value: item.elts[2].value for item in constants['ARGUMENTS'].elts}
    assert all(len(text) > 10 for text in declared.values())
    assert {key.value for key in constants['PARAMETERS'].keys} <= declared.keys()
    wanted = 'image_topic camera_info_topic transport params_file namespace name map_frame '
    wanted += 'odom_frame base_frame publish_map_to_odom_tf publish_odom_to_base_tf frame_policy '
    wanted += 'use_sim_time rviz rviz_config autostart respawn log_level model'
    assert set(wanted.split()) <= declared.keys()


def test_launch_choices_are_those_of_the_parameters():
    known = {p.name: p.meta.choices for p in parameters()}
    constants = launch_constants()
    choices = {item.elts[0].value: item.elts[3] for item in constants['ARGUMENTS'].elts}
    for argument, parameter in (('transport', 'input.transport'), ('frame_policy', None)):
        listed = [choice.value for choice in choices[argument].elts if choice.value]
        assert tuple(listed) == known[parameter or 'input.frame_policy']


def rviz_topics(display):
    if isinstance(display, dict):
        topic = display.get('Topic')
        if isinstance(topic, dict):
            yield topic
        for value in display.values():
            yield from rviz_topics(value)
    elif isinstance(display, list):
        for item in display:
            yield from rviz_topics(item)


@pytest.mark.ros
def test_rviz_shows_topics_that_exist_with_their_durability():
    from r3_ros.ros.outputs import TOPICS

    content = yaml.safe_load((ROOT / 'rviz' / 'stream.rviz').read_text())
    manager = content['Visualization Manager']
    assert manager['Global Options']['Fixed Frame'] == R3Config().map_frame
    shown = list(rviz_topics(manager['Displays']))
    assert len(shown) >= 6
    for topic in shown:
        kind, _, latched = TOPICS[topic['Value'].removeprefix('/r3/')]
        assert kind is not None
        assert topic['Durability Policy'] == ('Transient Local' if latched else 'Volatile')
        assert topic['Reliability Policy'] == 'Reliable'


def test_rviz_draws_the_map_in_the_size_of_its_voxels():
    content = yaml.safe_load((ROOT / 'rviz' / 'stream.rviz').read_text())
    displays = content['Visualization Manager']['Displays']
    (the_map,) = [d for d in displays if d['Name'] == 'Map']
    assert the_map['Size (m)'] == R3Config().map.voxel_size


def rows_of(section):
    """Return the first cells of a table in docs/node.md, without code marks."""
    text = (ROOT / 'docs' / 'node.md').read_text().split(f'## {section}\n')[1].split('\n## ')[0]
    rows = [line.split('|')[1].strip() for line in text.splitlines() if line.startswith('| `')]
    return [row.strip('`') for row in rows]


@pytest.mark.ros
def test_page_of_the_node_lists_its_topics():
    from r3_ros.ros.outputs import TOPICS

    expected = {f'~/{topic}' for topic in TOPICS} | {'/diagnostics'}
    assert set(rows_of('Published topics')) == expected


def test_page_of_the_node_lists_its_services_and_encodings():
    from r3_ros.pictures import ENCODINGS

    source = (ROOT / 'r3_ros' / 'ros' / 'services.py').read_text()
    listed = rows_of('Services')
    assert len(listed) == source.count('self._create(')
    assert all(f"'{service}'" in source for service in listed)
    page = (ROOT / 'docs' / 'node.md').read_text()
    for encoding in ENCODINGS:
        assert encoding in page or encoding.startswith('bayer_'), encoding
