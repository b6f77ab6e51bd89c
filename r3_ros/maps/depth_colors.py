"""Depth as a coloured image."""

from __future__ import annotations

import cv2
import numpy as np


def depth_colors(depth: np.ndarray) -> np.ndarray:
    """Return (h, w, 3) uint8 RGB: near is warm, far is cold, unknown is black."""
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    # Inverse depth shows the near range in more detail; percentiles ignore outliers.
    inverse_depth = np.zeros(depth.shape, np.float32)
    inverse_depth[known] = 1.0 / depth[known]
    far, near = np.percentile(inverse_depth[known], [2.0, 98.0])
    level = np.clip((inverse_depth - far) / max(near - far, 1e-9), 0.0, 1.0)
    colors = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(known[..., None], colors, 0).astype(np.uint8)
