"""Procedural worlds, rendered with exact poses, depth and intrinsics (needs torch)."""

from .dataset import SequenceOptions, SyntheticSequence, write_sequence
from .path import CameraPath, make_path, PATH_STYLES
from .renderer import render_radiance, Rendering
from .sensor import Sensor, SensorOptions
from .world import World

__all__ = [
    'CameraPath',
    'make_path',
    'PATH_STYLES',
    'render_radiance',
    'Rendering',
    'Sensor',
    'SensorOptions',
    'SequenceOptions',
    'SyntheticSequence',
    'World',
    'write_sequence',
]
