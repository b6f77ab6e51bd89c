"""Depth where the plane sweep has none: a membrane in log depth, stretched between what is known.

It bends where the image has edges (weighted least squares, Farbman et al. 2008). Errors grow with
the distance to known depth, and so does the doubt that the confidence states.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import spsolve

#: Nodes of the membrane.
NODES = 80 * 60
#: Stiffness against a pixel of swept depth of confidence 1, and weight of a landmark.
STIFFNESS, LANDMARK_WEIGHT = 0.1, 5.0
#: Steps between nodes, in grey levels and in log depth, at which it gives way.
EDGE_CONTRAST, EDGE_DEPTH = 12.0, 0.05
#: Deviation of known log depth at which its weight is halved.
OUTLIER = 0.05
#: Depths reach so far beyond the known ones, in log depth.
MARGIN = 0.2
#: Share of the image's width from known depth at which the confidence is a half.
DOUBT_DISTANCE = 1 / 16


def filled(
    depth: np.ndarray,
    confidence: np.ndarray,
    gray: np.ndarray,
    pixels: np.ndarray,
    depths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return depth at every pixel, and the confidence: below 1 for pixels that had none.

    :param depth: (h, w) float32, NaN where unknown; ``confidence``: (h, w), at least 1.
    :param gray: (h, w) uint8.
    :param pixels: (N, 2) x, y of landmarks; ``depths``: (N,) theirs, positive.
    """
    height, width = depth.shape
    scale = min(1.0, float(np.sqrt(NODES / (width * height))))
    columns, rows = round(width * scale), round(height * scale)
    known = np.isfinite(depth)
    at = np.rint(pixels).astype(int).clip(0, [width - 1, height - 1])
    weights = np.where(known, confidence, 0.0)
    log_depth = np.log(np.where(known, depth, 1.0).astype(np.float64))
    weight, total = (_shrunk(v, columns, rows) for v in (weights, weights * log_depth))
    nodes = tuple((at * [columns / width, rows / height]).astype(int).T[::-1])
    np.add.at(weight, nodes, LANDMARK_WEIGHT)
    np.add.at(total, nodes, LANDMARK_WEIGHT * np.log(depths))
    coarse = _membrane(weight, total, _shrunk(gray.astype(np.float64), columns, rows))
    everywhere = np.exp(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    unknown = (~known).astype(np.uint8)
    unknown[at[:, 1], at[:, 0]] = 0
    distance = cv2.distanceTransform(unknown, cv2.DIST_L2, 5)
    doubt = DOUBT_DISTANCE * width
    sure = np.where(known, confidence, 0.99 * doubt / (doubt + distance))
    return np.where(known, depth, everywhere).astype(np.float32), sure.astype(np.float32)


def _membrane(weight: np.ndarray, total: np.ndarray, gray: np.ndarray) -> np.ndarray:
    """Return the log depth of all nodes.

    :param weight: (rows, columns) of the known values; ``total``: their weighted sums.
    """
    known, target = weight.ravel() > 0, total.ravel() / np.maximum(weight.ravel(), 1e-9)
    bounds = target[known].min() - MARGIN, target[known].max() + MARGIN
    index = np.arange(gray.size).reshape(gray.shape)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    contrast = np.abs(gray.ravel()[first] - gray.ravel()[second])
    steps = _differences(first, second, gray.size)
    stiffness = STIFFNESS * np.exp(-contrast / EDGE_CONTRAST)
    trust = weight.ravel().copy()
    for last in (False, True):
        system = diags(trust) + steps.T @ diags(stiffness) @ steps
        values = spsolve(system.tocsc(), trust * target)
        if not last:
            trust /= 1.0 + ((values - target) / OUTLIER) ** 2
            # From squared steps to absolute ones: it may tear.
            stiffness /= np.sqrt(0.01 + (steps @ values / EDGE_DEPTH) ** 2)
    return np.clip(values, *bounds).reshape(gray.shape)


def _differences(first: np.ndarray, second: np.ndarray, size: int) -> csr_matrix:
    """Return the matrix of the differences of pairs of nodes."""
    pairs = np.arange(len(first))
    signs = np.repeat([1.0, -1.0], len(first))
    where = np.tile(pairs, 2), np.concatenate([first, second])
    return coo_matrix((signs, where), shape=(len(first), size)).tocsr()


def _shrunk(values: np.ndarray, columns: int, rows: int) -> np.ndarray:
    return cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA)
