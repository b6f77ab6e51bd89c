"""What a byte for each number of the cache, and frames computed anew, change in R3's answers.

    python benchmarks/r3_cache_error.py ../data/house ../parity --variant r3-small

Weights are those that ``r3 parity`` makes up with the script in the second folder. A stream is
run frame by frame, each attending the first frame, the newest six and up to six older ones, in
float32 and bfloat16, with keys and values as computed and in float8. Then, in float32, one old
frame of each context is computed anew from its picture, and the new frame predicted again.
Printed are the largest difference and, in brackets, the median: of log depth, of the translation
(over the mean length) and rotation of pairs, and of poses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import itertools
from pathlib import Path

import numpy as np
from r3_ros.geometry import T_from_quat
from r3_ros.input.network_input import r3_geometry, R3Rule
from r3_ros.input.open_source import open_source
from r3_ros.model.cache_encoding import AsComputed, Encoding, Float8
from r3_ros.model.network import FrameCache, Prediction, R3Network
from r3_ros.parity.pose_runs import resolve_stream
from r3_ros.parity.stand_in_weights import Networks, StandInWeights
import torch
from torch import Tensor
from tqdm import tqdm

NEWEST, OLDER = 6, 6


@dataclass
class Run:
    """A stream, predicted: log depth by frame; (S, S, 9) pairs, (S, S, 2) logits, who saw whom."""

    depth: Tensor
    pairs: np.ndarray
    logits: np.ndarray
    mask: np.ndarray
    entries: list[FrameCache]

    @property
    def poses(self) -> np.ndarray:
        """Poses as the authors resolve them, (S, 9) camera from world."""
        return np.asarray(
            resolve_stream(self.pairs, self.logits[..., 0], self.logits[..., 1], self.mask)
        )


def context(n: int) -> list[int]:
    """Return the frames that frame n attends."""
    older = range(max(n - NEWEST, 0))
    step = max(len(older) // OLDER, 1)
    return sorted({*range(min(n, 1)), *list(older)[::step][-OLDER:], *range(n)[-NEWEST:]})


def pictures(folder: Path, count: int, size: int) -> list[Tensor]:
    """Return (1, 1, 3, h, w) uint8 pictures as the network is given them."""
    with open_source(folder) as source:
        images = [raw.image for raw in itertools.islice(source, count)]
    geometry = r3_geometry(images[0].shape[1], images[0].shape[0], R3Rule(size, square_ok=True))
    arrays = [np.array(geometry.apply(image)) for image in images]
    return [torch.from_numpy(array).permute(2, 0, 1)[None, None] for array in arrays]


def answers(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 9) pairs into the frame and (N, 2) logits."""
    pairs = prediction.pairs
    fov = prediction.fov[0].expand(pairs.translation.shape[1], -1)
    columns = [pairs.translation[0, :, 0], pairs.quaternion[0, :, 0], fov]
    logits = [pairs.logit_translation[0, :, 0], pairs.logit_rotation[0, :, 0]]
    return torch.cat(columns, -1)[:-1].double().numpy(), torch.stack(logits, -1)[
        :-1
    ].double().numpy()


def stream(network: R3Network, images: Sequence[Tensor], encoding: Encoding, name: str) -> Run:
    """Run all frames."""
    S = len(images)
    run = Run(torch.empty(0), np.zeros((S, S, 9)), np.zeros((S, S, 2)), np.zeros((S, S), bool), [])
    depths = []
    for n, image in enumerate(tqdm(images, desc=name, unit=' frames')):
        seen = context(n)
        cached = FrameCache.join([run.entries[i] for i in seen]) if seen else None
        prediction = network.predict(network.describe(image), cached)
        run.pairs[seen, n], run.logits[seen, n] = answers(prediction)
        run.pairs[n, n, 7:9] = prediction.fov[0, 0].double().numpy()
        run.mask[seen, n] = True
        assert prediction.depth is not None
        depths.append(prediction.depth[0, 0].float().log())
        entry = prediction.cache
        decoded = [encoding.decode(encoding.encode(kv), kv.keys.dtype) for kv in entry.key_values]
        run.entries.append(FrameCache(tuple(decoded), entry.pair_sources))
    run.depth = torch.stack(depths)
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


def told(values: np.ndarray) -> str:
    """Return the largest and the median."""
    return f'{values.max():.4f} ({np.median(values):.4f})'


def compare(name: str, run: Run, exact: Run) -> None:
    """Print how far two runs are apart."""
    depth = (run.depth - exact.depth).abs().numpy()
    a, b = run.pairs[exact.mask], exact.pairs[exact.mask]
    size = np.linalg.norm(b[:, :3], axis=1).mean()
    poses, wanted = run.poses[1:], exact.poses[1:]
    path = np.linalg.norm(wanted[:, :3], axis=1).mean()
    pair_t = np.linalg.norm((a - b)[:, :3], axis=1) / size
    pose_t = np.linalg.norm((poses - wanted)[:, :3], axis=1) / path
    print(
        f'{name:26s} depth {told(depth)}; '
        f'pairs {told(pair_t)}, {told(angles(a[:, 3:7], b[:, 3:7]))} deg; '
        f'poses {told(pose_t)}, {told(angles(poses[:, 3:7], wanted[:, 3:7]))} deg',
        flush=True,
    )


def recompute(network: R3Network, images: Sequence[Tensor], exact: Run) -> None:
    """Compute an old frame of each late context anew; print what changes by what it attended."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    size = np.linalg.norm(exact.pairs[exact.mask][:, :3], axis=1).mean()
    late = range(len(images) // 2, len(images), 2)
    for n in tqdm(late, desc='anew', unit=' frames'):
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
            anew = network.predict(
                network.describe(images[old]), cached, reference=False, depth=False
            ).cache
            entries = [anew if i == old else exact.entries[i] for i in seen]
            pairs, _ = answers(network.predict(described, FrameCache.join(entries), depth=False))
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
            f'anew, attending {way:22s} its pair {told(own)}, {told(own_turned)} deg; '
            f'the worst other {told(others)}, {told(others_turned)} deg',
            flush=True,
        )


def main() -> None:
    """Run the streams and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='folder of pictures')
    parser.add_argument('weights', type=Path, help='folder with deterministic_weights.py')
    parser.add_argument('--variant', default='r3-small')
    parser.add_argument('--frames', type=int, default=24)
    parser.add_argument('--image-size', type=int, default=252)
    args = parser.parse_args()
    images = pictures(args.folder, args.frames, args.image_size)
    weights = StandInWeights(args.weights)
    runs = {}
    with torch.inference_mode():
        for short, dtype in (('fp32', torch.float32), ('bf16', torch.bfloat16)):
            loaded = Networks(weights, dtype, torch.device('cpu'))
            network = loaded.get(args.variant, False, lambda step: None)
            assert isinstance(network, R3Network)
            runs[short] = stream(network, images, AsComputed(), short)
            runs[f'{short}, fp8'] = stream(network, images, Float8(), f'{short}, fp8')
            if short == 'fp32':
                compare('fp8 against fp32', runs['fp32, fp8'], runs['fp32'])
                recompute(network, images, runs['fp32'])
    compare('bf16 against fp32', runs['bf16'], runs['fp32'])
    compare('bf16, fp8 against fp32', runs['bf16, fp8'], runs['fp32'])
    compare('bf16, fp8 against bf16', runs['bf16, fp8'], runs['bf16'])


if __name__ == '__main__':
    main()
