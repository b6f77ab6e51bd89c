"""A small world of textured rectangles with exact poses and depth, drawn by homographies."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from r3_ros.core.datatypes import Frame, Intrinsics
from r3_ros.core.geometry import inverse, make_T
from scipy.spatial.transform import Rotation

INTRINSICS = Intrinsics(330.0, 330.0, 199.5, 149.5, 400, 300)
_TEXELS_PER_UNIT = 90.0


@dataclass(frozen=True)
class Panel:
    """A rectangle facing the first camera, turned about its vertical axis."""

    centre: tuple[float, float, float]
    width: float
    height: float
    turn_deg: float
    texture: np.ndarray

    def T_world_panel(self) -> np.ndarray:
        """Return where the rectangle stands; its image lies in its x-y plane."""
        R = Rotation.from_euler('y', self.turn_deg, degrees=True).as_matrix()
        return make_T(R, np.array(self.centre))


def noise_texture(seed: int, width: float, height: float) -> np.ndarray:
    """Return a grey image with structure at several scales."""
    rng = np.random.default_rng(seed)
    size = (int(width * _TEXELS_PER_UNIT), int(height * _TEXELS_PER_UNIT))
    total = np.zeros(size[::-1], np.float32)
    for cell, weight in ((3, 1.0), (8, 1.2), (24, 1.0)):
        small = rng.random((size[1] // cell + 2, size[0] // cell + 2), dtype=np.float32)
        total += weight * cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    total -= total.min()
    return (40 + 190 * total / total.max()).astype(np.uint8)


def room(seed: int = 0, blank_panel: bool = False) -> list[Panel]:
    """Return a wall with boards in front of it, far ones first."""
    wall = Panel((0.0, 0.0, 6.0), 16.0, 10.0, 0.0, noise_texture(seed, 16.0, 10.0))
    panels = [wall]
    places = [
        (-1.6, 0.5, 4.6, 20),
        (1.7, -0.5, 4.2, -25),
        (0.2, 1.0, 3.6, 10),
        (-0.6, -0.9, 3.3, -15),
    ]
    for i, (x, y, z, turn) in enumerate(places):
        texture = noise_texture(seed + 1 + i, 1.3, 1.1)
        panels.append(Panel((x, y, z), 1.3, 1.1, turn, texture))
    if blank_panel:
        blank = np.full((180, 180), 128, np.uint8)
        panels.append(Panel((0.9, 0.3, 3.0), 1.2, 1.2, 0.0, blank))
    return panels


def road(length: float = 40.0) -> list[Panel]:
    """Return boards on both sides of a straight road, and a far wall, far ones first."""
    wall = Panel((0.0, 0.0, length), 60.0, 30.0, 0.0, noise_texture(1, 8.0, 4.0))
    panels = [wall]
    for i, z in enumerate(np.arange(length - 2.0, 2.0, -1.5)):
        side = 1.0 if i % 2 else -1.0
        texture = noise_texture(2 + i, 1.6, 1.6)
        panels.append(Panel((side * 1.9, 0.4 * (i % 3 - 1), z), 1.6, 1.6, side * 20.0, texture))
    return panels


def draw(
    panels: list[Panel], T_world_camera: np.ndarray, intrinsics: Intrinsics = INTRINSICS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (H, W) uint8 image and the (H, W) depth (NaN where nothing is)."""
    shape = (intrinsics.height, intrinsics.width)
    gray, depth = np.zeros(shape, np.uint8), np.full(shape, np.nan)
    u, v = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    rays = np.stack(
        [
            (u - intrinsics.cx) / intrinsics.fx,
            (v - intrinsics.cy) / intrinsics.fy,
            np.ones(shape),
        ],
        axis=-1,
    )
    for panel in panels:
        T = inverse(T_world_camera) @ panel.T_world_panel()
        h, w = panel.texture.shape
        texel = np.array(
            [
                [panel.width / w, 0, panel.width * (0.5 / w - 0.5)],
                [0, panel.height / h, panel.height * (0.5 / h - 0.5)],
                [0, 0, 1.0],
            ]
        )
        H = intrinsics.K @ np.column_stack([T[:3, 0], T[:3, 1], T[:3, 3]]) @ texel
        z = (T[:3, 2] @ T[:3, 3]) / (rays @ T[:3, 2])
        flags = cv2.INTER_AREA
        image = cv2.warpPerspective(panel.texture, H, shape[::-1], flags=flags)
        inside = cv2.warpPerspective(np.full((h, w), 255, np.uint8), H, shape[::-1]) == 255
        inside &= z > 0
        gray[inside], depth[inside] = image[inside], z[inside]
    return gray, depth


def frame_of(
    gray: np.ndarray, index: int = -1, intrinsics: Intrinsics | None = INTRINSICS
) -> Frame:
    """Return a grey image as a frame, 15 a second."""
    return Frame(gray, max(index, 0) * 66_666_667, intrinsics, index)


def wander(count: int) -> list[np.ndarray]:
    """Return ``T_world_camera`` of a camera that goes sideways and about, looking at the wall."""
    poses = []
    for i in range(count):
        s = i / 60.0
        centre = np.array([1.3 * np.sin(2.2 * s), 0.35 * np.sin(3.1 * s), 0.5 * np.sin(1.3 * s)])
        turn = (3.0 * np.sin(2.9 * s), -9.0 * np.sin(2.2 * s), 2.0 * np.sin(1.7 * s))
        R = Rotation.from_euler('xyz', turn, degrees=True).as_matrix()
        poses.append(make_T(R, centre))
    start = inverse(poses[0])
    return [start @ T for T in poses]


def turn_only(count: int) -> list[np.ndarray]:
    """Return poses of a camera that pans and tilts without moving."""
    angles = [(2.0 * np.sin(i / 9.0), 12.0 * np.sin(i / 20.0), 0.0) for i in range(count)]
    return [
        make_T(Rotation.from_euler('xyz', a, degrees=True).as_matrix(), np.zeros(3))
        for a in angles
    ]
