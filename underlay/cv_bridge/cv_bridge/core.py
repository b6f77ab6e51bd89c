"""Image messages as NumPy arrays and back."""

from __future__ import annotations

import array

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from .encodings import convert, Image, layout_name, parse


class CvBridgeError(TypeError):
    """A conversion is not possible."""


class CvBridge:
    """Converts in both directions; it holds no state."""

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """Return the type of the elements and the number of channels of an encoding.

        :raises CvBridgeError: if there is no such encoding.
        """
        try:
            parsed = parse(encoding)
        except ValueError as error:
            raise CvBridgeError(str(error)) from error
        return parsed.dtype, parsed.channels

    def imgmsg_to_cv2(self, img_msg: ImageMessage, desired_encoding: str = 'passthrough') -> Image:
        """Return the image of a message, (H, W) or (H, W, C), in native byte order.

        :param desired_encoding: ``passthrough`` keeps the encoding of the message.
        :raises CvBridgeError: if the conversion is not possible.
        :raises TypeError: if the data is shorter than the size says.
        """
        name, channels = self.encoding_to_dtype_with_channels(img_msg.encoding)
        dtype = np.dtype(name).newbyteorder('>' if img_msg.is_bigendian else '<')
        columns = img_msg.step // dtype.itemsize // channels
        shape = (img_msg.height, columns) + ((channels,) if channels > 1 else ())
        padded = np.ndarray(shape=shape, dtype=dtype, buffer=img_msg.data)
        image = np.ascontiguousarray(padded[:, : img_msg.width]).astype(name, copy=False)
        return self._convert(image, img_msg.encoding, desired_encoding)

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: CompressedImage, desired_encoding: str = 'passthrough'
    ) -> Image:
        """Return the decoded image of a message; ``passthrough`` keeps what the decoder gives.

        :raises CvBridgeError: if the conversion is not possible.
        """
        data = np.frombuffer(cmprs_img_msg.data, dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
        if image is None:
            raise CvBridgeError(f'The data is no image of the format [{cmprs_img_msg.format}]')
        return self._convert(image, 'bgr8', desired_encoding)

    def cv2_to_imgmsg(
        self, cvim: Image, encoding: str = 'passthrough', header: Header | None = None
    ) -> ImageMessage:
        """Return a message with the image.

        :param encoding: how the elements are meant; ``passthrough`` names their layout alone.
        :raises CvBridgeError: if the image has another layout than the encoding.
        :raises TypeError: if it is no array.
        """
        if not isinstance(cvim, np.ndarray):
            raise TypeError('Your input type is not a numpy array')
        try:
            layout = layout_name(cvim)
        except ValueError as error:
            raise CvBridgeError(str(error)) from error
        channels = 1 if cvim.ndim < 3 else cvim.shape[2]
        if encoding != 'passthrough' and self.encoding_to_dtype_with_channels(encoding) != (
            cvim.dtype.name,
            channels,
        ):
            raise CvBridgeError(
                f'encoding specified as {encoding}, but image has incompatible type {layout}'
            )
        message = ImageMessage()
        if header is not None:
            message.header = header
        message.height, message.width = cvim.shape[:2]
        message.encoding = layout if encoding == 'passthrough' else encoding
        message.is_bigendian = int(cvim.dtype.byteorder == '>')
        message.step = cvim.itemsize * channels * cvim.shape[1]
        message.data = array.array('B', cvim.tobytes())
        return message

    def cv2_to_compressed_imgmsg(self, cvim: Image, dst_format: str = 'jpg') -> CompressedImage:
        """Return a message with the image compressed.

        :raises CvBridgeError: if OpenCV cannot write that format.
        """
        try:
            done, data = cv2.imencode(f'.{dst_format}', cvim)
        except cv2.error as error:
            raise CvBridgeError(f'Cannot compress as {dst_format}: {error}') from error
        if not done:
            raise CvBridgeError(f'Cannot compress as {dst_format}')
        return CompressedImage(format=dst_format, data=array.array('B', data.tobytes()))

    @staticmethod
    def _convert(image: Image, encoding: str, desired_encoding: str) -> Image:
        if desired_encoding == 'passthrough':
            return image
        try:
            return convert(image, encoding, desired_encoding)
        except (ValueError, cv2.error) as error:
            raise CvBridgeError(str(error)) from error
