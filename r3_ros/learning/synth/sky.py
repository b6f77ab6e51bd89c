"""The sky of outdoor worlds: a gradient with soft clouds, infinitely far away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics


def pixel_directions(intrinsics: Intrinsics, device: torch.device) -> Tensor:
    """Return (H, W, 3) float32 points at depth 1 of every pixel."""
    y = (torch.arange(intrinsics.height, device=device) - intrinsics.cy) / intrinsics.fy
    x = (torch.arange(intrinsics.width, device=device) - intrinsics.cx) / intrinsics.fx
    y, x = torch.meshgrid(y.float(), x.float(), indexing='ij')
    return torch.stack((x, y, torch.ones_like(x)), -1)


@dataclass(frozen=True, eq=False)
class Sky:
    """A sky.

    :ivar zenith: (3,) linear radiance straight up; ``horizon`` likewise.
    :ivar clouds: (K, 4) waves across the sky: two wave numbers, phase and strength.
    """

    zenith: np.ndarray
    horizon: np.ndarray
    clouds: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator) -> Sky:
        """Return a clear, hazy or overcast sky."""
        bright = rng.uniform(0.25, 0.9)
        grey = rng.uniform(0, 1)
        zenith = bright * (np.array([0.25, 0.42, 0.8]) * (1 - grey) + 0.6 * grey)
        horizon = bright * (np.array([0.8, 0.85, 0.95]) * (1 - grey) + 0.75 * grey)
        horizon = horizon * rng.uniform(0.85, 1.15, size=3)
        waves = rng.normal(0, 1, size=(6, 2)) * np.array([1, 1.7, 3, 5, 8, 13])[:, None]
        strength = rng.uniform(0, 0.35) * np.array([1, 0.8, 0.6, 0.5, 0.4, 0.3])
        clouds = np.column_stack((waves, rng.uniform(0, 6.28, 6), strength))
        return cls(zenith, horizon, clouds)

    def radiance(self, T_world_camera: Tensor, intrinsics: Intrinsics) -> Tensor:
        """Return (B, 3, H, W) float32 radiance of the sky at every pixel of (B, 4, 4) poses."""
        device = T_world_camera.device
        rays = torch.nn.functional.normalize(pixel_directions(intrinsics, device), dim=-1)
        d = torch.einsum('bij,hwj->bihw', T_world_camera[:, :3, :3].float(), rays)
        up = d[:, 2:].clamp(0, 1)
        # Clouds lie in a plane overhead, seen along the ray.
        plane = d[:, :2] / (d[:, 2:].abs() + 0.15)
        cloud = torch.zeros_like(up)
        for kx, ky, phase, strength in self.clouds.tolist():
            cloud += strength * torch.sin(kx * plane[:, :1] + ky * plane[:, 1:] + phase)
        colours = torch.tensor(np.array((self.horizon, self.zenith)), dtype=torch.float32)
        horizon, zenith = colours.to(device)[:, None, :, None, None]
        blue = torch.lerp(horizon, zenith, up.sqrt())
        return blue * (1 + cloud * up.sqrt()).clamp(0.3, 2)
