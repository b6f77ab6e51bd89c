"""``r3_viewer``: shows what a running node publishes in the browser.

A process of its own: it subscribes to the topics and calls the services of the node like any
other program, and never touches the engine.
"""

from __future__ import annotations

import argparse
from collections import deque, OrderedDict
from collections.abc import Sequence
import math
import signal
import sys
import threading
import time
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
from r3_ros.msg import KeyframeGraph, StreamStatus
from r3_ros.srv import SaveMap, SetScale
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rclpy.utilities import remove_ros_args, try_shutdown
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from sensor_msgs_py import point_cloud2
from std_srvs.srv import SetBool, Trigger
from tf2_ros import Buffer, TransformException, TransformListener

from ..core.datatypes import Intrinsics
from ..core.errors import ConfigError, R3Error, TransformError
from ..core.geometry import T_from_quat
from ..input.image_decoding import decode_message
from ..maps.cloud import Cloud, unpacked
from ..viewer.cloud_cells import Cell, cells_of
from ..viewer.scene import Scene
from ..viewer.scene_server import DEFAULT_PORT, LOOPBACK
from ..viewer.view_data import Command, LinkKind, ShownKeyframes
from .outputs.health import rate_hz, StreamState
from .outputs.messages import matrix_from_pose, matrix_from_transform, stamp_ns_of

#: Period of camera, images and status in the scene.
_PERIOD_S = 0.2
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_NEWEST = QoSProfile(depth=1)
#: Poses whose covariances are kept for keyframes that are published later.
_MOST_COVARIANCES = 20_000
#: Saving a map takes up to 60 s.
_ANSWER_S = 65.0
_SERVICE_S = 1.0
_SPIN_S = 0.1


