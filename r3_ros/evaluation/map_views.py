"""Views of a cloud and a trajectory, level by the mean upward direction of the camera."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.geometry import inverse, make_T, transform
from ..maps.cloud import Cloud

#: Points drawn in one view, at most.
_MAX_POINTS = 150_000
#: Width over height.
_PLAN_ASPECT = 1.33
_PERSPECTIVE_ASPECT = 1.5
#: Width of a perspective view at distance 1.
_WIDTH = 1.0
_BACKGROUND = '#10141a'
_PATH_COLOR = '#ffc43d'
_AXES = ('right', 'forward', 'up')
#: Axes of a plan to the right, upwards, and away from the viewer.
_PLANS = {'from above': (0, 1, 2), 'from the right': (1, 2, 0)}


@dataclass(frozen=True, eq=False)
class LevelScene:
    """A level cloud and trajectory: x right, y forward, z up.

    :ivar centres: (N, 3) camera centres; ``forward``: (N, 3) viewing directions.
    :ivar low: (3,) corner of the bounding box without outliers, ``high`` the other.
    """

    cloud: Cloud
    centres: np.ndarray
    forward: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def reach(self) -> float:
        return 0.5 * float(np.linalg.norm(self.high - self.low))


def level_scene(cloud: Cloud, T_world_camera: np.ndarray) -> LevelScene:
    """Rotate a cloud, thinned if large, so that z is up and the first view looks along y.

    :param T_world_camera: (N, 4, 4), finite, optical axes.
    """
    if len(cloud) > _MAX_POINTS:
        cloud = cloud.take(np.linspace(0, len(cloud) - 1, _MAX_POINTS).astype(np.int64))
    R_level_world = level_rotation(T_world_camera)
    points = cloud.points @ R_level_world.T.astype(np.float32)
    centres = T_world_camera[:, :3, 3] @ R_level_world.T
    forward = T_world_camera[:, :3, 2] @ R_level_world.T
    low, high = centres.min(axis=0), centres.max(axis=0)
    if len(points):
        # Few distant points would shrink everything else.
        low = np.minimum(low, np.percentile(points, 3, axis=0))
        high = np.maximum(high, np.percentile(points, 97, axis=0))
    return LevelScene(replace(cloud, points=points), centres, forward, low, high)


def level_rotation(T_world_camera: np.ndarray) -> np.ndarray:
    """Return the (3, 3) rotation of a world to x right, y forward, z up.

    :param T_world_camera: (N, 4, 4), optical axes.
    """
    up = -T_world_camera[:, :3, 1].mean(axis=0)
    if np.linalg.norm(up) < 0.2:  # the camera tumbled: use its first pose
        up = -T_world_camera[0, :3, 1]
    up = up / np.linalg.norm(up)
    forward = T_world_camera[0, :3, 2]
    forward = forward - (forward @ up) * up
    if np.linalg.norm(forward) < 1e-3:  # it looks straight down or up
        forward = T_world_camera[0, :3, 0] - (T_world_camera[0, :3, 0] @ up) * up
    forward = forward / np.linalg.norm(forward)
    return np.stack([np.cross(forward, up), forward, up])


def draw_plan(axes: Any, scene: LevelScene, unit: str, marked: np.ndarray, view: str) -> None:
    """Draw an orthographic view of the path and its surroundings.

    :param marked: indices of the poses that get a dot.
    :param view: 'from above' or 'from the right'.
    """
    across, upward, hidden = _PLANS[view]
    points, centres = scene.cloud.points, scene.centres
    if len(points):
        # Points near the middle are drawn last: floor and ceiling would hide a room.
        aside = np.abs(points[:, hidden] - np.median(points[:, hidden]))
        order = np.argsort(-aside, kind='stable')
        axes.scatter(
            points[order, across], points[order, upward], c=scene.cloud.colors[order] / 255.0,
            s=1.2, marker='s', linewidths=0, alpha=0.8,
        )  # fmt: skip
    axes.plot(centres[:, across], centres[:, upward], color='white', lw=3.5, alpha=0.8)
    axes.plot(centres[:, across], centres[:, upward], color='tab:blue', lw=1.8)
    axes.plot(centres[marked, across], centres[marked, upward], '.', color='tab:orange', ms=3)
    for k, color, label in ((0, 'tab:green', 'start'), (-1, 'tab:red', 'end')):
        end = centres[k, [across, upward]]
        axes.plot(*end, 'o', color=color, mec='white', ms=8, zorder=4, label=label)
    # The whole cloud could make the path very small.
    around = max(0.6 * float(np.linalg.norm(np.ptp(centres, axis=0))), 1.5)
    low = np.maximum(scene.low, centres.min(axis=0) - around)
    high = np.minimum(scene.high, centres.max(axis=0) + around)
    middle, size = 0.5 * (low + high), 1.08 * (high - low)
    # At least 1 cm, or rounding errors of a camera at rest would fill the view.
    width = max(size[across], _PLAN_ASPECT * size[upward], 0.01)
    _to_scale(axes, middle[[across, upward]], width, width / _PLAN_ASPECT)
    xlabel, ylabel = (f'{_AXES[k]} ({unit})' for k in (across, upward))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc='upper right')


def draw_from_outside(axes: Any, scene: LevelScene) -> None:
    """Draw a perspective view of cloud and trajectory from the camera's side."""
    centre = 0.5 * (scene.low + scene.high)
    aside = scene.centres.mean(axis=0) - centre
    if np.linalg.norm(aside[:2]) < 0.15 * scene.reach:  # it rotated in the middle
        aside = -scene.forward[0]
    angle = np.arctan2(aside[1], aside[0]) - np.radians(25.0)
    direction = np.array([0.8 * np.cos(angle), 0.8 * np.sin(angle), 0.6])
    T_view_level = _view(centre + 2.2 * scene.reach * direction, centre)
    _draw_perspective(axes, scene, T_view_level)
    path = transform(T_view_level, scene.centres)
    path = np.where(path[:, 2:] > 0, path, np.nan)
    axes.plot(path[:, 0] / path[:, 2], -path[:, 1] / path[:, 2], color=_PATH_COLOR, lw=1.8)


