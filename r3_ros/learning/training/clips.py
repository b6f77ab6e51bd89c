"""Training clips with their ground truth.

Shapes: B clips, S frames each, H x W pixels, N tracked points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ...core.datatypes import Intrinsics


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points of the first frame, tracked through the clip.

    :ivar pixel: (B, S, N, 2) x and y, centres at integers.
    :ivar visible: (B, S, N) bool.
    :ivar points: (B, S, N, 3) float32, in the camera of each frame, metres.
    :ivar world: (B, S, N, 3) float32, in the camera of the first frame: constant where static.
    """

    pixel: Tensor
    visible: Tensor
    points: Tensor
    world: Tensor

    @staticmethod
    def none(B: int, S: int, N: int, device: torch.device) -> Tracks:
        """Return tracks that are visible in no frame."""
        zero = torch.zeros((B, S, N, 3), device=device)
        return Tracks(zero[..., :2], zero[..., 0].bool(), zero, zero)


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
    tracks: Tracks

    @staticmethod
    def joined(parts: list[Clips]) -> Clips:
        """Concatenate several batches of the same shape."""
        names = [f.name for f in fields(Clips) if f.name != 'tracks']
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        tracks = (torch.cat([getattr(p.tracks, f.name) for p in parts]) for f in fields(Tracks))
        return Clips(**whole, tracks=Tracks(*tracks))

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


@dataclass(frozen=True, eq=False)
class UnlabelledClips:
    """A batch of clips of videos without ground truth, with points tracked in them.

    :ivar images: (B, S, 3, H, W) uint8.
    :ivar pixel: (B, S, N, 2) float32 x and y, centres at integers, zero where not visible.
    :ivar visible: (B, S, N) bool; False in all frames for points that seem to move.
    :ivar fov: (B, 2) float32 radians, vertical then horizontal; 0 where not calibrated.
    """

    images: Tensor
    pixel: Tensor
    visible: Tensor
    fov: Tensor

    @staticmethod
    def joined(parts: list[UnlabelledClips]) -> UnlabelledClips:
        """Concatenate several batches of the same shape."""
        names = [f.name for f in fields(UnlabelledClips)]
        return UnlabelledClips(*(torch.cat([getattr(p, name) for p in parts]) for name in names))


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


def random_pixels(depth: Tensor, count: int, rng: np.random.Generator) -> Tensor | None:
    """Draw pixels of (H, W) depth where it is known: (count, 2) int64 x and y.

    :returns: None if there are none.
    """
    known = (depth > 0).nonzero().flip(1)
    if not len(known) or not count:
        return None
    return known[torch.from_numpy(rng.integers(len(known), size=count)).to(depth.device)]


def follow_points(depth: Tensor, K: Tensor, T_first_camera: Tensor, pixel: Tensor) -> Tracks:
    """Track points of the first frame by exact geometry, as if all were static.

    :param depth: (S, H, W); ``K``: (3, 3) float64.
    :param T_first_camera: (S, 4, 4) float64, the first one the identity.
    :param pixel: (N, 2) int64 in the first frame, where its depth is known.
    :returns: tracks of one clip (B = 1); points that move are visible in few frames.
    """
    S, H, W = depth.shape
    z = depth[0, pixel[:, 1], pixel[:, 0]].double()
    homogeneous = torch.cat((pixel.double(), torch.ones_like(z)[:, None]), dim=1)
    start = (homogeneous @ torch.linalg.inv(K).T) * z[:, None]
    start = torch.cat((start, torch.ones_like(z)[:, None]), dim=1)
    world = start.expand(S, -1, -1)
    points = torch.einsum('sij,snj->sni', torch.linalg.inv(T_first_camera), world)[..., :3]
    projected = points @ K.T
    at = projected[..., :2] / projected[..., 2:].clamp(min=1e-6)
    column, row = at.round().long().unbind(-1)
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H) & (points[..., 2] > 1e-3)
    frame = torch.arange(S, device=depth.device)[:, None]
    seen = depth[frame, row.clamp(0, H - 1), column.clamp(0, W - 1)]
    # On a slanted surface the nearest pixel has another depth: two percent are allowed.
    visible = inside & ((seen - points[..., 2]).abs() < 0.02 * points[..., 2])
    at = torch.nan_to_num(at).clamp(-1e6, 1e6)
    return Tracks(
        at.float()[None], visible[None], points.float()[None], world[..., :3].float()[None]
    )