class TopicFeed:
    """Feeds a scene from the topics of a node. Its methods run in the executor of its own node.

    :param node: that subscribes; ``name``: of the node to be shown.
    """

    def __init__(self, node: Node, scene: Scene, name: str) -> None:
        self._scene = scene
        self._name = name
        self._transforms = Buffer(node=node)
        self._listener = TransformListener(self._transforms, node)
        self._cells: dict[Cell, Cloud] = {}
        self._covariances: OrderedDict[int, np.ndarray] = OrderedDict()
        self._graph = KeyframeGraph()
        self._status: StreamStatus | None = None
        self._pose: PoseWithCovarianceStamped | None = None
        self._base_frame = ''
        self._color: np.ndarray | None = None
        self._depth: np.ndarray | None = None
        self._intrinsics: Intrinsics | None = None
        self._processed_s: deque[float] = deque(maxlen=200)
        self._is_graph_drawn = False
        for kind, topic, callback, qos in (
            (PointCloud2, 'map_points', self._on_map, _LATCHED),
            (KeyframeGraph, 'keyframe_graph', self._on_graph, _LATCHED),
            (StreamStatus, 'status', self._on_status, 10),
            (PoseWithCovarianceStamped, 'pose', self._on_pose, 10),
            (Odometry, 'odometry', self._on_odometry, _NEWEST),
            (Image, 'color/image', self._on_color, _NEWEST),
            (CameraInfo, 'color/camera_info', self._on_info, _NEWEST),
            (Image, 'depth/preview', self._on_depth, _NEWEST),
        ):
            node.create_subscription(kind, f'{name}/{topic}', callback, qos)
        node.create_timer(_PERIOD_S, self.draw)
        scene.show_status('waiting', {'node': name})

    def draw(self) -> None:
        """Show the newest camera, images and status."""
        if self._status is None:
            return
        try:
            T_base_optical, missing = self._mounting(), ''
        except TransformError as error:
            T_base_optical, missing = None, str(error)
        T_map_optical = None
        if self._pose is not None and T_base_optical is not None and self._has_pose:
            T_map_optical = matrix_from_pose(self._pose.pose.pose) @ T_base_optical
        if self._status.frame_index:
            self._scene.show_camera(T_map_optical, self._color, self._depth, self._intrinsics)
        else:  # after a reset; images of the last session may still come in
            self._scene.show_camera(None)
        if T_base_optical is not None and not self._is_graph_drawn:
            self._draw_graph(T_base_optical)
        self._show_status(missing)

    @property
    def _has_pose(self) -> bool:
        """Whether the newest frame has a pose: one of an earlier frame is not shown as the new."""
        assert self._status is not None and self._pose is not None
        of_status, of_pose = self._status.header.stamp, self._pose.header.stamp
        return stamp_ns_of(of_pose) >= stamp_ns_of(of_status)

    def _mounting(self) -> np.ndarray:
        """Return ``T_base_optical`` (4, 4).

        :raises TransformError: it is not known.
        """
        assert self._status is not None
        optical = self._status.header.frame_id
        if not (self._base_frame and optical):
            raise TransformError('no odometry yet')
        if self._base_frame == optical:
            return np.eye(4)
        try:
            found = self._transforms.lookup_transform(self._base_frame, optical, Time())
        except TransformException as error:
            raise TransformError(
                f'cameras are not drawn: no transform {self._base_frame} -> {optical} ({error})'
            ) from error
        return matrix_from_transform(found.transform)

    def _show_status(self, missing: str) -> None:
        status = self._status
        assert status is not None
        facts = {'why': status.state_reason} if status.state_reason else {}
        facts |= {'': missing} if missing else {}
        facts |= {
            'frame': f'{status.frame_index}, session {status.session_id}',
            'rate': f'{rate_hz(self._processed_s):.1f} frames/s',
            'latency': _latency(status.latency),
            'dropped': f'{status.frames_dropped} of {status.frames_received}',
            'confidence': f'{status.confidence_ratio:.2f} of the usual',
            'keyframes': f'{len(self._graph.keyframes)}, {status.keyframes_in_bank} held',
            'points': f'{status.map_points:,}',
            'lengths': _length_unit(status),
        }
        self._scene.show_status(StreamState(status.state).name.lower(), facts)

    def _on_status(self, status: StreamStatus) -> None:
        before = self._status or StreamStatus()
        if status.frames_processed != before.frames_processed:
            self._processed_s.append(time.monotonic())
        if status.session_id != before.session_id:
            self._pose = self._color = self._depth = None
            self._covariances.clear()
        self._status = status

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        self._pose = message
        covariance = np.reshape(message.pose.covariance, (6, 6))[:3, :3]
        self._covariances[stamp_ns_of(message.header.stamp)] = covariance
        while len(self._covariances) > _MOST_COVARIANCES:
            self._covariances.popitem(last=False)

    def _on_odometry(self, message: Odometry) -> None:
        self._base_frame = message.child_frame_id

    def _on_color(self, message: Image) -> None:
        self._color = decode_message(message)

    def _on_info(self, message: CameraInfo) -> None:
        K = np.reshape(message.k, (3, 3))
        self._intrinsics = Intrinsics.from_K(K, message.width, message.height)

    def _on_depth(self, message: Image) -> None:
        self._depth = decode_message(message)

    def _on_map(self, message: PointCloud2) -> None:
        self._cells = cells_of(unpacked(point_cloud2.read_points(message)), self._cells)
        self._scene.show_cloud((cell, np.eye(4)) for cell in self._cells.values())

    def _on_graph(self, message: KeyframeGraph) -> None:
        self._graph, self._is_graph_drawn = message, False

    def _draw_graph(self, T_base_optical: np.ndarray) -> None:
        self._is_graph_drawn = True
        shown = shown_graph(self._graph, T_base_optical, self._covariances)
        self._scene.show_keyframes(shown, self._intrinsics)
        self._scene.show_path(shown.centres)


def shown_graph(
    graph: KeyframeGraph, T_base_optical: np.ndarray, covariances: dict[int, np.ndarray]
) -> ShownKeyframes:
    """Return a graph as the scene shows it.

    :param covariances: (3, 3) of the position of the base in map, by stamp.
    """
    keyframes = graph.keyframes
    poses = [k.pose for k in keyframes]
    positions = np.array([(p.position.x, p.position.y, p.position.z) for p in poses])
    quats = np.array(
        [(p.orientation.x, p.orientation.y, p.orientation.z, p.orientation.w) for p in poses]
    )
    T = T_from_quat(positions.reshape(-1, 3), quats.reshape(-1, 4)) @ T_base_optical
    unknown = np.full((3, 3), np.nan)
    in_map = np.array([covariances.get(stamp_ns_of(k.stamp), unknown) for k in keyframes])
    R = T[:, :3, :3]
    row = {keyframe.id: n for n, keyframe in enumerate(keyframes)}
    # Its types are 0: recent, 1: memory, 2: bridge between segments.
    return ShownKeyframes(
        T_map_camera=T,
        confidence=np.array([k.confidence for k in keyframes]),
        covariances=R.swapaxes(1, 2) @ in_map.reshape(-1, 3, 3) @ R,
        links=np.array(
            [(row[e.from_id], row[e.to_id]) for e in graph.edges], dtype=np.int64
        ).reshape(-1, 2),
        kinds=np.array([LinkKind(e.type) for e in graph.edges], np.int64),
    )


