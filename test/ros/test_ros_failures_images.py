"""Images that come too fast, cannot be read, or change: dropped or rejected, counted, reported."""

import threading

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.errors import FrameError
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import header_message, stamp_ns_of
from ros_graph import bad_image, BEST_EFFORT, CAMERA, image_message, PERIOD_NS
from scripted import pattern_image, Script, START_NS
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros


def test_overload_drops_frames_and_counts_them_exactly(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictor.arrived.acquire(blocking=False))
    mailbox = g.node.worker.mailbox
    for i in range(1, 8):
        g.images.publish(image_message(START_NS + i * PERIOD_NS))
        g.until(lambda n=i + 1: mailbox.received == n)
    turnstile.release(10)
    statuses = g.listen('/r3/status', StreamStatus)
    g.until(lambda: g.health.frames_processed == 2)
    g.stamp_ns = START_NS + 8 * PERIOD_NS
    g.send()
    g.until(lambda: statuses and statuses[-1].frames_processed == 3)
    assert (statuses[-1].frames_received, statuses[-1].frames_dropped) == (9, 6)
    # The newest was taken, not the oldest.
    trajectory = g.node.worker.engine.session.trajectory_view()
    assert trajectory.stamps_ns[1] == START_NS + 7 * PERIOD_NS


def test_queue_policy_loses_nothing(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile), input__frame_policy='queue').start()
    for i in range(6):
        g.images.publish(image_message(START_NS + i * PERIOD_NS))
    g.until(lambda: g.node.worker.mailbox.received == 6)
    turnstile.release(10)
    g.until(lambda: g.health.frames_processed == 6)
    assert g.node.worker.mailbox.dropped == 0


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'encoding': 'lsd9'}, 'lsd9'),
        ({'encoding': ''}, 'encoding'),
        ({'step': 7}, 'contradict'),
        ({'height': 49}, 'cut off'),
        ({'height': 40}, 'more than'),
        ({'data': b''}, 'cut off'),
        ({'width': 0}, '0x48'),
    ],
)
def test_a_bad_image_is_rejected_and_the_next_one_tracked(graph, changes, words):
    g = graph().start()
    g.send_many(2)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    resume_ns = g.stamp_ns
    g.send(bad_image(**changes))
    assert words in g.health.last_reject_reason
    g.stamp_ns = resume_ns
    good_ns = g.send()
    g.until(lambda: poses)
    assert [stamp_ns_of(p.header.stamp) for p in poses] == [good_ns]
    g.until(lambda: statuses and statuses[-1].frames_processed == 3)
    assert statuses[-1].frames_rejected == 1
    assert statuses[-1].state == StreamStatus.STATE_TRACKING


def test_another_size_starts_anew_or_is_rejected(graph):
    g = graph().start()
    g.send_many(2)
    g.send(image_message(g.stamp_ns, pattern_image(80, 60)))
    assert g.node.worker.engine.session.session_id == 1
    g.set_parameters(input__on_resolution_change='reject')
    g.send(image_message(g.stamp_ns))
    assert g.health.frames_rejected == 1
    assert g.health.last_reject_reason.startswith('size changed')


def test_another_frame_id_starts_anew(graph):
    g = graph().start()
    g.send_many(2)
    g.send(image_message(g.stamp_ns, frame='other_optical'))
    assert g.node.worker.engine.session.session_id == 1
    assert g.health.optical_frame == g.health.base_frame == 'other_optical'


@pytest.mark.parametrize('is_other_frame', [True, False])
def test_two_drivers_on_one_topic_begin_few_sessions(graph, is_other_frame):
    g = graph().start()
    for i in range(20):
        if i % 2 == 0:
            g.send(image_message(g.stamp_ns))
        elif is_other_frame:
            g.send(image_message(g.stamp_ns, frame='other_optical'))
        else:
            g.send(image_message(g.stamp_ns, pattern_image(80, 60, shade=i)))
    assert g.node.worker.engine.session.session_id == 3
    assert (g.health.frames_processed, g.health.frames_rejected) == (12, 8)
    assert 'Do two drivers publish on one topic?' in g.health.last_reject_reason


def test_refusals_of_the_predictor_cost_one_frame(graph):
    script = Script(describe_failures={2: FrameError('nothing but black')})
    g = graph(script).start()
    g.send_many(4)
    assert (g.health.frames_processed, g.health.frames_rejected) == (3, 1)
    assert g.health.last_reject_reason == 'nothing but black'
    assert g.health.state is StreamState.TRACKING


def test_an_incompatible_publisher_is_named_in_diagnostics(graph):
    override = 'qos_overrides./image.subscription.reliability'
    g = graph(arguments=('-p', f'{override}:=reliable'), diagnostics__period=0.1)
    assert g.node.autostart()
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    g.probe.create_publisher(Image, 'image', BEST_EFFORT)

    def reported():
        found = [s for m in diagnostics for s in m.status if s.name == 'r3: input']
        return found and "'/image'" in found[-1].message and 'RELIABILITY' in found[-1].message

    g.until(reported)


def test_every_encoding_is_tracked_and_every_other_reported(graph):
    from test_ros_conversions import CASES, message

    g = graph(points__stride=4).start()
    colors = g.listen('/r3/color/image', Image)
    for n, (encoding, (pixels, *_)) in enumerate(sorted(CASES.items())):
        image = message(pixels, encoding, padding=b'pad')
        image.header = header_message(g.stamp_ns, CAMERA)
        g.send(image)
        assert (g.health.frames_processed, g.health.encoding) == (n + 1, encoding)
        g.until(lambda seen=n + 1: len(colors) == seen)
    assert g.health.frames_rejected == 0
    assert {m.encoding for m in colors} == {'rgb8'}
    for n, encoding in enumerate(('32FC3', 'yuv444', 'lsd9')):
        g.send(bad_image(encoding=encoding))
        assert g.health.frames_rejected == n + 1 and encoding in g.health.last_reject_reason


def test_overload_is_reported_once_with_what_to_do(graph, capfd):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    mailbox = g.node.worker.mailbox
    sent = 0
    for round_of_frames in range(3):
        for _ in range(60):
            g.images.publish(image_message(START_NS + sent * PERIOD_NS))
            sent += 1
            g.until(lambda n=sent: mailbox.received == n)
        turnstile.release(2)
        g.until(lambda n=round_of_frames: g.health.frames_processed >= 2 * n + 1)
    g.until(lambda: g.handled == sent)
    reported = capfd.readouterr().err
    assert reported.count('frames_dropped') == 1
    assert 'input.max_rate' in reported and 'model.image_size' in reported


def test_rejections_are_logged_at_most_every_five_seconds_with_their_count(graph, capfd):
    g = graph().start()
    for _ in range(20):
        g.send(bad_image(encoding='lsd9'))
    assert capfd.readouterr().err.count('(frames_rejected: ') == 1
    assert g.health.frames_rejected == 20
