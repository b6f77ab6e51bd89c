"""Fills a buffer from ``/tf`` and ``/tf_static``."""

from __future__ import annotations

from threading import Thread

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from .buffer import Buffer

AUTHORITY = 'default_authority'


class TransformListener:
    """Subscribes for as long as it is referenced."""

    def __init__(
        self,
        buffer: Buffer,
        node: Node | None,
        *,
        spin_thread: bool = False,
        qos: QoSProfile | int | None = None,
        static_qos: QoSProfile | int | None = None,
    ) -> None:
        """Subscribe.

        :param node: whose subscriptions they are; None makes a node of its own.
        :param spin_thread: spin the node in a thread, so that other callbacks may wait.
        :param qos: a profile or a history depth for ``/tf``; 100 by default.
        :param static_qos: the same for ``/tf_static``; the last 100 latched by default.
        """
        self.buffer = buffer
        self.node = node if node is not None else self._make_node()
        # In the node's own, mutually exclusive group a callback that waits for a transform would
        # keep that transform from coming in.
        self.group = ReentrantCallbackGroup()
        moving = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST)
        latched = QoSProfile(
            depth=100,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
            history=HistoryPolicy.KEEP_LAST,
        )
        self.tf_sub = self.node.create_subscription(
            TFMessage,
            '/tf',
            self.callback,
            moving if qos is None else qos,
            callback_group=self.group,
        )
        self.tf_static_sub = self.node.create_subscription(
            TFMessage,
            '/tf_static',
            self.static_callback,
            latched if static_qos is None else static_qos,
            callback_group=self.group,
        )
        self.executor: SingleThreadedExecutor | None = None
        if spin_thread:
            self.executor = SingleThreadedExecutor()
            self.executor.add_node(self.node)
            self.dedicated_listener_thread = Thread(
                target=self._spin, args=(self.executor,), daemon=True
            )
            self.dedicated_listener_thread.start()

    def __del__(self) -> None:
        executor = getattr(self, 'executor', None)
        if executor is not None:
            executor.shutdown()
            self.dedicated_listener_thread.join()
        if hasattr(self, 'tf_static_sub'):
            self.unregister()

    def unregister(self) -> None:
        """Stop listening."""
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)

    def callback(self, data: TFMessage) -> None:
        """Take in transforms that hold at their stamps."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, AUTHORITY)

    def static_callback(self, data: TFMessage) -> None:
        """Take in transforms that hold for ever."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, AUTHORITY)

    def _make_node(self) -> Node:
        """Return a node that does nothing else, and runs on wall time."""
        return Node(
            f'transform_listener_impl_{id(self):x}',
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=[Parameter('use_sim_time', value=False)],
        )

    @staticmethod
    def _spin(executor: SingleThreadedExecutor) -> None:
        # Static: a thread that held the listener would keep it from ever being released.
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
