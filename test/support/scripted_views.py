"""A network of several views that knows the truth, with a unit of its own for every pass.

An image says by its colour which frame it is. Noise, wrong poses and wrong depth are added on
request.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from r3_ros.core.datatypes import Frame
from r3_ros.core.geometry import inverse, make_T
from r3_ros.core.resize_geometry import Geometry
from r3_ros.input.network_input import fov_of
from r3_ros.model.multi_view import FrameFeatures, MultiViewNetwork, Views
from scipy.spatial.transform import Rotation
import scripted
from scripted_windows import camera_of, image_of
import torch

WIDTH, HEIGHT = 112, 84
K = scripted.intrinsics(WIDTH, HEIGHT)


@dataclass
class ViewScript:
    """What the network knows and how it errs. A pass is named by its newest frame.

    :ivar T_world_camera: (N, 4, 4) true poses.
    :ivar noise: standard deviations of every pose of a pass, map units and radians.
    :ivar bend: the newest frames of a pass turn too far by this angle per frame of their age,
        radians: drift, which frames of long ago do not follow.
    :ivar depth_noise: of the depth of every pixel, relative.
    :ivar wrong_poses: passes whose poses are arbitrary.
    :ivar wrong_depth: passes whose depths have nothing to do with one another or the scene.
    :ivar stranger: frames that show another place, and are placed anywhere.
    """

    T_world_camera: np.ndarray
    noise: tuple[float, float] = (0.0, 0.0)
    bend: float = 0.0
    depth_noise: float = 0.0
    wrong_poses: Collection[int] = field(default_factory=set)
    wrong_depth: Collection[int] = field(default_factory=set)
    strangers: Collection[int] = field(default_factory=set)
    seed: int = 0


class ScriptedViews(MultiViewNetwork):
    """See :class:`ViewScript`.

    :ivar encoded: frames that were encoded, in this order; ``passes``: those of every pass.
    """

    image_size = WIDTH
    descriptor_size = 64

    def __init__(self, script):
        super().__init__()
        self.script = script
        self.encoded = []
        self.passes = []
        self._rng = np.random.default_rng(script.seed)
        self._frequencies = np.random.default_rng(7).normal(size=(self.descriptor_size // 2, 6))
        self._depth = lru_cache(maxsize=None)(self._true_depth)

    def geometry(self, width, height, image_size):
        return Geometry(width, height, ())

    def encode(self, images):
        numbers = [camera_of(image.permute(1, 2, 0).numpy()) for image in images]
        self.encoded += numbers
        T = self.script.T_world_camera[numbers]
        phase = np.concatenate([T[:, :3, 3], T[:, :3, 2]], axis=1) * 1.5 @ self._frequencies.T
        descriptor = torch.from_numpy(np.concatenate([np.cos(phase), np.sin(phase)], axis=1))
        return FrameFeatures((torch.tensor(numbers),), descriptor.float(), HEIGHT, WIDTH)

    def relate(self, features):
        script, rng = self.script, self._rng
        numbers = features.tensors[0].tolist()
        self.passes.append(numbers)
        newest = numbers[-1]
        T = script.T_world_camera[numbers].copy()
        depth = np.stack([self._depth(n) for n in numbers])
        depth *= np.exp(rng.normal(0.0, script.depth_noise, depth.shape))
        shift, turn = script.noise
        for number, pose in zip(numbers, T, strict=True):
            if newest - number < 30:
                turned = Rotation.from_euler('y', script.bend * (newest - number)).as_matrix()
                T_newest = script.T_world_camera[newest]
                pose[:] = T_newest @ make_T(turned, np.zeros(3)) @ inverse(T_newest) @ pose
            R = Rotation.from_rotvec(rng.normal(0.0, turn, 3)).as_matrix()
            pose[:] = pose @ make_T(R, rng.normal(0.0, shift, 3))
        anywhere = [
            n for n, number in enumerate(numbers)
            if newest in script.wrong_poses or number in script.strangers
        ]  # fmt: skip
        for n in anywhere:
            T[n] = make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3))
            depth[n] = rng.permutation(depth[n].ravel()).reshape(HEIGHT, WIDTH)
        if newest in script.wrong_depth:
            depth = rng.uniform(0.5, 5.0, depth.shape)
        unit = np.exp(rng.normal(0.0, 0.7))
        # Nor is the first frame the origin of a pass.
        T = make_T(Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3)) @ T
        T[:, :3, 3] /= unit
        return Views(
            torch.from_numpy(T).float(),
            torch.tensor([fov_of(K)] * len(numbers)),
            torch.from_numpy(depth / unit).float(),
            torch.full(depth.shape, 2.0),
        )

    def pass_bytes(self, width, height, frames, depth=True):
        return 100 * frames * width * height

    def _true_depth(self, number):
        frame = Frame(image_of(number, (WIDTH, HEIGHT)), 0)
        T = self.script.T_world_camera[number]
        return scripted.room_depth(frame, T, K, (HEIGHT, WIDTH)).depth.astype(np.float64)


def room_walk(count, per_loop=200):
    """Return (count, 4, 4) poses on a circle in the scripted room."""
    path = scripted.circle(0.5, per_loop / 10)
    step_ns = scripted.PERIOD_NS
    return np.stack([path(scripted.START_NS + n * step_ns) for n in range(count)])


def numbered_frames(count, calibrated=True):
    """Yield frames that say by their colour which they are."""
    for n in range(count):
        stamp_ns = scripted.START_NS + n * scripted.PERIOD_NS
        # A band of noise, as every frame must show something of its own.
        image = image_of(n, (WIDTH, HEIGHT))
        image[1:] = np.random.default_rng(n).integers(0, 255, (HEIGHT - 1, WIDTH, 3))
        yield Frame(image, stamp_ns, K if calibrated else None)


def from_first(T_world_camera):
    """Return the poses in the first camera, the engine's world."""
    return inverse(T_world_camera[0]) @ T_world_camera
