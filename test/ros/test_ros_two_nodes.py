"""Two nodes in one graph, over real DDS: nothing of one is taken for the other's."""

import time

from geometry_msgs.msg import PoseWithCovarianceStamped
import pytest
from r3_ros.ros.node import R3StreamNode
from r3_ros.ros.outputs.health import StreamState
from r3_ros.srv import SaveMap
from r3_ros.streaming.engine import Engine
from rclpy.parameter import Parameter
from ros_graph import CAMERA, Graph, image_message, IMPATIENT
from scripted import PERIOD_NS, Script, ScriptedPredictor, START_NS
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros


class Pair(Graph):
    """The node of a graph, and a second one beside it in the same context and executor."""

    def __init__(self, name='r3', namespace='/right', parameters=None, **of_first):
        super().__init__(**of_first)
        values = IMPATIENT | (parameters or {})
        self.second = R3StreamNode(
            name,
            namespace=namespace,
            engine_loader=lambda config: Engine(ScriptedPredictor(Script()), config),
            context=self.context,
            parameter_overrides=[Parameter(key, value=value) for key, value in values.items()],
        )
        self.executor.add_node(self.second)

    def close(self):
        self.second.close()
        self.executor.remove_node(self.second)
        self.second.destroy_node()
        del self.second
        super().close()

    def listen_to_second(self, topic, kind):
        """Collect what the second node publishes; the two have found each other."""
        received = []
        name = f'{self.second.get_fully_qualified_name()}/{topic}'
        self.probe.create_subscription(kind, name, received.append, 10)
        self.until(lambda: self.second.worker.outputs.wanted(topic))
        return received

    def listen_to_both(self):
        """Collect all transforms, once the probe and both nodes hear both nodes."""
        received = self.listen_tf()
        for node in (self.node, self.second):
            sender = node.worker.authority._broadcaster.pub_tf
            self.until(lambda sender=sender: sender.get_subscription_count() == 3)
        return received

    def send_to_second(self, count, frame='right_optical'):
        topic = self.second.resolve_topic_name('image')
        publisher = self.probe.create_publisher(Image, topic, 10)
        self.until(lambda: publisher.get_subscription_count() > 0)
        health = self.second.worker.health
        # The node subscribes anew once it knows that this camera is reliable.
        settled_s = time.monotonic() + 2.0
        self.until(lambda: time.monotonic() > settled_s)
        for i in range(count):
            done = health.frames_processed + health.frames_rejected
            publisher.publish(image_message(START_NS + i * PERIOD_NS, frame=frame))
            self.until(lambda n=done: health.frames_processed + health.frames_rejected > n)
        self.probe.destroy_publisher(publisher)


