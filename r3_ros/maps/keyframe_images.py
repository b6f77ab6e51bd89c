"""Images of the keyframes, kept beside the engine, which never sees pixels.

Who calls the engine's step fills this; a map that is saved with images can be built up again.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..datatypes import Estimate
from ..errors import FrameError

#: JPEG at this quality, with full colour resolution: about 0.15 MB for 640x480. Corners move by
#: less than they are found to; PNG would be four times the size.
JPEG_QUALITY = 95
_PARAMETERS = [
    cv2.IMWRITE_JPEG_QUALITY,
    JPEG_QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


class KeyframeImages:
    """Encoded images of the keyframes in the bank, and of no other frame. One thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._images: dict[int, bytes] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._images)

    def note(self, image: np.ndarray, estimate: Estimate) -> None:
        """Keep the image of a new keyframe, and drop those that left the bank.

        :param image: (H, W, 3) uint8 RGB, what the engine was given for this estimate.
        """
        for frame_id in estimate.evicted:
            self._images.pop(frame_id, None)
        if estimate.is_keyframe:
            self._images[estimate.frame_id] = encode_image(image)

    def restore(self, images: dict[int, bytes]) -> None:
        """Hold the images of a map that was loaded, by their new ids, and no others."""
        self._images = dict(images)

    def clear(self) -> None:
        """Drop all: a new session."""
        self._images.clear()

    def view(self) -> dict[int, bytes]:
        """Return all by frame id, for another thread to keep."""
        return dict(self._images)


def encode_image(image: np.ndarray) -> bytes:
    """Return an (H, W, 3) uint8 RGB image as a JPEG file.

    :raises FrameError: it cannot be encoded.
    """
    done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PARAMETERS)
    if not done:
        raise FrameError(f'an image of shape {image.shape} cannot be written as JPEG')
    return data.tobytes()
