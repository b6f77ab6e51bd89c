"""The executable: starts, ends on a signal with status 0, and says what is wrong otherwise."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from paths import ROOT
from r3_ros.msg import StreamStatus
from r3_ros.srv import SaveMap
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from ros_graph import Domain, image_message
from scripted import PERIOD_NS, START_NS
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros

#: The same with something that never ends.
STUCK = 'test/support/node_process.py'
IMPATIENT = ('-p', 'input.camera_info_timeout:=0.0')


@pytest.fixture
def start():
    """Start the executable with arguments; what still runs is killed at the end."""
    domain, running = Domain(), []

    def make(*arguments, first_on_path=ROOT, program='bin/r3_stream'):
        path = os.pathsep.join([str(first_on_path), str(ROOT), os.environ.get('PYTHONPATH', '')])
        environment = os.environ | {'ROS_DOMAIN_ID': str(domain.number), 'PYTHONPATH': path}
        process = subprocess.Popen(
            [sys.executable, str(ROOT / program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        running.append(process)
        return process

    make.domain = domain
    yield make
    for process in running:
        process.kill()
        process.communicate()
    domain.release()


def wait_for(process, words):
    """Read what the process says until a line holds the words; return all of it."""
    said = ''
    too_late = threading.Timer(90.0, process.kill)
    too_late.start()
    try:
        for line in process.stdout:
            said += line
            if words in line:
                return said
    finally:
        too_late.cancel()
    raise AssertionError(f'ended before it said {words!r}:\n{said}')


@pytest.mark.parametrize(
    'number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_in_order(start, number):
    process = start(
        '--ros-args', '--params-file', str(ROOT / 'config' / 'r3_stream.yaml'),
        '-r', 'image:=/camera/image_raw',
    )  # fmt: skip
    assert '/camera/image_raw' in wait_for(process, 'active')
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert 'Traceback' not in said


@pytest.fixture
def probe(start):
    """Run a node beside the process, in this one."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=start.domain.number)
    node = Node('probe', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin_until(done):
        deadline_s = time.monotonic() + 60.0
        while not done():
            assert time.monotonic() < deadline_s
            executor.spin_once(timeout_sec=0.05)

    node.spin_until = spin_until
    yield node
    executor.remove_node(node)
    node.destroy_node()
    executor.shutdown()
    rclpy.shutdown(context=context)


def send_images(probe, until_processed=0):
    """Send one image, or go on until the node says that it has processed so many."""
    camera, received = probe.create_publisher(Image, 'image', 10), []
    probe.create_subscription(StreamStatus, '/r3/status', received.append, 10)

    def is_heard():
        # The node subscribes anew, reliably, once it has seen that the camera is reliable.
        infos = probe.get_subscriptions_info_by_topic('/image')
        reliable = [i.qos_profile.reliability == ReliabilityPolicy.RELIABLE for i in infos]
        return reliable == [True] and camera.get_subscription_count() == 1

    probe.spin_until(is_heard)
    numbers = itertools.count()

    def sent_enough():
        if received and received[-1].frames_processed >= until_processed:
            return True
        camera.publish(image_message(START_NS + next(numbers) * PERIOD_NS))
        return not until_processed

    probe.spin_until(sent_enough)


def assert_ends_in_order(process):
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert 'Traceback' not in said


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_configures_ends_it_and_its_name_is_free(start, number):
    process = start('configure', program=STUCK)
    wait_for(process, 'stuck in configure')
    process.send_signal(number)
    assert_ends_in_order(process)
    # Its name is free for the next start, on the graph as well.
    wait_for(start(), 'active')


@pytest.mark.slow
def test_a_signal_during_a_frame_that_never_ends_ends_it(start, probe):
    process = start('frame', '--ros-args', *IMPATIENT, program=STUCK)
    wait_for(process, 'active')
    send_images(probe)
    wait_for(process, 'stuck in a frame')
    process.send_signal(signal.SIGINT)
    assert_ends_in_order(process)


@pytest.mark.slow
def test_a_signal_during_a_long_save_ends_it_and_leaves_nothing(start, probe, tmp_path):
    folder = ('-p', f'map.directory:={tmp_path}')
    process = start('save', '--ros-args', *IMPATIENT, *folder, program=STUCK)
    wait_for(process, 'active')
    send_images(probe, until_processed=4)
    client = probe.create_client(SaveMap, '/r3/save_map')
    probe.spin_until(client.service_is_ready)
    client.call_async(SaveMap.Request(name='kitchen'))
    wait_for(process, 'stuck in a save')
    process.send_signal(signal.SIGINT)
    assert_ends_in_order(process)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_more_signals_while_it_ends_change_nothing(start):
    process = start()
    wait_for(process, 'active')
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    assert_ends_in_order(process)


@pytest.mark.slow
def test_a_node_that_cannot_be_cleaned_up_ends_its_process(start, probe):
    process = start('cleanup', '--ros-args', *IMPATIENT, program=STUCK)
    wait_for(process, 'active')
    client = probe.create_client(ChangeState, '/r3/change_state')
    probe.spin_until(client.service_is_ready)
    for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        client.call_async(ChangeState.Request(transition=Transition(id=step)))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert 'cannot clean up' in said and 'Traceback' not in said


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (('-p', 'points.stride:=99'), 2, "'points.stride'"),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                (('-p', 'tf_publish_rate:=20'), 2, '20.0'),
                (('-p', 'qos_overrides./image.subscription.depth:=-1'), 2, 'allowed: 0 to'),
                (('-p', 'model.name:=nonsense'), 1, 'classical'),
                (('-p', 'points.max_range:=0.01'), 1, "'points.min_range'"),
                (('--params-file', 'missing.yaml'), 2, 'missing.yaml'),
            )
        ),
    ],
)
def test_wrong_arguments_end_it_with_a_reason(start, arguments, status, words):
    process = start('--ros-args', *arguments)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert words in said and 'Traceback' not in said


