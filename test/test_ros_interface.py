"""The running node is what its pages say, and what was proposed where nothing else was decided."""

from pathlib import Path
import re

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.config import parameters
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

pytestmark = pytest.mark.ros

DOCS = Path(__file__).resolve().parents[1] / 'docs'
PROPOSAL = DOCS.parents[1] / 'shared' / 'spec' / 'ros-interface.md'
#: Where the packages of messages are not said.
PACKAGES = ('sensor_msgs', 'nav_msgs', 'geometry_msgs', 'visualization_msgs', 'tf2_msgs', 'r3_ros',
            'diagnostic_msgs', 'std_srvs', 'rosgraph_msgs')  # fmt: skip


def table(text, section):
    """Return the rows of the tables of a section, as lists of cells."""
    (part,) = re.findall(rf'^## {re.escape(section)}[^\n]*\n(.*?)(?=^## |\Z)', text, re.M | re.S)
    lines = [line.strip() for line in part.splitlines() if line.startswith('|')]
    rows = [[cell.strip() for cell in line[1:-1].split('|')] for line in lines]
    return [row for row in rows if not set(row[0]) <= set(':- ')]


def named(rows):
    """Return rows by the names in backticks in their first cells."""
    return {name: row for row in rows for name in re.findall(r'`([^`]+)`', row[0])}


def page(name, section):
    return named(table((DOCS / name).read_text(), section))


@pytest.fixture
def proposal():
    if not PROPOSAL.exists():
        pytest.skip(f'{PROPOSAL} is not there to compare with')
    return PROPOSAL.read_text()


def resolved(topic):
    return topic.replace('~', '/r3') if topic.startswith(('~', '/')) else f'/{topic}'


def assert_type(full, short):
    """Assert that ``sensor_msgs/msg/Image`` is what ``Image`` or ``sensor_msgs/Image`` means."""
    package, _, name = full.split('/')
    assert short.split('/')[-1] == name, f'{full} is not {short}'
    assert package in PACKAGES and ('/' not in short or short.split('/')[0] == package)


def type_in(cell):
    return re.findall(r'`([^`]+)`', cell)[0]


