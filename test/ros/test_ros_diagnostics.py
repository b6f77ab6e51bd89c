"""What /diagnostics says."""

import math
import re

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from paths import ROOT
from r3_ros.core.datatypes import DeviceMemory
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.health import StepTimes, StreamState
from ros_graph import bad_image, CAMERA, image_message
from scripted import intrinsics, Script

pytestmark = pytest.mark.ros


def levels(message):
    return {status.name: status.level for status in message.status}


def test_diagnostics_follow_the_stream(graph):
    g = graph(diagnostics__period=0.1)
    assert g.turn('configure')
    received = g.listen('/diagnostics', DiagnosticArray)
    tasks = ('input', 'tracking', 'timing', 'gpu', 'scale', 'map', 'tf')
    g.until(lambda: received)
    assert [s.name for s in received[0].status] == [f'r3: {task}' for task in tasks]
    assert levels(received[0])['r3: input'] == DiagnosticStatus.STALE
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send_many(3)
    g.until(lambda: task(received, 'input')[1]['frames_received'] == '3')
    assert levels(received[-1])['r3: tracking'] == DiagnosticStatus.OK
    by_name = {status.name: status for status in received[-1].status}
    assert 'arbitrary units' in by_name['r3: scale'].message
    assert 'CPU' in by_name['r3: gpu'].message
    assert by_name['r3: input'].hardware_id == f'{CAMERA}@cpu'
    assert 'camera_info is missing' in by_name['r3: input'].message
    values = {pair.key: pair.value for pair in by_name['r3: input'].values}
    assert (values['frames_received'], values['encoding']) == ('3', 'rgb8')
    assert values['resolution'] == '64x48'


def test_diagnostics_tell_of_being_lost(graph):
    g = graph(Script(blackouts=set(range(2, 30))), diagnostics__period=0.1).start()
    received = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(8)
    g.until(lambda: received and levels(received[-1])['r3: tracking'] == DiagnosticStatus.ERROR)
    (found,) = [s for s in received[-1].status if s.name == 'r3: tracking']
    assert {pair.key: pair.value for pair in found.values}['state'].upper() == 'LOST'


def test_diagnostics_tell_when_everything_is_rejected(graph):
    g = graph(diagnostics__period=0.1).start()
    received = g.listen('/diagnostics', DiagnosticArray)
    for _ in range(12):
        g.send(bad_image(encoding='lsd9'))
    g.until(lambda: received and levels(received[-1])['r3: input'] == DiagnosticStatus.ERROR)
    (found,) = [s for s in received[-1].status if s.name == 'r3: input']
    assert 'lsd9' in found.message


def task(received, name):
    """Return the latest status of a task, and its values by key."""
    (status,) = [s for s in received[-1].status if s.name == f'r3: {name}']
    return status, {pair.key: pair.value for pair in status.values}


def diagnosed(g):
    """Return what the node would say now."""
    return [g.node._diagnostics.message()]


def memory(used, cap=1000):
    return DeviceMemory('NVIDIA H100', used << 20, used << 20, used << 20, (cap - used) << 20)


def test_every_task_has_the_keys_of_the_page(graph):
    page = (ROOT / 'docs' / 'node.md').read_text()
    section = page.split('## Diagnostics\n')[1].split('\n## ')[0]
    rows = [line.split('|')[1:3] for line in section.splitlines() if line.startswith('| `')]
    g = graph(Script(device_memory=memory(100))).start()
    g.send_many(2)
    (message,) = diagnosed(g)
    assert [s.name for s in message.status] == [f'r3: {name.strip(" `")}' for name, _ in rows]
    for status, (name, keys) in zip(message.status, rows, strict=True):
        reported = {pair.key for pair in status.values}
        assert reported == set(re.findall(r'`(\w+)`', keys)), name
    status, values = task(diagnosed(g), 'gpu')
    assert status.hardware_id == f'{CAMERA}@NVIDIA H100'
    assert (values['used_mib'], values['cap_mib'], values['free_mib']) == (
        '100.000', '1000.000', '900.000',
    )  # fmt: skip


@pytest.mark.parametrize(
    ('used', 'level'),
    [(840, DiagnosticStatus.OK), (900, DiagnosticStatus.WARN), (960, DiagnosticStatus.ERROR)],
)
def test_the_device_fills_up(graph, used, level):
    g = graph(Script(device_memory=memory(used))).start()
    g.send()
    status, _ = task(diagnosed(g), 'gpu')
    assert status.level == level
    statuses = g.listen('/r3/status', StreamStatus)
    g.send()
    g.until(lambda: statuses)
    assert statuses[-1].gpu_memory_used == statuses[-1].gpu_memory_peak == used << 20


def test_thresholds_may_change_while_the_node_runs(graph):
    g = graph(diagnostics__min_rate=0.0).start()
    g.send_many(3)
    times = StepTimes(0.0, 0.0, 0.0, 0.0, latency=0.1)
    g.on_worker(lambda: g.health.times.append(times))
    assert task(diagnosed(g), 'timing')[0].level == DiagnosticStatus.OK
    g.set_parameters(diagnostics__max_latency=0.05, diagnostics__min_rate=200.0)
    g.until(lambda: task(diagnosed(g), 'timing')[0].level == DiagnosticStatus.WARN)
    assert 'max_latency' in task(diagnosed(g), 'timing')[0].message
    # The rate is that of the last seconds.
    g.send_many(3)
    at_input = task(diagnosed(g), 'input')[0]
    assert at_input.level == DiagnosticStatus.WARN and 'min_rate' in at_input.message
    g.set_parameters(diagnostics__max_latency=0.01)
    g.until(lambda: task(diagnosed(g), 'timing')[0].level == DiagnosticStatus.ERROR)


