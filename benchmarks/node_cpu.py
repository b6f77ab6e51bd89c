"""CPU time of the node's threads while a camera of 640x480 sends 30 images per second.

python benchmarks/node_cpu.py [--seconds 20] [--encoding mono8]

The camera is another process, so the images come over DDS. The scripted predictor of the tests
stands in for a model; the worker's time is therefore what surrounds one. Fails if the threads that
run callbacks (inputs and executor) take more than 5 % of a core together, or all threads but the
worker more than 10 %. Run it in the environment of the tests (scripts/in_environment).
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
import sys
import threading

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'test' / 'support')]

from r3_ros.core.threads import thread_name  # noqa: E402
from r3_ros.ros.node import R3StreamNode  # noqa: E402
from r3_ros.ros.outputs.messages import camera_info_message  # noqa: E402
from r3_ros.ros.process import _Runner  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
import rclpy  # noqa: E402
from rclpy.executors import ExternalShutdownException  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_domain import Domain  # noqa: E402
from ros_graph import CAMERA, image_message  # noqa: E402
from scripted import intrinsics, pattern_image, Script, ScriptedPredictor  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

RATE_HZ = 30.0
SIZE = 640, 480
#: 31 MiB: the largest block that raises glibc's limits.
_BLOCK = 31 << 20
LIMIT_CALLBACKS, LIMIT_WITHOUT_WORKER = 0.05, 0.10
WORKER, CALLBACKS = thread_name('worker'), (thread_name('inputs'), thread_name('executor'))


def send_images(domain: int, encoding: str) -> None:
    """Send images and calibrations until the process is ended."""
    rclpy.init(domain_id=domain)
    node = rclpy.create_node('camera')
    images = node.create_publisher(Image, 'image', 10)
    infos = node.create_publisher(CameraInfo, 'camera_info', 10)
    looks = [pattern_image(*SIZE, shade=shade) for shade in range(8)]
    if encoding == 'mono8':
        looks = [np.ascontiguousarray(pixels[..., 2]) for pixels in looks]
    messages = [image_message(0, pixels, encoding) for pixels in looks]
    info = camera_info_message(0, CAMERA, intrinsics(*SIZE))
    count = 0

    def send() -> None:
        nonlocal count
        message = messages[count % len(messages)]
        message.header.stamp = info.header.stamp = node.get_clock().now().to_msg()
        images.publish(message)
        infos.publish(info)
        count += 1

    node.create_timer(1 / RATE_HZ, send)
    # A signal ends it.
    with suppress(ExternalShutdownException):
        rclpy.spin(node)


def cpu_by_thread() -> Counter[str]:
    """Return the CPU seconds so far by thread; those that Python did not start are one."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: Counter[str] = Counter()
    for thread in psutil.Process().threads():
        used[names.get(thread.id, 'middleware')] += thread.user_time + thread.system_time
    return used


def measure(encoding: str, seconds: float) -> bool:
    """Run the node, print what its threads take, and return whether the limits hold."""
    domain = Domain()
    rclpy.init(domain_id=domain.number)
    node = R3StreamNode(
        engine_loader=lambda config: Engine(ScriptedPredictor(Script()), config),
        parameter_overrides=[Parameter('tf_lookup_timeout', value=0.0)],
    )
    # As loading a model does: glibc returns freed memory of the size of an image to the system,
    # until a larger block was freed. Else most of the time would be page faults.
    np.ones(_BLOCK, dtype=np.uint8)
    stopping = threading.Event()
    runner = _Runner(node, stopping)
    runner.start()
    camera = get_context('spawn').Process(
        target=send_images, args=(domain.number, encoding), daemon=True
    )
    camera.start()
    waiting = threading.Event()
    # Discovery and the first images are not what is measured.
    while (worker := node.worker) is None or worker.mailbox.received < RATE_HZ:
        waiting.wait(0.1)
        if not camera.is_alive():
            raise RuntimeError('the camera process ended')
    before, received = cpu_by_thread(), worker.mailbox.received
    waiting.wait(seconds)
    used, received = cpu_by_thread() - before, worker.mailbox.received - received
    camera.terminate()
    stopping.set()
    runner.wake()
    runner.join()
    rclpy.shutdown()
    domain.release()
    shares = {name: used[name] / seconds for name in used}
    print(f'{encoding}: {received / seconds:.1f} images/s')
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f'  {share:6.1%}  {name}')
    callbacks = sum(shares.get(name, 0.0) for name in CALLBACKS)
    print(f'  {callbacks:6.1%}  all callbacks (limit {LIMIT_CALLBACKS:.0%})')
    rest = sum(share for name, share in shares.items() if name != WORKER)
    print(f'  {rest:6.1%}  all but the worker (limit {LIMIT_WITHOUT_WORKER:.0%})')
    return callbacks < LIMIT_CALLBACKS and rest < LIMIT_WITHOUT_WORKER


def main() -> int:
    """Measure, and fail if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--encoding', choices=('rgb8', 'mono8'), default='rgb8')
    options = parser.parse_args()
    return 0 if measure(options.encoding, options.seconds) else 1


if __name__ == '__main__':
    sys.exit(main())
