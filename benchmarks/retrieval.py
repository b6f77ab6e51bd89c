#!/usr/bin/env python3
"""Time to find 32 keyframes in banks of several sizes.

    python benchmarks/retrieval.py --keyframes 500 2000 10000

Every score counts: similarity, overlap of views, match score, and a bonus for 32 residents. Beside
it, by similarity alone: torch (a product and topk) and FAISS (a flat index of inner products),
where they are installed, on the same device and in the same run, in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import importlib.util
import json
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np
from r3_ros.offline.run_files import machine
from r3_ros.streaming.keyframes.retrieval import Query, RetrievalIndex, RetrievalWeights
from r3_ros.streaming.keyframes.view_overlap import CameraView
from scipy.spatial.transform import Rotation

LENS = (-0.6, 0.6, -0.4, 0.4)
WEIGHTS = RetrievalWeights(1.0, 1.0, 0.2)
#: Views of one place, one after the other.
PLACE = 20


def path_view(number: float) -> CameraView:
    """Return the view of a camera that walks to and fro and looks around."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('y', number / 300).as_matrix()
    T[:3, 3] = (0.05 * number) % 50, 0.0, 0.001 * number
    return CameraView(T, LENS, 1.0)


class Places:
    """Descriptors as networks make them: mostly mean, few main directions, places that last."""

    def __init__(self, count: int, size: int, decay: float) -> None:
        """Draw the places."""
        random = np.random.default_rng(0)
        self._spread = ((1.0 + np.arange(size)) ** -decay).astype(np.float32)
        self._basis = np.linalg.qr(random.normal(size=(size, size)))[0].astype(np.float32)
        self._mean = (3.0 * random.normal(size=size) / np.sqrt(size)).astype(np.float32)
        self._places = random.normal(size=(count // PLACE + 1, size)).astype(np.float32)

    def views(self, numbers: np.ndarray, seed: int) -> np.ndarray:
        """Return (n, size) float32 unit vectors of images taken at these numbers."""
        noise = np.random.default_rng(seed).normal(size=(len(numbers), len(self._spread)))
        mixed = (self._places[numbers // PLACE] + 0.5 * noise.astype(np.float32)) * self._spread
        vectors = mixed @ self._basis.T + self._mean
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def filled(index: RetrievalIndex, descriptors: np.ndarray) -> None:
    """Put all keyframes in."""
    for slot, descriptor in enumerate(descriptors):
        index.put(slot, descriptor, path_view(slot))
    noted = np.arange(0, len(descriptors), 3)
    match_scores = np.random.default_rng(1).uniform(-0.5, 0.5, len(noted))
    index.set_match_scores(noted, match_scores, len(descriptors))


def queries(places: Places, count: int, keyframes: int) -> list[Query]:
    """Return new frames at old places, each with 32 residents."""
    numbers = np.random.default_rng(2).integers(0, keyframes, count)
    return [
        Query(
            descriptor,
            WEIGHTS,
            path_view(number + 0.5),
            keyframes,
            {int(slot): 0.05 for slot in np.arange(number - 16, number + 16) % keyframes},
        )
        for number, descriptor in zip(numbers, places.views(numbers, 3), strict=True)
    ]


def by_torch(descriptors: np.ndarray, k: int, device: str) -> Callable[[np.ndarray], Any]:
    """Return a search by similarity alone with torch, from host to host."""
    import torch

    kind = torch.float16 if device == 'cuda' else torch.float32
    bank = torch.from_numpy(descriptors).to(device, kind)

    def search(descriptor: np.ndarray) -> Any:
        query = torch.from_numpy(descriptor).to(device, kind)
        best = torch.topk(bank @ query, k)
        return best.indices.cpu(), best.values.cpu()

    return search


def by_faiss(descriptors: np.ndarray, k: int, device: str) -> Callable[[np.ndarray], Any]:
    """Return a search by similarity alone with FAISS."""
    import faiss

    index = faiss.IndexFlatIP(descriptors.shape[1])
    if device == 'cuda':
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(descriptors)
    return lambda descriptor: index.search(descriptor[None], k)


def timed(
    searches: dict[str, Callable[[Query], Any]], requests: list[Query]
) -> dict[str, list[float]]:
    """Return milliseconds of each search, taken in turns so that all meet the same machine."""
    for search in searches.values():
        search(requests[0])
    times: dict[str, list[float]] = {name: [] for name in searches}
    for query in requests:
        for name, search in searches.items():
            start = time.perf_counter()
            search(query)
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def on_device(
    device: str, descriptors: np.ndarray, requests: list[Query], k: int
) -> dict[str, dict[str, float]]:
    """Return milliseconds of all searches on one device."""
    index = RetrievalIndex(*descriptors.shape, device)
    filled(index, descriptors)
    searches: dict[str, Callable[[Query], Any]] = {'r3_ros': lambda q: index.retrieve(q, k)}
    for name, make in (('torch', by_torch), ('faiss', by_faiss)):
        if importlib.util.find_spec(name) is None:
            print(f'{name} is not installed: not measured')
            continue
        similar = make(descriptors, k, device)
        searches[name] = lambda q, similar=similar: similar(q.descriptor)
    return {
        name: {'median_ms': statistics.median(ms), 'p95_ms': float(np.percentile(ms, 95))}
        for name, ms in timed(searches, requests).items()
    }


def has_cuda() -> bool:
    """Return whether CuPy finds a device."""
    try:
        import cupy

        return bool(cupy.cuda.runtime.getDeviceCount())
    except Exception:
        return False


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--keyframes', type=int, nargs='+', default=[500, 2000, 10_000])
    parser.add_argument('--size', type=int, default=1024, help='numbers of a descriptor')
    parser.add_argument('-k', type=int, default=32)
    parser.add_argument('--queries', type=int, default=60)
    parser.add_argument('--decay', type=float, default=0.7, help='power law of their spread')
    parser.add_argument('--json', type=Path, help='write the numbers to this file too')
    options = parser.parse_args()
    about = machine()
    print(f'{about["cpu"]}, {about["cores"]} cores; {options.size} numbers each')
    result: dict[str, Any] = {'machine': about}
    devices = ('cpu', 'cuda') if has_cuda() else ('cpu',)
    print('| device | keyframes | search | median (ms) | 95th percentile (ms) |')
    print('| --- | --- | --- | --- | --- |')
    for count in options.keyframes:
        places = Places(count, options.size, options.decay)
        descriptors = places.views(np.arange(count), 10)
        requests = queries(places, options.queries, count)
        for device in devices:
            rows = on_device(device, descriptors, requests, options.k)
            result[f'{device}, {count}'] = rows
            for name, row in rows.items():
                print(
                    f'| {device} | {count} | {name} | {row["median_ms"]:.2f} | '
                    f'{row["p95_ms"]:.2f} |'
                )
    if len(devices) == 1:
        print('\nthere is no GPU: its time was not measured')
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
