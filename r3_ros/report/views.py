"""Pictures of a point cloud, drawn with NumPy: one square splat a point, nearest in front.

The page is read by people, so views are turned level: "up" is the mean upward direction of the
camera over the whole trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..geometry import inverse, make_T, transform
from ..maps.cloud import Cloud

#: RGB behind the points, the same in the viewer of the page.
BACKGROUND = (16, 20, 26)
_MAX_POINTS = 600_000
_FIELD_OF_VIEW_RAD = 0.9


@dataclass(frozen=True, eq=False)
class Scene:
    """A cloud and a trajectory turned level: x right, y forward, z up.

    :ivar centres: (N, 3) camera centres; ``forward``: (N, 3) viewing directions.
    :ivar low: corner of the box that holds nearly all of it, ``high`` the other.
    :ivar spacing: distance between neighbouring points of a surface.
    """

    cloud: Cloud
    centres: np.ndarray
    forward: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spacing: float

    @property
    def reach(self) -> float:
        """Return half the diagonal of the box."""
        return 0.5 * float(np.linalg.norm(self.high - self.low))

    @property
    def centre(self) -> np.ndarray:
        """Return the middle of the box."""
        return 0.5 * (self.low + self.high)

    @property
    def open_azimuth(self) -> float:
        """Return the direction from the middle, about z, from which the camera looked in."""
        aside = self.centres.mean(axis=0) - self.centre
        if np.linalg.norm(aside[:2]) < 0.15 * self.reach:  # it turned about in the middle
            aside = -self.forward[0]
        return float(np.arctan2(aside[1], aside[0]))


def level_scene(cloud: Cloud, T_world_camera: np.ndarray, spacing: float) -> Scene:
    """Turn a cloud and the camera poses so that z is up and the first view looks along y.

    :param T_world_camera: (N, 4, 4), finite, optical axes.
    """
    R_level_world = _levelling(T_world_camera)
    points = cloud.points @ R_level_world.T.astype(np.float32)
    levelled = Cloud(points, cloud.colors, cloud.confidence)
    centres = T_world_camera[:, :3, 3] @ R_level_world.T
    forward = T_world_camera[:, :3, 2] @ R_level_world.T
    low, high = centres.min(axis=0), centres.max(axis=0)
    if len(points):
        # A few points at the far end of a street would shrink everything else to a dot.
        low = np.minimum(low, np.percentile(points, 3, axis=0))
        high = np.maximum(high, np.percentile(points, 97, axis=0))
    return Scene(levelled, centres, forward, low, high, spacing)


def _levelling(T_world_camera: np.ndarray) -> np.ndarray:
    """Return the rotation to x right, y forward, z up."""
    up = -T_world_camera[:, :3, 1].mean(axis=0)
    if np.linalg.norm(up) < 0.2:  # the camera tumbled: only its first pose says anything
        up = -T_world_camera[0, :3, 1]
    up = up / np.linalg.norm(up)
    forward = T_world_camera[0, :3, 2]
    forward = forward - (forward @ up) * up
    if np.linalg.norm(forward) < 1e-3:  # it looks straight down or up
        forward = T_world_camera[0, :3, 0] - (T_world_camera[0, :3, 0] @ up) * up
    forward = forward / np.linalg.norm(forward)
    return np.stack([np.cross(forward, up), forward, up])


@dataclass(frozen=True, eq=False)
class View:
    """Where a viewer stands and looks, in level coordinates."""

    caption: str
    eye: np.ndarray
    target: np.ndarray
    with_path: bool = True


def perspective(scene: Scene, view: View, size: tuple[int, int]) -> np.ndarray:
    """Return an (H, W, 3) uint8 RGB picture of the cloud, the trajectory drawn over it."""
    width, height = size
    eye, target = view.eye, view.target
    focal = 0.5 * width / np.tan(0.5 * _FIELD_OF_VIEW_RAD)
    T_view_level = inverse(_look_at(eye, target))
    cloud = _thinned(scene.cloud)
    in_view = transform(T_view_level.astype(np.float32), cloud.points)
    depth = in_view[:, 2]
    near = 0.02 * float(np.linalg.norm(target - eye))
    kept = depth > near
    in_view, depth, colors = in_view[kept], depth[kept], cloud.colors[kept]
    pixels = in_view[:, :2] / depth[:, None] * focal + [width / 2, height / 2]
    image, buffer = _splat(pixels, depth, colors, size, _splat_radius(depth, focal, scene))
    image = _shaded(image, buffer)
    if view.with_path:
        _draw_path(image, scene, T_view_level, focal, near)
    return image


def from_above(
    scene: Scene, size: tuple[int, int], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return an (H, W, 4) RGBA map of the box ``low`` to ``high`` (x, y), seen from the top."""
    return _orthographic(scene, size, low, high, axes=(0, 1), depth_axis=2)