@pytest.fixture
def pair(tmp_path):
    made = []

    def make(**options):
        first = {'map__directory': str(tmp_path / 'first')}
        made.append(Pair(**(first | options)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def of(pair, node):
    """Return the topics and services of a node, by their full names."""
    name, namespace = node.get_name(), node.get_namespace()
    published = pair.probe.get_publisher_names_and_types_by_node(name, namespace)
    served = pair.probe.get_service_names_and_types_by_node(name, namespace)
    shared = {'/tf', '/diagnostics', '/rosout', '/parameter_events'}
    return {topic for topic, _ in published} - shared, {service for service, _ in served}


OWN_FRAMES = {'map_frame': 'right/map', 'odom_frame': 'right/odom'}


@pytest.mark.parametrize(
    ('name', 'namespace'), [('r3', '/right'), ('eye', '/')], ids=['two namespaces', 'two names']
)
def test_two_nodes_share_no_topic_and_no_service(pair, name, namespace):
    g = pair(name=name, namespace=namespace, parameters=OWN_FRAMES).start()
    assert g.second.autostart()
    g.until(lambda: g.probe.count_publishers('/tf') == 2)
    first, second = of(g, g.node), of(g, g.second)
    assert len(first[0]) >= 10 and len(first[1]) >= 10
    assert [len(names) for names in first] == [len(names) for names in second]
    assert not first[0] & second[0] and not first[1] & second[1]


@pytest.mark.slow
def test_two_cameras_have_two_trees_of_frames(pair):
    g = pair(parameters=OWN_FRAMES).start()
    assert g.second.autostart()
    received = g.listen_to_both()
    poses = g.listen_to_second('pose', PoseWithCovarianceStamped)
    g.send_many(5)
    g.send_to_second(5)
    g.until(lambda: len(poses) == 5)
    assert {m.header.frame_id for m in poses} == {'right/map'}
    expected = {
        ('map', 'odom'), ('odom', CAMERA),
        ('right/map', 'right/odom'), ('right/odom', 'right_optical'),
    }  # fmt: skip
    g.until(lambda: {(t.header.frame_id, t.child_frame_id) for t in received} >= expected)
    assert {(t.header.frame_id, t.child_frame_id) for t in received} == expected
    for node in (g.node, g.second):
        assert node.worker.health.state is StreamState.TRACKING
        assert not node.worker.tree.health.two_parents


def test_a_node_leaves_an_odom_frame_that_another_one_moves_and_says_so(pair):
    g = pair().start()
    assert g.second.autostart()
    received = g.listen_to_both()
    g.send_many(3)
    g.until(lambda: g.second.worker.tree.has_parent('odom'))
    poses = g.listen_to_second('pose', PoseWithCovarianceStamped)
    g.send_to_second(3)
    g.until(lambda: len(poses) == 3)
    assert g.second.worker.tree.health.two_parents == 'map -> odom'
    assert not g.transform_health.two_parents
    g.until(lambda: any(t.child_frame_id == 'right_optical' for t in received))
    assert g.second.worker.authority._refused == {'odom'}


@pytest.mark.slow
def test_two_cameras_of_one_frame_id_do_not_hang_below_each_other(pair):
    g = pair(parameters=OWN_FRAMES).start()
    assert g.second.autostart()
    received = g.listen_to_both()
    g.send_many(4)
    g.until(lambda: g.second.worker.tree.has_parent(CAMERA))
    poses = g.listen_to_second('pose', PoseWithCovarianceStamped)
    g.send_to_second(4, frame=CAMERA)
    g.until(lambda: len(poses) == 4)
    assert g.second.worker.tree.health.two_parents == f'odom -> {CAMERA}'
    g.until(lambda: any(t.child_frame_id == 'right/odom' for t in received))
    assert {t.header.frame_id for t in received if t.child_frame_id == CAMERA} == {'odom'}


@pytest.mark.slow
def test_a_node_that_moves_nothing_may_take_the_same_camera(pair):
    g = pair(
        parameters={'publish_map_to_odom_tf': False, 'publish_odom_to_base_tf': False}
    ).start()
    assert g.second.autostart()
    g.listen_tf()
    g.send_many(4)
    poses = g.listen_to_second('pose', PoseWithCovarianceStamped)
    g.send_to_second(4, frame=CAMERA)
    g.until(lambda: len(poses) == 4)
    # The camera itself, and not what the first node hung above it.
    assert g.second.worker.health.base_frame == CAMERA


def test_saves_go_to_a_folder_of_each_node(pair, tmp_path):
    g = pair(
        parameters={**OWN_FRAMES, 'map.directory': str(tmp_path / 'second')}
    ).start()  # fmt: skip
    assert g.second.autostart()
    g.send_many(5)
    g.send_to_second(5)
    for node, folder in (('/r3', 'first'), ('/right/r3', 'second')):
        answer = g.call(SaveMap, f'{node}/save_map', SaveMap.Request(name='kitchen'))
        assert answer.success, answer.message
        assert (tmp_path / folder / 'kitchen' / 'manifest.yaml').exists()