@pytest.mark.slow
def test_where_ros_lets_no_node_begin_one_line_says_so(start, monkeypatch, tmp_path):
    # An enclave without keys: there is no security to enforce with.
    (tmp_path / 'enclaves').mkdir()
    monkeypatch.setenv('ROS_SECURITY_ENABLE', 'true')
    monkeypatch.setenv('ROS_SECURITY_STRATEGY', 'Enforce')
    monkeypatch.setenv('ROS_SECURITY_KEYSTORE', str(tmp_path))
    process = start()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith('r3_stream: ')]
    assert 'ROS cannot create the node: ' in line and 'ROS_SECURITY_ENABLE' in line
    # Beside it only what rcl logs by itself.
    rest = [text for text in said.splitlines() if text != line and '[rcl]' not in text]
    assert rest == []


def test_a_missing_package_names_the_interpreter_and_the_page(start, tmp_path):
    (tmp_path / 'tf2_ros.py').write_text("raise ImportError('no tf2_ros here')\n")
    process = start(first_on_path=tmp_path)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert 'no tf2_ros here' in said and sys.executable in said and 'README.md' in said
    assert 'Traceback' not in said


@pytest.mark.slow
def test_without_autostart_it_waits_to_be_configured(start):
    process = start('--ros-args', '-p', 'autostart:=false')
    wait_for(process, 'waits')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.slow
def test_waiting_for_an_active_node_ends_with_it_being_active(start):
    waiting = start('/r3', program='bin/r3_wait_active')
    node = start()
    assert waiting.communicate(timeout=60)[0] == ''
    assert waiting.returncode == 0
    said = wait_for(node, 'active')
    assert 'configured' in said


@pytest.mark.slow
def test_waiting_for_a_node_that_stays_inactive_says_so(start):
    node = start('--ros-args', '-p', 'autostart:=false')
    wait_for(node, 'waits')
    waiting = start('r3', '--timeout', '2', program='bin/r3_wait_active')
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert '/r3 has not become active within 2 s' in said and 'Traceback' not in said


def test_waiting_ends_on_a_signal(start):
    waiting = start('/nobody', program='bin/r3_wait_active')
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=2)
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 1 and 'Traceback' not in said
