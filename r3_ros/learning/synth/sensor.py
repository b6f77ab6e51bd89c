"""The camera sensor: exposure, vignetting, noise, 8-bit values.

By default only a little noise is on. Random draws depend on the seed and the frame number alone,
so frames do not depend on their batches.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
import torch
from torch import Tensor

from ...core.errors import ConfigError
from ...input.image_decoding import decode_eight_bit

_NOISE_POOL = 1 << 22


@dataclass(frozen=True)
class SensorOptions:
    """Imperfections of the camera.

    :ivar noise: deviation of the noise of a mid-grey pixel, in 8-bit levels.
    :ivar motion_blur: share of the time between frames that the shutter is open, 0 to 1.
    :ivar exposure: amplitude of the gain's drift, in stops, as of a slow auto-exposure.
    :ivar vignetting: loss of light in the corners, 0 to 1.
    """

    noise: float = 1.5
    motion_blur: float = 0.0
    exposure: float = 0.0
    vignetting: float = 0.0

    def __post_init__(self) -> None:
        for name, high in (('noise', 50), ('motion_blur', 1), ('exposure', 3), ('vignetting', 1)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= high):
                raise ConfigError(f'{name.replace("_", "-")} must be in [0, {high}], got {value}')


def to_display(light: Tensor) -> Tensor:
    """Return display values in [0, 1] of linear light of any shape."""
    # A square root is close to a power of 1 / 2.2, at a third of its cost.
    return light.clamp(0, 1).sqrt_()


class Sensor:
    """Turns radiance into images; ``gain`` is the mean gain, as ``exposure`` of a world."""

    def __init__(
        self,
        options: SensorOptions,
        gain: float,
        rate_hz: float,
        seed: int,
        device: torch.device | str = 'cpu',
    ) -> None:
        self.options = options
        self._gain = gain
        self._rate_hz = rate_hz
        self._seed = seed
        generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(_NOISE_POOL, generator=generator).to(device)

    def gain(self, frame: int) -> float:
        """Return the exposure gain of a frame."""
        rng = np.random.default_rng((self._seed, 5))
        t = frame / self._rate_hz
        stops = sum(
            math.sin(2 * math.pi * t / period + phase)
            for period, phase in zip(rng.uniform(3, 9, 3), rng.uniform(0, 6.28, 3), strict=True)
        )
        return self._gain * 2 ** (self.options.exposure * stops / 3)

    def develop(self, radiance: Tensor, first_frame: int) -> Tensor:
        """Return display values (B, 3, H, W) in [0, 1] of linear light, from a frame number on."""
        frames = range(first_frame, first_frame + len(radiance))
        gains = torch.tensor([self.gain(f) for f in frames], device=radiance.device)
        light = radiance * gains.float()[:, None, None, None]
        if self.options.vignetting > 0:
            y = torch.linspace(-1, 1, light.shape[2], device=light.device)[:, None] ** 2
            x = torch.linspace(-1, 1, light.shape[3], device=light.device)[None] ** 2
            light = light * (1 - self.options.vignetting * ((x + y) / 2) ** 1.5)
        values = to_display(light)
        if self.options.noise > 0:
            noise = torch.stack([self._noise(f, values[0].shape) for f in frames])
            # Shot noise after the gamma: strongest in dark areas, weakest in bright ones.
            values = values + noise * (self.options.noise / 255) * (1.45 - 0.9 * values)
        return values.clamp_(0, 1)

    def _noise(self, frame: int, shape: torch.Size) -> Tensor:
        """Return the noise of one frame, a random part of the pool."""
        n = shape.numel()
        start = int(np.random.default_rng((self._seed, 6, frame)).integers(_NOISE_POOL))
        pool = self._pool
        while start + n > len(pool):
            pool = torch.cat((pool, self._pool))
        return pool[start : start + n].view(shape)


def to_bytes(values: Tensor) -> np.ndarray:
    """Return (B, H, W, 3) uint8 RGB from display values (B, 3, H, W) in [0, 1]."""
    scaled = (values * 255).add_(0.5).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def jpeg_compressed(images: Tensor, quality: int) -> Tensor:
    """Compress and decompress images (B, 3, H, W) uint8 RGB as JPEG.

    :param quality: 1 to 100, of libjpeg; colours at half the resolution.
    """
    out = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        _, data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        out.append(decode_eight_bit(data.tobytes()))
    back = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2)
    return back.contiguous().to(images.device)
