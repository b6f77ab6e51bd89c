"""What changes in R3's answers when frames of the cache are computed again from their images.

    python -m benchmarks.r3_cache_error ../data/house ../parity --variant r3-small

Weights are those that ``python -m tools.parity`` makes with the script in the second folder. A
stream is run frame by frame in float32, each frame attending the first, the newest six and up to
six older ones. Then one old frame of each context is computed again, and the new frame predicted
again. Printed are the largest difference and, in brackets, the median: of the translation (over
the mean length) and rotation of pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import itertools
from pathlib import Path

import numpy as np
from r3_ros.core.geometry import T_from_quat
from r3_ros.input.network_input import r3_geometry
from r3_ros.input.open_source import open_source
from r3_ros.model.network import FrameCache, Prediction, R3Network
import torch
from torch import Tensor
from tqdm import tqdm

from tools.parity.stand_in_weights import Networks, StandInWeights

NEWEST, OLDER = 6, 6


@dataclass
class Run:
    """A stream, predicted: (S, S, 9) pairs, who saw whom, and the entries of the cache."""

    pairs: np.ndarray
    mask: np.ndarray
    entries: list[FrameCache]


def context(n: int) -> list[int]:
    """Return the frames that frame n attends."""
    older = range(max(n - NEWEST, 0))
    step = max(len(older) // OLDER, 1)
    return sorted({*range(min(n, 1)), *list(older)[::step][-OLDER:], *range(n)[-NEWEST:]})


def network_images(folder: Path, count: int, size: int) -> list[Tensor]:
    """Return (1, 1, 3, h, w) uint8 images as the network is given them."""
    with open_source(folder) as source:
        images = [raw.image for raw in itertools.islice(source, count)]
    geometry = r3_geometry(images[0].shape[1], images[0].shape[0], size, square_ok=True)
    arrays = [np.array(geometry.apply(image)) for image in images]
    return [torch.from_numpy(array).permute(2, 0, 1)[None, None] for array in arrays]


def answers(prediction: Prediction) -> np.ndarray:
    """Return (N, 9) pairs into the frame."""
    pairs = prediction.pairs
    fov = prediction.fov[0].expand(pairs.translation.shape[1], -1)
    columns = [pairs.translation[0, :, 0], pairs.quaternion[0, :, 0], fov]
    return torch.cat(columns, -1)[:-1].double().numpy()


def stream(network: R3Network, images: Sequence[Tensor]) -> Run:
    """Run all frames."""
    S = len(images)
    run = Run(np.zeros((S, S, 9)), np.zeros((S, S), bool), [])
    for n, image in enumerate(tqdm(images, desc='stream', unit=' frames')):
        seen = context(n)
        cached = FrameCache.join([run.entries[i] for i in seen]) if seen else None
        prediction = network.predict(network.describe(image), cached, depth=False)
        run.pairs[seen, n] = answers(prediction)
        run.mask[seen, n] = True
        run.entries.append(prediction.cache)
    return run


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the angles between quaternions (N, 4) of any length, in degrees."""
    turned = T_from_quat(np.zeros((len(first), 3)), first)[:, :3, :3]
    turned = turned.swapaxes(1, 2) @ T_from_quat(np.zeros((len(first), 3)), second)[:, :3, :3]
    skew = turned - turned.swapaxes(1, 2)
    sine = np.sqrt(skew[:, 0, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 2] ** 2) / 2
    degrees: np.ndarray = np.degrees(
        np.arctan2(sine, (np.trace(turned, axis1=1, axis2=2) - 1) / 2)
    )
    return degrees


def summary(values: np.ndarray) -> str:
    """Return the largest and the median."""
    return f'{values.max():.4f} ({np.median(values):.4f})'


def recompute(network: R3Network, images: Sequence[Tensor], exact: Run) -> None:
    """Compute an old frame of each late context again; print what changes by what it attended."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    size = np.linalg.norm(exact.pairs[exact.mask][:, :3], axis=1).mean()
    late = range(len(images) // 2, len(images), 2)
    for n in tqdm(late, desc='again', unit=' frames'):
        seen = context(n)
        described = network.describe(images[n])
        old = seen[len(seen) // 4]  # neither the first nor one of the newest
        attended = context(old)
        ways = {
            'all it attended': attended,
            'those in the context': [i for i in attended if i in seen],
            'all of the context': [i for i in seen if i != old],
            'nothing': [],
        }
        for way, frames in ways.items():
            cached = FrameCache.join([exact.entries[i] for i in frames]) if frames else None
            again = network.predict(
                network.describe(images[old]), cached, reference=False, depth=False
            ).cache
            entries = [again if i == old else exact.entries[i] for i in seen]
            pairs = answers(network.predict(described, FrameCache.join(entries), depth=False))
            wanted = exact.pairs[seen, n]
            moved = np.linalg.norm((pairs - wanted)[:, :3], axis=1) / size
            turned = angles(pairs[:, 3:7], wanted[:, 3:7])
            here = seen.index(old)
            others = np.arange(len(seen)) != here
            rows.setdefault(way, []).append(
                (moved[here], turned[here], moved[others].max(), turned[others].max())
            )
    for way, numbers in rows.items():
        own, own_turned, others, others_turned = np.array(numbers).T
        print(
            f'again, attending {way:22s} its pair {summary(own)}, {summary(own_turned)} deg; '
            f'the worst other {summary(others)}, {summary(others_turned)} deg',
            flush=True,
        )


def main() -> None:
    """Run the streams and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='folder of images')
    parser.add_argument('weights', type=Path, help='folder with deterministic_weights.py')
    parser.add_argument('--variant', default='r3-small')
    parser.add_argument('--frames', type=int, default=24)
    parser.add_argument('--image-size', type=int, default=252)
    args = parser.parse_args()
    images = network_images(args.folder, args.frames, args.image_size)
    weights = StandInWeights(args.weights)
    networks = Networks(weights, torch.float32, torch.device('cpu'))
    with torch.inference_mode():
        network = networks.get(args.variant, False)
        assert isinstance(network, R3Network)
        recompute(network, images, stream(network, images))


if __name__ == '__main__':
    main()
