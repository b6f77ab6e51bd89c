"""Plays a bag to the node in real time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
import time
from typing import Any

from ...core.errors import R3Error
from ...input.bag_writer import SequenceTopics
from .bag_player import BagPlayer, PlayResult
from .listener import LARGE_TOPICS, Listener, ReceivedMessages
from .node_process import NodeProcess

_NODE = 'r3'
_START_TIMEOUT_S = 60.0
#: For the last frames and their corrections.
_SETTLE_TIMEOUT_S = 20.0
_SAVE_TIMEOUT_S = 90.0


@dataclass
class LiveResult:
    """Results of a live run.

    :ivar sent_s: stamp of each image -> ``time.monotonic()`` when it was sent.
    :ivar messages: the last message of each large topic.
    :ivar saved_map: response of ``~/save_map``, or None; ``saved_trajectory`` likewise.
    """

    received: ReceivedMessages
    sent_s: dict[int, float] = field(default_factory=dict)
    played: PlayResult = field(default_factory=PlayResult)
    messages: dict[str, Any] = field(default_factory=dict)
    saved_map: Any = None
    saved_trajectory: Any = None
    exit_code: int | None = None
    stop_s: float = 0.0


#: Called after each image with the number of sent images and the messages received so far.
OnImage = Callable[[int, ReceivedMessages], None]


def run_live(
    bag: Path,
    topics: SequenceTopics,
    folder: Path,
    parameters: dict[str, str],
    on_image: OnImage,
) -> LiveResult:
    """Start the node, play the bag, save map and trajectory, and stop the node.

    :param folder: for ``node.log``, ``map`` and ``trajectory_final.tum``.
    :raises R3Error: the node does not start, or ends too early.
    """
    import rclpy

    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    settings = {
        'use_sim_time': 'true',
        'input.transport': 'compressed' if topics.compressed else 'raw',
        # A raw image takes many packets, and with best effort Fast DDS loses some of them on a
        # busy machine.
        f'qos_overrides.{topics.sent_image}.subscription.reliability': 'reliable',
        **parameters,
    }
    listener = Listener(context, _NODE)
    result = LiveResult(listener.received)
    try:
        with NodeProcess(folder / 'node.log', settings, {'image': topics.image}) as process:
            player = BagPlayer(bag, listener.node, clock=True)
            try:
                _wait_for_node(process, player, topics)
                _play(player, topics, result, process, on_image)
                _wait_until_processed(process, listener.received)
            finally:
                player.close()
            _save(listener, result, folder)
            process.check()
            result.stop_s = process.stop()
            result.exit_code = process.exit_code
        result.messages = {t: listener.message(t, kind) for t, kind in LARGE_TOPICS.items()}
    finally:
        listener.close()
        rclpy.shutdown(context=context)
    return result


def _wait_for_node(process: NodeProcess, player: BagPlayer, topics: SequenceTopics) -> None:
    """Wait until the node has subscribed to images and calibration."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    for topic in (topics.sent_image, topics.camera_info):
        while not player.wait_for_subscribers(topic, 0.25):
            process.check()
            if time.monotonic() > deadline:
                raise R3Error(
                    f'the node has not subscribed to {topic} after {_START_TIMEOUT_S:g} s. The '
                    f'end of its log:\n{process.log_tail()}'
                )


def _play(
    player: BagPlayer,
    topics: SequenceTopics,
    result: LiveResult,
    process: NodeProcess,
    on_image: OnImage,
) -> None:
    def on_message(topic: str, recorded_ns: int) -> None:
        # Recorded at its own stamp, see bag_writer.
        if topic == topics.sent_image:
            result.sent_s[recorded_ns] = time.monotonic()
            on_image(len(result.sent_s), result.received)
            process.check()

    result.played = player.play(on_message=on_message)


def _wait_until_processed(process: NodeProcess, received: ReceivedMessages) -> None:
    """Wait until the node has processed every received frame."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    last, unchanged_since = None, time.monotonic()
    while time.monotonic() < deadline:
        process.check()
        status = received.last_status
        now = (len(received.statuses), status and status.frames_processed)
        if now != last:
            last, unchanged_since = now, time.monotonic()
        if time.monotonic() - unchanged_since > 1.5:
            return
        time.sleep(0.05)


def _save(listener: Listener, result: LiveResult, folder: Path) -> None:
    from r3_ros.srv import SaveMap, SaveTrajectory

    result.saved_map = listener.call(
        SaveMap,
        f'{_NODE}/save_map',
        SaveMap.Request(name=str(folder / 'map'), formats=['ply']),
        _SAVE_TIMEOUT_S,
    )
    result.saved_trajectory = listener.call(
        SaveTrajectory,
        f'{_NODE}/save_trajectory',
        SaveTrajectory.Request(
            name=str(folder / 'trajectory_final.tum'), format='tum', frame='optical'
        ),
        _SAVE_TIMEOUT_S,
    )
