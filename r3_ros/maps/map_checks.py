"""Checks of the numbers of a map, whose types and shapes are right already.

Each check raises a :class:`.MapError` (BAD_FORMAT) that names the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.datatypes import SparseLandmarks
from ..input.image_decoding import MOST_PIXELS
from .cloud import Cloud
from .map_layout import (
    bad_format,
    FARTHEST,
    GRAPH,
    KEYFRAMES,
    LANDMARKS,
    MOST_CONFIDENCE,
    MOST_IMAGE_SIDE,
    MOST_SEGMENTS,
    POINTS,
    STAMPS_NS,
)
from .saved_map import SavedEdges, SavedKeyframes

#: Pixels.
_LEAST_FOCAL = 1e-3
#: Largest deviation of R R' from the identity.
_RIGID_TOLERANCE = 1e-4
#: Largest deviation of a descriptor's length from 1.
_UNIT_TOLERANCE = 1e-2
_LARGEST_ID = 1 << 53


def check_keyframes(keyframes: SavedKeyframes) -> None:
    """Check ids, times, poses, calibrations, scores, segments and descriptors."""
    ids, K = keyframes.ids, keyframes.K
    _require(np.diff(ids) > 0, KEYFRAMES, 'ids must rise')
    _require((ids >= 0) & (ids < _LARGEST_ID), KEYFRAMES, 'ids must be positive')
    check_stamps(KEYFRAMES, keyframes.stamps_ns)
    check_poses(KEYFRAMES, keyframes.T_map_optical)
    sizes = keyframes.sizes
    sane = (sizes > 0) & (sizes <= MOST_IMAGE_SIDE)
    _require(sane, KEYFRAMES, f'sizes must be 1 to {MOST_IMAGE_SIDE} pixels')
    fitting = sizes.astype(np.int64).prod(axis=1) <= MOST_PIXELS
    _require(fitting, KEYFRAMES, f'sizes must be {MOST_PIXELS} pixels in all')
    template = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1.0]])
    free = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=bool)
    pinhole = np.isfinite(K).all() and (np.abs(K) < FARTHEST).all()
    pinhole = pinhole and (np.where(free, template, K) == template).all()
    pinhole = pinhole and (K[:, [0, 1], [0, 1]] >= _LEAST_FOCAL).all()
    _require(pinhole, KEYFRAMES, 'K must be pinhole matrices')
    scores = keyframes.confidences
    scored = np.isnan(scores) | _within(scores, MOST_CONFIDENCE)
    _require(scored, KEYFRAMES, f'confidences must be 0 to {MOST_CONFIDENCE:g}')
    varied = _within(keyframes.variances, FARTHEST**2)
    _require(varied, KEYFRAMES, f'variances must be 0 to {FARTHEST**2:g}')
    segments = keyframes.segments
    # After more segments than a session counts, the oldest ones share the number -1.
    numbered = (segments >= -1) & (segments < MOST_SEGMENTS)
    _require(
        numbered.all() and (segments[1:] >= segments[:-1]).all(),
        KEYFRAMES,
        'segments must be numbers that do not fall',
    )
    with np.errstate(over='ignore', invalid='ignore'):
        lengths = np.linalg.norm(keyframes.descriptors.astype(np.float64), axis=1)
    unit = np.abs(lengths - 1.0) < _UNIT_TOLERANCE
    _require(unit, KEYFRAMES, 'descriptors must be unit vectors')


def check_edges(edges: SavedEdges, keyframe_ids: np.ndarray) -> None:
    """Check that edges join two known keyframes by a rigid motion."""
    known = np.isin(edges.source_ids, keyframe_ids) & np.isin(edges.target_ids, keyframe_ids)
    _require(known, GRAPH, 'an edge names a keyframe that is not there')
    apart = edges.source_ids != edges.target_ids
    _require(apart, GRAPH, 'an edge leads from a keyframe to itself')
    check_poses(GRAPH, edges.T_source_target)
    scored = _within(edges.confidences, MOST_CONFIDENCE)
    _require(scored, GRAPH, f'confidences must be 0 to {MOST_CONFIDENCE:g}')


def check_landmarks(landmarks: SparseLandmarks, keyframes: SavedKeyframes) -> None:
    """Check landmarks and that their observations are inside of known images."""
    placed = np.isfinite(landmarks.positions) & (np.abs(landmarks.positions) < FARTHEST)
    _require(placed, LANDMARKS, 'a position is not finite')
    _require(landmarks.relative_sigma >= 0, LANDMARKS, 'relative_sigma must be 0 or more')
    named = (landmarks.landmarks >= 0) & (landmarks.landmarks < len(landmarks))
    _require(named, LANDMARKS, 'an observation is of no landmark')
    if not len(landmarks.frame_ids):
        return
    row = np.searchsorted(keyframes.ids, landmarks.frame_ids)
    known = row < len(keyframes)
    row = np.where(known, row, 0)
    known &= keyframes.ids[row] == landmarks.frame_ids if len(keyframes) else False
    _require(known, LANDMARKS, 'an observation is of no keyframe')
    inside = (landmarks.pixels >= -0.5) & (landmarks.pixels <= keyframes.sizes[row] - 0.5)
    _require(inside, LANDMARKS, 'an observation is outside of its image')


def check_points(cloud: Cloud) -> None:
    """Check that points and confidences are finite."""
    placed = np.isfinite(cloud.points) & (np.abs(cloud.points) < FARTHEST)
    fine = placed.all() and np.isfinite(cloud.confidence).all()
    _require(fine, POINTS, 'a point is not finite')


def check_stamps(name: str, stamps_ns: np.ndarray) -> None:
    """Check that (N,) times fit into ROS messages."""
    first, last = STAMPS_NS
    fitting = (stamps_ns >= first) & (stamps_ns <= last)
    _require(fitting, name, 'stamps_ns is beyond what a message can hold')


def check_poses(name: str, T: np.ndarray) -> None:
    """Check (N, 4, 4) rigid motions."""
    _require(np.abs(T) < FARTHEST, name, 'a pose is not finite')
    R = T[:, :3, :3]
    rigid = np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)) < _RIGID_TOLERANCE
    rigid_all = rigid.all() and (np.linalg.det(R) > 0).all()
    rigid_all = rigid_all and (np.abs(T[:, 3] - [0, 0, 0, 1]) < 1e-9).all()
    _require(rigid_all, name, 'a pose is no rigid motion')


def _within(values: np.ndarray, most: float) -> np.ndarray:
    within: np.ndarray = (values >= 0) & (values <= most)  # False for NaN
    return within


def _require(holds: Any, name: str, message: str) -> None:
    if not np.all(holds):
        raise bad_format(name, message)
