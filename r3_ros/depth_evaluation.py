"""Depth of keyframes against measured depth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .errors import SourceError
from .evaluation import match_stamps
from .sources import FolderSource


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


def evaluate_depth(estimates: Path, truth_folder: Path) -> DepthErrors | None:
    """Compare saved depth with the 16-bit millimetre pictures of a sequence folder.

    :param estimates: folder of ``NNNNNN.npz`` as ``r3 run --save-depth`` writes it.
    :param truth_folder: sequence folder with ``depth/`` named like its ``rgb/``.
    :returns: None if there is nothing to compare.
    :raises SourceError: files that cannot be read.
    """
    pairs = _pairs(estimates, truth_folder)
    figures = [
        errors for npz, png in pairs if (errors := _picture_errors(*_load(npz, png))) is not None
    ]
    if not figures:
        return None
    abs_rel, delta = np.nanmean(np.array(figures)[:, :2], axis=0)
    coverage = np.mean(figures, axis=0)[2]
    return DepthErrors(len(figures), float(abs_rel), float(delta), float(coverage))


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


def _load(npz: Path, png: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the estimate and the true depth at its pixels, NaN where there is none."""
    with np.load(npz, allow_pickle=False) as content:
        estimate = content['depth'].astype(np.float64)
    truth = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
    if truth is None or truth.dtype != np.uint16:
        raise SourceError(f'{png} is no 16-bit depth picture')
    height, width = estimate.shape
    # The true pixel whose centre is nearest; averaging would mix foreground and background.
    rows = ((np.arange(height) + 0.5) * truth.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * truth.shape[1] / width).astype(int)
    sampled = truth[rows[:, None], columns].astype(np.float64) / 1000.0
    sampled[sampled == 0] = np.nan
    return estimate, sampled


def _picture_errors(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float, float] | None:
    known = np.isfinite(truth)
    both = known & np.isfinite(estimate) & (estimate > 0)
    if not known.any():
        return None
    if both.sum() < 100:
        return float('nan'), float('nan'), both.sum() / known.sum()
    ratio = estimate[both] / truth[both]
    ratio /= np.median(ratio)
    within = np.maximum(ratio, 1.0 / ratio) < 1.25
    return float(np.abs(ratio - 1.0).mean()), float(within.mean()), both.sum() / known.sum()
