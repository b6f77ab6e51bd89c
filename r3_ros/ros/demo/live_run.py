"""Starts the installed node, plays a bag to it in real time and collects what it publishes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
import traceback
from typing import Any

import numpy as np

from ...core.errors import R3Error
from ...core.geometry import T_from_quat
from ...core.threads import RepeatingThread
from ...input.bag_source import stamp_of
from ...input.bag_writer import IMAGE_TOPIC
from ...input.image_topics import camera_info_topic
from ...offline.depth_samples import DepthSample, DepthSamples
from ...offline.stream_run import resident_mib
from .bag_player import BagPlayer

_NODE = 'r3'
_START_TIMEOUT_S = 60.0
#: For the last frames and their corrections.
_SETTLE_TIMEOUT_S = 20.0
_SAVE_TIMEOUT_S = 90.0
#: Topics whose messages are counted, one a frame, and how many of each are kept.
_OF_EACH_FRAME = ('pose', 'odometry', 'status')
_KEPT_MESSAGES = 200
#: Before a stronger signal.
_STOP_TIMEOUT_S = 10.0
_LOG_TAIL_LINES = 15
#: The images of a depth map: depth, confidence, colour.
_DEPTH_TOPICS = ('depth/image', 'depth/confidence', 'color/image')
_DEPTHS_WAITING = 4


@dataclass
class LiveResult:
    """Results of a live run. Keys are stamps in nanoseconds.

    :ivar sent_s: ``time.monotonic()`` when each image was sent; ``arrival_s``: when its pose came.
    :ivar resident_mib: memory of the node when each image was sent.
    :ivar map_covariance: (6, 6) of ``T_map_base`` in the axes of map; ``twist_covariance``: (6, 6)
        of the velocity in the base frame.
    :ivar depth_samples: a few of the published depth images, for the report.
    :ivar statuses: of each frame; ``last_status`` is of any time.
    :ivar tf_parents: child frame -> its parents.
    :ivar counts: number of messages by topic; ``messages``: the last one of large topics.
    :ivar saved_map: response of ``~/save_map``, or None; ``saved_trajectory`` likewise.
    """

    sent_s: dict[int, float] = field(default_factory=dict)
    arrival_s: dict[int, float] = field(default_factory=dict)
    resident_mib: dict[int, float] = field(default_factory=dict)
    T_map_base: dict[int, np.ndarray] = field(default_factory=dict)
    T_odom_base: dict[int, np.ndarray] = field(default_factory=dict)
    map_covariance: dict[int, np.ndarray] = field(default_factory=dict)
    twist_covariance: dict[int, np.ndarray] = field(default_factory=dict)
    depth_samples: DepthSamples = field(default_factory=DepthSamples)
    repeated_poses: int = 0
    statuses: dict[int, Any] = field(default_factory=dict)
    last_status: Any = None
    tf_parents: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    counts: Counter[str] = field(default_factory=Counter)
    messages: dict[str, Any] = field(default_factory=dict)
    saved_map: Any = None
    saved_trajectory: Any = None
    exit_code: int | None = None
    stop_s: float = 0.0


def run_live(
    bag: Path,
    folder: Path,
    parameters: dict[str, str],
    on_image: Callable[[LiveResult], None],
) -> LiveResult:
    """Start the node, play the bag, save map and trajectory, and stop the node.

    :param folder: for ``node.log``, ``map`` and ``trajectory_final.tum``.
    :param on_image: called after each image with the results so far.
    :raises R3Error: the node does not start, or ends too early.
    """
    import rclpy

    settings = {
        'use_sim_time': 'true',
        # A raw image takes many packets, and with best effort Fast DDS loses some of them on a
        # busy machine.
        f'qos_overrides.{IMAGE_TOPIC}.subscription.reliability': 'reliable',
        # The same, or the node would subscribe anew as the player begins, and miss calibrations
        # until that is discovered: several seconds if one packet is lost.
        f'qos_overrides.{camera_info_topic(IMAGE_TOPIC)}.subscription.reliability': 'reliable',
        # Each image has its CameraInfo, which is late on a busy machine. Without it the node would
        # begin a session with an estimated focal length, and another one when it comes.
        'input.camera_info_timeout': '30.0',
        # Fast DDS asks for a lost packet 3 s later at the latest. Until then it has to be kept.
        **{
            f'qos_overrides./{_NODE}/{topic}.publisher.depth': str(_KEPT_MESSAGES)
            for topic in _OF_EACH_FRAME
        },
        **parameters,
    }
    options = [part for item in settings.items() for part in ('-p', ':='.join(item))]
    options += ['-r', f'image:={IMAGE_TOPIC}']
    result = LiveResult()

    def on_message(topic: str, recorded_ns: int) -> None:
        # Recorded at its own stamp, see bag_writer.
        if topic == IMAGE_TOPIC:
            result.sent_s[recorded_ns] = time.monotonic()
            result.resident_mib[recorded_ns] = resident_mib(process.pid)
            on_image(result)
            process.check()

    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        with (
            closing(_Listener(context, result)) as listener,
            closing(NodeProcess(folder / 'node.log', options)) as process,
        ):
            with closing(BagPlayer(bag, listener.node)) as player:
                _wait_for_node(process, player, result)
                player.play(on_message)
            _wait_until_processed(process, result)
            _save(listener, result, folder)
            process.check()
            result.stop_s = process.close()
            result.exit_code = process.exit_code
    finally:
        rclpy.shutdown(context=context)
    return result


def _wait_for_node(process: NodeProcess, player: BagPlayer, result: LiveResult) -> None:
    """Wait until the node has subscribed to images and calibration, and its diagnostics arrive.

    Before, the node may not have found the subscribers here, and what it publishes of the first
    frames would be lost.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (missing := player.without_subscriber()) or not result.counts['diagnostics']:
        process.check()
        if time.monotonic() > deadline:
            lacks = (
                f'subscribed to {" and ".join(missing)}' if missing else 'published diagnostics'
            )
            raise R3Error(
                f'the node has not {lacks} after {_START_TIMEOUT_S:g} s. {process.log_tail()}'
            )
        time.sleep(0.02)


