"""Names of image topics: base topic, calibration topic, and whether images are rectified."""

from __future__ import annotations

#: Suffixes that image_transport appends to a topic of raw images.
TRANSPORTS = ('compressed', 'compressedDepth', 'theora', 'ffmpeg', 'zstd')

#: Words in the names of topics of undistorted images.
_RECTIFIED = {'rect', 'rectified'}


def full_topic(topic: str) -> str:
    """Return a topic with its leading slash, which ROS 1 and users may leave out."""
    return f'/{topic.lstrip("/")}'


def base_topic(topic: str) -> str:
    """Return the topic without the suffix of a transport."""
    base, _, last = topic.rpartition('/')
    return base if base and last in TRANSPORTS else topic


def camera_info_topic(topic: str) -> str:
    """Return the topic of the calibration, the sibling of the image topic."""
    return f'{base_topic(topic).rpartition("/")[0]}/camera_info'


def is_rectified(topic: str) -> bool:
    """Return whether the images are named as rectified, such as ``image_rect_color``.

    Only whole words of the last part of the base topic count.
    """
    words = base_topic(topic).rpartition('/')[2].split('_')
    return not _RECTIFIED.isdisjoint(words)