def from_side(
    scene: Scene, size: tuple[int, int], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return an (H, W, 4) RGBA map of the box ``low`` to ``high`` (y, z), seen from the right."""
    return _orthographic(scene, size, low, high, axes=(1, 2), depth_axis=0)


def _orthographic(
    scene: Scene,
    size: tuple[int, int],
    low: np.ndarray,
    high: np.ndarray,
    axes: tuple[int, int],
    depth_axis: int,
) -> np.ndarray:
    width, height = size
    points = scene.cloud.points
    flat = points[:, axes]
    scale = np.array([width, height]) / (high - low)
    pixels = (flat - low) * scale
    pixels[:, 1] = height - pixels[:, 1]
    # What is near the middle stays on top: floor and ceiling would hide a room.
    depth = np.abs(points[:, depth_axis] - np.median(points[:, depth_axis]))
    image, buffer = _splat(
        pixels, depth + 1.0, scene.cloud.colors, size, np.ones(len(points), dtype=np.int64)
    )
    alpha = np.where(np.isfinite(buffer), 255, 0).astype(np.uint8)
    return np.dstack([image, alpha])


def viewpoints(scene: Scene) -> list[View]:
    """Return a few views that show most of the scene."""
    views = []
    for caption, turn_deg in (('from the open side', -25.0), ('from further round', 50.0)):
        angle = scene.open_azimuth + np.radians(turn_deg)
        aside = np.array([np.cos(angle) * 0.8, np.sin(angle) * 0.8, 0.6])
        views.append(View(caption, scene.centre + 2.2 * scene.reach * aside, scene.centre))
    middle = len(scene.centres) // 2
    eye, ahead = scene.centres[middle], scene.forward[middle]
    views.append(View('as the camera saw it half-way', eye - 0.1 * ahead, eye + ahead, False))
    return views


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return T_level_view with optical axes and z up."""
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    if np.linalg.norm(x) < 1e-6:
        x = np.array([1.0, 0.0, 0.0])
    x = x / np.linalg.norm(x)
    return make_T(np.stack([x, np.cross(z, x), z], axis=1), eye)


def _thinned(cloud: Cloud) -> Cloud:
    if len(cloud) <= _MAX_POINTS:
        return cloud
    return cloud.take(np.linspace(0, len(cloud) - 1, _MAX_POINTS).astype(np.int64))


def _splat_radius(depth: np.ndarray, focal: float, scene: Scene) -> np.ndarray:
    """Return (N,) half sizes in pixels that close the gaps between points of one surface."""
    thinning = np.sqrt(max(len(scene.cloud) / _MAX_POINTS, 1.0))
    return np.clip(np.rint(0.6 * thinning * scene.spacing * focal / depth), 1, 7).astype(np.int64)


def _splat(
    pixels: np.ndarray,
    depth: np.ndarray,
    colors: np.ndarray,
    size: tuple[int, int],
    radius: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw squares, the nearest in front.

    :returns: (H, W, 3) uint8 picture and (H, W) float32 depth, infinite where nothing is.
    """
    width, height = size
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = BACKGROUND
    buffer = np.full((height, width), np.inf, dtype=np.float32)
    corner = np.floor(pixels).astype(np.int64)
    # Far to near: where two points want one pixel, the assignment that comes last stays.
    order = np.argsort(-depth, kind='stable')
    corner, depth, colors, radius = corner[order], depth[order], colors[order], radius[order]
    for reach in range(int(radius.max(initial=0)), 0, -1):
        chosen = radius == reach
        for dy in range(-reach + 1, reach + 1):
            for dx in range(-reach + 1, reach + 1):
                u, v = corner[chosen, 0] + dx, corner[chosen, 1] + dy
                inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
                u, v, z = u[inside], v[inside], depth[chosen][inside]
                nearest = _nearest_only(v * width + u, z, buffer)
                u, v = u[nearest], v[nearest]
                buffer[v, u] = z[nearest]
                image[v, u] = colors[chosen][inside][nearest]
    return image, buffer


def _nearest_only(cells: np.ndarray, depth: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Return which points are in front of the buffer; they are sorted far to near already."""
    return np.flatnonzero(depth < buffer.reshape(-1)[cells])


def _shaded(image: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """Darken what lies behind its neighbours (eye-dome lighting), which shows shape.

    After Boucheny, "Interactive scientific visualization of large datasets" (2009).
    """
    filled = np.isfinite(buffer)
    log_depth = np.log(np.where(filled, buffer, buffer[filled].max() * 1.5 if filled.any() else 1))
    shade = np.zeros_like(log_depth)
    for dy, dx in ((0, 2), (2, 0), (0, -2), (-2, 0)):
        neighbour = np.roll(log_depth, (dy, dx), axis=(0, 1))
        shade += np.clip(log_depth - neighbour, 0.0, 0.05)
    light = np.exp(-6.0 * shade)[..., None]
    return np.where(filled[..., None], image * light, image).astype(np.uint8)


def _draw_path(
    image: np.ndarray, scene: Scene, T_view_level: np.ndarray, focal: float, near: float
) -> None:
    """Draw the trajectory over the picture, also where it lies behind points."""
    height, width = image.shape[:2]
    in_view = transform(T_view_level, scene.centres)
    ahead = in_view[:, 2] > near
    if not ahead.any():
        return
    pixels = in_view[:, :2] / np.maximum(in_view[:, 2:], near) * focal + [width / 2, height / 2]
    pixels = np.clip(pixels, -1e4, 1e4)
    fixed = np.rint(pixels * 16).astype(np.int32)
    for color, thickness in (((0, 0, 0), 5), ((255, 196, 61), 2)):
        for i in np.flatnonzero(ahead[1:] & ahead[:-1]):
            cv2.line(image, fixed[i], fixed[i + 1], color, thickness, cv2.LINE_AA, 4)


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """Return an (H, W, 3) RGB picture as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png(image: np.ndarray) -> bytes:
    """Return an (H, W, 4) RGBA picture as PNG."""
    bgra = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA)
    return cv2.imencode('.png', bgra)[1].tobytes()