def _wait_until_processed(process: NodeProcess, result: LiveResult) -> None:
    """Wait until the status of frames has not changed for a while."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    last, unchanged_since = -1, time.monotonic()
    while time.monotonic() < min(deadline, unchanged_since + 1.5):
        process.check()
        if len(result.statuses) != last:
            last, unchanged_since = len(result.statuses), time.monotonic()
        time.sleep(0.05)


def _save(listener: _Listener, result: LiveResult, folder: Path) -> None:
    from r3_ros.srv import SaveMap, SaveTrajectory

    name, file = str(folder / 'map'), str(folder / 'trajectory_final.tum')
    result.saved_map = listener.call(SaveMap, 'save_map', name=name, formats=['ply'])
    result.saved_trajectory = listener.call(
        SaveTrajectory, 'save_trajectory', name=file, format='tum', frame='optical'
    )


class _Listener:
    """Subscribes to all topics of the node, and collects into the results in its own thread."""

    def __init__(self, context: Any, result: LiveResult) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import PoseWithCovarianceStamped
        from nav_msgs.msg import Odometry, Path
        from r3_ros.msg import StreamStatus
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import CameraInfo, Image, PointCloud2
        from tf2_msgs.msg import TFMessage

        self._result = result
        self.node = Node('r3_demo', context=context)
        for kind, name, take in (
            (PoseWithCovarianceStamped, f'{_NODE}/pose', self._on_pose),
            (Odometry, f'{_NODE}/odometry', self._on_odometry),
            (StreamStatus, f'{_NODE}/status', self._on_status),
            (TFMessage, '/tf', self._on_tf),
            (DiagnosticArray, '/diagnostics', self._on_diagnostics),
        ):
            self.node.create_subscription(kind, name, take, 200)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        # As bytes: decoding every cloud would slow the node down.
        self._last_bytes: dict[str, tuple[type, bytes]] = {}
        self._depths: dict[int, dict[str, np.ndarray]] = {}
        for kind, topic, qos in (
            (PointCloud2, 'points', 2),
            (PointCloud2, 'map_points', latched),
            (PointCloud2, 'keyframe_points', 2),
            (CameraInfo, 'depth/camera_info', 2),
            (Path, 'path', latched),
        ):
            self.node.create_subscription(
                kind, f'{_NODE}/{topic}', self._counter(topic, kind), qos, raw=True
            )
        for topic in _DEPTH_TOPICS:
            self.node.create_subscription(
                Image, f'{_NODE}/{topic}', partial(self._on_depth, topic), _DEPTHS_WAITING
            )
        self._executor = executor = SingleThreadedExecutor(context=context)
        executor.add_node(self.node)
        self._thread = RepeatingThread(
            'listener', lambda: executor.spin_once(timeout_sec=0.1), traceback.print_exception
        )
        self._thread.start()

    def _counter(self, topic: str, kind: type) -> Callable[[bytes], None]:
        def count(data: bytes) -> None:
            self._result.counts[topic] += 1
            self._last_bytes[topic] = kind, data

        return count

    def _on_pose(self, message: Any) -> None:
        result, stamp_ns = self._result, stamp_of(message)
        result.repeated_poses += stamp_ns in result.T_map_base
        result.arrival_s[stamp_ns] = time.monotonic()
        result.T_map_base[stamp_ns] = _matrix(message.pose.pose)
        result.map_covariance[stamp_ns] = np.reshape(message.pose.covariance, (6, 6))

    def _on_odometry(self, message: Any) -> None:
        result, stamp_ns = self._result, stamp_of(message)
        result.T_odom_base[stamp_ns] = _matrix(message.pose.pose)
        result.twist_covariance[stamp_ns] = np.reshape(message.twist.covariance, (6, 6))

    def _on_depth(self, topic: str, message: Any) -> None:
        """Collect the images of one depth map, which come in any order."""
        result, stamp_ns = self._result, stamp_of(message)
        result.counts[topic] += 1
        result.messages[topic] = message
        is_color = message.encoding == 'rgb8'
        shape = (message.height, message.width, *([3] if is_color else []))
        pixels = np.frombuffer(message.data, np.uint8 if is_color else '<f4').reshape(shape)
        parts = self._depths.setdefault(stamp_ns, {})
        parts[topic] = pixels
        status = result.statuses.get(stamp_ns)
        if len(parts) == len(_DEPTH_TOPICS) and status is not None:
            depth, confidence, image = (parts[name] for name in _DEPTH_TOPICS)
            sample = DepthSample(int(status.frame_index), depth, confidence, image)
            result.depth_samples.note([sample])
        while len(self._depths) > _DEPTHS_WAITING:
            del self._depths[min(self._depths)]

    def _on_status(self, message: Any) -> None:
        self._result.last_status = message
        # Status messages between frames repeat the last stamp or have none.
        if message.state >= message.STATE_INITIALIZING:
            self._result.statuses.setdefault(stamp_of(message), message)

    def _on_tf(self, message: Any) -> None:
        for transform in message.transforms:
            self._result.tf_parents[transform.child_frame_id].add(transform.header.frame_id)

    def _on_diagnostics(self, message: Any) -> None:
        self._result.counts['diagnostics'] += 1

    def call(self, kind: Any, service: str, **request: Any) -> Any:
        """Call a service of the node and return its response; None if there is none in time."""
        client = self.node.create_client(kind, f'{_NODE}/{service}')
        if not client.wait_for_service(timeout_sec=5.0):
            return None
        return client.call(kind.Request(**request), timeout_sec=_SAVE_TIMEOUT_S)

    def close(self) -> None:
        """Stop collecting, and decode the last large messages."""
        from rclpy.serialization import deserialize_message

        self._thread.stop(_STOP_TIMEOUT_S)
        self._executor.shutdown()
        self.node.destroy_node()
        for topic, (kind, data) in self._last_bytes.items():
            self._result.messages[topic] = deserialize_message(data, kind)


def _matrix(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    values = np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w])
    if not np.isfinite(values).all() or not values[3:].any():
        return np.full((4, 4), np.nan)
    return T_from_quat(values[:3], values[3:])


class NodeProcess:
    """Runs ``r3_stream`` with its installed parameter file.

    :param log: file for its output.
    :param options: more arguments of ROS, which override the parameter file.
    :raises R3Error: the package is not installed.
    """

    def __init__(self, log: Path, options: Sequence[str]) -> None:
        executable, parameter_file = map(str, installed_node())
        command = [sys.executable, executable, '--ros-args', '--params-file', parameter_file]
        self._log = log
        with open(log, 'wb') as stream:
            # In its own process group, so Ctrl-C does not reach it and we stop it in order.
            self._process = subprocess.Popen(
                [*command, *options],
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def check(self) -> None:
        """Check that it still runs.

        :raises R3Error: it has ended.
        """
        if self.exit_code is not None:
            raise R3Error(f'the node has ended with status {self.exit_code}. {self.log_tail()}')

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        lines = self._log.read_text(encoding='utf-8', errors='replace').splitlines()
        return '\n'.join(['The end of its log:', *lines[-_LOG_TAIL_LINES:]])

    def close(self) -> float:
        """Stop it by SIGINT, or stronger signals after a timeout; return the seconds it took."""
        began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.exit_code is not None:
                break
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        return time.monotonic() - began


def installed_node() -> tuple[Path, Path]:
    """Return the node's executable and its parameter file.

    :raises R3Error: the package was not built, or its environment not sourced.
    """
    hint = 'run `make setup`, then `. .venv/bin/activate && . install/setup.sh`'
    try:
        from ament_index_python.packages import get_package_prefix

        prefix = Path(get_package_prefix('r3_ros'))
    except (ImportError, LookupError) as error:
        raise R3Error(f'needs ROS 2 and the built package: {error}; {hint}') from error
    executable = prefix / 'lib' / 'r3_ros' / 'r3_stream'
    parameter_file = prefix / 'share' / 'r3_ros' / 'config' / 'r3_stream.yaml'
    for path in (executable, parameter_file):
        if not path.is_file():
            raise R3Error(f'{path} is missing: the package is not built completely; {hint}')
    return executable, parameter_file
