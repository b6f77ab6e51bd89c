"""A frame has one parent: who else broadcasts our edges, before us and later; bases that move."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import pytest
from r3_ros.core.geometry import make_T, R_BODY_OPTICAL
from r3_ros.ros.outputs.health import StreamState
from r3_ros.ros.outputs.messages import stamp_ns_of, transform_message
from r3_ros.ros.tf import frame_tree
from r3_ros.ros.tf.frame_tree import Echoes
from ros_graph import CAMERA, Graph, image_message, PERIOD_NS
from ros_robot import activate, BASE, T_BASE_OPTICAL
from scipy.spatial.transform import Rotation
from scripted import START_NS
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

pytestmark = pytest.mark.ros

#: Who also broadcasts: the edge, and who of ours is left.
MAP_ODOM, ODOM_BASE = ('map', 'odom'), ('odom', CAMERA)


def edges(transforms):
    return {(t.header.frame_id, t.child_frame_id) for t in transforms}


def somebody_says(g, parent, child, static=False, stamp_ns=START_NS - PERIOD_NS, T=None):
    kind = StaticTransformBroadcaster if static else TransformBroadcaster
    broadcaster = kind(g.probe)
    g.until(lambda: broadcaster.pub_tf.get_subscription_count() > 0)
    T = np.eye(4) if T is None else T
    broadcaster.sendTransform(transform_message(stamp_ns, parent, child, T))
    return broadcaster


def from_us(g, transforms):
    """Return the edges of transforms that have the stamp of an image or are dated ahead of it."""
    return edges(t for t in transforms if stamp_ns_of(t.header.stamp) >= START_NS)


@pytest.mark.parametrize('static', [False, True], ids=['moving', 'static'])
@pytest.mark.parametrize('edge', [MAP_ODOM, ODOM_BASE], ids=['map-odom', 'odom-base'])
def test_who_was_there_before_keeps_the_edge(graph, edge, static):
    g = graph(diagnostics__period=0.1)
    assert g.turn('configure')
    other = somebody_says(g, *edge, static=static)
    g.until(lambda: g.node.worker.tree.has_parent(edge[1]))
    activate(g)
    transforms = g.listen_tf()
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(3)
    g.until(lambda: len(poses) == 3 and transforms)
    assert from_us(g, transforms) == {MAP_ODOM, ODOM_BASE} - {edge}
    reported = ' -> '.join(edge)
    assert g.transform_health.two_parents == reported
    g.until(lambda: any(
        s.level == DiagnosticStatus.ERROR and reported in s.message
        for m in diagnostics for s in m.status if s.name == 'r3: tf'))  # fmt: skip
    assert other


@pytest.mark.parametrize('edge', [MAP_ODOM, ODOM_BASE], ids=['map-odom', 'odom-base'])
def test_who_comes_later_is_reported_and_forgotten_when_gone(graph, edge, capfd, monkeypatch):
    monkeypatch.setattr(frame_tree, '_LINK_TIMEOUT_S', 0.5)
    g = graph(diagnostics__period=0.1).start()
    g.send_many(2)
    assert g.transform_health.two_parents == ''
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    other = somebody_says(g, *edge)
    g.until(lambda: g.transform_health.two_parents == ' -> '.join(edge))
    assert 'a frame has one parent' in capfd.readouterr().err
    transforms = g.listen_tf()
    g.send()
    g.until(lambda: from_us(g, transforms) == {MAP_ODOM, ODOM_BASE})

    def level():
        return [s.level for s in diagnostics[-1].status if s.name == 'r3: tf'][0]

    g.until(lambda: diagnostics and level() == DiagnosticStatus.ERROR)
    g.until(lambda: level() == DiagnosticStatus.OK)
    assert g.transform_health.two_parents == '' and other


def test_an_edge_that_was_left_to_somebody_is_ours_once_he_is_gone(graph, monkeypatch):
    monkeypatch.setattr(frame_tree, '_LINK_TIMEOUT_S', 0.5)
    g = graph()
    assert g.turn('configure')
    other = somebody_says(g, *MAP_ODOM)
    g.until(lambda: g.node.worker.tree.has_parent('odom'))
    activate(g)
    g.send_many(2)
    g.until(lambda: g.transform_health.two_parents == '')
    transforms = g.listen_tf()
    assert g.call(Trigger, '/r3/reset').success
    g.send_many(2)
    g.until(lambda: from_us(g, transforms) == {MAP_ODOM, ODOM_BASE})
    assert other


def test_an_edge_that_is_not_ours_has_no_rival(graph):
    g = graph(publish_map_to_odom_tf=False).start()
    other = somebody_says(g, *MAP_ODOM)
    g.until(lambda: g.node.worker.tree.has_parent('odom'))
    transforms = g.listen_tf()
    g.send_many(2)
    g.until(lambda: transforms)
    assert g.transform_health.two_parents == '' and from_us(g, transforms) == {ODOM_BASE} and other


@pytest.mark.slow
def test_another_r3_on_the_same_camera_leaves_the_edges_to_the_first(graph):
    """Its transforms have our stamps, and at first even our values."""
    first = graph().start()
    first.send_many(2)
    second = Graph(arguments=('-r', '__ns:=/left'), domain=first.domain)
    try:
        assert second.node.autostart()
        second.until(lambda: second.node.count_subscribers('/tf') >= 2)
        publisher = second.probe.create_publisher(Image, '/left/image', 10)
        second.until(lambda: publisher.get_subscription_count() == 1)

        def heard_by_second():
            first.executor.spin_once(timeout_sec=0.01)
            return second.node.worker.tree.has_parent(CAMERA)

        stamp_ns = first.send()
        second.until(heard_by_second)
        publisher.publish(image_message(stamp_ns))
        second.until(lambda: second.health.frames_processed == 1)
        second.until(lambda: second.transform_health.two_parents)
        assert second.node.worker.authority._refused == {'odom', CAMERA}
        first.send()
        assert first.transform_health.two_parents == '', 'the second one is silent'
    finally:
        second.close()


def test_a_transform_that_equals_ours_is_ours_once():
    echoes, sent = Echoes(), transform_message(START_NS, 'map', 'odom', np.eye(4))
    echoes.expect(sent)
    assert echoes.take(sent)
    assert not echoes.take(sent), 'another node has sent the same'


def test_a_moving_frame_above_the_camera_is_no_base(graph):
    # As another odometry in other frames would broadcast it.
    g = graph()
    assert g.turn('configure')
    other = somebody_says(g, 'odom_of_others', CAMERA)
    g.until(lambda: g.node.worker.tree.has_parent(CAMERA))
    activate(g)
    transforms = g.listen_tf()
    g.send_many(2)
    g.until(lambda: transforms)
    assert g.health.base_frame == CAMERA
    assert from_us(g, transforms) == {MAP_ODOM}
    assert g.transform_health.two_parents == f'odom_of_others -> {CAMERA}' and other


def test_a_camera_that_moves_on_its_named_base_is_refused_and_reported_what_to_name(graph):
    g = graph(base_frame=BASE, tf_lookup_timeout=5.0)
    assert g.turn('configure')
    fixed = somebody_says(g, 'head', CAMERA, static=True, T=make_T(R_BODY_OPTICAL, np.zeros(3)))
    joints = TransformBroadcaster(g.probe)

    def turn_head(angle, stamp_ns):
        T = make_T(Rotation.from_euler('z', angle).as_matrix(), [0.1, 0.0, 1.0])
        joints.sendTransform(transform_message(stamp_ns, BASE, 'head', T))
        g.until(lambda: np.allclose(
            g.node.worker.tree.pose(BASE, 'head'), T) if received() else False)  # fmt: skip

    def received():
        return g.node.worker.tree.has_parent('head')

    turn_head(0.0, START_NS)
    activate(g)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(3)
    g.until(lambda: len(poses) == 3)
    turn_head(0.1, g.stamp_ns)
    g.send_many(2)
    assert g.health.state is StreamState.WAITING_TF and len(poses) == 3
    assert "set base_frame to 'head'" in g.health.reason
    assert g.health.frames_rejected == 2
    # Back where it was, the poses are those of the base again.
    turn_head(0.0, g.stamp_ns)
    g.send_many(1)
    g.until(lambda: len(poses) == 4)
    assert fixed


def test_a_fixed_transform_that_is_repeated_on_tf_is_no_joint(graph):
    g = graph(base_frame=BASE, tf_lookup_timeout=5.0)
    assert g.turn('configure')
    others = [somebody_says(g, BASE, CAMERA, T=T_BASE_OPTICAL)]
    g.until(lambda: g.node.worker.tree.has_parent(CAMERA))
    activate(g)
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    g.send_many(2)
    others.append(somebody_says(g, BASE, CAMERA, T=T_BASE_OPTICAL, stamp_ns=g.stamp_ns))
    g.send_many(2)
    g.until(lambda: len(poses) == 4)
