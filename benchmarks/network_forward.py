"""What one frame of the R3 network costs against a number of cached frames, part by part.

    python benchmarks/network_forward.py --variant r3-large --cached 8 --size 504 280

Weights are random: the time does not depend on them. Parts are timed in turn within each round,
so that other work on the machine disturbs them alike; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import statistics
import time

from r3_ros.model.backbone import Tokens
from r3_ros.model.building import made_up_network
from r3_ros.model.cache.slots import Slots
from r3_ros.model.loading import choose_device, choose_precision, DTYPES
from r3_ros.model.network import FrameCache, PairNetwork
from r3_ros.model.variants import CameraOutput, VARIANTS
import torch


def cached_frames(network: PairNetwork, count: int, images: torch.Tensor) -> FrameCache | None:
    """Return a context of equal frames in slots, as a stream has it."""
    if not count:
        return None
    entry = network.predict(network.describe(images), depth=False).cache
    slots = Slots(entry, count + 1)
    for slot in range(count):
        slots.put(slot, entry.parts)
    return slots.context(count)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a piece of work takes, on its device."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def parts_of(
    network: PairNetwork, images: torch.Tensor, tokens: Tokens, cache: FrameCache | None
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""

    def step(**options: bool) -> object:
        return network.predict(network.describe(images), cache, **options)

    return {
        'describe (needs no other frame)': lambda: network.describe(images),
        'predict, poses only': lambda: network.predict(tokens, cache, depth=False),
        'a frame, poses only': lambda: step(depth=False),
        'a frame with depth': lambda: step(),
        'a frame with depth and rays': lambda: step(rays=True),
    }


@torch.inference_mode()
def main() -> None:
    """Time the parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    of_pairs = (CameraOutput.PAIRS, CameraOutput.MATCHES)
    names = [name for name, config in VARIANTS.items() if config.camera in of_pairs]
    parser.add_argument('--variant', choices=names, default='r3-large')
    parser.add_argument('--cached', type=int, default=8, help='frames in the cache')
    parser.add_argument('--size', type=int, nargs=2, default=(504, 280), metavar=('W', 'H'))
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--precision', choices=('auto', *DTYPES), default='auto')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    network = made_up_network(VARIANTS[args.variant], DTYPES[precision], device)
    assert isinstance(network, PairNetwork)
    width, height = args.size
    images = torch.rand(1, 1, 3, height, width, device=device)
    cache = cached_frames(network, args.cached, images)
    parts = parts_of(network, images, network.describe(images), cache)
    for work in parts.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(args.rounds):
        for name, work in parts.items():
            seconds[name].append(timed(work, device))
    print(
        f'{args.variant}, {precision}, {device}, {args.threads} threads, {width}x{height}, '
        f'{args.cached} cached frames, median of {args.rounds}'
    )
    whole = statistics.median(seconds['a frame with depth'])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f'  {name:33} {1e3 * median:9.1f} ms {median / whole:6.2f} of a frame with depth')


if __name__ == '__main__':
    main()
