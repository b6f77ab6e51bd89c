"""Encoded images of the keyframes, which are saved with the map."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.datatypes import Estimate
from ..core.errors import FrameError

#: With full colour resolution: about 0.15 MB for 640x480. Corners move by less than the accuracy
#: of their detection; PNG would be four times the size.
JPEG_QUALITY = 95
_PARAMETERS = [
    cv2.IMWRITE_JPEG_QUALITY,
    JPEG_QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


class KeyframeImages:
    """Encoded images of the keyframes in the bank. Not thread-safe."""

    def __init__(self) -> None:
        self._images: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._images)

    def note(self, image: np.ndarray, estimate: Estimate) -> None:
        """Keep the image of a new keyframe, and drop those that left the bank.

        :param image: (H, W, 3) uint8 RGB, the engine's input for this estimate.
        """
        for frame_id in estimate.evicted:
            self._images.pop(frame_id, None)
        if estimate.is_keyframe:
            self._images[estimate.frame_id] = encode_image(image)

    def restore(self, images: dict[int, bytes]) -> None:
        """Replace all images by those of a loaded map, by their new ids."""
        self._images = dict(images)

    def clear(self) -> None:
        """Drop all images."""
        self._images.clear()

    def view(self) -> dict[int, bytes]:
        """Return a copy of the dictionary, by frame id."""
        return dict(self._images)


def encode_image(image: np.ndarray) -> bytes:
    """Return an (H, W, 3) uint8 RGB image as a JPEG file.

    :raises FrameError: it cannot be encoded.
    """
    done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PARAMETERS)
    if not done:
        raise FrameError(f'an image of shape {image.shape} cannot be written as JPEG')
    return data.tobytes()
