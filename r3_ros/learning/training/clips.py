"""Training clips with their ground truth.

Shapes: B clips, S frames each, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...core.datatypes import Intrinsics


@dataclass(frozen=True, eq=False)
class Clips:
    """A batch of clips.

    :ivar images: (B, S, 3, H, W) uint8.
    :ivar depth: (B, S, H, W) float32 metres along the optical axis, 0 where unknown.
    :ivar rays: (B, H, W, 3) float32 true points at depth 1 of every pixel.
    :ivar T_world_camera: (B, S, 4, 4) float32, the first of each clip the identity.
    :ivar fov: (B, 2) float32 radians, vertical then horizontal.
    :ivar moving: (B, S, H, W) bool.
    """

    images: Tensor
    depth: Tensor
    rays: Tensor
    T_world_camera: Tensor
    fov: Tensor
    moving: Tensor

    @staticmethod
    def joined(parts: list[Clips]) -> Clips:
        """Concatenate several batches of the same shape."""
        names = [f.name for f in fields(Clips)]
        return Clips(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return B, S, H, W."""
        B, S, _, H, W = self.images.shape
        return B, S, H, W

    @property
    def camera(self) -> Tensor:
        """Return (B, 4) fx, fy, cx, cy in pixels."""
        first, x, y = self.rays[:, 0, 0, :2], self.rays[:, 0, -1, 0], self.rays[:, -1, 0, 1]
        steps = self.rays.new_tensor([self.rays.shape[2] - 1, self.rays.shape[1] - 1])
        focal = steps / (torch.stack((x, y), dim=-1) - first)
        return torch.cat([focal, -first * focal], dim=-1)


def camera_rays(camera: Tensor, height: int, width: int) -> Tensor:
    """Return (B, H, W, 3) float32 points at depth 1 of every pixel, centres at integers.

    :param camera: (B, 4) fx, fy, cx, cy.
    """
    fx, fy, cx, cy = (numbers[:, None] for numbers in camera.unbind(1))
    x = ((torch.arange(width, device=camera.device) - cx) / fx)[:, None].expand(-1, height, -1)
    y = ((torch.arange(height, device=camera.device) - cy) / fy)[:, :, None].expand_as(x)
    return torch.stack((x, y, torch.ones_like(x)), dim=-1).float()


def camera_numbers(K: Intrinsics, device: torch.device) -> Tensor:
    """Return (1, 4) float64 fx, fy, cx, cy."""
    return torch.tensor([[K.fx, K.fy, K.cx, K.cy]], dtype=torch.float64, device=device)
