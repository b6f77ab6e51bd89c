"""Decodes the images of messages and files, without ROS, to contiguous arrays.

These are (H, W, 3), in the order RGB, or (H, W) where the encoding has no colour.

Images of 16 bits stay so, as sensors use a part of the range: see :mod:`.brightness_range`.
Incomplete images are errors: OpenCV would fill a truncated JPEG with grey, and features on the
border of the grey give false poses.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..core.errors import FrameError
from ..core.resize_geometry import as_rgb

#: Encoding -> (values per pixel, OpenCV conversion to RGB, None if none is needed). OpenCV names
#: a Bayer pattern from the second pixel of the second row on, ROS from the first pixel.
_ANY_DEPTH: dict[str, tuple[int, int | None]] = {
    'rgb': (3, None),
    'bgr': (3, cv2.COLOR_BGR2RGB),
    'rgba': (4, cv2.COLOR_RGBA2RGB),
    'bgra': (4, cv2.COLOR_BGRA2RGB),
    'mono': (1, None),
    'bayer_rggb': (1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg': (1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg': (1, cv2.COLOR_BayerGB2RGB),
}
_PACKED_YUV: dict[str, tuple[int, int | None]] = {
    'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': (2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUYV),
    'yuyv': (2, cv2.COLOR_YUV2RGB_YUYV),
}
_EIGHT_BIT = {f'{name}8': layout for name, layout in _ANY_DEPTH.items()} | _PACKED_YUV
_SIXTEEN_BIT = {f'{name}16': layout for name, layout in _ANY_DEPTH.items()}
#: A plane of luma above a half of colour.
_PLANAR_YUV = {'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21}

#: OpenCV's untyped encodings and their default meaning.
UNTYPED = {
    '8UC1': 'mono8',
    '8UC3': 'bgr8',
    '8UC4': 'bgra8',
    '16UC1': 'mono16',
    '16UC3': 'bgr16',
    '16UC4': 'bgra16',
}

ENCODINGS = (*_EIGHT_BIT, *_SIXTEEN_BIT, *_PLANAR_YUV, *UNTYPED)

#: Supported image files, by Pillow's names; PPM includes PGM and PBM.
FILE_KINDS = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM')

#: Largest image that is decoded (8192x8192, 192 MiB): more than any video camera sends. A file of
#: some hundred kilobytes may declare far more.
MOST_PIXELS = 1 << 26

_JPEG_MAGIC, _PNG_MAGIC = b'\xff\xd8\xff', b'\x89PNG'


def decode_message(message: Any, hint: str = '') -> np.ndarray:
    """Return the image of an ``Image`` or ``CompressedImage``, from rclpy or a bag.

    :param hint: see :func:`decode_raw`.
    :returns: (H, W, 3) RGB or (H, W) grey, uint8 or uint16.
    :raises FrameError: see the decoders below; or depth in a compressed message.
    """
    if not hasattr(message, 'format'):
        form = message.width, message.height, message.encoding, message.step
        return decode_raw(message.data, *form, bool(message.is_bigendian), hint)
    if 'compressedDepth' in message.format:
        raise FrameError(
            f"the format '{message.format}' holds depth, not an image: use a colour topic"
        )
    return decode_compressed(message.data, message.format)


def assumed_encoding(message: Any, hint: str = '') -> str:
    """Return what decoding assumes of an untyped encoding, as text; empty if nothing."""
    encoding = getattr(message, 'encoding', '')
    if hint or encoding not in UNTYPED:
        return ''
    return f'{encoding} is read as {UNTYPED[encoding]}, see input.encoding_hint'


def decode_raw(
    data: bytes | bytearray | memoryview | np.ndarray,
    width: int,
    height: int,
    encoding: str,
    step: int,
    is_bigendian: bool = False,
    hint: str = '',
) -> np.ndarray:
    """Return the image of a ``sensor_msgs/Image``.

    :param step: bytes per row, padding included.
    :param hint: meaning of an untyped encoding (8UC1, 16UC3, ...).
    :returns: (H, W, 3) RGB or (H, W) grey, uint8 or uint16.
    :raises FrameError: unknown encoding, or sizes that contradict each other.
    """
    if width <= 0 or height <= 0:
        raise FrameError(f'the image is {width}x{height} pixels: the camera driver is at fault')
    if hint and encoding in UNTYPED:
        if _pixel_bytes(hint) != _pixel_bytes(UNTYPED[encoding]):
            raise FrameError(
                f'input.encoding_hint is {hint}, which is no {encoding}: its pixels take '
                f'{_pixel_bytes(hint)} bytes, not {_pixel_bytes(UNTYPED[encoding])}'
            )
        encoding = hint
    encoding = UNTYPED.get(encoding, encoding)
    buffer = np.frombuffer(data, dtype=np.uint8)
    if encoding in _PLANAR_YUV:
        planes = _rows(buffer, width, height * 3 // 2, 1, step, encoding)
        return _converted(planes, _PLANAR_YUV[encoding], encoding)
    if encoding in _SIXTEEN_BIT:
        channels, conversion = _SIXTEEN_BIT[encoding]
        rows = _rows(buffer, width, height, 2 * channels, step, encoding)
        words = np.ascontiguousarray(rows).view('>u2' if is_bigendian else '<u2')
        pixels = words.astype(np.uint16, copy=False)
        pixels = pixels[..., 0] if channels == 1 else pixels
        return pixels if conversion is None else _converted(pixels, conversion, encoding)
    if encoding not in _EIGHT_BIT:
        raise FrameError(
            f'the encoding {encoding!r} is not supported; have the camera send one of '
            + ', '.join(ENCODINGS)
        )
    channels, conversion = _EIGHT_BIT[encoding]
    rows = _rows(buffer, width, height, channels, step, encoding)
    if conversion is None:
        return np.ascontiguousarray(rows)
    return _converted(rows, conversion, encoding)


def _pixel_bytes(encoding: str) -> int:
    if encoding in _SIXTEEN_BIT:
        return 2 * _SIXTEEN_BIT[encoding][0]
    # The rows of the planar ones have a byte for each pixel.
    return _EIGHT_BIT.get(encoding, (1, None))[0]


def _rows(
    buffer: np.ndarray, width: int, height: int, channels: int, step: int, encoding: str
) -> np.ndarray:
    """Return a view without the padding: (height, width[, channels])."""
    row_bytes = width * channels
    if step < row_bytes:
        raise FrameError(
            f'a row of {width} {encoding} pixels takes {row_bytes} bytes, the message says '
            f'step = {step}: encoding, width and step contradict each other'
        )
    if buffer.size > step * height:
        raise FrameError(
            f'the message holds {buffer.size} bytes, more than {height} rows of step = {step}: '
            'the camera driver contradicts itself'
        )
    # The last row may have no padding.
    if buffer.size < step * (height - 1) + row_bytes:
        raise FrameError(f'the image is cut off: {buffer.size} bytes for {height} rows of {step}')
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, 1) if channels == 1 else (step, channels, 1)
    return np.lib.stride_tricks.as_strided(buffer, shape, strides, writeable=False)


def _converted(pixels: np.ndarray, conversion: int, encoding: str) -> np.ndarray:
    try:
        return cv2.cvtColor(np.ascontiguousarray(pixels), conversion)
    except cv2.error as error:
        shape = 'x'.join(map(str, pixels.shape[1::-1]))
        raise FrameError(f'{shape} pixels cannot be {encoding}: {error.err}') from error


def decode_compressed(
    data: bytes | bytearray | memoryview | np.ndarray, form: str = ''
) -> np.ndarray:
    """Return the image of a file of one of :data:`FILE_KINDS`.

    The pixels are as stored, as calibrations refer to these: the orientation of EXIF is ignored.
    Only that of TIFF is applied, by OpenCV and Pillow alike.

    :param form: ``format`` of a ``CompressedImage``: "ENCODING; CODEC compressed ORDER". The rule
        is that of compressed_image_transport: without "compressed bgr" the file holds red where
        files hold blue, and a Bayer mosaic is a grey image.
    :returns: (H, W, 3) RGB or (H, W) grey, uint8 or uint16.
    :raises FrameError: empty, cut off, no image, or of more than :data:`MOST_PIXELS`.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    if buffer.size == 0:
        raise FrameError('the image is empty (0 bytes)')
    file = buffer.tobytes()
    # First, so that a file that ends within its header gets the same message.
    if file.startswith(_JPEG_MAGIC) and not _is_whole_jpeg(file):
        raise FrameError(f'the JPEG image is cut off after {buffer.size} bytes')
    encoded_size(file)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FrameError(f'the image cannot be decoded: {error.err}') from error
    if image is None:
        raise FrameError(f'{buffer.size} bytes of an image that is cut off or damaged')
    if image.dtype not in (np.uint8, np.uint16):
        raise FrameError(f'the image has values of type {image.dtype}, not of 8 or 16 bits')
    encoding, has_order, order = form.partition(';')
    layout = encoding.rstrip('0123456789')
    if image.ndim == 2:
        name = layout if layout.startswith('bayer_') and layout in _ANY_DEPTH else 'mono'
    else:
        is_colour = layout in ('rgb', 'bgr', 'rgba', 'bgra')
        is_rgb = has_order and is_colour and 'compressed bgr' not in order
        name = ('rgb' if is_rgb else 'bgr') + 'a' * (image.shape[2] == 4)
    conversion = _ANY_DEPTH[name][1]
    return image if conversion is None else cv2.cvtColor(image, conversion)


