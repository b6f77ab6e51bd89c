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


class KeyframeImages(dict[int, bytes]):
    """Encoded images of the keyframes in the bank, by frame id. Not thread-safe."""

    def note(self, image: np.ndarray, estimate: Estimate) -> None:
        """Keep the image of a new keyframe, and drop those that left the bank.

        :param image: (H, W, 3) uint8 RGB or (H, W) grey, the engine's input for this estimate.
        """
        for frame_id in estimate.evicted:
            self.pop(frame_id, None)
        if estimate.is_keyframe:
            self[estimate.frame_id] = encode_image(image)


def encode_image(image: np.ndarray) -> bytes:
    """Return an (H, W, 3) uint8 RGB or (H, W) grey image as a JPEG file.

    :raises FrameError: it cannot be encoded.
    """
    pixels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode('.jpg', pixels, _PARAMETERS)
    if not done:
        raise FrameError(f'an image of shape {image.shape} cannot be written as JPEG')
    return data.tobytes()
