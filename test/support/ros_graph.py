"""A node under test with a camera, a listener and an executor around it, in one process.

Everything goes over real DDS. The executor runs only inside :meth:`Graph.until` and
:meth:`Graph.call`, which wait for a condition and never for a time. In all tests a thread that
touches what the worker owns, while the worker runs, is an error.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
import gc
import time
import weakref

from geometry_msgs.msg import Pose
from lifecycle_msgs.msg import State
import numpy as np
from r3_ros.core.geometry import T_from_quat
from r3_ros.ros.node import R3StreamNode
from r3_ros.ros.outputs.messages import camera_info_message, header_message, stamp_ns_of
from r3_ros.streaming.engine import Engine
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_domain import Domain
from scripted import intrinsics, pattern_image, PERIOD_NS, Script, ScriptedPredictor, START_NS
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from thread_guard import ThreadGuard

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
CAMERA = 'camera_optical'

#: No waiting for what a test does not send.
IMPATIENT = {'input.camera_info_timeout': 0.0, 'tf_lookup_timeout': 0.0}


def image_message(
    stamp_ns: int, pixels: np.ndarray | None = None, encoding: str = 'rgb8', frame: str = CAMERA
) -> Image:
    # A camera never gives the same image twice.
    pixels = pattern_image(shade=stamp_ns // PERIOD_NS % 251) if pixels is None else pixels
    return Image(
        header=header_message(stamp_ns, frame),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=pixels.strides[0],
        data=array.array('B', pixels.tobytes()),
    )


def bad_image(**changes: object) -> Image:
    """Return an image later than most, with some fields of the message changed."""
    message = image_message(START_NS + 50 * PERIOD_NS)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


# What is loaded by now stays: collections after each test look only at what came later.
gc.collect()
gc.freeze()


def matrix(pose: Pose) -> np.ndarray:
    """Return the 4x4 motion of a pose message."""
    p, q = pose.position, pose.orientation
    return T_from_quat(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))


class Graph:
    """The node ``r3`` with a scripted predictor, and ``probe``, which talks with it."""

    def __init__(
        self,
        script: Script | None = None,
        arguments: tuple[str, ...] = (),
        domain: Domain | None = None,
        **parameters: object,
    ) -> None:
        """Make both nodes; ``parameters`` use ``__`` for the dot."""
        self.domain = domain or Domain()
        self._owns_domain = domain is None
        self.context = rclpy.Context()
        ros_arguments = ['--ros-args', *arguments] if arguments else []
        rclpy.init(args=ros_arguments, context=self.context, domain_id=self.domain.number)
        self.predictors: list[ScriptedPredictor] = []
        self._guards: list[ThreadGuard] = []
        self.script = script or Script()
        values = IMPATIENT | {k.replace('__', '.'): v for k, v in parameters.items()}
        self.node = R3StreamNode(
            engine_loader=self._load_watched,
            context=self.context,
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        self.probe = Node('probe', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.probe)
        self.images = self.probe.create_publisher(Image, 'image', 10)
        self.infos = self.probe.create_publisher(CameraInfo, 'camera_info', 10)
        self.stamp_ns = START_NS

    @property
    def predictor(self) -> ScriptedPredictor:
        return self.predictors[-1]

    @property
    def state(self) -> int:
        return self.node._state_machine.current_state[0]

    @property
    def is_active(self) -> bool:
        return self.state == State.PRIMARY_STATE_ACTIVE

    def _load(self, config: object) -> Engine:
        self.predictors.append(ScriptedPredictor(self.script))
        return Engine(self.predictor, config)

    def _load_watched(self, config: object) -> Engine:
        engine = self._load(config)
        self._guards.append(ThreadGuard(engine))
        return engine

    @contextmanager
    def _in_node(self) -> Iterator[None]:
        """Have the guards count what is done meanwhile as done by the node."""
        with ExitStack() as stack:
            for guard in self._guards:
                guard.follow(self.node.worker)
                stack.enter_context(guard.in_node())
            yield

    def turn(self, transition: str) -> bool:
        """Go through a lifecycle transition by its name; return whether it succeeded."""
        with self._in_node():
            done = getattr(self.node, f'trigger_{transition}')()
        return done == TransitionCallbackReturn.SUCCESS

    def start(self) -> Graph:
        """Configure, activate, and wait for the camera to be received."""
        assert self.turn('configure') and self.turn('activate')
        self.until(lambda: self.images.get_subscription_count() == 1)
        self.until(lambda: self.infos.get_subscription_count() == 1)
        return self

    def close(self) -> None:
        with self._in_node():
            self.node.close()
        for node in (self.node, self.probe):
            self.executor.remove_node(node)
            node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)
        violations = [text for guard in self._guards for text in guard.end()]
        self._guards.clear()
        gone = weakref.ref(self.node)
        del self.node, self.probe, self.executor, self.images, self.infos, node
        # rclpy's objects refer to each other in circles: until those are collected, the node is
        # on the graph of its domain, where a later test would take it for a duplicate.
        gc.collect()
        deadline = time.monotonic() + 20.0
        while gone() is not None and time.monotonic() < deadline:
            time.sleep(0.01)  # a save at the end may still be written
            gc.collect()
        if self._owns_domain:
            self.domain.release()
        assert gone() is None, 'something holds the node, so its domain is not free'
        assert not violations, '\n'.join(violations[:5])

    def until(self, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Spin until the condition holds; fail after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f'timeout; {self._story()}'
            with self._in_node():
                self.executor.spin_once(timeout_sec=0.02)

    def listen(self, topic: str, kind: type, qos: QoSProfile | int = 10) -> list:
        """Collect the messages of a topic from here on; the publisher has been found."""
        received: list = []
        before = self.probe.count_subscribers(topic)
        subscription = self.probe.create_subscription(kind, topic, received.append, qos)
        self.until(lambda: subscription.get_publisher_count() > 0)
        self.until(lambda: self.node.count_subscribers(topic) > before)
        return received

    def listen_tf(self) -> list:
        """Collect every transform from here on."""
        received: list = []
        subscription = self.probe.create_subscription(
            TFMessage, '/tf', lambda message: received.extend(message.transforms), 100
        )
        self.until(lambda: subscription.get_publisher_count() > 0)
        return received

    def call(self, kind: type, service: str, request: object = None) -> object:
        """Call a service and return its answer."""
        client = self.probe.create_client(kind, service)
        self.until(client.service_is_ready)
        future = client.call_async(kind.Request() if request is None else request)
        self.until(future.done)
        self.probe.destroy_client(client)
        return future.result()

    @property
    def health(self) -> object:
        return self.node.worker and self.node.worker.health

    @property
    def node_health(self) -> object:
        return self.node.worker.node_health

    @property
    def transform_health(self) -> object:
        return self.node.worker.tree.health

    def on_worker(self, job: Callable[[], object]) -> object:
        """Have the worker do something between two frames, and return what it returns."""
        return self.node.worker.submit(job).result(timeout=20.0)

    def _story(self) -> str:
        """Say in a line how the node is."""
        health = self.health
        if health is None:
            return 'not configured'
        counts = f'{health.frames_processed} processed, {health.frames_rejected} rejected'
        return f'{health.state.name} ({health.reason}), {counts}, {health.last_reject_reason}'

    @property
    def handled(self) -> int:
        """Return how many images the node has processed or rejected."""
        health, mailbox = self.node.worker.snapshot.health, self.node.worker.mailbox
        return (
            health.frames_processed
            + health.frames_rejected
            + health.frames_paused
            + mailbox.dropped
        )

    def send(self, message: Image | None = None, calibrated: bool = False) -> int:
        """Send an image, by default the next, and wait until it is processed or rejected."""
        if message is None:
            message = image_message(self.stamp_ns)
        if calibrated:
            stamp_ns = stamp_ns_of(message.header.stamp)
            K = intrinsics(message.width, message.height)
            self.infos.publish(camera_info_message(stamp_ns, CAMERA, K))
        # In FAULT the node does not hear its camera.
        self.until(lambda: self.images.get_subscription_count() == 1)
        before = self.handled
        self.images.publish(message)
        self.until(lambda: self.handled > before)
        stamp_ns = stamp_ns_of(message.header.stamp)
        self.stamp_ns = stamp_ns + PERIOD_NS
        return stamp_ns

    def send_many(self, count: int) -> list[int]:
        return [self.send() for _ in range(count)]

    def set_parameters(self, **parameters: object) -> list:
        """Set parameters from outside the node; returns the results."""
        with self._in_node():
            return self.node.set_parameters(
                [Parameter(k.replace('__', '.'), value=v) for k, v in parameters.items()]
            )
