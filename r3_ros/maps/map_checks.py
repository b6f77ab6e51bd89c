"""Whether the numbers of a map make sense. Types and shapes are right already."""

from __future__ import annotations

import numpy as np

from ..datatypes import SparseLandmarks
from ..errors import MapError, MapProblem
from .cloud import Cloud
from .map_layout import (
    FARTHEST,
    GRAPH,
    KEYFRAMES,
    LANDMARKS,
    MOST_CONFIDENCE,
    MOST_IMAGE_PIXELS,
    MOST_IMAGE_SIDE,
    MOST_SEGMENTS,
    POINTS,
    STAMPS_NS,
)
from .saved_map import SavedEdges, SavedKeyframes

#: Pixels.
_LEAST_FOCAL = 1e-3
#: What a rotation may be off orthonormal by.
_RIGID_TOLERANCE = 1e-4
#: What a descriptor's length may be off 1 by.
_UNIT_TOLERANCE = 1e-2
_LARGEST_ID = 1 << 53


def check_keyframes(keyframes: SavedKeyframes) -> None:
    """Check keyframes.

    :raises MapError: BAD_FORMAT.
    """
    ids, K = keyframes.ids, keyframes.K
    _require(bool((np.diff(ids) > 0).all()), KEYFRAMES, 'ids must rise')
    _require(bool(((ids >= 0) & (ids < _LARGEST_ID)).all()), KEYFRAMES, 'ids must be positive')
    check_stamps(KEYFRAMES, keyframes.stamps_ns)
    check_poses(KEYFRAMES, keyframes.T_map_optical)
    sizes = keyframes.sizes
    sane = (sizes > 0) & (sizes <= MOST_IMAGE_SIDE)
    _require(bool(sane.all()), KEYFRAMES, f'sizes must be 1 to {MOST_IMAGE_SIDE} pixels')
    fitting = sizes.astype(np.int64).prod(axis=1) <= MOST_IMAGE_PIXELS
    _require(bool(fitting.all()), KEYFRAMES, f'sizes must be {MOST_IMAGE_PIXELS} pixels in all')
    template = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1.0]])
    free = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=bool)
    pinhole = np.isfinite(K).all() and (np.abs(K) < FARTHEST).all()
    pinhole = pinhole and (np.where(free, template, K) == template).all()
    pinhole = pinhole and (K[:, [0, 1], [0, 1]] >= _LEAST_FOCAL).all()
    _require(bool(pinhole), KEYFRAMES, 'K must be pinhole matrices')
    scores = keyframes.confidences
    _require(
        bool((np.isnan(scores) | _within(scores, MOST_CONFIDENCE)).all()),
        KEYFRAMES,
        f'confidences must be 0 to {MOST_CONFIDENCE:g}',
    )
    varied = _within(keyframes.variances, FARTHEST**2)
    _require(bool(varied.all()), KEYFRAMES, f'variances must be 0 to {FARTHEST**2:g}')
    segments = keyframes.segments
    # After more segments than a session counts, the oldest ones share the number -1.
    numbered = (segments >= -1) & (segments < MOST_SEGMENTS)
    _require(
        bool(numbered.all() and (segments[1:] >= segments[:-1]).all()),
        KEYFRAMES,
        'segments must be numbers that do not fall',
    )
    with np.errstate(over='ignore', invalid='ignore'):
        lengths = np.linalg.norm(keyframes.descriptors.astype(np.float64), axis=1)
    unit = np.abs(lengths - 1.0) < _UNIT_TOLERANCE
    _require(bool(unit.all()), KEYFRAMES, 'descriptors must be unit vectors')


def check_edges(edges: SavedEdges, keyframe_ids: np.ndarray) -> None:
    """Check edges.

    :raises MapError: BAD_FORMAT.
    """
    known = np.isin(edges.source_ids, keyframe_ids) & np.isin(edges.target_ids, keyframe_ids)
    _require(bool(known.all()), GRAPH, 'an edge names a keyframe that is not there')
    apart = edges.source_ids != edges.target_ids
    _require(bool(apart.all()), GRAPH, 'an edge leads from a keyframe to itself')
    check_poses(GRAPH, edges.T_source_target)
    scored = _within(edges.confidences, MOST_CONFIDENCE)
    _require(bool(scored.all()), GRAPH, f'confidences must be 0 to {MOST_CONFIDENCE:g}')


def check_landmarks(landmarks: SparseLandmarks, keyframes: SavedKeyframes) -> None:
    """Check landmarks and their observations.

    :raises MapError: BAD_FORMAT.
    """
    placed = np.isfinite(landmarks.positions) & (np.abs(landmarks.positions) < FARTHEST)
    _require(bool(placed.all()), LANDMARKS, 'a position is not finite')
    sigma = landmarks.relative_sigma
    _require(bool((sigma >= 0).all()), LANDMARKS, 'relative_sigma must be 0 or more')
    named = (landmarks.landmarks >= 0) & (landmarks.landmarks < len(landmarks))
    _require(bool(named.all()), LANDMARKS, 'an observation is of no landmark')
    if not len(landmarks.frame_ids):
        return
    row = np.searchsorted(keyframes.ids, landmarks.frame_ids)
    known = row < len(keyframes)
    row = np.where(known, row, 0)
    known &= keyframes.ids[row] == landmarks.frame_ids if len(keyframes) else False
    _require(bool(known.all()), LANDMARKS, 'an observation is of no keyframe')
    inside = (landmarks.pixels >= -0.5) & (landmarks.pixels <= keyframes.sizes[row] - 0.5)
    _require(bool(inside.all()), LANDMARKS, 'an observation is outside of its image')


def check_points(cloud: Cloud) -> None:
    """Check points.

    :raises MapError: BAD_FORMAT.
    """
    placed = np.isfinite(cloud.points) & (np.abs(cloud.points) < FARTHEST)
    fine = placed.all() and np.isfinite(cloud.confidence).all()
    _require(bool(fine), POINTS, 'a point is not finite')


def check_stamps(name: str, stamps_ns: np.ndarray) -> None:
    """Check (N,) times, which go into messages.

    :raises MapError: BAD_FORMAT.
    """
    first, last = STAMPS_NS
    fitting = (stamps_ns >= first) & (stamps_ns <= last)
    _require(bool(fitting.all()), name, 'stamps_ns is beyond what a message can hold')


def check_poses(name: str, T: np.ndarray) -> None:
    """Check (N, 4, 4) rigid motions.

    :raises MapError: BAD_FORMAT.
    """
    _require(bool((np.abs(T) < FARTHEST).all()), name, 'a pose is not finite')
    R = T[:, :3, :3]
    rigid = np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)) < _RIGID_TOLERANCE
    rigid_all = rigid.all() and (np.linalg.det(R) > 0).all()
    rigid_all = rigid_all and (np.abs(T[:, 3] - [0, 0, 0, 1]) < 1e-9).all()
    _require(bool(rigid_all), name, 'a pose is no rigid motion')


def _within(values: np.ndarray, most: float) -> np.ndarray:
    """Return which values are 0 to ``most``; NaN is not."""
    within: np.ndarray = (values >= 0) & (values <= most)
    return within


def _require(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise MapError(MapProblem.BAD_FORMAT, f'{name}: {message}')
