"""Names, shapes and bounds of the files of a map."""

from __future__ import annotations

from dataclasses import dataclass
import math

from ..core.errors import MapError, MapProblem

MANIFEST = 'manifest.yaml'
POINTS = 'points.ply'
TRAJECTORY = 'trajectory.tum'
KEYFRAMES = 'keyframes.npz'
GRAPH = 'graph.npz'
LANDMARKS = 'landmarks.npz'
IMAGES = 'keyframes'
IMAGE_KINDS = ('jpg', 'png')

#: Formats in which the points can be written; they are read from the first.
POINT_FORMATS = ('ply', 'pcd', 'npz')

#: Largest counts in a manifest: more than the parameters allow, yet a folder made to exhaust
#: memory is refused before anything of that size is allocated.
MOST = {
    'points': 20_000_000,
    'poses': 10_000_000,
    'keyframes': 100_000,
    'keyframe_images': 100_000,
    'edges': 5_000_000,
    'landmarks': 10_000_000,
    'sightings': 50_000_000,
}
#: Bound of lengths; squares of larger ones overflow single precision.
FARTHEST = 1e9
#: Range of a scale and of a voxel size.
METRES_PER_UNIT = 1e-6, 1e6
VOXEL_SIZES = 1e-9, 1e9
#: Sums of squares of larger confidences overflow.
MOST_CONFIDENCE = 1e9
#: ROS messages have 32 bits for the seconds.
STAMPS_NS = -(10**9 << 31), (10**9 << 31) - 1
MOST_SEGMENTS = 1 << 24
MOST_DESCRIPTOR_NUMBERS = 65_536
MOST_ARRAY_BYTES = 1 << 31
MOST_MANIFEST_BYTES = 1 << 16
MOST_IMAGE_SIDE = 16_384
MOST_IMAGE_BYTES = 1 << 26
MOST_IMAGES_BYTES = 1 << 32
#: 1000 images of 8 megapixels.
MOST_IMAGES_PIXELS = 1 << 33
#: Length of a line of a trajectory.
MOST_POSE_BYTES = 256


@dataclass(frozen=True)
class Column:
    """One array of a file: its type, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype[2:])


def keyframe_columns(keyframes: int, descriptor_size: int) -> dict[str, Column]:
    """Return the arrays of ``keyframes.npz``."""
    n = keyframes
    return {
        'ids': Column('<i8', (n,)),
        'stamps_ns': Column('<i8', (n,)),
        'T_map_optical': Column('<f8', (n, 4, 4)),
        'K': Column('<f8', (n, 3, 3)),
        'sizes': Column('<i4', (n, 2)),
        'confidences': Column('<f8', (n, 2)),
        'variances': Column('<f8', (n, 2)),
        'descriptors': Column('<f4', (n, descriptor_size)),
        'segments': Column('<i4', (n,)),
    }


def graph_columns(edges: int) -> dict[str, Column]:
    """Return the arrays of ``graph.npz``."""
    return {
        'source_ids': Column('<i8', (edges,)),
        'target_ids': Column('<i8', (edges,)),
        'T_source_target': Column('<f8', (edges, 4, 4)),
        'confidences': Column('<f8', (edges, 2)),
    }


def landmark_columns(landmarks: int, observations: int) -> dict[str, Column]:
    """Return the arrays of ``landmarks.npz``."""
    return {
        'positions': Column('<f8', (landmarks, 3)),
        'relative_sigma': Column('<f8', (landmarks,)),
        'frame_ids': Column('<i8', (observations,)),
        'landmarks': Column('<i8', (observations,)),
        'pixels': Column('<f8', (observations, 2)),
    }


def bad_format(name: str, message: str) -> MapError:
    """Return the error of a file of a map that is not as it must be."""
    return MapError(MapProblem.BAD_FORMAT, f'{name}: {message}')


def image_name(frame_id: int, kind: str) -> str:
    """Return the name of a keyframe's image in its folder."""
    return f'{frame_id:06d}.{kind}'


def image_kind(data: bytes) -> str:
    """Return which of ``IMAGE_KINDS`` an encoded image is."""
    return 'png' if data.startswith(b'\x89PNG') else 'jpg'


def media_type(data: bytes) -> str:
    """Return the subtype of an encoded image's media type: ``jpeg`` or ``png``."""
    return 'png' if image_kind(data) == 'png' else 'jpeg'
