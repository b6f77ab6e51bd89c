"""Depth against the truth, and depth files of a sequence folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..core.datatypes import Intrinsics
from ..core.errors import SourceError
from ..input.folder_layouts import DEPTH_UNIT_M
from ..input.folder_source import FolderSource
from .trajectory_errors import match_stamps

#: Least number of pixels to compare in an image.
MIN_PIXELS = 100
#: Stride of the pixels that are kept for statistics over all images.
_PIXEL_STRIDE = 17


class _ImageErrors(NamedTuple):
    """Of one image; the arrays hold some of its pixels."""

    abs_rel: float
    within: float
    coverage: float
    ratio: np.ndarray = np.zeros(0)
    error: np.ndarray = np.zeros(0)
    confidence: np.ndarray = np.zeros(0)


class DepthErrors:
    """Errors of depth; each image is scaled by its median ratio to the truth."""

    def __init__(self, parts: Iterable[DepthErrors] = ()) -> None:
        """Concatenate the errors of several streams."""
        self._images: list[_ImageErrors] = [image for part in parts for image in part._images]

    def add(
        self, depth: np.ndarray, truth: np.ndarray, confidence: np.ndarray | None = None
    ) -> None:
        """Compare one image; without a true pixel it does not count.

        :param depth: (h, w), at any scale; NaN or 0 where unknown.
        :param truth: (h, w), NaN where there is none.
        :param confidence: (h, w); None: unknown.
        """
        known = np.isfinite(truth)
        if not known.any():
            return
        both = known & np.isfinite(depth) & (depth > 0)
        coverage = float(both.sum() / known.sum())
        if both.sum() < MIN_PIXELS:
            self._images.append(_ImageErrors(float('nan'), float('nan'), coverage))
            return
        ratio = depth[both].astype(np.float64) / truth[both]
        scaled = ratio / np.median(ratio)
        error = np.abs(scaled - 1.0)
        within = np.maximum(scaled, 1.0 / scaled) < 1.25
        sure = np.full(len(ratio), np.nan) if confidence is None else confidence[both]
        some = (values[::_PIXEL_STRIDE].astype(np.float64) for values in (ratio, error, sure))
        self._images.append(
            _ImageErrors(float(error.mean()), float(within.mean()), coverage, *some)
        )

    def __len__(self) -> int:
        return len(self._images)

    @property
    def per_image(self) -> np.ndarray:
        """Return (F, 3): AbsRel, share within 1.25, coverage; NaN with too few pixels."""
        return np.array([image[:3] for image in self._images]).reshape(-1, 3)

    @property
    def abs_rel(self) -> float:
        """Return the mean over images of ``|estimate - truth| / truth``."""
        return finite_mean(self.per_image[:, 0])

    @property
    def delta_125(self) -> float:
        """Return the share of pixels within a factor of 1.25 of the truth."""
        return finite_mean(self.per_image[:, 1])

    @property
    def coverage(self) -> float:
        """Return the share of the pixels with a truth that have an estimate."""
        return finite_mean(self.per_image[:, 2])

    @property
    def abs_rel_one_scale(self) -> float:
        ratio = self._joined('ratio')
        return float(np.abs(ratio / np.median(ratio) - 1.0).mean()) if len(ratio) else float('nan')

    @property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (M,) confidence of some of the pixels, and their (M,) relative error."""
        return self._joined('confidence'), self._joined('error')

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([np.zeros(0), *(getattr(image, name) for image in self._images)])

    def as_json(self) -> dict[str, Any]:
        """Return the numbers of evaluation.json."""
        names = ('abs_rel', 'delta_125', 'coverage')
        return {'pictures': len(self)} | {name: getattr(self, name) for name in names}


def finite_mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the finite values; NaN without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float('nan')


def depth_of_run(
    estimates: Path, truth_folder: Path, undistorted: Intrinsics | None = None
) -> DepthErrors | None:
    """Compare the saved depth of a run with that of a sequence folder.

    :param estimates: folder of ``NNNNNN.npz`` written by ``r3 run --save-depth``.
    :param truth_folder: sequence folder with ``depth/`` named like its ``rgb/``.
    :param undistorted: see :func:`truth_at_pixels`.
    :returns: None if there is nothing to compare.
    :raises SourceError: files that cannot be read.
    """
    if not estimates.is_dir() or not (truth_folder / 'depth').is_dir():
        return None
    source = FolderSource(truth_folder, use_own_camera=False)
    truth = sorted(depth_files(truth_folder, source).items())
    saved = sorted((_stamp_of(file), file) for file in estimates.glob('*.npz'))
    if not truth or not saved:
        return None
    stamps, true_stamps = (np.array([stamp for stamp, _ in files]) for files in (saved, truth))
    own, other = match_stamps(stamps, true_stamps, tolerance_s=1e-3)
    errors = DepthErrors()
    for i, j in zip(own, other, strict=True):
        with np.load(saved[i][1], allow_pickle=False) as content:
            depth = content['depth']
            K = Intrinsics.from_K(content['K'], depth.shape[1], depth.shape[0])
        true_depth = read_depth(truth[j][1], source.depth_unit_m)
        errors.add(depth, truth_at_pixels(true_depth, K, undistorted))
    return errors if len(errors) else None


def depth_files(folder: Path, source: FolderSource) -> dict[int, Path]:
    """Return the depth images of a sequence folder by the stamps of its images."""
    files = ((stamp, folder / 'depth' / f'{image.stem}.png') for stamp, image in source.entries)
    return {stamp: file for stamp, file in files if file.is_file()}


def _stamp_of(file: Path) -> int:
    try:
        with np.load(file, allow_pickle=False) as content:
            return int(content['stamp_ns'])
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f'{file} is no saved depth map: {error}') from error


def read_depth(path: Path, unit_m: float = DEPTH_UNIT_M) -> np.ndarray:
    """Read a 16-bit depth image as (H, W) float32 metres, 0 where unknown.

    :raises SourceError: no such image.
    """
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16:
        raise SourceError(f'{path} is no 16-bit depth image')
    return depth.astype(np.float32) * np.float32(unit_m)


def truth_at_pixels(
    truth: np.ndarray, K: Intrinsics, undistorted: Intrinsics | None = None
) -> np.ndarray:
    """Return true depth at the pixels of a depth map, (h, w) float64, NaN where unknown.

    Nearest pixel: averaging would mix foreground and background.

    :param truth: (H, W) of the whole image at any size, 0 where unknown.
    :param K: of the depth map, which may show a part of the image.
    :param undistorted: of the whole image; None: the depth map shows all of it.
    """
    y, x = np.arange(K.height, dtype=np.float64), np.arange(K.width, dtype=np.float64)
    if undistorted is None:
        y, x = (y + 0.5) / K.height, (x + 0.5) / K.width
    else:
        whole = undistorted
        y = ((y - K.cy) / K.fy * whole.fy + whole.cy + 0.5) / whole.height
        x = ((x - K.cx) / K.fx * whole.fx + whole.cx + 0.5) / whole.width
    rows = np.clip((y * truth.shape[0]).astype(int), 0, truth.shape[0] - 1)
    columns = np.clip((x * truth.shape[1]).astype(int), 0, truth.shape[1] - 1)
    sampled = truth[rows[:, None], columns].astype(np.float64)
    sampled[sampled == 0] = np.nan
    return sampled