def test_a_camera_that_falls_silent_is_an_error(graph, monkeypatch):
    g = graph().start()
    g.send()
    assert task(diagnosed(g), 'input')[0].level == DiagnosticStatus.WARN  # not calibrated
    g.node_health.received_s = tuple(t - 100.0 for t in g.node_health.received_s)
    g.node_health.active_since_s -= 100.0
    status, _ = task(diagnosed(g), 'input')
    assert status.level == DiagnosticStatus.ERROR and 'no image for 100 s' in status.message


def test_what_input_warns_of(graph):
    g = graph().start()
    message = image_message(g.stamp_ns, encoding='8UC3')
    g.send(message)
    text = task(diagnosed(g), 'input')[0].message
    assert 'unknown' in text and 'input.encoding_hint' in text
    assert 'use_sim_time' in text, 'the stamps are years old'
    assert 'camera_info is missing' in text
    g.set_parameters(input__encoding_hint='bgr8')
    g.until(lambda: g.node.worker.config.input.encoding_hint)
    g.send(image_message(g.stamp_ns, encoding='8UC3'))
    assert 'unknown' not in task(diagnosed(g), 'input')[0].message
    g.node.worker.mailbox.received, g.node.worker.mailbox.dropped = 1000, 990
    assert 'nearly all frames are dropped' in task(diagnosed(g), 'input')[0].message


def test_a_state_has_its_level(graph):
    g = graph().start()
    assert task(diagnosed(g), 'tracking')[0].level == DiagnosticStatus.STALE
    levels_of = {
        StreamState.TRACKING: DiagnosticStatus.OK,
        StreamState.INITIALIZING: DiagnosticStatus.OK,
        StreamState.LOW_CONFIDENCE: DiagnosticStatus.WARN,
        StreamState.RECOVERING: DiagnosticStatus.WARN,
        StreamState.LOST: DiagnosticStatus.ERROR,
        StreamState.WAITING_TF: DiagnosticStatus.ERROR,
        StreamState.FAULT: DiagnosticStatus.ERROR,
        StreamState.PAUSED: DiagnosticStatus.OK,
    }
    for state, level in levels_of.items():
        g.on_worker(lambda state=state: g.health.enter(state, 'scripted'))
        status, values = task(diagnosed(g), 'tracking')
        assert status.level == level, state
        assert (values['state'], values['reason']) == (state.name, 'scripted')

    def have_started_long_ago():
        g.health.enter(StreamState.INITIALIZING)
        g.health.state_since_s -= 11.0

    g.on_worker(have_started_long_ago)
    assert task(diagnosed(g), 'tracking')[0].level == DiagnosticStatus.WARN


@pytest.mark.slow
def test_a_full_map_is_a_warning_and_a_failed_save_an_error(graph, tmp_path):
    g = graph(map__max_points=10_000, map__voxel_size=0.001, points__stride=1,
              keyframe__max_interval=1).start()  # fmt: skip
    g.send_many(3)
    assert task(diagnosed(g), 'map')[0].level == DiagnosticStatus.OK
    g.send_many(25)
    status, values = task(diagnosed(g), 'map')
    assert status.level == DiagnosticStatus.WARN and int(values['evicted']) > 0
    g.node_health.save_failed, g.node_health.last_save = True, 'the disk is full'
    assert task(diagnosed(g), 'map')[0].level == DiagnosticStatus.ERROR


def test_diagnostics_go_on_while_the_clock_stands_still(graph):
    g = graph(use_sim_time=True, diagnostics__period=0.1).start()
    received = g.listen('/diagnostics', DiagnosticArray)
    g.until(lambda: len(received) >= 3)
    assert {m.header.stamp.sec for m in received} == {0}, 'there is no /clock'


def test_a_node_that_is_inactive_says_so(graph):
    g = graph().start()
    g.send_many(2)
    assert g.turn('deactivate')
    for name in ('input', 'tracking', 'timing'):
        assert task(diagnosed(g), name)[0].level == DiagnosticStatus.STALE


@pytest.mark.parametrize(('error_deg', 'level'), [(2.0, 'OK'), (-4.0, 'WARN')])
def test_a_calibration_that_the_model_does_not_see_is_a_warning(graph, error_deg, level):
    seen = intrinsics().fov_x + math.radians(error_deg)
    g = graph(Script(seen_fov_x=seen), scale__source='fixed', input__camera_info_timeout=20.0)
    statuses = g.start().listen('/r3/status', StreamStatus)
    g.send(calibrated=True)
    g.until(lambda: statuses and statuses[-1].frames_processed)
    assert statuses[-1].fov_x_model == pytest.approx(seen)
    assert statuses[-1].fov_x_calibrated == pytest.approx(intrinsics().fov_x)
    status, values = task(diagnosed(g), 'scale')
    assert status.level == getattr(DiagnosticStatus, level)
    assert float(values['fov_error_deg']) == pytest.approx(error_deg, abs=1e-3)
    assert ('calibrate' in status.message) == (level == 'WARN')


def test_without_a_calibration_there_is_no_error_of_it(graph):
    g = graph(Script(seen_fov_x=1.0)).start()
    g.send()
    assert task(diagnosed(g), 'scale')[1]['fov_error_deg'] == 'nan'
