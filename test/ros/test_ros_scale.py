"""Metres on topics, TF and in saved maps, once they are known; nothing with a length before."""

import math
from pathlib import Path as FilePath

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from metric_ruler import METRES, Ruler
from nav_msgs.msg import Odometry, Path
import numpy as np
import pytest
from r3_ros.core.geometry import inverse
from r3_ros.msg import StreamStatus
from r3_ros.ros.outputs.messages import header_message, pose_messages, stamp_ns_of
from r3_ros.ros.tf.pose_chain import PoseChain
from r3_ros.srv import SaveMap
from r3_ros.streaming.engine import Engine
from rclpy.qos import qos_profile_sensor_data
from ros_graph import CAMERA, Graph, LATCHED, matrix
import scripted
from scripted import moved, PERIOD_NS, ScriptedPredictor, truth
from sensor_msgs.msg import Image, PointCloud2
from sensor_msgs_py import point_cloud2
import yaml

pytestmark = pytest.mark.ros


@pytest.fixture
def measured(graph, monkeypatch):
    """Make graphs whose engine has a ruler; keyframes every fifth frame."""

    def load(self, config):
        self.predictors.append(ScriptedPredictor(self.script))
        return Engine(self.predictor, config, metric=Ruler())

    monkeypatch.setattr(Graph, '_load', load)
    return lambda **values: graph(keyframe__max_interval=5, map__publish_period=0.1, **values)


def in_metres(g, stamp_ns):
    """Return the camera's pose in map that the script asks for."""
    T = truth(g.script.path, stamp_ns).copy()
    T[:3, 3] *= METRES
    return g.node.worker.pose_output.chain.T_map_world @ T


def width_of(cloud):
    return float(np.ptp(point_cloud2.read_points(cloud)['y']))


def scale_task(message):
    return next(status for status in message.status if status.name.endswith(': scale'))


def test_a_fixed_scale_reaches_everything_that_has_a_length(graph):
    def lengths(g):
        depths = g.listen('/r3/depth/image', Image)
        clouds = g.listen('/r3/points', PointCloud2)
        keyframes = g.listen('/r3/keyframe_points', PointCloud2)
        maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
        poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
        odometry = g.listen('/r3/odometry', Odometry)
        g.send_many(12)
        g.until(lambda: len(poses) == len(odometry) == len(depths) == len(clouds) == 12)
        g.until(lambda: keyframes)
        pixels = np.frombuffer(depths[-1].data, np.float32)
        answer = g.call(SaveMap, '/r3/save_map', SaveMap.Request(name='m', overwrite=True))
        assert answer.success, answer.message
        g.until(lambda: maps and maps[-1].width == answer.points)
        manifest = yaml.safe_load((FilePath(answer.path) / 'manifest.yaml').read_text())
        sigma_m = math.sqrt(poses[-1].pose.covariance[0])
        return (
            manifest,
            sigma_m,
            np.array(
                [
                    pixels.mean(),
                    width_of(clouds[-1]),
                    width_of(keyframes[0]),
                    width_of(maps[-1]),
                    np.linalg.norm(matrix(poses[-1].pose.pose)[:3, 3]),
                    np.linalg.norm(matrix(odometry[-1].pose.pose)[:3, 3]),
                    odometry[-1].twist.twist.linear.x,
                    manifest['bounds']['max'][0],
                    manifest['voxel_size'],
                ]
            ),
        )

    plain, sigma_units, units = lengths(graph(map__publish_period=0.1).start())
    fixed = {'scale__source': 'fixed', 'scale__fixed': METRES}
    metric, sigma_m, metres = lengths(graph(map__publish_period=0.1, **fixed).start())
    np.testing.assert_allclose(metres, METRES * units, rtol=1e-4)
    assert plain['scale'] == {'metres_per_unit': None, 'source': 'none'}
    assert metric['scale'] == {'metres_per_unit': METRES, 'source': 'fixed'}
    # Metres are not inflated for being no metres.
    assert sigma_m == pytest.approx(METRES * sigma_units / 10.0, rel=0.1)


