"""A device without memory, and one that is gone: remedies, reports and the end."""

import gc

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from lifecycle_msgs.msg import State
from r3_ros.core.config import MemoryConfig
from r3_ros.core.errors import DeviceLostError, DeviceMemoryError
from r3_ros.msg import StreamStatus
from r3_ros.ros.frame_policies import FrameStepper, Remedy
from r3_ros.ros.node import UNCLEAN
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import stamp_ns_of
from r3_ros.srv import SaveMap
from ros_graph import image_message, PERIOD_NS
from scripted import Script
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros

#: Nothing but the number of frames since the last one decides on a keyframe.
EVERY = {'keyframe__overlap_threshold': 0.0, 'keyframe__novelty_threshold': 0.0}

FULL = DeviceMemoryError('2 GiB wanted, 1 GiB free')
LOST = DeviceLostError('the device does not answer any more: CUDA error: scripted')


def full_at(*indices, **more):
    """Return a script whose device has no memory at these calls; a frame tried again is two."""
    return Script(failures=dict.fromkeys(indices, FULL), **more)


def test_the_first_time_less_is_held_and_the_frame_tried_again(graph, capfd):
    g = graph(full_at(20), **EVERY, keyframe__max_interval=1).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(20)
    session = g.node.worker.engine.session
    keyframes = session.bank.ids()
    assert (len(keyframes), len(session.recent)) == (20, 5)
    stamp_ns = g.send()
    # The same frame got its pose, in the same session.
    g.until(lambda: len(poses) == 21)
    assert stamp_ns_of(poses[-1].header.stamp) == stamp_ns
    assert g.health.state is StreamState.TRACKING
    assert (g.health.oom_count, g.health.frames_rejected) == (1, 0)
    assert g.predictor.shrunk == 1 and g.predictor.resets == 0
    # The oldest quarter went, but not the anchor, and the recent window is half as wide.
    assert session.bank.ids() == [0, *keyframes[6:], 20]
    assert list(session.recent) == [19, 20]
    assert g.predictor.held == {*session.recent, *session.bank.ids()}
    said = capfd.readouterr().err
    assert 'oom_count: 1' in said and '2 GiB wanted' in said
    # It stays so.
    g.send_many(3)
    assert len(session.recent) == 2


def test_the_second_time_a_new_session_begins_and_the_third_stops(graph, capfd):
    g = graph(full_at(3, 4, 6)).start()
    statuses = g.listen('/r3/status', StreamStatus)
    g.send_many(3)
    g.send()  # calls 3 and 4: once more after less is held, and no memory again
    assert g.health.oom_count == 2 and g.predictor.resets == 1
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (1, 0)
    assert g.health.frames_rejected == 1
    assert g.health.last_reject_reason.startswith('out of memory')
    g.send()
    assert g.health.frames_processed == 4
    g.send()  # call 6
    assert g.health.state is StreamState.FAULT and g.health.oom_count == 3
    g.until(lambda: statuses and statuses[-1].state == StreamStatus.STATE_FAULT)
    assert 'oom_count: 3' in statuses[-1].state_reason
    assert 'free memory of the device' in capfd.readouterr().err
    # The camera is not received any more, until a new session is requested.
    g.until(lambda: g.images.get_subscription_count() == 0)
    g.until(lambda: g.infos.get_subscription_count() == 0)
    assert g.is_active
    assert g.call(Trigger, '/r3/reset').success
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send_many(2)
    assert g.health.state is StreamState.TRACKING
    assert g.node.worker.engine.session.session_id == 2


@pytest.mark.slow
def test_faults_and_restarts_leave_nothing_behind(graph):
    faults = (4, 9, 14, 19, 24)
    g = graph(Script(failures=dict.fromkeys(faults, ZeroDivisionError('scripted')))).start()
    known = []
    for _ in faults:
        g.send_many(4)
        g.images.publish(image_message(g.stamp_ns))
        g.until(lambda: g.images.get_subscription_count() == 0)
        assert g.turn('deactivate') and g.turn('activate')
        assert g.call(Trigger, '/r3/reset').success
        g.until(lambda: g.images.get_subscription_count() == 1)
        gc.collect()
        known.append(len(g.node.default_callback_group.entities))
    assert g.health.frames_processed == 20
    assert max(known[2:]) <= known[1], known


@pytest.mark.parametrize(
    ('policy', 'state', 'resets'), [('reset', 'TRACKING', 1), ('error', 'FAULT', 0)]
)
def test_other_policies_do_not_shrink(graph, policy, state, resets):
    g = graph(full_at(3), memory__oom_policy=policy).start()
    g.send_many(4)
    assert g.health.frames_rejected == 1
    assert g.health.last_reject_reason.startswith('out of memory')
    if policy == 'reset':
        g.send_many(2)
    assert g.health.state.name == state
    assert (g.predictor.shrunk, g.predictor.resets) == (0, resets)


