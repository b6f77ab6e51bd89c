"""The executable: starts, ends on a signal with status 0, and says what is wrong otherwise."""

import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from ros_graph import Domain

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def start():
    """Start the executable with arguments; what still runs is killed at the end."""
    domain, running = Domain(), []

    def make(*arguments, first_on_path=ROOT, program='r3_stream'):
        path = os.pathsep.join([str(first_on_path), str(ROOT), os.environ.get('PYTHONPATH', '')])
        environment = os.environ | {'ROS_DOMAIN_ID': str(domain.number), 'PYTHONPATH': path}
        process = subprocess.Popen(
            [sys.executable, str(ROOT / 'bin' / program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        running.append(process)
        return process

    yield make
    for process in running:
        process.kill()
        process.communicate()
    domain.release()


def wait_for(process, words):
    """Read what the process says until a line holds the words; return all of it."""
    said = ''
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f'ended before it said {words!r}:\n{said}')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
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


def test_a_second_start_is_refused_and_the_first_goes_on(start):
    first = start()
    wait_for(first, 'active')
    second = start()
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "a node named '/r3' runs already" in said and 'Traceback' not in said
    assert first.poll() is None
    third = start('--ros-args', '-r', '__node:=left')
    wait_for(third, 'active')


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (('-p', 'points.stride:=99'), 2, "'points.stride'"),
        (('-p', 'tf_publish_rate:=20'), 2, '20.0'),
        (('-p', 'model.name:=nonsense'), 1, 'classical'),
        (('-p', 'points.max_range:=0.01'), 1, "'points.min_range'"),
        (('-p', 'publish_odom_to_base_tf:=false'), 1, 'not supported'),
        (('--params-file', 'missing.yaml'), 2, 'missing.yaml'),
    ],
)
def test_wrong_arguments_end_it_with_a_reason(start, arguments, status, words):
    process = start('--ros-args', *arguments)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert words in said and 'Traceback' not in said


def test_a_missing_package_names_the_interpreter_and_the_page(start, tmp_path):
    (tmp_path / 'tf2_ros.py').write_text("raise ImportError('no tf2_ros here')\n")
    process = start(first_on_path=tmp_path)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert 'no tf2_ros here' in said and sys.executable in said and 'README.md' in said
    assert 'Traceback' not in said


def test_without_autostart_it_waits_to_be_configured(start):
    process = start('--ros-args', '-p', 'autostart:=false')
    wait_for(process, 'waits')
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_waiting_for_an_active_node_ends_with_it_being_active(start):
    waiting = start('/r3', program='r3_wait_active')
    node = start()
    assert waiting.communicate(timeout=60)[0] == ''
    assert waiting.returncode == 0
    said = wait_for(node, 'active')
    assert 'configured' in said


def test_waiting_for_a_node_that_stays_inactive_says_so(start):
    node = start('--ros-args', '-p', 'autostart:=false')
    wait_for(node, 'waits')
    waiting = start('r3', '--timeout', '2', program='r3_wait_active')
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert '/r3 has not become active within 2 s' in said and 'Traceback' not in said


def test_waiting_ends_on_a_signal(start):
    waiting = start('/nobody', program='r3_wait_active')
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=2)
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 1 and 'Traceback' not in said
