#!/usr/bin/env python3
"""Which terms of the retrieval score find keyframes that see the same surfaces.

    python benchmarks/retrieval_weights.py DATA/redkitchen_7scenes

The truth is the depth camera: the share of an image's points that lie in the other image and
at the depth measured there, both ways, as a geometric mean. Every image with depth asks for six
of those that are more than six older. Printed: what the six found see of it, as a share of what
the best six would see, for similarity with overlap of more and more weight, the overlap from the
true pose and from poses that are off.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import sys

import cv2
import numpy as np
from r3_ros.classical.describe import describe
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.geometry import inverse, make_T, transform, unproject
from r3_ros.core.truth_file import read_truth
from r3_ros.input.calibration_files import load_camera
from r3_ros.streaming.keyframes.retrieval import Query, RetrievalIndex, RetrievalWeights
from r3_ros.streaming.keyframes.view_overlap import CameraView, image_bounds
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

STRIDE = 16
#: A point is seen where the depth measured agrees to this share.
SAME_DEPTH = 0.07
NEWEST, WANTED = 6, 6
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 1000.0)
#: How far off the predicted pose is: metres, degrees.
ERRORS = ((0.0, 0.0), (0.05, 3.0), (0.2, 10.0), (0.5, 25.0))


def seen_share(
    depth: np.ndarray, K: Intrinsics, T_other_camera: np.ndarray, other: np.ndarray
) -> float:
    """Return the share of a depth image's points that another sees at the same depth."""
    points = unproject(depth, K.fx, K.fy, K.cx, K.cy, STRIDE).reshape(-1, 3)
    points = points[points[:, 2] > 0]
    x, y, z = transform(T_other_camera, points).T
    z = np.maximum(z, 1e-3)
    u, v = np.rint(K.fx * x / z + K.cx).astype(int), np.rint(K.fy * y / z + K.cy).astype(int)
    inside = (z > 0.1) & (u >= 0) & (u < K.width) & (v >= 0) & (v < K.height)
    measured = other[v[inside], u[inside]]
    agree = np.abs(measured - z[inside]) < SAME_DEPTH * z[inside]
    return float(agree.sum() / max(len(points), 1))


def true_overlaps(depths: list[np.ndarray], K: Intrinsics, poses: np.ndarray) -> np.ndarray:
    """Return (n, n) how much of each other images see."""
    n = len(depths)
    shares = np.zeros((n, n))
    for a in range(n):
        for b in range(n):
            T_b_a = inverse(poses[b]) @ poses[a]
            shares[a, b] = seen_share(depths[a], K, T_b_a, depths[b])
    overlaps: np.ndarray = np.sqrt(shares * shares.T)
    return overlaps


def scores_of(index: RetrievalIndex, query: Query, count: int) -> np.ndarray:
    """Return the (count,) scores of all keyframes, by slot."""
    found = index.retrieve(query, count)
    scores = np.empty(count)
    scores[found.slots] = found.scores
    return scores


def off_by(
    pose: np.ndarray, metres: float, degrees: float, random: np.random.Generator
) -> np.ndarray:
    """Return a pose moved and turned that far, in any direction."""
    axis, way = (vector / np.linalg.norm(vector) for vector in random.normal(size=(2, 3)))
    turn = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    moved: np.ndarray = pose @ make_T(turn, metres * way)
    return moved


def evaluated(
    truth: np.ndarray,
    described: list[np.ndarray],
    views: list[CameraView],
    error: tuple[float, float],
) -> tuple[float, np.ndarray]:
    """Return how overlap and truth correlate, and for each weight what the found ones see."""
    random = np.random.default_rng(0)
    index = RetrievalIndex(len(views), len(described[0]))
    got, best = np.zeros(len(WEIGHTS)), 0.0
    pairs: list[tuple[float, float]] = []
    for number in range(NEWEST + 1, len(views)):
        older = number - NEWEST
        index.put(older - 1, described[older - 1], views[older - 1])
        if older < WANTED + 4:
            continue
        pose = off_by(views[number].T_world_camera, *error, random)
        view = replace(views[number - 1], T_world_camera=pose)
        similarity, overlap = (
            scores_of(index, Query(described[number], weights, view), older)
            for weights in (RetrievalWeights(1.0, 0.0), RetrievalWeights(0.0, 1.0))
        )
        for n, weight in enumerate(WEIGHTS):
            found = np.argsort(-(similarity + weight * overlap), kind='stable')[:WANTED]
            got[n] += truth[number, found].sum()
        pairs += zip(overlap, truth[number, :older], strict=True)
        best += np.sort(truth[number, :older])[-WANTED:].sum()
    return float(spearmanr(*zip(*pairs, strict=True)).statistic), got / best


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sequence', type=Path)
    folder = parser.parse_args().sequence
    paths = sorted((folder / 'depth').glob('*.png'))
    numbers = [int(path.stem) for path in paths]
    depths = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000 for p in paths]
    poses = read_truth(folder / 'groundtruth.txt').T_world_camera[numbers]
    camera = load_camera(folder / 'depth_camera.yaml')
    if camera is None:
        raise SystemExit(f'{folder}: depth_camera.yaml holds no calibration')
    images = [folder / 'rgb' / f'{number:06d}.jpg' for number in numbers]
    described = [describe(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in images]
    K = camera.intrinsics
    truth = true_overlaps(depths, K, poses)
    usual = [float(np.median(depth[depth > 0])) for depth in depths]
    bounds = image_bounds(K)

    print(f'{len(paths)} images with depth; share of what the best {WANTED} would see')
    print('| off by | rank correlation | ' + ' | '.join(f'weight {w:g}' for w in WEIGHTS) + ' |')
    print('| --- |' + ' --- |' * (1 + len(WEIGHTS)))
    views = [CameraView(T, bounds, depth) for T, depth in zip(poses, usual, strict=True)]
    for metres, degrees in ERRORS:
        correlation, shares = evaluated(truth, described, views, (metres, degrees))
        row = ' | '.join(f'{share:.3f}' for share in shares)
        print(f'| {metres:g} m, {degrees:g} deg | {correlation:.3f} | {row} |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
