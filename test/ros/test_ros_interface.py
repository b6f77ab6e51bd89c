"""The running node is what its pages say."""

import re

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from paths import ROOT
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import parameters
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

pytestmark = pytest.mark.ros

DOCS = ROOT / 'docs'
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
    received = {}
    # None of the modes subscribes to everything.
    for options in ({}, {'input__transport': 'compressed'}, {'scale__source': 'odometry'}):
        g = graph(**options)
        assert g.node.autostart()
        image = '/image/compressed' if 'input__transport' in options else '/image'
        topics = g.node.get_subscriber_names_and_types_by_node
        g.until(lambda topics=topics, image=image: image in dict(topics('r3', '/')))
        received |= dict(topics('r3', '/'))
        assert g.turn('deactivate') and g.turn('cleanup')
    received.pop('/parameter_events', None)
    assert set(received) == {resolved(topic) for topic in rows}
    for topic, row in rows.items():
        assert_type(received[resolved(topic)][0], type_in(row[1]))


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
    assert set(rows) == {p.name for p in parameters(R3Config())}
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
