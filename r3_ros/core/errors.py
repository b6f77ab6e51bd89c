"""The errors of r3_ros. Each message states what was wrong and what to do about it."""

from __future__ import annotations

import enum


class R3Error(Exception):
    """Root of every error that r3_ros raises on purpose."""


class ConfigError(R3Error):
    """A parameter has a wrong name, type or value, or two parameters contradict each other."""


class FrameError(R3Error):
    """One frame cannot be used (encoding, size, stamp, truncated data); later ones may be fine."""


class CalibrationError(R3Error):
    """A camera calibration is unusable: zero or non-finite intrinsics, or the wrong size."""


class SourceError(R3Error):
    """An input (folder, video, bag, trajectory file) is missing, empty or corrupt."""


class OutputError(R3Error):
    """A file or folder could not be written; no partial output is left."""


class MergeError(R3Error):
    """Two saved maps cannot be merged: no common place, or none that is certain."""


class OccupancyError(R3Error):
    """A map yields no occupancy grid: no floor, not level, or too large."""


class ModelError(R3Error):
    """A model name is unknown, or the model cannot be set up on this machine."""


class CheckpointError(ModelError):
    """A weights file is missing, damaged, or of another network."""


class DeviceMemoryError(R3Error):
    """The device has no memory left for a frame, of which nothing was stored."""


class DeviceLostError(R3Error):
    """The device does not respond any more: only a new process can use it again."""


class TransformError(R3Error):
    """A transform is not a rigid motion, or not available."""


class MapProblem(enum.Enum):
    """Why a saved map cannot be used."""

    NOT_FOUND = 'not found'
    BAD_FORMAT = 'bad format'
    VERSION_MISMATCH = 'version mismatch'
    CHECKPOINT_MISMATCH = 'checkpoint mismatch'


class MapError(R3Error):
    """A saved map is missing, damaged, or from another program, version or model."""

    def __init__(self, problem: MapProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem

    def __reduce__(self) -> tuple[type[MapError], tuple[MapProblem, str]]:
        # An exception is copied to another process by its message alone.
        return type(self), (self.problem, str(self))
