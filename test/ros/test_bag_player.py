"""A bag over real DDS: the bytes, the order and the clock are those of the recording."""

import threading
import time

import pytest
from r3_ros.commands.cli import main
from r3_ros.input.bag_writer import write_sequence
from r3_ros.input.open_source import open_source
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from sequences import stamp, write_folder

pytestmark = pytest.mark.ros


@pytest.fixture
def graph():
    """Two nodes, and an executor on a thread for the one that listens."""
    rclpy = pytest.importorskip('rclpy')
    from rclpy.executors import SingleThreadedExecutor

    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    player = rclpy.create_node('test_player', context=context)
    listener = rclpy.create_node('test_listener', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    stopping = threading.Event()

    def spin():
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield player, listener
    stopping.set()
    thread.join()
    executor.shutdown()
    for node in (player, listener):
        node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def bag(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=10)
    with open_source(folder) as source:
        write_sequence(tmp_path / 'walk.mcap', source, source.camera)
    return tmp_path / 'walk.mcap'


def until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stamp_of(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_every_message_arrives_as_recorded(graph, bag):
    from r3_ros.ros.demo.bag_player import BagPlayer
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, Image

    player_node, listener = graph
    images, infos, clocks = [], [], []
    listener.create_subscription(Image, '/camera/image_raw', images.append, 20)
    listener.create_subscription(CameraInfo, '/camera/camera_info', infos.append, 20)
    listener.create_subscription(Clock, '/clock', clocks.append, 20)
    player = BagPlayer(bag, player_node)
    until(lambda: not player.without_subscriber())
    reported, began = [], time.monotonic()
    player.play(lambda topic, stamp_ns: reported.append((topic, stamp_ns)))
    # The recording takes 0.9 s.
    assert time.monotonic() - began >= 0.9
    until(lambda: len(images) == 10 and len(infos) == 10)
    assert len(reported) == 20
    assert [stamp_of(m) for m in images] == [stamp(i) for i in range(10)]
    with open_source(bag) as source:
        for message, frame in zip(images, source, strict=True):
            assert bytes(message.data) == frame.image.tobytes()
    assert infos[0].k[0] == 51.2
    ticks = [c.clock.sec * 10**9 + c.clock.nanosec for c in clocks]
    assert ticks == sorted(ticks) and stamp(0) <= ticks[0] and ticks[-1] <= stamp(9)
    player.close()


def test_the_recording_halts_until_subscribers_have_the_first_message(graph, bag, monkeypatch):
    from r3_ros.ros.demo.bag_player import BagPlayer
    from rclpy.publisher import Publisher

    waited, halt_s = [], 0.4

    def wait_for_all_acked(publisher, timeout):
        waited.append(publisher.topic_name)
        time.sleep(halt_s)
        return True

    monkeypatch.setattr(Publisher, 'wait_for_all_acked', wait_for_all_acked)
    player, times = BagPlayer(bag, graph[0]), []
    player.play(lambda topic, stamp_ns: times.append(time.monotonic()))
    player.close()
    assert sorted(waited) == ['/camera/camera_info', '/camera/image_raw']
    assert times[-1] - times[0] >= 0.9 + 2 * halt_s


def test_topics_that_nobody_listens_to_are_named(graph, bag):
    from r3_ros.ros.demo.bag_player import BagPlayer
    from sensor_msgs.msg import Image

    player_node, listener = graph
    player = BagPlayer(bag, player_node)
    assert set(player.without_subscriber()) == {'/camera/image_raw', '/camera/camera_info'}
    listener.create_subscription(Image, '/camera/image_raw', lambda message: None, 20)
    until(lambda: player.without_subscriber() == ['/camera/camera_info'])
    player.close()


def test_a_topic_that_was_kept_for_late_subscribers_is_kept_again(graph, tmp_path):
    from r3_ros.ros.demo.bag_player import BagPlayer
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import String
    from tf2_msgs.msg import TFMessage

    store = get_typestore(Stores.ROS2_JAZZY)
    never = QosTime(9223372036, 854775807)
    kept = Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
        never, never, QosLiveliness.AUTOMATIC, never, False,
    )  # fmt: skip
    text, transforms = 'std_msgs/msg/String', 'tf2_msgs/msg/TFMessage'
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind, message, qos in (
            ('/map_name', text, store.types[text](data='hall'), [kept]),
            ('/chatter', text, store.types[text](data='hello'), []),
            ('/tf_static', transforms, store.types[transforms](transforms=[]), []),
        ):
            connection = writer.add_connection(
                topic, kind, typestore=store, offered_qos_profiles=qos
            )
            writer.write(connection, 1, store.serialize_cdr(message, kind))
        store.register(get_types_from_msg('int32 x', 'odd/msg/Odd'))
        writer.add_connection('/odd', 'odd/msg/Odd', typestore=store)
    player_node, listener = graph
    player = BagPlayer(tmp_path / 'bag', player_node, with_clock=False)
    assert player.unknown_topics == ['/odd (odd/msg/Odd)']
    player.play(lambda topic, stamp_ns: None)
    heard = {topic: [] for topic in ('/map_name', '/chatter', '/tf_static')}
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    for topic, kind in (('/map_name', String), ('/chatter', String), ('/tf_static', TFMessage)):
        qos = 10 if topic == '/chatter' else latched
        listener.create_subscription(kind, topic, heard[topic].append, qos)
    until(lambda: heard['/map_name'] and heard['/tf_static'])
    assert heard['/map_name'][0].data == 'hall' and not heard['/chatter']
    player.close()


def test_the_command_refuses_ros_1(tmp_path, capsys):
    pytest.importorskip('rclpy')
    store = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(tmp_path / 'old.bag') as writer:
        connection = writer.add_connection('/chatter', 'std_msgs/msg/String', typestore=store)
        message = store.types['std_msgs/msg/String'](data='hello')
        data = store.serialize_ros1(message, 'std_msgs/msg/String')
        writer.write(connection, 1, data)
    assert main(['play', str(tmp_path / 'old.bag')]) == 2
    error = capsys.readouterr().err
    assert 'is a recording of ROS 1' in error and 'rosbags-convert --src' in error


def test_the_command_plays_and_counts(bag, capsys):
    pytest.importorskip('rclpy')
    assert main(['play', str(bag), '--wait-for-subscribers', '0.1']) == 0
    output = capsys.readouterr()
    assert output.out == '20 messages\n' and 'no subscriber after 0.1 s' in output.err
