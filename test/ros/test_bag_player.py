"""A bag over real DDS: the bytes, the order and the clock are those of the recording."""

import threading
import time

import pytest
from r3_ros.core.errors import SourceError
from r3_ros.core.trajectory_file import read_tum
from r3_ros.input.bag_writer import write_sequence
from r3_ros.input.open_source import open_source
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
        truth = read_tum(folder / 'groundtruth.txt')
        write_sequence(tmp_path / 'walk.mcap', source, source.camera, truth)
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
    player = BagPlayer(bag, player_node, rate=5.0, clock=True)
    for topic in ('/camera/image_raw', '/camera/camera_info'):
        assert player.wait_for_subscribers(topic, 20.0)
    reported = []
    result = player.play(on_message=lambda topic, stamp_ns: reported.append((topic, stamp_ns)))
    until(lambda: len(images) == 10 and len(infos) == 10)
    assert result.messages == len(reported) == 30
    # 0.9 s of recording at five times its pace.
    assert 0.18 <= result.wall_s
    assert [stamp_of(m) for m in images] == [stamp(i) for i in range(10)]
    with open_source(bag) as source:
        for message, frame in zip(images, source, strict=True):
            assert bytes(message.data) == frame.image.tobytes()
    assert infos[0].k[0] == 51.2
    ticks = [c.clock.sec * 10**9 + c.clock.nanosec for c in clocks]
    assert ticks == sorted(ticks) and stamp(0) <= ticks[0] and ticks[-1] <= stamp(9)
    player.close()


def test_a_stop_ends_the_play(graph, bag):
    from r3_ros.ros.demo.bag_player import BagPlayer

    player = BagPlayer(bag, graph[0], rate=0.01)
    stop = threading.Event()
    result = player.play(stop, on_message=lambda topic, stamp_ns: stop.set())
    assert result.messages == 1
    player.close()


def test_nobody_listening_is_noticed(graph, bag):
    from r3_ros.ros.demo.bag_player import BagPlayer

    player = BagPlayer(bag, graph[0])
    assert not player.wait_for_subscribers(None, 0.05)
    player.close()


def test_types_that_are_not_installed_are_named(graph, tmp_path, bag):
    from r3_ros.ros.demo.bag_player import BagPlayer, message_type
    from rosbags.rosbag2 import StoragePlugin, Writer

    with Writer(tmp_path / 'odd', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            '/odd', 'odd_msgs/msg/Odd', msgdef='uint8 data\n', rihs01='RIHS01_' + '0' * 64
        )
        writer.write(connection, 5, b'\0\1\0\0\1')
    with pytest.raises(SourceError, match='holds no message of a type|damaged'):
        BagPlayer(tmp_path / 'odd', graph[0])
    with pytest.raises(Exception, match='odd_msgs/msg/Odd is not installed'):
        message_type('odd_msgs/msg/Odd')
