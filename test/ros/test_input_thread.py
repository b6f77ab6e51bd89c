"""Busy subscriptions and timers do not cost the executor anything, and end when they should."""

import threading
import time

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.threads import thread_name
from r3_ros.ros.inputs.input_thread import InputThread
import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_domain import Domain
from ros_graph import image_message
from scripted import PERIOD_NS, START_NS
from std_msgs.msg import Int32, String

pytestmark = pytest.mark.ros

BUSY = {'/image', '/camera_info', '/tf', '/tf_static'}


def eventually(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def input_threads():
    return [t for t in threading.enumerate() if t.name == thread_name('inputs')]


@pytest.fixture
def lone():
    """Return a node, its inputs, and a publisher; nothing spins the node."""
    domain, context = Domain(), rclpy.Context()
    rclpy.init(context=context, domain_id=domain.number)
    node = Node('lone', context=context)
    inputs = InputThread(node)
    yield node, inputs, node.create_publisher(Int32, 'number', 10)
    inputs.close()
    node.destroy_node()
    if context.ok():
        rclpy.shutdown(context=context)
    domain.release()


def connected(node, inputs, callback):
    made = inputs.create_subscription(Int32, 'number', callback, 10)
    eventually(lambda: node.count_subscribers('number') and made.get_publisher_count())
    return made


def test_images_and_transforms_are_received_without_the_executor(graph):
    g = graph().start()
    mailbox = g.node.worker.mailbox
    for i in range(3):
        g.images.publish(image_message(START_NS + i * PERIOD_NS))
        eventually(lambda i=i: mailbox.received == i + 1)
    busy = [s for s in g.node.subscriptions if s.topic_name in BUSY]
    assert len(busy) == len(BUSY)
    # Events as well: waiting for one of a subscription wakes for each of its messages.
    for each in busy:
        assert not any(map(g.executor.can_execute, [each, *each.event_handlers]))


def test_after_destruction_no_callback_runs(lone):
    node, inputs, publisher = lone
    entered, go_on, numbers = threading.Event(), threading.Event(), []

    def take(message):
        entered.set()
        go_on.wait()
        numbers.append(message.data)

    made = connected(node, inputs, take)
    for i in range(3):
        publisher.publish(Int32(data=i))
    assert entered.wait(20.0)
    ending = threading.Thread(target=inputs.destroy_subscription, args=(made,))
    ending.start()
    assert ending.is_alive()  # it waits for the callback
    go_on.set()
    ending.join()
    count = len(numbers)
    others = []
    connected(node, inputs, others.append)
    publisher.publish(Int32(data=9))
    eventually(lambda: others)
    assert len(numbers) == count


def test_an_error_of_a_callback_is_logged_and_the_next_message_is_taken(lone, capfd):
    node, inputs, publisher = lone
    numbers = []

    def take(message):
        numbers.append(message.data)
        if message.data == 0:
            raise ZeroDivisionError('scripted')

    connected(node, inputs, take)
    for i in range(2):
        publisher.publish(Int32(data=i))
    eventually(lambda: numbers == [0, 1])
    assert 'ZeroDivisionError: scripted' in capfd.readouterr().err


def test_a_timer_fires_until_it_is_destroyed(lone):
    _, inputs, _ = lone
    fired = []
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    timer = inputs.create_timer(0.005, lambda: fired.append(True), clock)
    eventually(lambda: len(fired) >= 3)
    inputs.destroy_timer(timer)
    count, later = len(fired), []
    inputs.create_timer(0.02, lambda: later.append(True), clock)
    eventually(lambda: len(later) >= 2)
    assert len(fired) == count


def test_events_of_a_subscription_are_reported(lone, capfd):
    node, inputs, _ = lone
    node.create_publisher(String, 'text', 1)
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    inputs.create_subscription(String, 'text', lambda message: None, qos)
    said = []
    eventually(lambda: said.append(capfd.readouterr().err) or 'incompatible QoS' in ''.join(said))


@pytest.mark.parametrize('how', ['shutdown', 'destroy'])
def test_the_thread_ends_with_its_node(lone, how):
    node, inputs, _ = lone
    connected(node, inputs, lambda message: None)
    (thread,) = input_threads()
    if how == 'shutdown':
        rclpy.shutdown(context=node.context)
    else:
        node.destroy_node()
    thread.join(10.0)
    assert not thread.is_alive()


def test_cleanup_ends_the_thread(graph):
    g = graph().start()
    assert input_threads()
    assert g.turn('deactivate') and g.turn('cleanup')
    assert not input_threads()
    assert g.turn('configure') and g.turn('activate')
    g.send()
