"""Depth of keyframes against measured depth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..datatypes import Intrinsics
from ..errors import SourceError
from ..sources import FolderSource
from .trajectory_errors import match_stamps


@dataclass(frozen=True)
class DepthErrors:
    """Depth errors over several pictures, each scaled by its median ratio to the truth.

    :ivar abs_rel: mean of ``|estimate - truth| / truth``.
    :ivar delta_125: share of pixels whose ratio to the truth is within a factor of 1.25.
    :ivar coverage: share of the pixels with a truth that have an estimate.
    """

    pictures: int
    abs_rel: float
    delta_125: float
    coverage: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self)


#: Pixels below which a picture tells nothing.
LEAST_PIXELS = 100
_DEPTH_UNIT_M = 0.001


def evaluate_depth(
    estimates: Path, truth_folder: Path, picture: Intrinsics | None = None
) -> DepthErrors | None:
    """Compare saved depth with the 16-bit millimetre pictures of a sequence folder.

    :param estimates: folder of ``NNNNNN.npz`` as ``r3 run --save-depth`` writes it.
    :param truth_folder: sequence folder with ``depth/`` named like its ``rgb/``.
    :param picture: intrinsics of the pictures, which say what part of them a depth map shows;
        None: all of it.
    :returns: None if there is nothing to compare.
    :raises SourceError: files that cannot be read.
    """
    pairs = _pairs(estimates, truth_folder)
    figures = [
        errors
        for npz, png in pairs
        if (errors := picture_errors(*_load(npz, png, picture))) is not None
    ]
    if not figures:
        return None
    rows = np.array(figures)
    judged = rows[np.isfinite(rows[:, 0]), :2]
    abs_rel, delta = judged.mean(axis=0) if len(judged) else (np.nan, np.nan)
    return DepthErrors(len(rows), float(abs_rel), float(delta), float(rows[:, 2].mean()))


def _pairs(estimates: Path, truth_folder: Path) -> list[tuple[Path, Path]]:
    if not estimates.is_dir() or not (truth_folder / 'depth').is_dir():
        return []
    truth = [
        (stamp_ns, truth_folder / 'depth' / f'{picture.stem}.png')
        for stamp_ns, picture in FolderSource(truth_folder).entries
    ]
    truth = [(stamp_ns, path) for stamp_ns, path in truth if path.is_file()]
    files = sorted(estimates.glob('*.npz'))
    if not truth or not files:
        return []
    with_stamps = sorted((_stamp_of(file), file) for file in files)
    own, other = match_stamps(
        np.array([s for s, _ in with_stamps]), np.array([s for s, _ in truth]), tolerance_s=1e-3
    )
    return [(with_stamps[i][1], truth[j][1]) for i, j in zip(own, other, strict=True)]


def _stamp_of(file: Path) -> int:
    try:
        with np.load(file, allow_pickle=False) as content:
            return int(content['stamp_ns'])
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f'{file} is no saved depth map: {error}') from error


def _load(npz: Path, png: Path, picture: Intrinsics | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the estimate and the true depth at its pixels, NaN where there is none."""
    with np.load(npz, allow_pickle=False) as content:
        estimate = content['depth'].astype(np.float64)
        own = Intrinsics.from_K(content['K'], estimate.shape[1], estimate.shape[0])
    return estimate, truth_at_pixels(read_depth(png), own, picture)


def read_depth(path: Path) -> np.ndarray:
    """Read a 16-bit depth picture of millimetres as (H, W) float32 metres, 0 where there is none.

    :raises SourceError: it is none.
    """
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16:
        raise SourceError(f'{path} is no 16-bit depth picture')
    return depth.astype(np.float32) * np.float32(_DEPTH_UNIT_M)


def truth_at_pixels(
    truth: np.ndarray, own: Intrinsics, picture: Intrinsics | None = None
) -> np.ndarray:
    """Return true depth at the pixels of a depth map, (h, w) float64, NaN where there is none.

    It is that of the true pixel whose centre is nearest: averaging would mix foreground and
    background.

    :param truth: (H, W), 0 where there is none; of the whole picture, at any size.
    :param own: of the depth map, which may show a part of the picture.
    :param picture: of the whole picture; None: the depth map shows all of it.
    """
    y, x = np.arange(own.height, dtype=np.float64), np.arange(own.width, dtype=np.float64)
    if picture is None:
        y, x = (y + 0.5) / own.height, (x + 0.5) / own.width
    else:
        y = ((y - own.cy) / own.fy * picture.fy + picture.cy + 0.5) / picture.height
        x = ((x - own.cx) / own.fx * picture.fx + picture.cx + 0.5) / picture.width
    rows = np.clip((y * truth.shape[0]).astype(int), 0, truth.shape[0] - 1)
    columns = np.clip((x * truth.shape[1]).astype(int), 0, truth.shape[1] - 1)
    sampled = truth[rows[:, None], columns].astype(np.float64)
    sampled[sampled == 0] = np.nan
    return sampled


def picture_errors(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float, float] | None:
    """Return AbsRel, the share within a factor of 1.25, and that of pixels with an estimate.

    :param estimate: (h, w), scaled by its median ratio to the truth; NaN or 0 where unknown.
    :param truth: (h, w), NaN where there is none.
    :returns: None without a truth; NaN for the first two with less than 100 pixels of both.
    """
    known = np.isfinite(truth)
    both = known & np.isfinite(estimate) & (estimate > 0)
    if not known.any():
        return None
    coverage = both.sum() / known.sum()
    if both.sum() < LEAST_PIXELS:
        return float('nan'), float('nan'), coverage
    ratio = estimate[both] / truth[both]
    ratio /= np.median(ratio)
    within = np.maximum(ratio, 1.0 / ratio) < 1.25
    return float(np.abs(ratio - 1.0).mean()), float(within.mean()), coverage