def _latency(seconds: float) -> str:
    return 'unknown, clocks differ' if math.isnan(seconds) else f'{1e3 * seconds:.0f} ms'


def _length_unit(status: StreamStatus) -> str:
    if status.scale_source == StreamStatus.SCALE_NONE:
        return 'map units'
    return f'm ({status.scale:.3g} m per unit)'


class NodeCommands:
    """The services of the node as controls. They are called in threads of the viewer's server."""

    def __init__(self, node: Node, name: str) -> None:
        self._name = name
        self._save = node.create_client(SaveMap, f'{name}/save_map')
        self._reset = node.create_client(Trigger, f'{name}/reset')
        self._pause = node.create_client(SetBool, f'{name}/pause')
        self._scale = node.create_client(SetScale, f'{name}/set_scale')

    def commands(self) -> list[Command]:
        """Return the controls."""
        return [
            Command('Pause', self._call_pause, False, hint='ignore images while switched on'),
            Command(
                'Save map', self._call_save, 'map', 'Map name',
                'a folder below map.directory of the node; an existing one is not replaced',
            ),
            Command('Set scale', self._call_scale, 1.0, 'm per unit', 'metres per map unit'),
            Command('Reset', self._call_reset, hint='begin a new session with an empty map'),
        ]  # fmt: skip

    def _call_pause(self, paused: bool) -> str:
        return self._answer(self._pause, SetBool.Request(data=paused))

    def _call_save(self, name: str) -> str:
        return self._answer(self._save, SaveMap.Request(name=name, include_images=True))

    def _call_scale(self, scale: float) -> str:
        return self._answer(self._scale, SetScale.Request(scale=float(scale)))

    def _call_reset(self, value: None) -> str:
        return self._answer(self._reset, Trigger.Request())

    def _answer(self, client: Any, request: Any) -> str:
        """Return the message of a response.

        :raises R3Error: the node does not answer, or refuses.
        """
        if not client.wait_for_service(_SERVICE_S):
            raise R3Error(f'{self._name} offers no {client.srv_name}: is the node configured?')
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(_ANSWER_S):
            future.cancel()
            raise R3Error(f'no answer within {_ANSWER_S:.0f} s')
        response = future.result()
        if not response.success:
            raise R3Error(response.message)
        return response.message


def main(args: Sequence[str] | None = None) -> int:
    """Serve the view until SIGINT or SIGTERM; return 0, or 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog='r3_viewer', description='Show a node in the browser.')
    parser.add_argument('node', nargs='?', default='r3', help='name of the node (default: r3)')
    parser.add_argument(
        '--host', default=LOOPBACK, help=f'address to serve at (default: {LOOPBACK})'
    )
    parser.add_argument(
        '--port', type=int, default=DEFAULT_PORT, help='the next free one is taken if it is in use'
    )
    given = list(sys.argv if args is None else ['r3_viewer', *args])
    options = parser.parse_args(remove_ros_args(given)[1:])
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        scene = Scene(options.host, options.port)
    except ConfigError as error:
        sys.stderr.write(f'r3_viewer: {error}\n')
        return 2
    rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node('r3_viewer')
        if scene.port != options.port:
            node.get_logger().warning(f'port {options.port} is in use')
        node.get_logger().info(f'view: {scene.url}')
        TopicFeed(node, scene, options.node)
        scene.add_commands('Node', NodeCommands(node, options.node).commands())
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stop.is_set():
            try:
                executor.spin_once(timeout_sec=_SPIN_S)
            except R3Error as error:  # of one message
                node.get_logger().error(str(error))
        return 0
    finally:
        scene.close()
        try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
