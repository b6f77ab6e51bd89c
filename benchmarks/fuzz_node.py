"""Thousands of malformed inputs for the running node: nothing may fall, hang, leak or lie.

python benchmarks/fuzz_node.py [--inputs 10000] [--seed 1]

The real node with a scripted predictor, over DDS: the truth is known exactly, so every pose that
comes out can be checked. Between malformed images, calibrations, requests and parameters a valid
image is sent now and then, and must get its pose. Run it in the environment of the tests
(scripts/in_environment).
"""

from __future__ import annotations

import argparse
from collections import Counter
import gc
import math
from pathlib import Path
import shutil
import sys
import tempfile
import time
from typing import Any

import cv2
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support'), str(ROOT / 'benchmarks')]

from geometry_msgs.msg import PoseWithCovarianceStamped  # noqa: E402
from malformed import Malformed  # noqa: E402
from malformed_maps import MalformedMaps  # noqa: E402
from r3_ros.core.config import R3Config  # noqa: E402
from r3_ros.core.geometry import inverse  # noqa: E402
from r3_ros.core.parameter_fields import parameters  # noqa: E402
from r3_ros.msg import StreamStatus  # noqa: E402
from r3_ros.ros.outputs.messages import header_message, stamp_ns_of  # noqa: E402
from r3_ros.srv import LoadMap, SaveMap  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_graph import Graph, image_message, matrix  # noqa: E402
from scripted import pattern_image, PERIOD_NS, Script  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from tqdm import tqdm  # noqa: E402

#: A valid image after so many malformed inputs.
VALID_EVERY = 10
#: An input that is not dealt with by then is a hang.
TIMEOUT_S = 20.0
POSE_TOLERANCE = 1e-6
SECRET = 'nobody may write here'
#: Growth of memory allowed per 1000 inputs once a fifth of them has been.
LIMIT_MB = 2.0
SHARES = {
    'image': 0.4,
    'initial pose': 0.05,
    'calibration': 0.15,
    'service': 0.15,
    'parameter': 0.15,
    'map': 0.1,
}


class Judge:
    """Compares what the node claims with the truth of its predictor."""

    def __init__(self, graph: Graph) -> None:
        """Listen to poses and states."""
        self._path = graph.script.path
        self._poses = graph.listen('r3/pose', PoseWithCovarianceStamped)
        self._states = graph.listen('r3/status', StreamStatus)
        self._worlds: dict[int, tuple[Any, float]] = {}
        self._first: dict[Any, np.ndarray] = {}
        self.checked = 0
        self.false: list[str] = []

    def judge(self) -> None:
        """Judge every pose that has come since, against the first one of the same world."""
        for state in self._states:
            # Others tell of a reset or a pause, under the stamp of the image before.
            if math.isfinite(state.time_inference):
                key = (state.session_id, state.map_revision)
                self._worlds[stamp_ns_of(state.header.stamp)] = (key, state.scale)
        self._states.clear()
        waiting = []
        for message in self._poses:
            stamp_ns = stamp_ns_of(message.header.stamp)
            if stamp_ns not in self._worlds:
                waiting.append(message)  # its status is on its way
                continue
            self._judge(stamp_ns, message, *self._worlds[stamp_ns])
        self._poses[:] = waiting
        if len(self._worlds) > 10_000:
            self._worlds.clear()

    def _judge(self, stamp_ns: int, message: Any, world: Any, scale: float) -> None:
        self.checked += 1
        covariance = np.array(message.pose.covariance).reshape(6, 6)
        T_map_camera = matrix(message.pose.pose)
        T_room_camera = self._path(stamp_ns).copy()
        T_room_camera[:3, 3] *= scale
        # The map lies somewhere in the room; where, the first pose of this world says.
        T_map_room = self._first.setdefault(world, T_map_camera @ inverse(T_room_camera))
        error = np.abs(T_map_room @ T_room_camera - T_map_camera).max()
        if not error < POSE_TOLERANCE * max(1.0, scale):
            self.false.append(f'pose at {stamp_ns} of {world} is off by {error:.3g}')
        if not (np.isfinite(covariance).all() and (np.diag(covariance) > 0).all()):
            self.false.append(f'covariance at {stamp_ns} is {np.diag(covariance)}')


