"""What the name of an image topic says: of which camera it is, and whether it is rectified."""

from __future__ import annotations

#: Last parts of the topics that image_transport adds to a topic of raw images.
TRANSPORTS = ('compressed', 'compressedDepth', 'theora', 'ffmpeg', 'zstd')

#: Words that say that ``image_proc``, or the camera itself, has undistorted the images.
_RECTIFIED = {'rect', 'rectified'}


def base_topic(topic: str) -> str:
    """Return the topic without the name of a transport: ``/cam/image`` of all its forms."""
    base, _, last = topic.rpartition('/')
    return base if base and last in TRANSPORTS else topic


def camera_info_topic(topic: str) -> str:
    """Return where the calibration of an image topic is published: beside the images."""
    return f'{base_topic(topic).rpartition("/")[0]}/camera_info'


def is_rectified(topic: str) -> bool:
    """Return whether the images are named as rectified, as ``image_rect_color`` is.

    Whole words of the base topic's last part count: not ``image_direct``, and not a namespace.
    """
    words = base_topic(topic).rpartition('/')[2].split('_')
    return not _RECTIFIED.isdisjoint(words)