def test_the_policy_may_change_while_the_node_runs(graph):
    g = graph(full_at(3)).start()
    g.send_many(2)
    assert g.set_parameters(memory__oom_policy='error')[0].successful
    g.send_many(2)
    assert g.health.state is StreamState.FAULT


def test_a_predictor_that_cannot_shrink_starts_anew(graph):
    g = graph(full_at(3, shrink_failure=DeviceMemoryError('not even that'))).start()
    g.send_many(4)
    assert g.predictor.resets == 1 and g.health.oom_count == 2
    g.send_many(2)
    assert g.health.state is StreamState.TRACKING


def test_memory_of_the_host_is_answered_as_well_but_the_frame_is_not_tried_again(graph):
    g = graph(Script(failures={3: MemoryError()})).start()
    g.send_many(4)
    assert (g.predictor.shrunk, g.predictor.resets) == (0, 1)
    assert g.health.oom_count == 1
    g.send_many(2)
    assert g.health.state is StreamState.TRACKING


def test_failures_long_ago_are_forgiven():
    stepper = FrameStepper(None, MemoryConfig(oom_policy='shrink'), None, None, None)
    assert stepper.record_failure(0.0, True) is Remedy.SHRINK
    assert stepper.record_failure(59.0, True) is Remedy.RESET
    assert stepper.record_failure(61.0, True) is Remedy.RESET, 'the second within a minute'
    assert stepper.record_failure(62.0, True) is Remedy.STOP
    assert stepper.record_failure(130.0, True) is Remedy.SHRINK
    assert stepper.record_failure(131.0, True) is Remedy.RESET
    stepper.recent_s.clear()
    assert stepper.record_failure(132.0, False) is Remedy.RESET, 'what cannot be tried again'
    stepper.config = MemoryConfig(oom_policy='reset')
    assert stepper.record_failure(133.0, True) is Remedy.RESET
    assert stepper.record_failure(134.0, True) is Remedy.STOP
    stepper.config = MemoryConfig(oom_policy='error')
    assert stepper.record_failure(999.0, True) is Remedy.STOP


def test_a_lost_device_stops_the_node_and_the_map_can_still_be_saved(graph, capfd):
    g = graph(Script(failures={4: LOST}), diagnostics__period=0.1).start()
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    statuses = g.listen('/r3/status', StreamStatus)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(4)
    g.images.publish(image_message(g.stamp_ns))
    g.until(lambda: g.state == State.PRIMARY_STATE_INACTIVE)
    g.until(lambda: statuses and statuses[-1].state == StreamStatus.STATE_FAULT)
    assert 'CUDA error: scripted' in statuses[-1].state_reason and len(poses) == 4
    assert 'CUDA error: scripted' in capfd.readouterr().err

    def reported():
        found = [s for m in diagnostics[-1:] for s in m.status if s.name == 'r3: gpu']
        return found and found[0].level == DiagnosticStatus.ERROR and 'CUDA' in found[0].message

    g.until(reported)
    assert g.call(SaveMap, '/r3/save_map', SaveMap.Request(name='kept')).success
    answer = g.call(Trigger, '/r3/reset')
    assert not answer.success and 'restart it' in answer.message
    assert not g.turn('activate') and 'cannot activate' in capfd.readouterr().err
    # Cleaned up and configured anew, it may work again.
    assert g.turn('cleanup') and g.node.exit_status == 0
    g.start()
    g.send_many(2)
    assert g.health.state is StreamState.TRACKING


def test_a_node_that_cannot_be_cleaned_up_wants_its_process_to_end(graph, capfd):
    g = graph(Script(close_failure=LOST)).start()
    g.send()
    assert g.turn('deactivate')
    assert g.node.exit_status == 0
    assert g.turn('cleanup')
    assert g.node.exit_status == UNCLEAN
    assert 'cannot clean up' in capfd.readouterr().err
    # All else was closed: another node could take its place.
    assert not g.node.count_publishers('/r3/pose')


def test_images_that_waited_while_the_device_failed_are_not_looked_at(graph):
    g = graph(full_at(0, 1, 2), input__frame_policy='queue').start()
    for n in range(5):
        g.images.publish(image_message(g.stamp_ns + n * PERIOD_NS))
    g.until(lambda: g.health.state is StreamState.FAULT)
    g.until(lambda: g.images.get_subscription_count() == 0)
    assert g.health.frames_processed == 0
