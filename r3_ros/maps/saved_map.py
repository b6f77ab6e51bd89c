"""The content of a saved map; docs/map_format.md describes its files.

All lengths are in the unit of the map: metres where ``facts.metres_per_unit`` is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..core.datatypes import Intrinsics, ModelInfo, SparseLandmarks
from ..core.errors import MapError, MapProblem
from .cloud import Cloud

#: Version of the layout of the folder.
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class MapFacts:
    """Origin, model, frames and scale of a map.

    :ivar checkpoint_sha256: of the weights that made the descriptors; None for a model without.
    :ivar image_size: width and height of the undistorted image of the newest keyframe.
    :ivar map_frame: frame of all poses and points; ``base_frame`` moves.
    :ivar T_base_optical: (4, 4) pose of the camera on the base.
    :ivar T_map_world: (4, 4) pose of the engine's world, the first camera's optical frame. A
        session that continues the map has the same world.
    :ivar metres_per_unit: length of the engine's unit; None: lengths are in map units.
    :ivar scale_source: one of ``config.REPORTED_SCALE_SOURCES``.
    :ivar voxel_size: of the points.
    :ivar saved_ns: nanoseconds since 1970.
    """

    r3_ros_version: str
    model_name: str
    checkpoint_sha256: str | None
    descriptor_size: int
    image_size: tuple[int, int] | None
    map_frame: str
    base_frame: str
    optical_frame: str
    T_base_optical: np.ndarray
    T_map_world: np.ndarray
    metres_per_unit: float | None
    scale_source: str
    voxel_size: float
    session_id: int = 0
    saved_ns: int = 0

    @property
    def unit(self) -> float:
        return 1.0 if self.metres_per_unit is None else self.metres_per_unit


@dataclass(frozen=True, eq=False)
class SavedKeyframes:
    """Keyframes of the bank, oldest first.

    :ivar ids: (N,) int64, rising; ``stamps_ns``: (N,) int64.
    :ivar T_map_optical: (N, 4, 4) float64.
    :ivar K: (N, 3, 3) float64, of the undistorted image; ``sizes``: (N, 2) int32, its width
        and height.
    :ivar confidences: (N, 2) float64 of the best edge, translation and rotation; NaN without one.
    :ivar variances: (N, 2) float64 of each axis: map units squared, radians squared.
    :ivar descriptors: (N, D) float32 unit vectors.
    :ivar segments: (N,) int32: keyframes of one segment were tracked without a break.
    """

    ids: np.ndarray
    stamps_ns: np.ndarray
    T_map_optical: np.ndarray
    K: np.ndarray
    sizes: np.ndarray
    confidences: np.ndarray
    variances: np.ndarray
    descriptors: np.ndarray
    segments: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def intrinsics(self, row: int) -> Intrinsics:
        """Return the intrinsics of one keyframe's image."""
        width, height = self.sizes[row]
        return Intrinsics.from_K(self.K[row], int(width), int(height))


@dataclass(frozen=True, eq=False)
class SavedEdges:
    """Relative poses among the keyframes.

    :ivar source_ids: (E,) int64; ``target_ids``: (E,) int64.
    :ivar T_source_target: (E, 4, 4) float64, lengths in the unit of the map.
    :ivar confidences: (E, 2) float64, translation and rotation.
    """

    source_ids: np.ndarray
    target_ids: np.ndarray
    T_source_target: np.ndarray
    confidences: np.ndarray

    def __len__(self) -> int:
        return len(self.source_ids)


@dataclass(frozen=True, eq=False)
class SavedTrajectory:
    """All poses after all corrections.

    :ivar stamps_ns: (P,) int64, rising.
    :ivar T_map_base: (P, 4, 4) float64.
    """

    stamps_ns: np.ndarray
    T_map_base: np.ndarray

    def __len__(self) -> int:
        return len(self.stamps_ns)


@dataclass(frozen=True, eq=False)
class SavedMap:
    """A map as it is saved and loaded.

    :ivar points: in the map frame, as are the predictor's ``landmarks``.
    :ivar images: undistorted images of keyframes by id, encoded as JPEG or PNG.
    """

    facts: MapFacts
    keyframes: SavedKeyframes
    edges: SavedEdges
    points: Cloud
    trajectory: SavedTrajectory
    landmarks: SparseLandmarks | None = None
    images: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def unit_name(self) -> str:
        return 'map units' if self.facts.metres_per_unit is None else 'm'

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the lowest and the highest corner (3,) of the points; None without any."""
        if not len(self.points):
            return None
        return self.points.points.min(axis=0), self.points.points.max(axis=0)

    @property
    def stamps_ns(self) -> tuple[int, int] | None:
        """Return the times of the first and the last pose; None without any."""
        stamps_ns = self.trajectory.stamps_ns
        return (int(stamps_ns[0]), int(stamps_ns[-1])) if len(stamps_ns) else None

    def require_model(self, info: ModelInfo, descriptor_size: int) -> None:
        """Check that descriptors of this model can be compared with those of the map.

        :raises MapError: CHECKPOINT_MISMATCH.
        """
        facts = self.facts
        message = ''
        if facts.model_name != info.name:
            message = (
                f"the map was made by model '{facts.model_name}', this is '{info.name}': start "
                f'with model.name {facts.model_name}, or map the place anew'
            )
        elif facts.checkpoint_sha256 != info.checkpoint_sha256:
            was, now = (str(sha)[:12] for sha in (facts.checkpoint_sha256, info.checkpoint_sha256))
            message = (
                f'the map was made with other weights (SHA-256 {was}..., these are {now}...): '
                'start with those weights, or map the place anew'
            )
        elif facts.descriptor_size != descriptor_size:
            message = (
                f'the map has descriptors of {facts.descriptor_size} numbers, this model gives '
                f'{descriptor_size}: map the place anew'
            )
        if message:
            raise MapError(MapProblem.CHECKPOINT_MISMATCH, message)
