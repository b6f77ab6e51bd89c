"""What one frame of a network costs against a number of held frames, part by part.

    python benchmarks/network_forward.py --variant r3-large --cached 8 --size 504 280
    python benchmarks/network_forward.py --variant mast3r --cached 1 --size 256 192

A network of image pairs relates the frame to each held frame in turn; one of points, in both
orders at once.

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
from r3_ros.model.multi_view import FrameFeatures, MultiViewNetwork
from r3_ros.model.network import FrameCache, PairNetwork
from r3_ros.model.pairs.croco import PointNetwork, PoseNetwork
from r3_ros.model.variants import CameraOutput, PAIR_VARIANTS, VARIANTS
import torch

Network = PairNetwork | MultiViewNetwork | PointNetwork | PoseNetwork

#: The part with which the others are compared.
WHOLE = 'a whole frame'


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


def parts_of_r3(
    network: PairNetwork, images: torch.Tensor, tokens: Tokens, cache: FrameCache | None
) -> dict[str, Callable[[], object]]:
    """Return what is timed of R3, by name."""

    def step(**options: bool) -> object:
        return network.predict(network.describe(images), cache, **options)

    return {
        'describe (needs no other frame)': lambda: network.describe(images),
        'predict, poses only': lambda: network.predict(tokens, cache, depth=False),
        'a frame, poses only': lambda: step(depth=False),
        WHOLE: lambda: step(),
        'a frame with rays too': lambda: step(rays=True),
    }


def parts_of_others(
    network: MultiViewNetwork | PointNetwork | PoseNetwork, image: torch.Tensor, held: int
) -> dict[str, Callable[[], object]]:
    """Return what is timed of a network of several views or of pairs, by name."""
    own = network.encode(image)

    def relate() -> object:
        if isinstance(network, MultiViewNetwork):
            return network.relate(FrameFeatures.join([own] * (held + 1)))
        pair = FrameFeatures.join([own] * (2 if isinstance(network, PointNetwork) else 1))
        return [network(pair, pair) for _ in range(held)]

    return {
        'encode (needs no other frame)': lambda: network.encode(image),
        'relate': relate,
        WHOLE: lambda: (network.encode(image), relate()),
    }


@torch.inference_mode()
def main() -> None:
    """Time the parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name, config in VARIANTS.items() if config.camera is not CameraOutput.NONE]
    parser.add_argument('--variant', choices=[*names, *PAIR_VARIANTS], default='r3-large')
    parser.add_argument('--cached', type=int, default=8, help='held frames')
    parser.add_argument('--size', type=int, nargs=2, default=(504, 280), metavar=('W', 'H'))
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--precision', choices=('auto', *DTYPES), default='auto')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    network = made_up_network((VARIANTS | PAIR_VARIANTS)[args.variant], DTYPES[precision], device)
    assert isinstance(network, Network)
    width, height = args.size
    if isinstance(network, PairNetwork):
        images = torch.rand(1, 1, 3, height, width, device=device)
        cache = cached_frames(network, args.cached, images)
        parts = parts_of_r3(network, images, network.describe(images), cache)
    else:
        image = torch.randint(256, (1, 3, height, width), device=device, dtype=torch.uint8)
        parts = parts_of_others(network, image, args.cached)
    for work in parts.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(args.rounds):
        for name, work in parts.items():
            seconds[name].append(timed(work, device))
    print(
        f'{args.variant}, {precision}, {device}, {args.threads} threads, {width}x{height}, '
        f'{args.cached} held frames, median of {args.rounds}'
    )
    whole = statistics.median(seconds[WHOLE])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f'  {name:33} {1e3 * median:9.1f} ms {median / whole:6.2f} of {WHOLE}')


if __name__ == '__main__':
    main()
