"""Hours of a looping recording in minutes, with random faults: nothing grows, all are reported.

python benchmarks/soak.py [--hours 2] [--seed 1] [--faults pause overload --fault-every 15]

The real node with a scripted predictor, over DDS, faster than real time. A recording of ten
minutes is played in a loop, so time jumps back at each turn. At random moments something goes
wrong; diagnostics must report each fault before the next image is sent. Every minute of the
stream the map is saved, and what was saved is read again. Run it in the environment of the
tests (scripts/in_environment).

How much memory a session, a saved map or the closing of a loop takes has its bounds, and the
allocator keeps what was taken once. The largest of them may come late, which looks like growth. So
each comes once in a warm-up, and whatever grows after it counts: the resident memory, what is in
use of the C heap (a leak too small for the former, which fills gaps first), and what Python has
allocated. Below half an hour the slopes are mostly noise.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
import ctypes
import gc
from pathlib import Path
import shutil
import sys
import tempfile
import time

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from r3_ros.core.errors import DeviceMemoryError, FrameError  # noqa: E402
from r3_ros.maps.reading import read_map  # noqa: E402
from r3_ros.srv import LoadMap, SaveMap  # noqa: E402
from ros_graph import Graph, image_message  # noqa: E402
from scripted import circle, pattern_image, PERIOD_NS, Script, START_NS  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from tqdm import tqdm  # noqa: E402

RECORDING_FRAMES = 6000
SAVE_EVERY = 600
LOAD_EVERY = 6000
#: Growth allowed per hour of the stream.
LIMITS = {'MB resident': 4.0, 'MB of the C heap in use': 1.0, 'blocks of Python': 5000.0}
#: Turns a way of three units so far that a loop has to be closed; radians per unit.
LOOP_DRIFT = 0.02


class HeapState(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and newer: all arenas together, bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks',
            'fordblks', 'keepcost',
        )
    ]  # fmt: skip


def memory_used() -> tuple[float, float, float]:
    """Return what is used now, in the units of :data:`LIMITS`.

    Python's small objects are in memory of its own, not on the C heap.
    """
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = HeapState
    heap = mallinfo2()
    resident = psutil.Process().memory_info().rss
    in_use = heap.uordblks + heap.hblkhd
    return resident / 1e6, in_use / 1e6, float(sys.getallocatedblocks())


Tasks = dict[str, tuple[bytes, str, dict[str, str]]]


class Soak:
    """A node, its looping recording, and the faults that befall it."""

    def __init__(self, graph: Graph, rng: np.random.Generator, fault_every: int) -> None:
        """Take a started node."""
        self.graph, self._rng, self._fault_every = graph, rng, fault_every
        self._diagnostics = graph.listen('/diagnostics', DiagnosticArray)
        self._at = 0
        self.faults: Counter[str] = Counter()
        self.unreported: Counter[str] = Counter()
        self.saved = self.loaded = 0
        self.kinds: dict[str, Callable[[], Callable[[Tasks], bool]]] = {
            'covered lens': self._covered,
            'poor view': self._poor,
            'pose that is not finite': self._nan_pose,
            'image that cannot be used': self._frame_error,
            'cut-off image': self._cut_off,
            'unknown encoding': self._encoding,
            'repeated stamp': self._repeated,
            'step back in time': self._late,
            'gap in time': self._gap,
            'other size': self._other_size,
            'overload': self._overload,
            'device out of memory': self._out_of_memory,
            'unforeseen error': self._error,
            'unwritable target': self._unwritable,
            'pause': self._pause,
        }

    def warm_up(self) -> None:
        """Have each fault, a loop closed, and the longest session, saved and loaded, once."""
        for name in self.kinds:
            self._inject(name)
        self._begin_anew()
        self.graph.script.turn_drift = LOOP_DRIFT
        while not self.graph.node.worker.snapshot.stream.loops_closed:
            self._next()
            assert self._at < 1000, 'no loop was closed'
        self.graph.script.turn_drift = 0.0
        self._begin_anew()
        # Until the trajectory has lost its oldest poses, but not to the end of the recording.
        while self._at < 0.9 * RECORDING_FRAMES:
            self._next()
        for _ in range(3):
            self._save(LOAD_EVERY - 1)

    def run(self, frames: int) -> np.ndarray:
        """Play; return the (N, 3) memory used every hundredth of the way."""
        used = [memory_used()]
        next_fault = self._fault_every
        for number in tqdm(range(frames), unit='frame', disable=None):
            self._next()
            if number == next_fault:
                next_fault += int(self._rng.integers(1, 2 * self._fault_every))
                self._inject(str(self._rng.choice(list(self.kinds))))
            if number % SAVE_EVERY == SAVE_EVERY - 1:
                self._save(number)
            if (number + 1) % max(frames // 100, 1) == 0:
                used.append(memory_used())
        return np.array(used)

    # The recording.

    def _next(self, skip: int = 0) -> int:
        """Send the next image of the recording, which begins anew at its end."""
        # What only tests keep is not the node's.
        self.graph.predictor.contexts.clear()
        self._diagnostics.clear()
        self._at = (self._at + 1 + skip) % RECORDING_FRAMES
        return self.graph.send(image_message(self._stamp_ns))

    def _begin_anew(self) -> None:
        """Go to the end of the recording, and over it: a new session."""
        self._at = RECORDING_FRAMES - 1
        self._next()

    @property
    def _stamp_ns(self) -> int:
        return START_NS + self._at * PERIOD_NS

    @property
    def _coming(self) -> int:
        """Return the predictor's index of the next image."""
        return self.graph.predictor._index + 1

    # Saving and loading.

    def _save(self, number: int) -> None:
        name = f'map_{number}'
        request = SaveMap.Request(name=name, overwrite=True, include_images=True)
        answer = self.graph.call(SaveMap, 'r3/save_map', request)
        if answer.code == SaveMap.Response.EMPTY_MAP:
            return  # the recording has just begun anew
        assert answer.success, answer.message
        saved = read_map(Path(answer.path))
        assert len(saved.points) == answer.points
        self.saved += 1
        if number % LOAD_EVERY == LOAD_EVERY - 1:
            self._load(name)
        shutil.rmtree(answer.path)

    def _load(self, name: str) -> None:
        """Go on in a saved map, where the camera is found again."""
        client = self.graph.probe.create_client(LoadMap, 'r3/load_map')
        self.graph.until(client.service_is_ready)
        answer = client.call_async(LoadMap.Request(name=name, localize=True))
        for _ in range(100):
            if answer.done():
                break
            self._next()
        self.graph.until(answer.done)
        assert answer.result().success, answer.result().message
        self.graph.probe.destroy_client(client)
        self.loaded += 1

    # Faults.

    def _inject(self, name: str) -> None:
        """Let something go wrong, and check that diagnostics report it."""
        self.faults[name] += 1
        is_reported = self.kinds[name]()
        self._diagnostics.clear()
        try:
            self.graph.until(lambda: any(is_reported(_tasks(m)) for m in self._diagnostics))
        except AssertionError:
            self.unreported[name] += 1
            print(f'not reported: {name}; last diagnostics {_tasks(self._diagnostics[-1])}')
        self._recover(name)

    def _recover(self, name: str) -> None:
        """Do what an operator would do, and go on until the camera is followed again."""
        if name == 'pause':
            self.graph.call(SetBool, 'r3/pause', SetBool.Request(data=False))
        if name == 'unwritable target':
            self._save_somewhere(f'after_{self.faults[name]}')
        if self.graph.health.state.name == 'FAULT':
            self.graph.call(Trigger, 'r3/reset')
        for _ in range(100):
            self._next()
            if self.graph.health.state.name == 'TRACKING':
                return
        raise AssertionError(f'{name}: not followed again after 100 images')

    def _script(self, field: str, count: int) -> None:
        """Have the predictor do something at the next ``count`` images, and send them."""
        getattr(self.graph.script, field).update(range(self._coming, self._coming + count))
        for _ in range(count):
            self._next()
        getattr(self.graph.script, field).clear()

    def _fail(self, error: Exception) -> None:
        self.graph.script.failures[self._coming] = error
        self._next()
        self.graph.script.failures.clear()

    def _covered(self) -> Callable[[Tasks], bool]:
        self._script('blackouts', 5)
        return _level('tracking', DiagnosticStatus.ERROR, 'LOST')

    def _poor(self) -> Callable[[Tasks], bool]:
        self._script('droughts', 2)
        return _level('tracking', DiagnosticStatus.WARN, 'LOW_CONFIDENCE')

    def _nan_pose(self) -> Callable[[Tasks], bool]:
        self._script('nan_pose_at', 2)
        return _level('tracking', DiagnosticStatus.WARN, 'LOW_CONFIDENCE')

    def _frame_error(self) -> Callable[[Tasks], bool]:
        self._fail(FrameError('the image is black'))
        return _value('input', 'last_reject_reason', 'the image is black')

    def _cut_off(self) -> Callable[[Tasks], bool]:
        message = image_message(self._stamp_ns + 1)
        message.data = message.data[:100]
        self.graph.send(message)
        return _value('input', 'last_reject_reason', '100 bytes')

    def _encoding(self) -> Callable[[Tasks], bool]:
        message = image_message(self._stamp_ns + 2)
        message.encoding = 'thermal'
        self.graph.send(message)
        return _value('input', 'last_reject_reason', 'thermal')

    def _repeated(self) -> Callable[[Tasks], bool]:
        self.graph.send(image_message(self._stamp_ns))
        return _value('input', 'last_reject_reason', 'duplicate')

    def _late(self) -> Callable[[Tasks], bool]:
        self.graph.send(image_message(self._stamp_ns - PERIOD_NS // 2))
        return _value('input', 'last_reject_reason', 'out of order')

    def _gap(self) -> Callable[[Tasks], bool]:
        before = self.graph.health.recoveries
        self._next(skip=200)
        # Or the recording began anew meanwhile.
        return lambda tasks: (
            int(tasks['tracking'][2]['recoveries']) > before
            or tasks['tracking'][1].startswith('INITIALIZING')
        )

    def _other_size(self) -> Callable[[Tasks], bool]:
        before = self.graph.node.worker.snapshot.stream.session_id
        self._at += 1
        self.graph.send(image_message(self._stamp_ns, pattern_image(80, 60)))
        return lambda tasks: int(tasks['tracking'][2]['session_id']) > before

    def _overload(self) -> Callable[[Tasks], bool]:
        stream = self.graph.node.worker
        self.graph.script.latency_s = 0.05
        missed = stream.mailbox.dropped + self.graph.node_health.frames_lost
        for _ in range(8):
            self._at += 1
            self.graph.images.publish(image_message(self._stamp_ns))
            self.graph.executor.spin_once(timeout_sec=0.005)
        self.graph.until(lambda: stream.snapshot.health.last_stamp_ns == self._stamp_ns)
        self.graph.script.latency_s = 0.0
        return lambda tasks: (
            missed
            < sum(
                int(tasks['input'][2][key]) for key in ('frames_dropped', 'frames_lost_on_the_way')
            )
        )

    def _out_of_memory(self) -> Callable[[Tasks], bool]:
        before = self.graph.health.oom_count
        self._fail(DeviceMemoryError('CUDA out of memory'))
        return lambda tasks: int(tasks['gpu'][2]['oom_count']) > before

    def _error(self) -> Callable[[Tasks], bool]:
        self.graph.script.failures[self._coming] = ZeroDivisionError('nobody foresaw this')
        self.graph.images.publish(image_message(self._stamp_ns + 3))
        # Images are not received any more, so this one is not counted as dealt with.
        self.graph.until(lambda: self.graph.health.state.name == 'FAULT')
        self.graph.script.failures.clear()
        return _level('tracking', DiagnosticStatus.ERROR, 'nobody foresaw this')

    def _unwritable(self) -> Callable[[Tasks], bool]:
        self._save_somewhere('/proc/nothing/map')
        return _level('map', DiagnosticStatus.ERROR, 'the last save failed')

    def _pause(self) -> Callable[[Tasks], bool]:
        self.graph.call(SetBool, 'r3/pause', SetBool.Request(data=True))
        self._next()
        return _value('tracking', 'state', 'PAUSED')

    def _save_somewhere(self, name: str) -> None:
        self.graph.call(SaveMap, 'r3/save_map', SaveMap.Request(name=name, overwrite=True))


def _tasks(message: DiagnosticArray) -> Tasks:
    """Return level, line and values of each task."""
    return {
        status.name.removeprefix('r3: '): (
            status.level,
            status.message,
            {pair.key: pair.value for pair in status.values},
        )
        for status in message.status
    }


def _level(task: str, level: bytes, text: str) -> Callable[[Tasks], bool]:
    return lambda tasks: tasks[task][0] == level and text in tasks[task][1]


def _value(task: str, key: str, text: str) -> Callable[[Tasks], bool]:
    return lambda tasks: text in tasks[task][2][key]


def soak_node(hours: float, seed: int, kinds: Sequence[str], fault_every: int) -> bool:
    """Soak, print the results, and return whether all is well."""
    frames = round(hours * 3600e9 / PERIOD_NS)
    script = Script(
        path=circle(period_s=60.0),
        translation_noise=0.001,
        depth_size=(12, 16),
        blackouts=set(),
        droughts=set(),
        nan_pose_at=set(),
        failures={},
    )
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(
            script,
            map__directory=folder,
            map__max_points=20_000,
            map__publish_period=0.2,
            keyframe__max_keyframes=50,
            trajectory__max_poses=5000,
            diagnostics__period=0.1,
        )
        try:
            graph.start()
            soak = Soak(graph, np.random.default_rng(seed), fault_every)
            unknown = set(kinds) - set(soak.kinds)
            assert not unknown, f'no faults: {unknown}; there are {list(soak.kinds)}'
            soak.kinds = {name: soak.kinds[name] for name in kinds or soak.kinds}
            at_first, _, _ = memory_used()
            soak.warm_up()
            started_s = time.monotonic()
            used = soak.run(frames)
            elapsed_s = time.monotonic() - started_s
        finally:
            graph.close()
    for name, count in sorted(soak.faults.items()):
        print(f'  {count:4d}  {name}: {count - soak.unreported[name]} reported')
    print(f'{hours:g} h of stream, {frames} images in {elapsed_s / 60:.0f} min; '
          f'{sum(soak.faults.values())} faults, {sum(soak.unreported.values())} not reported; '
          f'{soak.saved} maps saved and read again, {soak.loaded} loaded and found; '
          f'{at_first:.0f} MB resident before the warm-up')  # fmt: skip
    slopes = np.polyfit(np.linspace(0.0, hours, len(used)), used, 1)[0]
    for (unit, limit), slope, column in zip(LIMITS.items(), slopes, used.T, strict=True):
        eighths = column[np.linspace(0, len(column) - 1, 9).round().astype(int)]
        shares = ' '.join(f'{value:.1f}' for value in eighths)
        print(f'{unit}, in eighths: {shares}; {slope:+.2f} per hour (limit {limit:g})')
    flat = bool(np.all(slopes < list(LIMITS.values())))
    return flat and not soak.unreported and soak.saved > 0


def main() -> int:
    """Soak, and fail if anything grew or was not reported."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--hours', type=float, default=2.0, help='of the stream')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--faults', nargs='+', default=(), help='only these kinds')
    parser.add_argument(
        '--fault-every', type=int, default=150, help='frames between two faults, on average'
    )
    options = parser.parse_args()
    good = soak_node(options.hours, options.seed, options.faults, options.fault_every)
    print('all well' if good else 'SOMETHING IS WRONG')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
