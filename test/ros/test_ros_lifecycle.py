"""The lifecycle of the node: transitions, what they keep, and who is refused."""

from copy import copy
import threading

from diagnostic_msgs.msg import DiagnosticArray
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from lifecycle_msgs.msg import State
from r3_ros.core.errors import ModelError
from r3_ros.ros.node import RCLError
from ros_graph import Graph, image_message
from scripted import Script, START_NS

pytestmark = pytest.mark.ros


def test_two_full_cycles(graph):
    g = graph()
    for cycle in range(2):
        assert g.turn('configure')
        assert g.turn('activate')
        g.until(lambda: g.images.get_subscription_count() == 1)
        assert g.send() and g.health.frames_processed == 1
        assert g.turn('deactivate')
        g.until(lambda: g.images.get_subscription_count() == 0)
        assert g.state == State.PRIMARY_STATE_INACTIVE
        assert g.turn('cleanup')
        assert g.predictors[cycle].closed
        assert g.node.worker is None
        assert not [
            name
            for name, _ in g.node.get_publisher_names_and_types_by_node('r3', '/')
            if name.startswith('/r3/p')
        ]
    assert len(g.predictors) == 2


def test_deactivating_keeps_the_session(graph):
    g = graph().start()
    g.send_many(3)
    assert g.turn('deactivate')
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)
    g.send()
    session = g.node.worker.engine.session
    assert (session.session_id, session.frame_count) == (0, 4)


def test_lifecycle_services_drive_the_node(graph):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    g = graph()
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert g.call(ChangeState, '/r3/change_state', request).success
    assert g.call(GetState, '/r3/get_state').current_state.label == 'active'


def test_configure_fails_with_a_reason_and_can_be_tried_again(graph, monkeypatch):
    g = graph()
    load = g.node._load_engine
    monkeypatch.setattr(g.node, '_load_engine', lambda config: (_ for _ in ()).throw(
        ModelError("model 'classical' needs OpenCV")))  # fmt: skip
    assert not g.node.autostart()
    assert g.state == State.PRIMARY_STATE_UNCONFIGURED
    monkeypatch.setattr(g.node, '_load_engine', load)
    assert g.node.autostart()


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (
            RCLError('no right to publish, at /src/rcl/publisher.c:117\n'),
            'cannot configure: ROS error: no right to publish\n',
        ),
        (KeyError('forgotten'), "KeyError: 'forgotten'"),
    ],
)
def test_what_a_transition_did_not_expect_is_reported(graph, monkeypatch, capfd, error, words):
    g = graph()
    load, closed = g.node._load_engine, []

    def load_and_fail(config):
        g.node._closers.append(lambda: closed.append(True))
        raise copy(error)  # what is raised holds the node by its traceback

    monkeypatch.setattr(g.node, '_load_engine', load_and_fail)
    assert not g.node.autostart()
    assert words in capfd.readouterr().err and closed
    assert g.state == State.PRIMARY_STATE_UNCONFIGURED
    monkeypatch.setattr(g.node, '_load_engine', load)
    assert g.node.autostart()


def test_a_second_node_of_the_same_name_is_refused(graph, capfd):
    first = graph().start()
    second = Graph(domain=first.domain)
    try:
        second.until(lambda: second.node._count_duplicates())
        assert not second.turn('configure')
        assert "a node named '/r3' already runs" in capfd.readouterr().err
        first.send()
        assert first.health.frames_processed == 1
    finally:
        second.close()


@pytest.mark.slow
def test_a_node_of_the_same_name_that_comes_later_is_reported(graph, capfd):
    first = graph(diagnostics__period=0.1).start()
    other = Graph(domain=first.domain)
    try:
        received = first.listen('/diagnostics', DiagnosticArray)
        first.until(lambda: any('same name' in s.message for m in received for s in m.status))
        assert "another node named '/r3'" in capfd.readouterr().err
    finally:
        other.close()


def test_stopping_does_not_wait_for_a_stuck_model(graph):
    turnstile = threading.Semaphore(0)
    g = graph(Script(turnstile=turnstile)).start()
    g.images.publish(image_message(START_NS))
    g.until(lambda: g.predictors[0].arrived.acquire(blocking=False))
    assert g.turn('deactivate')
    assert not g.turn('activate'), 'the last frame is still in work'
    turnstile.release(10)
    g.until(lambda: not g.node.worker.is_stuck)
    assert g.turn('activate')
