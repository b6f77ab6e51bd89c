"""Other packages' readers on our topics: their published rules, computed here.

depth_image_proc makes points of a depth image by the P of the camera_info that comes with the
colour image: ``x = (u - cx) * z / fx``. message_filters' exact synchronizer passes on what has one
stamp.
"""

from collections import defaultdict

import numpy as np
import pytest
from r3_ros.ros.outputs.messages import stamp_ns_of
from r3_ros.ros.outputs.outputs import TOPICS
from ros_graph import CAMERA
from scripted import Script
from sensor_msgs_py import point_cloud2

pytestmark = pytest.mark.ros

PAIR = ('depth/image', 'depth/camera_info', 'color/image', 'color/camera_info')
#: Nothing is left out, so that all pixels can be compared.
ALL_PIXELS = {
    'points__stride': 1,
    'points__min_confidence': 0.0,
    'points__confidence_percentile': 0.0,
    'points__edge_threshold': 0.0,
    'points__min_range': 0.0,
    'points__max_range': 0.0,
}


class ExactTime:
    """What message_filters.TimeSynchronizer does: a set for every stamp that all topics have."""

    def __init__(self, topics, queue_size):
        self.topics, self.queue_size = topics, queue_size
        self.waiting = defaultdict(dict)
        self.passed = []

    def add(self, topic, message):
        stamp_ns = stamp_ns_of(message.header.stamp)
        self.waiting[stamp_ns][topic] = message
        if len(self.waiting[stamp_ns]) == len(self.topics):
            self.passed.append(self.waiting.pop(stamp_ns))
        while len(self.waiting) > self.queue_size:
            self.waiting.pop(min(self.waiting))


def xyzrgb_of(depth_message, info, color_message):
    """Return the points (h, w, 3) and colours (h, w, 3) of depth_image_proc."""
    assert depth_message.encoding == '32FC1' and color_message.encoding == 'rgb8'
    size = (depth_message.height, depth_message.width)
    assert (color_message.height, color_message.width) == size == (info.height, info.width)
    z = np.frombuffer(depth_message.data, np.float32).reshape(size)
    P = np.reshape(info.p, (3, 4))
    v, u = np.indices(size)
    x = (u - P[0, 2]) * z / P[0, 0]
    y = (v - P[1, 2]) * z / P[1, 1]
    colors = np.frombuffer(color_message.data, np.uint8).reshape(*size, 3)
    return np.stack([x, y, z], axis=-1), colors


def colors_of(rows):
    packed = rows['rgb'].view(np.uint32)
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)


def received_sets(g, *more, queue_size=5):
    """Listen to the pair through a synchronizer, and to further topics; wait for all to match."""
    pairs = ExactTime(PAIR, queue_size)
    others = {topic: [] for topic in more}
    for topic in (*PAIR, *more):

        def take(message, topic=topic):
            if topic in others:
                others[topic].append(message)
            if topic in PAIR:
                pairs.add(topic, message)

        g.probe.create_subscription(TOPICS[topic][0], f'/r3/{topic}', take, 10)
        g.until(lambda topic=topic: g.node.worker.outputs.wanted(topic))
    return pairs, others


@pytest.mark.slow
@pytest.mark.parametrize('organized', [False, True])
def test_clouds_of_depth_image_proc_are_our_points(graph, organized):
    g = graph(points__organized=organized, **ALL_PIXELS).start()
    pairs, others = received_sets(g, 'points')
    stamps = [g.send(calibrated=True) for _ in range(4)]
    g.until(lambda: len(pairs.passed) == len(others['points']) == 4)
    for stamp_ns, pair, cloud in zip(stamps, pairs.passed, others['points'], strict=True):
        assert stamp_ns_of(cloud.header.stamp) == stamp_ns
        assert cloud.header.frame_id == pair['depth/image'].header.frame_id == CAMERA
        points, colors = xyzrgb_of(
            pair['depth/image'], pair['color/camera_info'], pair['color/image']
        )
        rows = point_cloud2.read_points(cloud)
        ours = np.stack([rows[name] for name in 'xyz'], axis=-1).reshape(-1, 3)
        known = np.isfinite(points).all(axis=-1).ravel()
        if organized:
            assert (cloud.height, cloud.width) == points.shape[:2]
            ours, rows = ours[known], rows.ravel()[known]
        # float32 at a depth of about one unit.
        assert len(ours) == known.sum() > 500
        np.testing.assert_allclose(ours, points.reshape(-1, 3)[known], atol=1e-6, rtol=1e-6)
        np.testing.assert_array_equal(colors_of(rows), colors.reshape(-1, 3)[known])


def test_a_thinned_cloud_holds_points_of_the_dense_one(graph):
    g = graph().start()
    pairs, others = received_sets(g, 'points')
    g.send(calibrated=True)
    g.until(lambda: pairs.passed and others['points'])
    points, _ = xyzrgb_of(*(pairs.passed[0][t] for t in (PAIR[0], PAIR[3], PAIR[2])))
    rows = point_cloud2.read_points(others['points'][0])
    P = np.reshape(pairs.passed[0]['color/camera_info'].p, (3, 4))
    u = np.rint(rows['x'] / rows['z'] * P[0, 0] + P[0, 2]).astype(int)
    v = np.rint(rows['y'] / rows['z'] * P[1, 1] + P[1, 2]).astype(int)
    ours = np.stack([rows[name] for name in 'xyz'], axis=-1)
    assert 50 < len(ours) < points.shape[0] * points.shape[1]
    np.testing.assert_allclose(ours, points[v, u], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('delay', [0, 2])
def test_exact_synchronizers_get_a_set_for_every_depth(graph, delay):
    """Also where depth comes later than its frame, with a queue as the parameter files have."""
    g = graph(Script(depth_delay=delay)).start()
    pairs, _ = received_sets(g)
    stamps = [g.send(calibrated=True) for _ in range(6)]
    g.until(lambda: len(pairs.passed) == 6 - delay)
    assert not pairs.waiting
    for stamp_ns, pair in zip(stamps, pairs.passed, strict=False):
        assert {stamp_ns_of(m.header.stamp) for m in pair.values()} == {stamp_ns}
        assert {m.header.frame_id for m in pair.values()} == {CAMERA}
        depth, color = pair['depth/camera_info'], pair['color/camera_info']
        assert depth.k.tolist() == color.k.tolist() and depth.p.tolist() == color.p.tolist()
        # What is rectified has no distortion, and P is K.
        assert not any(color.d) and color.r.tolist() == np.eye(3).ravel().tolist()
        assert np.reshape(color.p, (3, 4))[:, :3].ravel().tolist() == color.k.tolist()


def test_odometry_and_depth_of_a_frame_meet_as_rtabmap_wants(graph):
    g = graph().start()
    topics = ('color/image', 'color/camera_info', 'depth/image', 'odometry')
    sets = ExactTime(topics, 10)
    for topic in topics:
        g.probe.create_subscription(
            TOPICS[topic][0], f'/r3/{topic}', lambda m, topic=topic: sets.add(topic, m), 10
        )
        g.until(lambda topic=topic: g.node.worker.outputs.wanted(topic))
    g.send_many(4)
    g.until(lambda: len(sets.passed) == 4)
    assert {s['odometry'].child_frame_id for s in sets.passed} == {CAMERA}
