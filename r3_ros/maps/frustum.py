"""Cameras drawn as the pyramids that they see."""

from __future__ import annotations

import numpy as np

from ..core.datatypes import Intrinsics

#: Half the width and height of an image at depth 1, of a usual lens.
_USUAL_CORNER = (0.6, 0.45)
_CORNER_SIGNS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
#: Ends of a frustum's lines: from the centre (0) to the corners (1 to 4), and around.
_FRUSTUM_LINES = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]])


def frustum_lines(
    T_map_camera: np.ndarray, intrinsics: Intrinsics | None, length: float
) -> np.ndarray:
    """Return the (8 N, 2, 3) lines of the frusta of (N, 4, 4) cameras."""
    corner = np.array(_USUAL_CORNER)
    if intrinsics is not None:
        focal = np.array([intrinsics.fx, intrinsics.fy])
        corner = 0.5 * np.array([intrinsics.width, intrinsics.height]) / focal
    corners = np.column_stack([_CORNER_SIGNS * corner, np.ones(4)])
    outline = length * np.vstack([np.zeros(3), corners])[_FRUSTUM_LINES]
    R, centres = T_map_camera[:, :3, :3], T_map_camera[:, :3, 3]
    lines = np.einsum('nij,lej->nlei', R, outline) + centres[:, None, None]
    return lines.reshape(-1, 2, 3)