def draw_from_half_way(axes: Any, scene: LevelScene) -> None:
    """Draw the cloud from the camera half-way along its trajectory."""
    middle = len(scene.centres) // 2
    eye, ahead = scene.centres[middle], scene.forward[middle]
    _draw_perspective(axes, scene, _view(eye - 0.02 * scene.reach * ahead, eye + ahead))


def _view(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return T_view_level of a view from ``eye``, with optical axes and z up."""
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    if np.linalg.norm(x) < 1e-6:
        x = np.array([1.0, 0.0, 0.0])
    x = x / np.linalg.norm(x)
    return inverse(make_T(np.stack([x, np.cross(z, x), z], axis=1), eye))


def _draw_perspective(axes: Any, scene: LevelScene, T_view_level: np.ndarray) -> None:
    """Draw the points from far to near, nearer ones larger."""
    in_view = transform(T_view_level.astype(np.float32), scene.cloud.points)
    depth = in_view[:, 2]
    seen = np.flatnonzero(depth > 0.02 * scene.reach)
    seen = seen[np.argsort(-depth[seen], kind='stable')]
    z = depth[seen]
    # In points of 1/72 inch.
    size = np.clip(3.5 * scene.reach / z, 1.0, 12.0)
    axes.scatter(
        in_view[seen, 0] / z, -in_view[seen, 1] / z, c=scene.cloud.colors[seen] / 255.0,
        s=size**2, marker='s', linewidths=0,
    )  # fmt: skip
    _to_scale(axes, np.zeros(2), _WIDTH, _WIDTH / _PERSPECTIVE_ASPECT)
    axes.set(xticks=[], yticks=[], facecolor=_BACKGROUND)
    for side in axes.spines.values():
        side.set_visible(False)


def _to_scale(axes: Any, middle: np.ndarray, width: float, height: float) -> None:
    (x, y), half = middle, 0.5 * np.array([width, height])
    axes.set(xlim=(x - half[0], x + half[0]), ylim=(y - half[1], y + half[1]), aspect='equal')