def written(value):
    """Return a value as the page of parameters writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


# The pages.


def test_published_topics_are_those_of_the_page(graph):
    g = graph(occupancy__enabled=True).start()
    rows = page('node.md', 'Published topics')
    ours = dict(g.node.get_publisher_names_and_types_by_node('r3', '/'))
    promised = {
        resolved(topic): row for topic, row in rows.items() if topic.startswith(('~', '/'))
    }
    ignored = {'/rosout', '/parameter_events', '/tf', '/r3/transition_event'}
    assert set(ours) - ignored <= set(promised), 'a topic that the page does not know'
    for topic, row in promised.items():
        (kind,) = ours[topic]
        assert_type(kind, type_in(row[1]))
        if topic.startswith('/r3/'):
            g.until(lambda topic=topic: g.probe.count_publishers(topic) == 1)
            (endpoint,) = g.probe.get_publishers_info_by_topic(topic)
            assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            is_latched = endpoint.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            assert is_latched == ('latched' in row[-1]), topic


def test_subscribed_topics_are_those_of_the_page(graph):
    rows = page('node.md', 'Subscribed topics')
    heard = {}
    # None of the modes subscribes to everything.
    for options in ({}, {'input__transport': 'compressed'}, {'scale__source': 'odometry'}):
        g = graph(**options)
        assert g.node.autostart()
        heard |= dict(g.node.get_subscriber_names_and_types_by_node('r3', '/'))
        assert g.turn('deactivate') and g.turn('cleanup')
    heard.pop('/parameter_events', None)
    assert set(heard) == {resolved(topic) for topic in rows}
    for topic, row in rows.items():
        assert_type(heard[resolved(topic)][0], type_in(row[1]))


def test_services_are_those_of_the_page(graph):
    g = graph()
    assert g.turn('configure')
    rows = page('node.md', 'Services')
    standard = re.compile(r'parameter|_state|_transition|type_description')
    offered = dict(g.node.get_service_names_and_types_by_node('r3', '/'))
    ours = {name: kinds for name, kinds in offered.items() if not standard.search(name)}
    assert set(ours) == {resolved(name) for name in rows if name.startswith('~')}
    for name, (kind,) in ours.items():
        assert_type(kind, type_in(rows[name.replace('/r3', '~')][1]))


def test_parameters_are_those_of_the_page(graph):
    g = graph()
    sections = re.findall(r'^## (.+)$', (DOCS / 'parameters.md').read_text(), re.M)
    rows = {}
    for section in sections:
        rows |= page('parameters.md', section)
    rows = {name: row for name, row in rows.items() if len(row) == 5}
    assert set(rows) == {p.name for p in parameters()}
    overridden = {'map.directory', 'input.camera_info_timeout', 'tf_lookup_timeout'}
    for name, (_, default, allowed, live, meaning) in rows.items():
        described = g.node.describe_parameter(name)
        assert described.description.startswith(meaning), name
        assert described.additional_constraints.startswith(allowed), name
        assert ('any time' in described.additional_constraints) == (live == 'live'), name
        value = g.node.get_parameter(name).value
        if name not in overridden:
            assert default.strip('`') == written(value), name
        if bounds := [*described.integer_range, *described.floating_point_range]:
            low, high = re.match(r'(\S+) to (\S+)', allowed).groups()
            assert (bounds[0].from_value, bounds[0].to_value) == pytest.approx(
                (float(low), float(high)), rel=1e-5
            )


# The proposal.


def agrees(parameter, row):
    """Tell whether a parameter is what a row of the proposal says."""
    kind, default, allowed, change = row[1:5]
    first = [row_name for row_name in re.findall(r'`([^`]+)`', row[0])]
    at = first.index(parameter.name)
    defaults = re.split(r' / |, ', default)
    told = defaults[at if len(defaults) > 1 else 0].split()[0].strip('`"') if default else ''
    value = parameter.default
    same = (
        told == str(value).lower() if isinstance(value, bool)
        else float(told) == value if isinstance(value, (int, float))
        else told.strip('"') == value
    )  # fmt: skip
    types = {'bool': bool, 'int': int, 'double': float, 'string': str}
    same &= types[kind.split(',')[0]] is parameter.kind
    same &= (change == 'D') == parameter.meta.live
    if parameter.meta.choices and ',' in allowed:
        same &= set(parameter.meta.choices) == set(re.split(r',\s*', allowed))
    number = r'(\d[\d.]*(?:e-?\d+)?)'
    bounds = re.match(f'{number}-{number}', allowed)
    if bounds and parameter.meta.low is not None:
        low, high = map(float, bounds.groups())
        same &= (low, high) == (parameter.meta.low, parameter.meta.high)
    elif allowed == '>0':
        same = False  # a range is a decision
    return same


def test_every_proposed_parameter_exists_or_is_decided_otherwise(proposal):
    known = {p.name: p for p in parameters()}
    decided = page('interface_decisions.md', 'Parameters')
    wrong = []
    for name, row in named(table(proposal, '4. Parameters')).items():
        if not re.fullmatch(r'[a-z_.]+', name):
            continue
        as_proposed = name in known and agrees(known[name], row)
        if not as_proposed and name not in decided:
            wrong.append(f'{name} is missing or another: {row}')
        if as_proposed and name in decided:
            wrong.append(f'{name} is as proposed, so there is nothing to explain')
    assert not wrong, '\n'.join(wrong)


def test_decisions_name_parameters_that_exist_and_give_reasons():
    known = {p.name for p in parameters()}
    groups = {name.split('.')[0] for name in known if '.' in name}
    text = (DOCS / 'interface_decisions.md').read_text()
    for section in re.findall(r'^## (.+)$', text, re.M):
        for row in table(text, section):
            assert len(row) == 3 and all(row), row
    for proposed, here, _ in table(text, 'Parameters')[1:]:
        for name in re.findall(r'`([a-z_]+\.[a-z_]+)`', here):
            assert name in known, f'{name}, said to replace {proposed}'
            assert name.split('.')[0] in groups


def test_every_proposed_topic_exists_or_is_decided_otherwise(proposal):
    decided = page('interface_decisions.md', 'Topics')
    published = page('node.md', 'Published topics')
    subscribed = page('node.md', 'Subscribed topics')
    sections = (('1. Subscribed topics', subscribed), ('2. Published topics', published))
    for section, ours in sections:
        for topic, row in named(table(proposal, section)).items():
            is_decided = topic in decided and topic not in ours
            if is_decided or not re.fullmatch(r'[~/a-z_]+', topic):
                continue
            assert topic in ours, f'{topic} is missing'
            # A row may be of two topics, and their types in their order.
            short = type_in(ours[topic][1]).split('/')[-1]
            assert short in re.findall(r'\w+', row[1]), topic
            latched = 'latched' in row[2]
            assert latched == ('latched' in ours[topic][-1]), topic


def test_every_proposed_service_exists_or_is_decided_otherwise(proposal):
    # All are as proposed, so there is nothing decided.
    decided, ours = page('interface_decisions.md', 'Services'), page('node.md', 'Services')
    for name, row in named(table(proposal, '5. Services')).items():
        if name.startswith('~'):
            assert (name in ours) != (name in decided), name
            if name in ours:
                assert type_in(ours[name][1]) == type_in(row[1])


def test_topics_that_nobody_proposed_are_decided(proposal):
    decided = page('interface_decisions.md', 'Topics')
    for section, ours in (('1. Subscribed', 'Subscribed'), ('2. Published', 'Published')):
        proposed = named(table(proposal, f'{section} topics'))
        for topic in page('node.md', f'{ours} topics'):
            if topic.startswith('~'):
                assert topic in proposed or topic in decided, topic


def lines_of(text):
    """Return the fields and constants of a message without comments and blanks."""
    lines = (' '.join(line.split('#')[0].split()) for line in text.splitlines())
    return [line for line in lines if line]


def test_every_proposed_message_is_as_proposed(proposal):
    pattern = r'`((?:msg|srv)/\w+\.(?:msg|srv))`\n```\n(.*?)```'
    blocks = re.findall(pattern, proposal, re.S)
    assert len(blocks) >= 5
    for name, text in blocks:
        assert lines_of((DOCS.parent / name).read_text()) == lines_of(text), name
    # The others stand in one line each.
    prose = re.findall(r'^`(srv/\w+\.srv)`: request (.*?)(?=^`|\n\n|\Z)', proposal, re.M | re.S)
    assert len(prose) >= 2
    for name, text in prose:
        lines = lines_of((DOCS.parent / name).read_text())
        for field in re.findall(r'`((?:\w+/)?\w+ \w+)`', text):
            assert field in lines, f'{field} of {name}'


def spelled_out(cell):
    """Return the keys of a cell: `a_b/c` is a_b and a_c, `a` b/c is a_b and a_c as well."""
    keys = []
    for text, suffixes in re.findall(r'`([\w/]+)`((?: \w+(?:/\w+)+)?)', cell):
        first, *others = text.split('/')
        stem = first.rpartition('_')[0]
        parts = [first, *(f'{stem}_{other}' for other in others)]
        ends = suffixes.strip().split('/') if suffixes else []
        keys += [f'{part}_{end}' for part in parts for end in ends] if ends else parts
    return keys


def test_every_proposed_key_of_diagnostics_exists_or_is_decided_otherwise(proposal):
    ours = {name: spelled_out(row[1]) for name, row in page('node.md', 'Diagnostics').items()}
    decided = page('interface_decisions.md', 'Diagnostics')
    rows = table(proposal, '7. Diagnostics')[1:]
    assert [row[0].strip('`').removeprefix('r3: ') for row in rows] == list(ours)
    for row in rows:
        task = row[0].strip('`').removeprefix('r3: ')
        missing = [key for key in spelled_out(row[1]) if key not in ours[task]]
        assert set(missing) <= set(decided), task


def test_every_proposed_launch_argument_is_there_with_its_default(proposal):
    from r3_ros.ros.launch.launch_arguments import STREAM

    ours = {argument.name: argument for argument in STREAM}
    rows = table(proposal, '9. Launch files')[1:]
    assert len(rows) > 12
    for row in rows:
        names = re.findall(r'`(\w+)`', row[0])
        defaults = [text.strip(' `"') for text in row[1].split(',')]
        defaults = defaults * len(names) if len(defaults) == 1 else defaults
        for name, default in zip(names, defaults, strict=True):
            argument = ours[name]
            # The empty ones are decided: files come before arguments.
            is_empty = argument.parameter or name == 'params_file'
            assert argument.default == ('' if is_empty else default), name
