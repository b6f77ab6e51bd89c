"""The errors r3_ros raises. Each message says what was wrong and what to do about it."""

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
    """A file or folder could not be written; nothing half-written is left behind."""


class MergeError(R3Error):
    """Two saved maps cannot be made one: no common place, or none that is sure."""


class OccupancyError(R3Error):
    """A map gives no occupancy grid: no floor, not level, or too large."""


class ModelError(R3Error):
    """A model name is unknown, or the model cannot be set up on this machine."""


class CheckpointError(ModelError):
    """A file of weights is missing, damaged, or of another network."""


class DeviceMemoryError(R3Error):
    """The device has no memory left for a frame; nothing was remembered of it."""


class DeviceLostError(R3Error):
    """The device does not answer any more: only a new process can use it again."""


class TransformError(R3Error):
    """A transform is not a rigid motion, or could not be looked up."""


class MapProblem(enum.Enum):
    """Why a saved map cannot be used."""

    NOT_FOUND = 'not found'
    BAD_FORMAT = 'bad format'
    VERSION_MISMATCH = 'version mismatch'
    CHECKPOINT_MISMATCH = 'checkpoint mismatch'


class MapError(R3Error):
    """A saved map is missing, damaged, or made by something else.

    :ivar problem: which of these.
    """

    def __init__(self, problem: MapProblem, message: str) -> None:
        """Keep the problem beside the message."""
        super().__init__(message)
        self.problem = problem