def test_nothing_with_a_length_goes_out_before_the_scale_is_known(measured):
    g = measured(scale__source='model', scale__bootstrap_frames=3).start()
    poses = g.listen('/r3/pose', PoseWithCovarianceStamped)
    depths = g.listen('/r3/depth/image', Image)
    maps = g.listen('/r3/map_points', PointCloud2, LATCHED)
    paths = g.listen('/r3/path', Path, LATCHED)
    statuses = g.listen('/r3/status', StreamStatus)
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    transforms = g.listen_tf()
    early = g.send_many(8)
    g.until(lambda: statuses and statuses[-1].frames_processed == 8)
    g.until(lambda: diagnostics)
    last = statuses[-1]
    assert (
        last.state == StreamStatus.STATE_INITIALIZING and '2 of 3 keyframes' in last.state_reason
    )
    assert last.scale_source == StreamStatus.SCALE_MODEL and math.isnan(last.scale)
    assert not last.scale_locked and math.isnan(last.scale_live_ratio) and last.map_revision == 0
    task = scale_task(diagnostics[-1])
    assert task.level == DiagnosticStatus.WARN and 'no pose is published' in task.message
    assert not (poses or depths or transforms) and not any(m.width for m in maps)
    late = g.send_many(12)
    g.until(lambda: poses and stamp_ns_of(poses[-1].header.stamp) == late[-1])
    g.until(lambda: statuses[-1].frames_processed == 20)
    last = statuses[-1]
    assert last.state == StreamStatus.STATE_TRACKING and last.map_revision == 1
    assert last.scale == pytest.approx(METRES, rel=1e-4) and last.scale_locked
    assert last.scale_live_ratio == pytest.approx(1.0, rel=1e-4)
    for message in poses:
        expected = in_metres(g, stamp_ns_of(message.header.stamp))
        np.testing.assert_allclose(matrix(message.pose.pose), expected, atol=1e-3)
    # The frames before are in the path and in the map, in metres as well.
    g.until(lambda: paths and len(paths[-1].poses) >= 3)
    assert stamp_ns_of(paths[-1].poses[0].header.stamp) == early[0]
    for pose in paths[-1].poses:
        expected = in_metres(g, stamp_ns_of(pose.header.stamp))
        np.testing.assert_allclose(matrix(pose.pose), expected, atol=1e-3)
    g.until(lambda: maps and maps[-1].width)
    assert width_of(maps[-1]) > 1.5 * METRES
    # odom begins where map does.
    offsets = [t for t in transforms if t.header.frame_id == 'map']
    assert all(t.transform.translation.x == pytest.approx(0.0, abs=1e-6) for t in offsets)


@pytest.mark.slow
def test_drift_is_a_warning(measured):
    values = {'scale__source': 'model', 'scale__bootstrap_frames': 1, 'scale__check_every': 1}
    g = measured(**values).start()
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(2)
    g.until(lambda: diagnostics and scale_task(diagnostics[-1]).level == DiagnosticStatus.OK)
    g.node.worker.engine._metric.metres_per_unit = 1.3 * METRES
    g.send_many(6)
    g.until(lambda: scale_task(diagnostics[-1]).level == DiagnosticStatus.WARN)
    assert 'live ratio 1.300' in scale_task(diagnostics[-1]).message
    g.set_parameters(scale__drift_warn_ratio=1.5)
    g.until(lambda: scale_task(diagnostics[-1]).level == DiagnosticStatus.OK)


@pytest.mark.slow
def test_odometry_is_heard_and_that_of_another_frame_is_not(graph, capfd):
    g = graph(scale__source='odometry').start()
    wheels = g.probe.create_publisher(Odometry, 'odom', qos_profile_sensor_data)
    g.until(lambda: wheels.get_subscription_count() == 1)

    def turn_wheels(stamp_ns, child):
        T = g.script.path(stamp_ns).copy()
        T[:3, 3] *= METRES
        message = Odometry(header=header_message(stamp_ns, 'wheels'), child_frame_id=child)
        message.pose.pose = pose_messages(T[None])[0]
        wheels.publish(message)

    track = g.node.worker.engine.odometry
    g.send()
    turn_wheels(g.stamp_ns - PERIOD_NS, 'other_robot')
    g.until(lambda: "set base_frame to 'other_robot'" in capfd.readouterr().err)
    assert not track.reaches(0)
    for _ in range(40):
        stamp_ns = g.stamp_ns
        turn_wheels(stamp_ns, CAMERA)
        g.until(lambda stamp_ns=stamp_ns: track.reaches(stamp_ns))
        g.send()
    scale = g.node.worker.engine.session.scale.view()
    assert scale.metres_per_unit == pytest.approx(METRES, rel=0.01)
    g.node.worker.submit(lambda: g.node.worker.control.reset('for the test'))
    g.until(lambda: not track.reaches(0))


def test_a_scale_that_changes_never_moves_odometry():
    chain = PoseChain(np.eye(4), starts_in_base=False)
    step = truth(scripted.straight(), scripted.START_NS + PERIOD_NS)
    T, before = np.eye(4), None
    for i in range(20):
        chain.metres_per_unit = 2.0 if i < 10 else 2.2
        placed = chain.advance(moved(i * PERIOD_NS, T, step if i else None), 100.0, 0.0)
        if before is not None:
            went = np.linalg.norm(placed.T_odom_base[:3, 3] - before.T_odom_base[:3, 3])
            assert went == pytest.approx(chain.metres_per_unit * np.linalg.norm(step[:3, 3]))
        before, T = placed, T @ step
    assert np.linalg.norm((placed.T_map_base @ inverse(placed.T_odom_base))[:3, 3]) > 0.01
