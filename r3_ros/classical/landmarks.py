"""The sparse map: landmarks and the frames that saw them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .pinhole import Pinhole

_GROWTH = 4096


class Landmarks:
    """All landmarks as arrays with reusable slots.

    A new landmark is a *candidate*: a tracked corner of guessed depth. Once triangulated it is
    *solid*. References to a slot store its generation too, which counts up when it is freed.

    :ivar position: (N, 3) in the world; for candidates along the ray of the first observation.
    :ivar solid: (N,) whether the position was triangulated.
    :ivar observation_count: (N,) number of keyframes that saw it.
    :ivar relative_sigma: (N,) standard deviation of the depth over the depth, for a pixel.
    :ivar first_frame: (N,) keyframe that saw it first.
    :ivar first_pixel: (N, 2) in that keyframe.
    """

    def __init__(self) -> None:
        self.position = np.zeros((0, 3))
        self.used = np.zeros(0, bool)
        self.solid = np.zeros(0, bool)
        self.observation_count = np.zeros(0, np.int32)
        self.generation = np.zeros(0, np.int32)
        self.relative_sigma = np.zeros(0)
        self.first_frame = np.zeros(0, np.int64)
        self.first_pixel = np.zeros((0, 2))
        self._free: list[int] = []

    def __len__(self) -> int:
        return int(self.used.sum())

    def add(self, position: np.ndarray, frame_id: int, pixels: np.ndarray) -> np.ndarray:
        """Store (n, 3) candidates first seen by a keyframe, and return their slots."""
        count = len(position)
        while len(self._free) < count:
            self._grow()
        slots = np.array([self._free.pop() for _ in range(count)], dtype=np.int64)
        self.position[slots] = position
        self.used[slots] = True
        self.solid[slots] = False
        self.observation_count[slots] = 0
        self.relative_sigma[slots] = np.inf
        self.first_frame[slots] = frame_id
        self.first_pixel[slots] = pixels
        return slots

    def _grow(self) -> None:
        old = len(self.used)
        for name, array in vars(self).items():
            if isinstance(array, np.ndarray):
                more = np.zeros((_GROWTH, *array.shape[1:]), array.dtype)
                setattr(self, name, np.concatenate([array, more]))
        self._free = list(range(old + _GROWTH - 1, old - 1, -1)) + self._free

    def remove(self, slots: np.ndarray) -> None:
        """Free slots; those not in use are ignored."""
        slots = np.unique(slots)
        slots = slots[self.used[slots]]
        self.used[slots] = False
        self.solid[slots] = False
        self.generation[slots] += 1
        self._free.extend(slots.tolist())


@dataclass(eq=False)
class Observations:
    """The landmarks that a frame saw.

    :ivar slots: (N,) landmark slots.
    :ivar generations: (N,) the slots' generations when they were seen.
    :ivar pixels: (N, 2) float64 pixels of the working image.
    """

    slots: np.ndarray
    generations: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, landmarks: Landmarks, slots: np.ndarray, pixels: np.ndarray) -> Observations:
        """Return observations with the slots' present generations."""
        return cls(slots.copy(), landmarks.generation[slots].copy(), np.array(pixels, np.float64))

    @classmethod
    def none(cls) -> Observations:
        """Return no observations."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 2)))

    def alive(self, landmarks: Landmarks) -> np.ndarray:
        """Return the (N,) mask of observations whose landmark still exists."""
        return landmarks.generation[self.slots] == self.generations

    def solid(self, landmarks: Landmarks) -> tuple[np.ndarray, np.ndarray]:
        """Return slots and pixels of the observations of existing solid landmarks."""
        use = self.alive(landmarks) & landmarks.solid[self.slots]
        return self.slots[use], self.pixels[use]

    def keep(self, mask: np.ndarray) -> None:
        """Drop all observations outside the mask."""
        self.slots = self.slots[mask]
        self.generations = self.generations[mask]
        self.pixels = self.pixels[mask]

    def extend(self, other: Observations) -> None:
        """Append observations."""
        self.slots = np.concatenate([self.slots, other.slots])
        self.generations = np.concatenate([self.generations, other.generations])
        self.pixels = np.concatenate([self.pixels, other.pixels])


@dataclass(eq=False)
class HeldFrame:
    """A frame that the predictor can relate others to.

    :ivar gray: (h, w) uint8 working image.
    :ivar T_world_camera: the newest estimate.
    :ivar seen: its observations; without keyframe, those that agree with the pose.
    :ivar reported: the pose that was reported to the engine by edges; None before.
    :ivar saved: it belongs to a loaded map, which is not adjusted.
    """

    frame_id: int
    gray: np.ndarray
    T_world_camera: np.ndarray
    seen: Observations
    keyframe: bool = False
    reported: np.ndarray | None = None
    saved: bool = False


@dataclass
class SparseMap:
    """The camera, the held frames by id, in increasing order, and the landmarks."""

    camera: Pinhole
    frames: dict[int, HeldFrame] = field(default_factory=dict)
    landmarks: Landmarks = field(default_factory=Landmarks)

    def keyframes(self) -> list[HeldFrame]:
        """Return the keyframes, oldest first."""
        return [frame for frame in self.frames.values() if frame.keyframe]