class Fuzz:
    """One node, its malformed inputs, and what became of them."""

    def __init__(
        self, graph: Graph, rng: np.random.Generator, folder: Path, compressed: Any
    ) -> None:
        """Take a started node, and save the map that damaged ones are made from.

        :param compressed: publisher of compressed images; None if the node takes raw ones.
        """
        draw = Malformed(rng, graph.stamp_ns)
        self.graph, self.draw = graph, draw
        self._outside = folder
        self._maps = folder / 'maps'
        self._compressed = compressed
        self._initial_poses = graph.probe.create_publisher(
            PoseWithCovarianceStamped, 'initialpose', 1
        )
        self.judge = Judge(graph)
        self.sent: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.unanswered = 0
        self._secret = folder / 'secret'
        self._secret.write_text(SECRET)
        self._damaged = MalformedMaps(self._good_map(), self._secret, rng)
        self._before = self._files_outside()

    def step(self, kind: str) -> None:
        """Send one malformed input and wait until it has been dealt with."""
        self.sent[kind] += 1
        outcome = {
            'image': self._image,
            'initial pose': self._initial_pose,
            'map': self._map,
            'calibration': self._calibration,
            'service': self._service,
            'parameter': self._parameter,
        }[kind]()
        self.outcomes[f'{kind}: {outcome}'] += 1

    def valid(self) -> None:
        """Send a valid image: the node must go on as if nothing had been."""
        self._recover()
        # Later than whatever was taken for an image, so that it is no step back in time.
        stamp_ns = (
            max(self.graph.node.worker.snapshot.health.last_stamp_ns, self.draw.stamp_ns)
            + PERIOD_NS
        )
        if stamp_ns > self.draw.stamp_ns + 10**15:
            # A malformed image was taken at the end of time: start anew, as an operator would.
            self._reset()
            stamp_ns = self.draw.stamp_ns + PERIOD_NS
        self.draw.stamp_ns = stamp_ns
        health = self.graph.health
        before = health.frames_processed
        self._send(stamp_ns)
        if health.frames_processed == before:
            self.unanswered += 1
            self.outcomes[f'valid image refused: {health.last_reject_reason[:60]}'] += 1
        self.judge.judge()

    def escaped(self) -> list[str]:
        """Return files that appeared outside of the map folder."""
        return sorted(self._files_outside() - self._before)

    @property
    def is_robbed(self) -> bool:
        """Return whether a damaged map had code of its own run."""
        return self._secret.read_text() != SECRET

    def _good_map(self) -> Path:
        """Walk once round the room and save the map."""
        for _ in range(200):
            self.valid()
        path = self._outside / 'good'
        request = SaveMap.Request(name=str(path), include_images=True)
        answer = self.graph.call(SaveMap, 'r3/save_map', request)
        assert answer.success, answer.message
        return path

    def _send(self, stamp_ns: int) -> None:
        if self._compressed is None:
            self.graph.send(image_message(stamp_ns))
            return
        data = cv2.imencode('.png', pattern_image(shade=stamp_ns // PERIOD_NS % 251)[..., ::-1])[
            1
        ].tobytes()
        header = header_message(stamp_ns, 'camera_optical')
        self._publish_compressed(CompressedImage(header=header, format='png', data=data))

    def _publish_compressed(self, message: CompressedImage) -> None:
        before = self.graph.handled
        self._compressed.publish(message)
        self.graph.until(lambda: self.graph.handled > before, TIMEOUT_S)

    def _image(self) -> str:
        health = self.graph.health
        before = health.frames_processed
        if self._compressed is not None:
            self._publish_compressed(self.draw.compressed())
        else:
            handled = self.graph.handled
            self.graph.images.publish(self.draw.image())
            self.graph.until(lambda: self.graph.handled > handled, TIMEOUT_S)
        return 'taken for valid' if health.frames_processed > before else 'refused'

    def _initial_pose(self) -> str:
        self._initial_poses.publish(self.draw.initial_pose())
        self.valid()
        return 'received'

    def _map(self) -> str:
        """Load a damaged map while images go on."""
        folder = self._maps / 'damaged'
        wrong = self._damaged.make(folder)
        client = self.graph.probe.create_client(LoadMap, 'r3/load_map')
        self.graph.until(client.service_is_ready)
        localize = bool(self.draw.stamp_ns % 2)
        sent_s = time.monotonic()
        answer = client.call_async(LoadMap.Request(name=folder.name, localize=localize))
        while not answer.done():
            self.valid()
            assert time.monotonic() - sent_s < TIMEOUT_S, f'no answer for a map with {wrong}'
        result = answer.result()
        self.graph.probe.destroy_client(client)
        if not result.success and not result.message:
            self.judge.false.append(f'a map with {wrong} was refused without a reason')
        if result.code == LoadMap.Response.INTERNAL:
            self.judge.false.append(f'a map with {wrong}: {result.message}')
        self._reset()
        shutil.rmtree(folder)
        return LOAD_CODES.get(result.code, f'code {result.code}')

    def _calibration(self) -> str:
        self.graph.infos.publish(self.draw.camera_info(64, 48))
        self.valid()
        return f'calibration {self.graph.health.camera_info}'

    def _service(self) -> str:
        call = self.draw.call(self._maps)
        answer = self.graph.call(call.kind, call.service, call.request)
        if not hasattr(answer, 'success'):
            return 'answered'
        if not answer.success and not answer.message:
            self.judge.false.append(f'{call.service} refused without a reason')
        if getattr(answer, 'code', 0) == SaveMap.Response.INTERNAL:
            # Nobody foresaw it: the request is at fault, and the answer has to say how.
            self.judge.false.append(f'{call.service}: {answer.message}')
        return f'{call.service} {"done" if answer.success else "refused"}'

    def _parameter(self) -> str:
        name, value = self.draw.parameter()
        try:
            parameter = Parameter(name, value=value)
        except (TypeError, ValueError, OverflowError):
            return 'not a ROS value'
        try:
            result = self.graph.node.set_parameters([parameter])[0]
        except Exception as error:  # rclpy's own refusal of undeclared names
            if type(error).__module__.startswith('rclpy'):
                return f'refused by rclpy ({type(error).__name__})'
            raise
        if not result.successful and not result.reason:
            self.judge.false.append(f'{name} refused without a reason')
        return 'set' if result.successful else 'refused'

    def _recover(self) -> None:
        """Undo what keeps images out: parameters, a FAULT."""
        self.graph.set_parameters(**LIVE_DEFAULTS)
        if self.graph.health.state.name == 'FAULT':
            self._reset()

    def _reset(self) -> None:
        self.graph.call(Trigger, 'r3/reset')

    def _files_outside(self) -> set[str]:
        inside = str(self._maps)
        return {str(p) for p in self._outside.rglob('*') if not str(p).startswith(inside)}


LIVE_DEFAULTS = {
    p.name.replace('.', '__'): p.default for p in parameters(R3Config()) if p.meta.live
}
LIVE_DEFAULTS['relocalise__timeout'] = 2.0
LOAD_CODES = {
    getattr(LoadMap.Response, name): name
    for name in dir(LoadMap.Response)
    if name.isupper() and isinstance(getattr(LoadMap.Response, name), int)
}


def run(inputs: int, seed: int, transport: str, folder: Path) -> tuple[Fuzz, list[float]]:
    """Send inputs to one node.

    :returns: what became of them, and the megabytes used every 1 % of the way.
    """
    rng = np.random.default_rng(seed)
    graph = Graph(
        Script(depth_size=(12, 16)),
        map__directory=str(folder / 'maps'),
        input__transport=transport,
        map__max_points=10_000,
        keyframe__max_keyframes=20,
        trajectory__max_poses=1000,
    )
    try:
        compressed = None
        if transport == 'raw':
            graph.start()
        else:
            compressed = graph.probe.create_publisher(CompressedImage, 'image/compressed', 10)
            assert graph.node.autostart()
            graph.until(lambda: compressed.get_subscription_count() == 1)
        fuzz = Fuzz(graph, rng, folder, compressed)
        kinds = rng.choice(list(SHARES), size=inputs, p=list(SHARES.values()))
        process, megabytes = psutil.Process(), []
        every = max(inputs // 100, 1)
        for number, kind in enumerate(tqdm(kinds, unit='input', desc=transport, disable=None)):
            fuzz.step(kind)
            if number % VALID_EVERY == 0:
                fuzz.valid()
                graph.predictor.contexts.clear()
            if number % every == 0:
                gc.collect()
                megabytes.append(process.memory_info().rss / 1e6)
        fuzz.valid()
        return fuzz, megabytes
    finally:
        graph.close()


def report(fuzz: Fuzz, megabytes: list[float], inputs: int, elapsed_s: float) -> bool:
    """Print what happened; return whether all is well."""
    settled = np.array(megabytes[len(megabytes) // 5 :])
    numbers = np.linspace(0.2 * inputs, inputs, len(settled))
    slope = 1000 * np.polyfit(numbers, settled, 1)[0]
    for outcome, count in sorted(fuzz.outcomes.items()):
        print(f'  {count:6d}  {outcome}')
    escaped = fuzz.escaped()
    print(f'  {sum(fuzz.sent.values())} inputs in {elapsed_s:.0f} s; {fuzz.judge.checked} poses, '
          f'{len(fuzz.judge.false)} false; memory {slope:+.2f} MB per 1000 inputs; '
          f'{len(escaped)} files outside of the map folder')  # fmt: skip
    for line in [*fuzz.judge.false[:10], *escaped[:10]]:
        print(f'  ! {line}')
    if fuzz.is_robbed:
        print('  ! a map had code of its own run')
    well = not (fuzz.judge.false or escaped or fuzz.unanswered or fuzz.is_robbed)
    return bool(well and slope < LIMIT_MB)


def main() -> int:
    """Fuzz both transports, print, and fail if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--inputs', type=int, default=10_000)
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()
    good = True
    for transport, share in (('raw', 0.8), ('compressed', 0.2)):
        inputs = round(options.inputs * share)
        with tempfile.TemporaryDirectory() as folder:
            started_s = time.monotonic()
            fuzz, megabytes = run(inputs, options.seed, transport, Path(folder))
            print(f'{transport}:')
            good &= report(fuzz, megabytes, inputs, time.monotonic() - started_s)
    print('all well' if good else 'SOMETHING IS WRONG')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
