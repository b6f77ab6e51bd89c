"""The image encodings of sensor_msgs: their layout, and how one becomes another with OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
import re

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.generic]

_DTYPES = {
    '8U': 'uint8',
    '8S': 'int8',
    '16U': 'uint16',
    '16S': 'int16',
    '32S': 'int32',
    '32F': 'float32',
    '64F': 'float64',
}
_CHANNELS = {'GRAY': 1, 'RGB': 3, 'BGR': 3, 'RGBA': 4, 'BGRA': 4}
# The names of OpenCV's Bayer codes go by the second row, those of ROS by the first.
_BAYER = {
    'bayer_rggb': 'BayerBG',
    'bayer_bggr': 'BayerRG',
    'bayer_gbrg': 'BayerGR',
    'bayer_grbg': 'BayerGB',
}
_YUV = {
    'yuv422': 'UYVY',
    'uyvy': 'UYVY',
    'yuv422_yuy2': 'YUY2',
    'yuyv': 'YUY2',
}


@dataclass(frozen=True)
class Encoding:
    """Layout of a pixel, and the colour model, if the encoding has one."""

    name: str
    dtype: str
    channels: int
    #: A name as in OpenCV's conversion codes; empty for a bare layout such as 32FC1.
    colour: str = ''

    @property
    def bits(self) -> int:
        """Return the bits of one channel."""
        return 8 * np.dtype(self.dtype).itemsize

    @property
    def is_raw(self) -> bool:
        """Tell whether the colour has to be reconstructed, which cannot be undone."""
        return self.colour.startswith(('Bayer', 'YUV'))


def parse(name: str) -> Encoding:
    """Return what an encoding's name stands for.

    :raises ValueError: if it is not one of sensor_msgs' encodings.
    """
    colours = {
        f'{colour.lower()}{bits}': Encoding(name, f'uint{bits}', _CHANNELS[colour], colour)
        for colour in ('RGB', 'BGR', 'RGBA', 'BGRA')
        for bits in (8, 16)
    }
    if name in colours:
        return colours[name]
    if name in ('mono8', 'mono16'):
        return Encoding(name, f'uint{name[4:]}', 1, 'GRAY')
    if name in _YUV:
        return Encoding(name, 'uint8', 2, f'YUV_{_YUV[name]}')
    bayer = re.fullmatch(r'(bayer_[a-z]{4})(8|16)', name)
    if bayer and bayer[1] in _BAYER:
        return Encoding(name, f'uint{bayer[2]}', 1, _BAYER[bayer[1]])
    layout = re.fullmatch(r'(8U|8S|16U|16S|32S|32F|64F)C([1-9]\d*)?', name)
    if layout:
        return Encoding(name, _DTYPES[layout[1]], int(layout[2] or 1))
    raise ValueError(f'Unrecognized image encoding [{name}]')


def layout_name(image: Image) -> str:
    """Return the bare layout of an array, such as 8UC3.

    :raises ValueError: if no layout has such elements.
    """
    channels = 1 if image.ndim < 3 else image.shape[2]
    for name, dtype in _DTYPES.items():
        if image.dtype.name == dtype:
            return f'{name}C{channels}'
    raise ValueError(f'An image cannot have elements of type {image.dtype.name}')


def convert(image: Image, source_name: str, target_name: str) -> Image:
    """Return the image in another encoding.

    :raises ValueError: if the one does not lead to the other.
    """
    source, target = parse(source_name), parse(target_name)
    if source_name == target_name:
        return image.copy()
    _check_convertible(source, target)
    if source.colour == target.colour or not source.colour or not target.colour:
        return _change_depth(image, source, target)
    converted = cv2.cvtColor(image, _conversion_code(source, target))
    return _change_depth(converted, source, target)


def _check_convertible(source: Encoding, target: Encoding) -> None:
    same_channels = source.channels == target.channels
    if not source.colour:
        if target.colour:
            raise ValueError(
                f'[{source.name}] is not a color format. but [{target.name}] is. '
                'The conversion does not make sense'
            )
        if not same_channels:
            raise ValueError(
                f'[{source.name}] and [{target.name}] do not have the same number of channel'
            )
    elif not target.colour and not same_channels:
        raise ValueError(
            f'[{source.name}] is a color format but [{target.name}] is not so they must have the '
            'same OpenCV type, CV_8UC3, CV16UC1 ....'
        )


def _conversion_code(source: Encoding, target: Encoding) -> int:
    if target.is_raw:
        raise ValueError(f'Unsupported conversion from [{source.name}] to [{target.name}]')
    if source.colour.startswith('YUV_'):
        name = f'COLOR_YUV2{target.colour}_{source.colour[4:]}'
    else:
        name = f'COLOR_{source.colour}2{target.colour}'
    code = getattr(cv2, name, None)
    if code is None:
        raise ValueError(f'Unsupported conversion from [{source.name}] to [{target.name}]')
    return int(code)


def _change_depth(image: Image, source: Encoding, target: Encoding) -> Image:
    """Change the type of the elements; between 8 and 16 bits the full range becomes the full."""
    if image.dtype.name == target.dtype:
        return image.copy()
    scale = {(8, 16): 65535.0 / 255.0, (16, 8): 255.0 / 65535.0}.get(
        (source.bits, target.bits), 1.0
    )
    values = image.astype(np.float64) * scale
    if np.issubdtype(np.dtype(target.dtype), np.integer):
        limits = np.iinfo(target.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(target.dtype)
