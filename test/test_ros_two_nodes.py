"""Two nodes in one graph, over real DDS: nothing of one is taken for the other's."""

from geometry_msgs.msg import PoseWithCovarianceStamped
import pytest
from r3_ros.errors import TransformError
from r3_ros.ros.health import StreamState
from r3_ros.ros.name_lock import FrameClaims, NameLock
from r3_ros.ros.node import R3StreamNode
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
        heard = []
        name = f'{self.second.get_fully_qualified_name()}/{topic}'
        self.probe.create_subscription(kind, name, heard.append, 10)
        self.until(lambda: self.second.stream.outputs.wanted(topic))
        return heard

    def send_to_second(self, count, frame='right_optical'):
        topic = self.second.resolve_topic_name('image')
        pictures = self.probe.create_publisher(Image, topic, 10)
        self.until(lambda: pictures.get_subscription_count() > 0)
        health = self.second.stream.health
        for i in range(count):
            done = health.frames_processed + health.frames_rejected
            pictures.publish(image_message(START_NS + i * PERIOD_NS, frame=frame))
            self.until(lambda n=done: health.frames_processed + health.frames_rejected > n)
        self.probe.destroy_publisher(pictures)


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


def test_two_cameras_have_two_trees_of_frames(pair):
    g = pair(parameters=OWN_FRAMES).start()
    assert g.second.autostart()
    heard = g.listen_tf()
    # The probe and the other node hear each; what it says itself comes back, too.
    for node in (g.node, g.second):
        sender = node.stream.authority._broadcaster.pub_tf
        g.until(lambda sender=sender: sender.get_subscription_count() == 3)
    poses = g.listen_to_second('pose', PoseWithCovarianceStamped)
    g.send_many(5)
    g.send_to_second(5)
    g.until(lambda: len(poses) == 5)
    assert {m.header.frame_id for m in poses} == {'right/map'}
    expected = {
        ('map', 'odom'), ('odom', CAMERA),
        ('right/map', 'right/odom'), ('right/odom', 'right_optical'),
    }  # fmt: skip
    g.until(lambda: {(t.header.frame_id, t.child_frame_id) for t in heard} >= expected)
    assert {(t.header.frame_id, t.child_frame_id) for t in heard} == expected
    for node in (g.node, g.second):
        assert node.stream.health.state is StreamState.TRACKING
        assert not node.stream.transform_health.two_parents


def test_a_node_that_would_move_the_same_odom_frame_is_refused_and_told_whose_it_is(pair, capfd):
    g = pair().start()
    assert not g.second.autostart()
    said = capfd.readouterr().err
    assert "frame 'odom' is moved by /r3 already" in said and 'frame_prefix' in said
    # With frames of its own it starts, and the first goes on.
    g.second.set_parameters(
        [Parameter('odom_frame', value='o2'), Parameter('map_frame', value='m2')]
    )
    assert g.second.autostart()
    g.send_many(3)
    assert g.health.state is StreamState.TRACKING


def test_the_frame_is_free_once_its_node_is_gone(pair):
    g = pair().start()
    assert not g.second.autostart()
    assert g.turn('deactivate') and g.turn('cleanup')
    assert g.second.autostart()


def test_two_cameras_of_one_frame_id_do_not_hang_below_each_other(pair, capfd):
    g = pair(parameters=OWN_FRAMES).start()
    assert g.second.autostart()
    heard = g.listen_tf()
    g.send_many(4)
    g.send_to_second(4, frame=CAMERA)
    health, transform_health = g.second.stream.health, g.second.stream.transform_health
    assert health.state is StreamState.WAITING_TF
    assert f"frame '{CAMERA}' is moved by /r3 already" in transform_health.problem
    assert 'camera_optical_frame' in transform_health.problem
    assert {t.header.frame_id for t in heard if t.child_frame_id == CAMERA} == {'odom'}
    assert not any(t.child_frame_id.startswith('right/') for t in heard)


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
    assert g.second.stream.health.base_frame == CAMERA


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


# The locks themselves.


def test_a_link_in_the_common_folder_is_not_followed(tmp_path, monkeypatch):
    precious = tmp_path / 'precious'
    precious.write_text('kept')
    lock = NameLock('/r3', 1)
    lock.path = tmp_path / lock.path.name
    lock.path.symlink_to(precious)
    assert lock.acquire('/r3')
    lock.release()
    assert precious.read_text() == 'kept'


def test_names_that_look_alike_do_not_meet():
    locks = [NameLock(name, 1) for name in ('/left/r3', '/left_r3', '/left//r3')]
    locks.append(NameLock('/left/r3', 1, 'frame'))
    assert len({lock.path for lock in locks}) == 4
    assert all(lock.acquire() for lock in locks)
    for lock in locks:
        lock.release()


def test_a_frame_is_claimed_once_and_the_holder_is_named():
    first, second = FrameClaims('/left/r3', 3), FrameClaims('/right/r3', 3)
    first.claim('odom_frame', 'odom')
    first.claim('odom_frame', 'odom')
    with pytest.raises(TransformError, match='/left/r3'):
        second.claim('odom_frame', 'odom')
    # Another base in the place of the old one gives the old one back.
    first.claim('base_frame', 'camera')
    first.claim('base_frame', 'camera_link')
    second.claim('base_frame', 'camera')
    with pytest.raises(TransformError, match='camera_optical_frame'):
        second.claim('base_frame', 'camera_link')
    first.release()
    second.claim('odom_frame', 'odom')
    second.claim('base_frame', 'camera_link')
    second.release()
