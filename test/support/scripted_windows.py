"""A predictor of windows that knows the answer, with a unit of its own for every window.

An image says by its colour which camera took it. Noise, wrong relations, strangers and limits
are added on request.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from r3_ros.core.datatypes import Frame, ModelInfo
from r3_ros.core.geometry import inverse, make_T, quat_xyzw, T_from_quat
from r3_ros.core.predictor import WindowPrediction
from r3_ros.core.resize_geometry import Geometry
from r3_ros.input.network_input import fov_of
from scipy.spatial.transform import Rotation
import scripted

WIDTH, HEIGHT = 56, 42
#: Logits of cameras that see the same, and of those that do not.
GOOD, BAD = 4.0, -3.0


@dataclass
class WindowScript:
    """What the predictor knows and how it errs.

    :ivar T_world_camera: (N, 4, 4) true poses.
    :ivar units: lengths of the windows' units, one after the other, from the beginning again.
    :ivar noise: of every relation, as a share of its length, and in radians.
    :ivar groups: of cameras; those of two groups have nothing to do with each other.
    :ivar wrong: by window, cameras of which it gets all relations wrong, with the usual scores.
    :ivar limit: images that fit into memory.
    """

    T_world_camera: np.ndarray
    units: tuple[float, ...] = (1.0,)
    noise: tuple[float, float] = (0.0, 0.0)
    groups: Mapping[int, int] = field(default_factory=dict)
    wrong: Mapping[int, Collection[int]] = field(default_factory=dict)
    limit: int = 1000
    with_depth: bool = True


class ScriptedWindows:
    """See :class:`WindowScript`.

    :ivar passes: cameras that were shown together, window by window.
    """

    def __init__(self, script):
        self.info = ModelInfo('scripted')
        self.script = script
        self.passes = []
        self.closed = False
        self._rng = np.random.default_rng(0)

    def geometry(self, width, height):
        return Geometry(width, height, ())

    def most_frames(self, width, height):
        return self.script.limit

    def describe(self, image):
        """Cameras near each other look alike; far ones have nothing in common."""
        centres = self.script.T_world_camera[:, :3, 3]
        far = np.linalg.norm(centres - centres[camera_of(image)], axis=1)
        similarity = np.exp(-(far**2)).astype(np.float32)
        return similarity / np.linalg.norm(similarity)

    def predict(self, images):
        script, cameras = self.script, [camera_of(image) for image in images]
        unit = script.units[len(self.passes) % len(script.units)]
        wrong = script.wrong.get(len(self.passes), ())
        self.passes.append(tuple(cameras))
        S = len(cameras)
        T = script.T_world_camera[cameras]
        relative, logits = np.full((S, S, 7), np.nan), np.full((S, S, 2), GOOD)
        for i in range(S):
            for j in range(S):
                if i != j:
                    apart = script.groups.get(cameras[i]) != script.groups.get(cameras[j])
                    T_j_i = inverse(T[j]) @ T[i]
                    if apart or cameras[i] in wrong or cameras[j] in wrong:
                        T_j_i = self._any_pose()
                    logits[i, j] = BAD if apart else GOOD
                    T_j_i = self._noisy(T_j_i)
                    T_j_i[:3, 3] /= unit
                    relative[i, j] = [*T_j_i[:3, 3], *quat_xyzw(T_j_i)]
        depth = confidence = None
        if script.with_depth:
            maps = [self._depth(image) for image in images]
            depth = np.stack([m.depth for m in maps]) / np.float32(unit)
            confidence = np.stack([m.confidence for m in maps])
        return WindowPrediction(
            relative=relative,
            logits=logits,
            predicted=~np.eye(S, dtype=bool),
            fov=np.tile(fov_of(scripted.intrinsics(WIDTH, HEIGHT)), (S, 1)),
            depth=depth,
            confidence=confidence,
        )

    def close(self):
        self.closed = True

    def true_depth(self, camera):
        """Return the depth of a camera in the unit of the truth."""
        return self._depth(image_of(camera)).depth

    def _depth(self, image):
        T = self.script.T_world_camera[camera_of(image)].copy()
        # The room goes with the camera: it is never outside.
        T[:3, 3] = 0.5 * np.sin(T[:3, 3])
        K = scripted.intrinsics(WIDTH, HEIGHT)
        return scripted.room_depth(Frame(image, 0), T, K, (HEIGHT, WIDTH))

    def _any_pose(self):
        quat, shift = self._rng.normal(size=4), self._rng.normal(size=3)
        return T_from_quat(shift, quat)

    def _noisy(self, T):
        shift, turn = self.script.noise
        if not shift and not turn:
            return T
        length = np.linalg.norm(T[:3, 3])
        R = Rotation.from_rotvec(self._rng.normal(0, turn, 3)).as_matrix()
        return T @ make_T(R, self._rng.normal(0, shift * length, 3))


def walk(count, step=0.1, turn=0.02):
    """Return (count, 4, 4) poses of a walk that winds on and on, the first at the origin."""
    T = [np.eye(4)]
    for n in range(1, count):
        R = Rotation.from_euler('yx', [turn * np.cos(n / 15), 0.3 * turn * np.sin(n / 7)])
        sway = step * np.array([0.5 * np.sin(n / 5), 0.2 * np.cos(n / 4), 1.0])
        T.append(T[-1] @ make_T(R.as_matrix(), sway))
    return np.stack(T)


def image_of(camera, size=(WIDTH, HEIGHT)):
    """Return an image that says which camera took it."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:] = camera // 256, camera % 256, 77
    return image


def camera_of(image):
    """Return the number of the camera that took an image."""
    return int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])


def write_images(folder, cameras, timed=True, names=None, size=(WIDTH, HEIGHT)):
    """Write images of cameras in this order, with times or without."""
    folder.mkdir()
    names = names or [f'{n:06d}.png' for n in range(len(cameras))]
    for name, camera in zip(names, cameras, strict=True):
        cv2.imwrite(str(folder / name), image_of(camera, size)[..., ::-1])
    if timed:
        lines = [f'{n / 10} {name}' for n, name in enumerate(names)]
        (folder / 'timestamps.txt').write_text('\n'.join(lines))
    return folder
