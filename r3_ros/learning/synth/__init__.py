"""A procedural world with exact poses, depth and intrinsics (needs torch)."""

from .dataset import random_intrinsics, SequenceOptions, SyntheticSequence, write_sequence
from .path import CameraPath, make_path, PATH_STYLES, PathStyle
from .renderer import render, render_radiance, Rendering
from .sensor import Sensor, SensorOptions
from .world import World

__all__ = [
    'CameraPath',
    'make_path',
    'PATH_STYLES',
    'PathStyle',
    'random_intrinsics',
    'render',
    'render_radiance',
    'Rendering',
    'Sensor',
    'SensorOptions',
    'SyntheticSequence',
    'SequenceOptions',
    'World',
    'write_sequence',
]
