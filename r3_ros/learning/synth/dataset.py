"""Synthetic sequences, written as folders.

A folder holds ``rgb/``, ``depth/`` (16-bit PNG, millimetres, 0 = unknown), ``timestamps.txt``,
``camera.yaml`` (ROS camera calibration), ``groundtruth.txt`` (TUM, camera-to-world, optical
axes), ``mask/`` if there are moving bodies (255 = moving) and ``world.json`` (all options).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import yaml

from ...core.atomic_files import atomic_directory
from ...core.datatypes import Intrinsics
from ...core.errors import ConfigError
from ...core.trajectory_file import NANOSECONDS, stamp_text, write_tum
from .parallel import in_order
from .path import make_path
from .renderer import render_radiance, Rendering
from .sensor import Sensor, SensorOptions, to_bytes
from .world import World, WORLD_VERSION

#: The file that marks a folder as a synthetic sequence.
WORLD_FILE = 'world.json'
_JPEG_QUALITY = 95
_DEPTH_UNIT_M = 0.001
_BLUR_STEPS = 5
_FRAMES_PER_JOB = {'cpu': 1, 'cuda': 8}


@dataclass(frozen=True)
class SequenceOptions:
    """Options of a synthetic sequence.

    :ivar kind: of the world, see :data:`~.kinds.KINDS`.
    :ivar moving: number of moving bodies.
    :ivar depth_every: write the depth of every n-th frame; 0 for none.
    """

    seed: int = 0
    kind: str = 'room'
    frames: int = 400
    width: int = 640
    height: int = 480
    rate_hz: float = 15.0
    moving: int = 0
    depth_every: int = 5
    image_format: str = 'jpg'
    coarseness: float = 1.0
    sensor: SensorOptions = field(default_factory=SensorOptions)

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 < self.rate_hz <= 1000:
            given = f'{self.frames} and {self.rate_hz}'
            raise ConfigError(f'frames must be at least 1 and rate in (0, 1000], got {given}')
        if not (32 <= self.width <= 8192 and 32 <= self.height <= 8192):
            given = f'{self.width}x{self.height}'
            raise ConfigError(f'width and height must be in [32, 8192] pixels, got {given}')
        if self.depth_every < 0:
            raise ConfigError(f'depth-every must not be negative, got {self.depth_every}')


class SequenceFrame(NamedTuple):
    """Image (H, W, 3) uint8 RGB, depth (H, W) in metres, 0 for none, and where bodies move."""

    image: np.ndarray
    depth: np.ndarray
    moving: np.ndarray


class SyntheticSequence:
    """A world, a camera path through it and a sensor: frames by number.

    :raises ConfigError: an option is out of range, or no path fits.
    """

    def __init__(self, options: SequenceOptions, device: torch.device | str = 'cpu') -> None:
        self.options = options
        seed, rate_hz, coarseness = options.seed, options.rate_hz, options.coarseness
        self.world = World.generate(
            seed, options.kind, moving=options.moving, coarseness=coarseness, device=device
        )
        self.intrinsics = _random_intrinsics(seed, options.width, options.height)
        self.path = make_path(self.world, options.frames, rate_hz, seed)
        self._sensor = Sensor(options.sensor, self.world.exposure, rate_hz, seed, device)

    def frames(self, start: int, stop: int) -> list[SequenceFrame]:
        """Render the frames from ``start`` to before ``stop`` in one batch."""
        rendering = self._render(slice(start, stop))
        images = to_bytes(self._sensor.develop(rendering.radiance, start))
        depth, moving = rendering.depth.cpu().numpy(), rendering.moving.cpu().numpy()
        return [SequenceFrame(*parts) for parts in zip(images, depth, moving, strict=True)]

    def _render(self, which: slice) -> Rendering:
        poses = torch.from_numpy(self.path.T_world_camera[which])
        times = torch.from_numpy(self.path.time_s[which])
        sharp = render_radiance(self.world, poses, self.intrinsics, time_s=times)
        shutter = self.options.sensor.motion_blur / self.options.rate_hz
        if shutter == 0:
            return sharp
        total = sharp.radiance.clone()
        steps = (np.arange(_BLUR_STEPS) + 0.5) / _BLUR_STEPS - 0.5
        for offset in steps[steps != 0] * shutter:
            at = self.path.time_s[which] + offset
            moved = torch.from_numpy(self.path.interpolated(at))
            times = torch.from_numpy(at)
            total += render_radiance(
                self.world, moved, self.intrinsics, time_s=times, samples=1
            ).radiance
        return sharp._replace(radiance=total / _BLUR_STEPS)


def _random_intrinsics(seed: int, width: int, height: int) -> Intrinsics:
    """Return the camera of a seed: a field of view of about 65 degrees, not quite centred."""
    rng = np.random.default_rng((seed, 31))
    f = width * rng.uniform(0.74, 0.86)
    cx = (width - 1) / 2 + width * rng.uniform(-0.012, 0.012)
    cy = (height - 1) / 2 + height * rng.uniform(-0.012, 0.012)
    return Intrinsics(f, f * rng.uniform(0.998, 1.002), cx, cy, width, height)


def write_sequence(
    options: SequenceOptions,
    output: Path | str,
    *,
    overwrite: bool = False,
    device: torch.device | str = 'cpu',
    on_frames: Callable[[int], object] = lambda count: None,
) -> None:
    """Render a sequence and write its folder, completely or not at all.

    :param on_frames: called with the number of frames written since the last call; with 0 when
        the world is ready.
    :raises OutputError: the folder exists, or cannot be written.
    :raises ConfigError: an option is out of range, or no path fits.
    """
    with atomic_directory(output, overwrite, marker=WORLD_FILE) as folder:
        sequence = SyntheticSequence(options, device)
        on_frames(0)
        _write_world(sequence, folder)
        step = _FRAMES_PER_JOB[torch.device(device).type]
        starts = range(0, options.frames, step)

        def job(start: int) -> int:
            for number, frame in enumerate(sequence.frames(start, start + step), start):
                _write_frame(folder, number, frame, options)
            return min(step, options.frames - start)

        for count in in_order(job, starts, sequence.world.device):
            on_frames(count)


def _write_frame(
    folder: Path, number: int, frame: SequenceFrame, options: SequenceOptions
) -> None:
    name = f'{number:06d}'
    write_image(folder / 'rgb' / f'{name}.{options.image_format}', frame.image)
    if options.depth_every and number % options.depth_every == 0:
        write_depth(folder / 'depth' / f'{name}.png', frame.depth)
    if options.moving:
        _encode(folder / 'mask' / f'{name}.png', frame.moving.astype(np.uint8) * 255, [])


def write_image(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as the JPEG or PNG that the suffix names; makes its folder."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == '.jpg' else []
    _encode(path, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)


def write_depth(path: Path, depth: np.ndarray) -> None:
    """Write (H, W) metres as a 16-bit PNG of millimetres, 0 for none; makes its folder."""
    millimetres = np.round(depth / _DEPTH_UNIT_M)
    # 16-bit values beyond 65.5 m would wrap around: unknown.
    millimetres[millimetres > 65535] = 0
    _encode(path, millimetres.astype(np.uint16), [])


def _encode(path: Path, image: np.ndarray, parameters: list[int]) -> None:
    """Encode in memory and write, so that a full disk is an error."""
    _, data = cv2.imencode(path.suffix, image, parameters)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.tobytes())


def write_descriptions(
    folder: Path,
    images: Sequence[str],
    stamps_ns: np.ndarray,
    T_world_camera: np.ndarray,
    camera: Intrinsics,
    camera_name: str,
) -> None:
    """Write ``timestamps.txt``, ``groundtruth.txt`` and ``camera.yaml``, without distortion.

    :param images: paths in the folder; ``stamps_ns``: (N,); ``T_world_camera``: (N, 4, 4).
    :raises OutputError: a file cannot be written.
    """
    lines = ['# timestamp filename']
    for stamp, image in zip(stamps_ns, images, strict=True):
        lines.append(f'{stamp_text(int(stamp))} {image}')
    (folder / 'timestamps.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    write_tum(folder / 'groundtruth.txt', stamps_ns, T_world_camera)
    (folder / 'camera.yaml').write_text(_camera_yaml(camera, camera_name), encoding='utf-8')


def _write_world(sequence: SyntheticSequence, folder: Path) -> None:
    options, camera = sequence.options, sequence.intrinsics
    stamps = np.round(sequence.path.time_s * NANOSECONDS).astype(np.int64)
    images = [f'rgb/{k:06d}.{options.image_format}' for k in range(len(stamps))]
    name = f'synth_{options.kind}_{options.seed}'
    write_descriptions(folder, images, stamps, sequence.path.T_world_camera, camera, name)
    about = {
        'generator': 'r3 synth',
        'world_version': WORLD_VERSION,
        'options': asdict(options),
        'intrinsics': asdict(camera),
        'pixel_centres': 'integer coordinates',
        'pose': 'T_world_camera, optical axes (x right, y down, z forward), metres, z up',
        'depth_unit_m': _DEPTH_UNIT_M,
        'exposure': sequence.world.exposure,
    }
    (folder / WORLD_FILE).write_text(json.dumps(about, indent=2) + '\n', encoding='utf-8')


def _camera_yaml(camera: Intrinsics, name: str) -> str:
    """Return a ROS camera calibration without distortion."""

    def matrix(values: np.ndarray) -> dict[str, object]:
        rows, columns = values.shape
        return {'rows': rows, 'cols': columns, 'data': values.ravel().tolist()}

    content = {
        'image_width': camera.width,
        'image_height': camera.height,
        'camera_name': name,
        'camera_matrix': matrix(camera.K),
        'distortion_model': 'plumb_bob',
        'distortion_coefficients': matrix(np.zeros((1, 5))),
        'rectification_matrix': matrix(np.eye(3)),
        'projection_matrix': matrix(np.column_stack((camera.K, np.zeros(3)))),
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
