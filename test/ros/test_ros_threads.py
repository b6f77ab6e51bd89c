"""No other thread touches what the worker owns, whether it runs, waits or is stuck."""

import math
import threading

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from r3_ros.core.errors import DeviceMemoryError
from r3_ros.msg import StreamStatus
from r3_ros.ros import worker
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import camera_info_message, transform_message
from r3_ros.srv import GetKeyframeGraph, LoadMap, SaveMap, SaveTrajectory, SetScale
from ros_graph import CAMERA, image_message, PERIOD_NS
from scripted import intrinsics, pattern_image, Script, START_NS
from std_srvs.srv import SetBool, Trigger
from tf2_ros import StaticTransformBroadcaster

pytestmark = pytest.mark.ros


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Have a worker that does not end given up after a moment."""
    monkeypatch.setattr(worker, '_STOP_S', 0.3)


def stuck(graph, script=None, **parameters):
    """Return an inactive node whose worker is inside a frame, and what lets it go on."""
    turnstile = threading.Semaphore(0)
    script = script or Script()
    script.turnstile = turnstile
    g = graph(script, **parameters).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictor.arrived.acquire(blocking=False))
    assert g.turn('deactivate')
    assert g.node.worker.is_stuck
    return g, lambda: turnstile.release(1000)


def ended(g):
    g.until(lambda: not g.node.worker.is_stuck)


SERVICES = [
    (Trigger, 'reset', {}),
    (Trigger, 'clear_map', {}),
    (SetScale, 'set_scale', {'scale': 2.0}),
    (SaveMap, 'save_map', {'name': 'm'}),
    (SaveTrajectory, 'save_trajectory', {'name': 't'}),
]


def test_a_guard_sees_a_thread_that_reads_the_engine(graph):
    g = graph().start()
    g.send()
    timer = g.node.create_timer(0.01, lambda: len(g.node.worker.engine.session.map))
    found = g._guards[0].violations
    g.until(lambda: found)
    g.node.destroy_timer(timer)
    assert 'Engine.session' in found[0]
    found.clear()


def test_nothing_but_the_worker_touches_the_engine(graph, tmp_path):
    # The guard of every test checks this; here all requests come at once.
    g = graph(diagnostics__period=0.1, occupancy__enabled=True, map__publish_period=0.1,
              scale__source='odometry', tf_publish_rate=50.0).start()  # fmt: skip
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    wheels = g.probe.create_publisher(Odometry, 'odom', 10)
    g.until(lambda: wheels.get_subscription_count() == 1)
    for kind, name, fields in [
        *SERVICES,
        (SetBool, 'pause', {'data': True}),
        (SetBool, 'pause', {'data': False}),
        (GetKeyframeGraph, 'get_keyframe_graph', {}),
    ]:
        wheels.publish(Odometry(child_frame_id=CAMERA))
        g.send_many(3)
        g.call(kind, f'/r3/{name}', kind.Request(**fields))
        before = len(diagnostics)
        g.until(lambda before=before: len(diagnostics) > before)
    assert g.call(SaveMap, '/r3/save_map', SaveMap.Request(name='k', include_images=True)).success
    for localize in (False, True):
        request = LoadMap.Request(name='k', localize=localize)
        client = g.probe.create_client(LoadMap, '/r3/load_map')
        g.until(client.service_is_ready)
        answer = client.call_async(request)
        while not answer.done():
            g.send()
        assert answer.result().success, answer.result().message
    assert g.set_parameters(points__stride=4)[0].successful
    g.send_many(3)
    assert g.turn('deactivate') and g.turn('activate') and g.turn('deactivate')
    assert g.turn('cleanup')


def test_the_answer_of_a_command_comes_after_its_snapshot(graph):
    g = graph().start()
    g.send_many(2)
    for session_id in (1, 2, 3):
        g.on_worker(g.node.worker.reset_on_request)
        assert g.node.worker.snapshot.stream.session_id == session_id


@pytest.mark.parametrize(('kind', 'name', 'fields'), SERVICES)
def test_commands_are_refused_while_a_worker_is_stuck(graph, kind, name, fields):
    g, go_on = stuck(graph)
    session = g.node.worker.engine.session
    answer = g.call(kind, f'/r3/{name}', kind.Request(**fields))
    assert not answer.success
    assert 'still being processed' in answer.message and 'internal' not in answer.message
    go_on()
    ended(g)
    assert g.node.worker.engine.session is session
    assert g.call(Trigger, '/r3/reset').success


def test_what_waited_for_a_worker_that_does_not_end_is_answered(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictor.arrived.acquire(blocking=False))
    ran = []
    waiting = g.node.worker.submit(lambda: ran.append(True))
    assert g.turn('deactivate')
    with pytest.raises(worker.WorkerStuckError):
        waiting.result(timeout=0.0)
    turnstile.release(1000)
    ended(g)
    assert not ran


def test_nothing_leaves_a_worker_that_was_given_up(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    statuses = g.listen('/r3/status', StreamStatus)
    transforms = g.listen_tf()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictor.arrived.acquire(blocking=False))
    assert g.turn('deactivate')
    count = len(statuses)
    turnstile.release(1000)
    ended(g)
    health = g.node.worker.snapshot.health
    assert health.frames_rejected == 1 and 'deactivated' in health.last_reject_reason
    assert g.node.worker.pose_output.chain.last is None
    # What comes now is of the next activation.
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    stamp_ns = g.send(image_message(START_NS + PERIOD_NS))
    g.until(lambda: poses and transforms)
    assert [m.header.stamp.nanosec for m in poses] == [stamp_ns % 10**9]
    assert START_NS % 10**9 not in {t.header.stamp.nanosec for t in transforms}
    assert {s.state for s in statuses[count:-1]} <= {StreamStatus.STATE_WAITING_INPUT}


def test_odometry_does_not_miss_the_motion_of_an_abandoned_frame(graph):
    turnstile = threading.Semaphore(3)
    g = graph(Script(turnstile=turnstile)).start()
    odometry = g.listen('/r3/odometry', Odometry)
    stamps = g.send_many(3)
    g.until(lambda: len(odometry) == 3 and g.predictor.arrived.acquire(blocking=False))
    while g.predictor.arrived.acquire(blocking=False):
        pass
    abandoned_ns = stamps[-1] + PERIOD_NS
    g.images.publish(image_message(abandoned_ns))
    g.until(lambda: g.predictor.arrived.acquire(blocking=False))
    assert g.turn('deactivate')
    turnstile.release(1000)
    ended(g)
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    stamp_ns = g.send(image_message(abandoned_ns + PERIOD_NS))
    g.until(lambda: len(odometry) == 4)
    # The scripted camera is the base, and its odometry is exact.
    places = [m.pose.pose.position for m in (odometry[0], odometry[-1])]
    moved = np.linalg.norm([b - a for a, b in zip(*map(xyz, places), strict=True)])
    path = g.script.path
    assert moved == pytest.approx(np.linalg.norm((path(stamp_ns) - path(stamps[0]))[:3, 3]))


def xyz(point):
    return point.x, point.y, point.z


def test_an_engine_that_is_stuck_is_closed_when_it_is_done(graph):
    g, go_on = stuck(graph)
    predictor, stream = g.predictor, g.node.worker
    assert g.turn('cleanup')
    assert not predictor.closed
    go_on()
    g.until(lambda: predictor.closed)
    assert not stream.is_stuck
    assert g.turn('configure')


def test_a_frame_without_memory_that_was_given_up_is_not_tried_again(graph):
    full = DeviceMemoryError('scripted')
    g, go_on = stuck(graph, Script(failures={0: full}))
    go_on()
    ended(g)
    assert (g.predictor.shrunk, g.predictor.resets) == (0, 0)
    assert g.health.state is StreamState.FAULT
    assert g.turn('activate') and g.call(Trigger, '/r3/reset').success
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send_many(2)
    assert g.health.state is StreamState.TRACKING


def test_parameters_that_change_while_the_worker_is_stuck_hold_afterwards(graph):
    g, go_on = stuck(graph)
    assert g.set_parameters(points__stride=4)[0].successful
    go_on()
    ended(g)
    assert g.turn('activate')
    assert g.on_worker(lambda: g.node.worker.engine.config.points.stride) == 4


def test_a_worker_that_waits_for_a_transform_sleeps(graph, monkeypatch):
    # Only what comes wakes it: the time it looks by itself is longer than the test.
    monkeypatch.setattr(worker, '_IDLE_S', 1000.0)
    turns = []
    turn = worker.StreamWorker._turn
    monkeypatch.setattr(worker.StreamWorker, '_turn', lambda self: (turns.append(1), turn(self)))
    g = graph(base_frame='base_link', tf_lookup_timeout=5.0)
    g.start()
    stream = g.node.worker
    stream.tree.since_s = math.inf  # so no time is too late

    def send_info():
        info = stream.camera._info
        g.infos.publish(camera_info_message(START_NS, CAMERA, intrinsics()))
        g.until(lambda: stream.camera._info is not info)

    send_info()
    g.images.publish(image_message(START_NS))
    g.until(lambda: stream._waiting is not None)
    before, events = len(turns), 10
    for _ in range(events):
        # Each is seen before the next one comes.
        seen = len(turns)
        send_info()
        g.until(lambda seen=seen: len(turns) > seen)
    # One more may have been on its way before the first.
    assert events <= len(turns) - before <= events + 1
    StaticTransformBroadcaster(g.probe).sendTransform(
        transform_message(START_NS, 'base_link', CAMERA, np.eye(4))
    )
    g.until(lambda: g.health.frames_processed == 1)


def test_another_camera_of_another_size_starts_one_session(graph):
    g = graph().start()
    g.send_many(3)
    g.send(image_message(g.stamp_ns, pattern_image(80, 60), frame='other_optical'))
    assert g.node.worker.snapshot.stream.session_id == 1
    # Its stamps have nothing to do with those of the first.
    g.send(image_message(START_NS, pattern_image(96, 72), frame='third_optical'))
    snapshot = g.node.worker.snapshot
    assert (snapshot.stream.session_id, snapshot.stream.frame_index) == (2, 1)
    assert snapshot.health.frames_rejected == 0
