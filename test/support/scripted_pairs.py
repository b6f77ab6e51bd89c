"""Networks of image pairs that know the truth: a camera in the room of ``scripted``.

Images tell their number by the blue of their first pixel (``scripted.pattern_image``). On request
point maps and poses are noisy, each pair has a unit of its own, and some pairs are wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
import math

import numpy as np
from r3_ros.core.config import ModelConfig
from r3_ros.core.datatypes import ModelInfo
from r3_ros.core.geometry import inverse, make_T, transform, unproject
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.multi_view import FrameFeatures
from r3_ros.model.pairs.croco import PointNetwork, PoseNetwork
from r3_ros.model.pairs.heads import PointMap
from r3_ros.model.pairs.pair_predictor import PairPredictor
from r3_ros.model.variants import CrocoConfig, PairOutput
from scipy.spatial.transform import Rotation
from scripted import circle, frames, intrinsics, Path, PERIOD_NS, room_depth, START_NS
import torch
from torch import nn, Tensor

SIZE = (48, 64)
_HARMONICS = np.random.default_rng(7).normal(size=(64, 6))


@dataclass
class PairScript:
    """What the pairs are like.

    :ivar noise: of points, over their distance; of poses, in radians.
    :ivar units: spread of the logarithm of the unit of a pair.
    :ivar wrong_share: pairs whose images are seen somewhere else, without any contradiction.
    :ivar garbage_share: pairs whose points are random.
    :ivar far: image pairs farther apart than this are garbage, map units.
    :ivar not_finite: images whose pairs have no finite number.
    """

    path: Path = circle(period_s=6.0)
    noise: float = 0.0
    units: float = 0.0
    wrong_share: float = 0.0
    garbage_share: float = 0.0
    far: float = math.inf
    not_finite: Collection[int] = ()


class _Scripted:
    """What both networks have in common."""

    script: PairScript
    passes: int

    def begin(self, script: PairScript, output: PairOutput) -> None:
        nn.Module.__init__(self)  # type: ignore[arg-type]
        self.script = script
        self.config = CrocoConfig('scripted', output, encoder_width=128)
        self.passes = self.encoded = 0
        self._walls: dict[int, np.ndarray] = {}

    def encode(self, images: Tensor) -> FrameFeatures:
        """Keep the number of an image; describe where it was taken from."""
        self.encoded += 1
        index = int(images[0, 2, 0, 0])
        T = self.T_room(index)
        phase = _HARMONICS @ np.concatenate([T[:3, 3], T[:3, 2]]) * 1.5
        descriptor = torch.from_numpy(np.concatenate([np.cos(phase), np.sin(phase)]))
        number = torch.tensor([[index]])
        rows, columns = images.shape[2] // 16, images.shape[3] // 16
        return FrameFeatures((number,), descriptor[None].float(), rows, columns)

    def T_room(self, index: int) -> np.ndarray:
        return self.script.path(START_NS + index * PERIOD_NS)

    def relation(self, first: int, second: int) -> tuple[np.ndarray | None, np.random.Generator]:
        """Return T_first_second as the pair sees it (None: garbage), and the pair's own chance."""
        self.passes += 1
        low, high = sorted((first, second))
        pair = np.random.default_rng([low, high])  # the same in both orders
        T = inverse(self.T_room(low)) @ self.T_room(high)
        kind = pair.random()
        garbage = kind < self.script.garbage_share
        if garbage or np.linalg.norm(T[:3, 3]) > self.script.far:
            return None, np.random.default_rng([first, second, 1])
        if first != second and kind > 1.0 - self.script.wrong_share:
            T = make_T(Rotation.random(rng=pair).as_matrix(), pair.normal(size=3) * 0.5)
        T = T if first <= second else inverse(T)
        return T, np.random.default_rng([first, second, 1])


class ScriptedPoints(_Scripted, PointNetwork):
    """A network of point maps."""

    def __init__(self, script: PairScript, output: PairOutput = PairOutput.POINTS) -> None:
        self.begin(script, output)

    def forward(self, first: FrameFeatures, second: FrameFeatures) -> tuple[PointMap, PointMap]:
        """Return the points of the walls in the first camera, in a unit of the pair."""
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        indices = (images.tensors[0][:, 0].tolist() for images in (first, second))
        for a, b in zip(*indices, strict=True):
            T, chance = self.relation(a, b)
            points = [self._points(a), self._points(b)]
            if T is not None:
                points[1] = transform(T, points[1].reshape(-1, 3)).reshape(points[1].shape)
            unit = math.exp(self.script.units * chance.normal())
            for part, own in zip(parts, points, strict=True):
                if T is None:
                    own = chance.normal(size=own.shape)
                if {a, b}.intersection(self.script.not_finite):
                    own = np.full(own.shape, np.nan)
                distance = np.linalg.norm(own, axis=-1, keepdims=True)
                part.append(
                    unit * (own + self.script.noise * distance * chance.normal(size=own.shape))
                )
        maps = [torch.from_numpy(np.stack(part)).float() for part in parts]
        return tuple(PointMap(points, torch.full(points.shape[:-1], 3.0)) for points in maps)  # type: ignore[return-value]

    def _points(self, index: int) -> np.ndarray:
        if index not in self._walls:
            K = intrinsics(SIZE[1], SIZE[0])
            depth = room_depth(next(frames(1)), self.T_room(index), K, SIZE).depth
            self._walls[index] = unproject(depth.astype(np.float64), K.fx, K.fy, K.cx, K.cy)
        return self._walls[index]


class ScriptedPoses(_Scripted, PoseNetwork):
    """A network of relative poses whose translations have any length."""

    def __init__(self, script: PairScript) -> None:
        self.begin(script, PairOutput.POSE)

    def forward(self, first: FrameFeatures, second: FrameFeatures) -> tuple[Tensor, Tensor]:
        """Return ``T_second_first`` and ``T_first_second``."""
        a, b = int(first.tensors[0][0, 0]), int(second.tensors[0][0, 0])
        T, chance = self.relation(a, b)
        found = []
        for motion in (None, None) if T is None else (inverse(T), T):
            if motion is None:
                R, t = Rotation.random(rng=chance).as_matrix(), chance.normal(size=3)
            else:
                turn, bend = Rotation.from_rotvec(self.script.noise * chance.normal(size=(2, 3)))
                R, t = turn.as_matrix() @ motion[:3, :3], bend.apply(motion[:3, 3])
                t = t / max(np.linalg.norm(t), 1e-9) * chance.uniform(0.2, 2.0)
            if {a, b}.intersection(self.script.not_finite):
                R = np.full((3, 3), np.nan)
            found.append(torch.from_numpy(make_T(R, t))[None].float())
        return found[0], found[1]


def pair_predictor(
    network: ScriptedPoints | ScriptedPoses, config: ModelConfig | None = None, **options: int
) -> PairPredictor:
    """Return the predictor around a scripted network, for images of 64 x 48 pixels."""
    config = replace(config or ModelConfig(), image_size=SIZE[1])
    budget, device = CacheBudget(64 << 20, 64 << 20), torch.device('cpu')
    return PairPredictor(network, ModelInfo('scripted'), config, budget, device, **options)
