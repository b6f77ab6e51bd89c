"""What /diagnostics says."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from ros_graph import bad_image, CAMERA
from scripted import Script

pytestmark = pytest.mark.ros


def levels(message):
    return {status.name: status.level for status in message.status}


def test_diagnostics_follow_the_stream(graph):
    g = graph(diagnostics__period=0.1)
    assert g.turn('configure')
    heard = g.listen('/diagnostics', DiagnosticArray)
    tasks = ('input', 'tracking', 'timing', 'gpu', 'scale', 'map', 'tf')
    g.until(lambda: heard)
    assert [s.name for s in heard[0].status] == [f'r3: {task}' for task in tasks]
    assert levels(heard[0])['r3: input'] == DiagnosticStatus.STALE
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send_many(3)
    g.until(lambda: levels(heard[-1])['r3: tracking'] == DiagnosticStatus.OK)
    by_name = {status.name: status for status in heard[-1].status}
    assert 'arbitrary units' in by_name['r3: scale'].message
    assert 'CPU' in by_name['r3: gpu'].message
    assert by_name['r3: input'].hardware_id == f'{CAMERA}@cpu'
    assert 'camera_info is missing' in by_name['r3: input'].message
    values = {pair.key: pair.value for pair in by_name['r3: input'].values}
    assert (values['frames_received'], values['encoding']) == ('3', 'rgb8')
    assert values['resolution'] == '64x48'


def test_diagnostics_tell_of_being_lost(graph):
    g = graph(Script(blackouts=set(range(2, 30))), diagnostics__period=0.1).start()
    heard = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(8)
    g.until(lambda: heard and levels(heard[-1])['r3: tracking'] == DiagnosticStatus.ERROR)
    (found,) = [s for s in heard[-1].status if s.name == 'r3: tracking']
    assert {pair.key: pair.value for pair in found.values}['state'].upper() == 'LOST'


def test_diagnostics_tell_when_everything_is_rejected(graph):
    g = graph(diagnostics__period=0.1).start()
    heard = g.listen('/diagnostics', DiagnosticArray)
    for _ in range(12):
        g.send(bad_image(encoding='lsd9'))
    g.until(lambda: heard and levels(heard[-1])['r3: input'] == DiagnosticStatus.ERROR)
    (found,) = [s for s in heard[-1].status if s.name == 'r3: input']
    assert 'lsd9' in found.message
