"""Random changes of clips whose truth follows exactly: mirroring, colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .clips import Clips

#: Standard deviation of the logarithm of a clip's brightness; of its gamma half of it, of its
#: frames 0.15 of it, of its colours 0.2 of it.
_BRIGHTNESS = 0.3
#: Share of the batches whose colour channels are exchanged.
_EXCHANGED = 0.2


def augmented(clips: Clips, rng: np.random.Generator) -> Clips:
    """Return clips, half of them mirrored, with other brightness and colours.

    :returns: with images float32, 0 to 1.
    """
    B = clips.shape[0]
    flip = torch.from_numpy(rng.uniform(size=B) < 0.5).to(clips.depth.device)
    return _mirrored(replace(clips, images=_recoloured(clips.images, rng)), flip)


def _mirrored(clips: Clips, flip: Tensor) -> Clips:
    """Mirror the clips (B,) of which ``flip`` is true at a vertical plane."""

    def chosen(values: Tensor, mirrored: Tensor) -> Tensor:
        return torch.where(flip.reshape(-1, *[1] * (values.ndim - 1)), mirrored, values)

    negative_x = torch.tensor([-1.0, 1, 1], device=flip.device)
    M = torch.diag(torch.tensor([-1.0, 1, 1, 1], device=flip.device))
    return replace(
        clips,
        images=chosen(clips.images, clips.images.flip(-1)),
        depth=chosen(clips.depth, clips.depth.flip(-1)),
        moving=chosen(clips.moving, clips.moving.flip(-1)),
        rays=chosen(clips.rays, clips.rays.flip(-2) * negative_x),
        T_world_camera=chosen(clips.T_world_camera, M @ clips.T_world_camera @ M),
    )


def _recoloured(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Change gain, gamma and colours of (B, S, 3, H, W) uint8 images."""
    B, S = images.shape[:2]

    def noise(*shape: int) -> Tensor:
        drawn = rng.normal(0, _BRIGHTNESS, shape).astype(np.float32)
        return torch.from_numpy(drawn).to(images.device)

    gain = torch.exp(
        noise(B, 1, 1, 1, 1) + 0.15 * noise(B, S, 1, 1, 1) + 0.2 * noise(B, 1, 3, 1, 1)
    )
    gamma = torch.exp(0.5 * noise(B, 1, 1, 1, 1))
    values = (images.float() / 255).clamp(min=1e-4) ** gamma * gain
    if rng.uniform() < _EXCHANGED:
        values = values[:, :, torch.from_numpy(rng.permutation(3)).to(images.device)]
    return values.clamp(0, 1)
