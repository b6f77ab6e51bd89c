"""The sparse map: landmarks and the frames that saw them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .pinhole import Pinhole

_GROWTH = 4096
#: Relative standard deviation of a guessed depth, and the largest of any.
GUESSED_SIGMA = 1.0
#: While there are this many landmarks, candidates hold a pose with this weight only: neighbours
#: have guesses that are wrong alike.
LEAST_SOLID = 40
CANDIDATE_WEIGHT = 0.1


class Landmarks:
    """All landmarks as arrays with reusable slots.

    A new landmark is a *candidate*: a tracked corner of guessed depth. Once triangulated it is
    *solid*. References to a slot store its generation too, which counts up when it is freed.

    :ivar position: (N, 3) in the world; for candidates along the ray of the first observation.
    :ivar solid: (N,) whether the position was triangulated.
    :ivar observation_count: (N,) number of keyframes that saw it.
    :ivar relative_sigma: (N,) standard deviation of the depth over the depth, for a pixel;
        infinite for candidates.
    :ivar segment: (N,) the segment of the frames that saw it.
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
        self.segment = np.zeros(0, np.int32)
        self.first_frame = np.zeros(0, np.int64)
        self.first_pixel = np.zeros((0, 2))
        self._free: list[int] = []

    def __len__(self) -> int:
        return int(self.used.sum())

    def add(self, position: np.ndarray, first: HeldFrame, pixels: np.ndarray) -> np.ndarray:
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
        self.segment[slots] = first.segment
        self.first_frame[slots] = first.frame_id
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


def corner_weights(solid: np.ndarray) -> np.ndarray:
    """Return the (N,) weights of corners for a pose.

    :param solid: (N,) which of them are landmarks.
    """
    return np.where(solid | (solid.sum() < LEAST_SOLID), 1.0, CANDIDATE_WEIGHT)


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
    :ivar T_world_camera: the newest estimate, in the world of the frame's segment.
    :ivar segment: stretch of the stream with a start of its own; worlds of two are not related.
    :ivar seen: its observations; without keyframe, those that agree with the pose.
    :ivar reported: the pose that was reported to the engine by edges; None before.
    :ivar saved: it belongs to a loaded map, which is not adjusted.
    :ivar searched_by: the newest keyframe when this one was last searched for landmarks again.
    """

    frame_id: int
    gray: np.ndarray
    T_world_camera: np.ndarray
    segment: int = 0
    seen: Observations = field(default_factory=Observations.none)
    keyframe: bool = False
    reported: np.ndarray | None = None
    saved: bool = False
    searched_by: int = -1


@dataclass
class SparseMap:
    """The camera, the held frames by id, in increasing order, and the landmarks.

    :ivar segment: of the frames that are added.
    """

    camera: Pinhole
    segment: int = 0
    frames: dict[int, HeldFrame] = field(default_factory=dict)
    landmarks: Landmarks = field(default_factory=Landmarks)

    def hold(self, frame_id: int, gray: np.ndarray, T_world_camera: np.ndarray) -> HeldFrame:
        """Add a frame to the present segment."""
        frame = HeldFrame(frame_id, gray, T_world_camera.copy(), self.segment)
        self.frames[frame_id] = frame
        return frame

    def keyframes(self) -> list[HeldFrame]:
        """Return the keyframes of the present segment, oldest first."""
        frames = self.frames.values()
        return [frame for frame in frames if frame.keyframe and frame.segment == self.segment]

    def keyframes_seeing(self, landmarks: np.ndarray) -> list[HeldFrame]:
        """Return the keyframes that may have seen some of these landmarks, oldest first.

        :param landmarks: slots, or the mask of all slots. Keyframes before the first one that saw
            any of them are left out, so that the work does not grow with the map.
        """
        since = self.landmarks.first_frame[landmarks].min(initial=np.iinfo(np.int64).max)
        return [frame for frame in self.keyframes() if frame.frame_id >= since]

    def depth_steps(self, slots: np.ndarray) -> np.ndarray:
        """Return (N, 3) standard deviations of landmarks along their first rays, in the world.

        Those whose first keyframe has gone count as exact: their rays are not known any more.
        """
        first_ids, which = np.unique(self.landmarks.first_frame[slots], return_inverse=True)
        firsts = [self.frames.get(i) for i in first_ids.tolist()]
        centres = np.array([np.zeros(3) if f is None else f.T_world_camera[:3, 3] for f in firsts])
        known = np.array([f is not None for f in firsts])
        sigma = np.minimum(self.landmarks.relative_sigma[slots], GUESSED_SIGMA) * known[which]
        return (self.landmarks.position[slots] - centres[which]) * sigma[:, None]