def decode_eight_bit(data: bytes | bytearray | memoryview | np.ndarray) -> np.ndarray:
    """Return the RGB image of a file that is no camera's, as uint8: of 16 bits the upper 8.

    :raises FrameError: as :func:`decode_compressed`.
    """
    image = as_rgb(decode_compressed(data))
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def encoded_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a file of one of :data:`FILE_KINDS`, from its header alone.

    :raises FrameError: no image, or of more than :data:`MOST_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FILE_KINDS) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit, above ours.
        raise FrameError(f'the image is too large: {error}') from error
    except Exception as error:  # Pillow has no common error for damaged headers
        raise FrameError(
            f'{len(data)} bytes are no image, or its header is damaged; supported are '
            + ', '.join(FILE_KINDS)
        ) from error
    if width * height > MOST_PIXELS:
        raise FrameError(
            f'the image is too large: {width}x{height} pixels, {MOST_PIXELS / 1e6:.0f} million '
            'are allowed'
        )
    return width, height


def _is_whole_jpeg(data: bytes) -> bool:
    """Return whether the end marker follows the start of the scan.

    The search skips segments, as a thumbnail has its own markers. OpenCV before 4.11 fills missing
    data with grey.
    """
    position = 2
    while (position := data.find(b'\xff', position)) >= 0:
        marker = data[position + 1 : position + 2]
        if marker == b'\xff':  # a fill byte
            position += 1
            continue
        # Segments begin with their length, the marker not included.
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
        if marker == b'\xda':  # no end marker can occur by chance within the scan
            return data.find(b'\xff\xd9', position) >= 0
    return False


def is_jpeg_or_png(data: bytes) -> bool:
    """Return whether the bytes fit into a ``sensor_msgs/CompressedImage`` as they are."""
    return data.startswith((_JPEG_MAGIC, _PNG_MAGIC))
