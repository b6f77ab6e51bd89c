"""A robot around the node under test: its ``odom -> base`` on /tf, and where that puts things."""

from __future__ import annotations

import numpy as np
from r3_ros.core.geometry import inverse, make_T, R_BODY_OPTICAL
from r3_ros.ros.outputs.messages import matrix_from_transform, stamp_ns_of, transform_message
from ros_graph import Graph, PERIOD_NS
from scipy.spatial.transform import Rotation
from scripted import START_NS, truth
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

BASE = 'base_link'
T_BASE_OPTICAL = make_T(
    Rotation.from_euler('z', 0.3).as_matrix() @ R_BODY_OPTICAL, [0.3, 0.05, 0.4]
)
#: Where the robot's odometry was when the camera began: anywhere but at the origin.
T_ODOM_FIRST = make_T(Rotation.from_euler('z', 0.7).as_matrix(), [3.0, -2.0, 0.0])
#: Correcting a robot whose odometry is in metres, and whose map units are metres.
NAVIGATION = {
    'publish_odom_to_base_tf': False,
    'base_frame': BASE,
    'scale__source': 'fixed',
    'tf_lookup_timeout': 5.0,
}


class Robot:
    """Moves as the script's camera does, by odometry that drifts, in metres."""

    def __init__(self, g: Graph, drift: float = 0.05, T_odom_first: np.ndarray = T_ODOM_FIRST):
        """Make the broadcasters; nothing is sent yet."""
        self.g = g
        self.drift = drift
        self.T_odom_first = T_odom_first
        #: Off for one whose odometry is the node's.
        self.tells = True
        self.moving = TransformBroadcaster(g.probe)
        self.fixed = StaticTransformBroadcaster(g.probe)

    def mount(self, T_base_optical: np.ndarray = T_BASE_OPTICAL, frame: str = 'camera_optical'):
        """Publish the mounting of the camera, and wait until the node has received it."""
        self.fixed.sendTransform(transform_message(START_NS, BASE, frame, T_base_optical))
        self.g.until(lambda: self.g.node.worker.tree.has_parent(frame))

    def T_odom_base(self, stamp_ns: int) -> np.ndarray:
        """Return where its odometry says that it is."""
        T = self.T_first_base(stamp_ns)
        T[:3, 3] *= 1.0 + self.drift
        return self.T_odom_first @ T

    def T_first_base(self, stamp_ns: int) -> np.ndarray:
        """Return where it is, from where it was with the first image."""
        T_world_camera = truth(self.g.script.path, stamp_ns)
        return T_BASE_OPTICAL @ T_world_camera @ inverse(T_BASE_OPTICAL)

    def tell(self, *stamps_ns: int) -> None:
        """Broadcast ``odom -> base`` at some stamps, and wait until the node has received it."""
        for stamp_ns in stamps_ns:
            T = self.T_odom_base(stamp_ns)
            self.moving.sendTransform(transform_message(stamp_ns, 'odom', BASE, T))
        self.g.until(lambda: self.knows(stamps_ns[-1]))

    def knows(self, stamp_ns: int) -> bool:
        """Return whether the node has received a stamp."""
        return self.g.node.worker.tree._buffer.can_transform_core('odom', BASE, _time(stamp_ns))[0]

    def drive(self, count: int) -> list[int]:
        """Send images, each with odometry around its stamp, and wait until all is published."""
        stamps = []
        for _ in range(count):
            if self.tells:
                self.tell(self.g.stamp_ns - PERIOD_NS // 3, self.g.stamp_ns + PERIOD_NS // 3)
            stamps.append(self.g.send())
            self.g.node.worker.submit(bool).result(timeout=20.0)
        return stamps


def _time(stamp_ns: int):
    from rclpy.time import Time

    return Time(nanoseconds=stamp_ns)


def navigating(graph, script=None, **parameters) -> tuple[Graph, Robot]:
    """Return an active node that corrects a robot, and the robot."""
    g = graph(script, **NAVIGATION | parameters)
    assert g.turn('configure')
    robot = Robot(g)
    robot.mount()
    activate(g)
    return g, robot


def activate(g: Graph) -> None:
    assert g.turn('activate')
    g.until(lambda: g.images.get_subscription_count() == 1)


def at(transforms, child, stamp_ns):
    """Return the matrices of a child's transforms at an exact stamp."""
    return [
        matrix_from_transform(t.transform)
        for t in transforms
        if t.child_frame_id == child and stamp_ns_of(t.header.stamp) == stamp_ns
    ]
