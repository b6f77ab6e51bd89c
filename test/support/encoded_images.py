"""Image messages in every supported encoding, with the pixels that they show."""

import array

import cv2
import numpy as np
from r3_ros.ros.outputs.messages import header_message
from scripted import pattern_image, START_NS
from sensor_msgs.msg import Image

WIDTH, HEIGHT = 64, 48

RGB = pattern_image(WIDTH, HEIGHT)

GRAY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)

#: Smooth in every channel: formats that share colour between pixels lose little of it.
SMOOTH = cv2.GaussianBlur(RGB, (0, 0), 4)


def message(pixels, encoding, step=None, is_bigendian=0, height=None, padding=b''):
    """Return an Image with the bytes of a (rows, bytes) array, each row padded."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    data = b''.join(row.tobytes() + padding for row in rows)
    return Image(
        header=header_message(START_NS, 'camera'),
        width=WIDTH,
        height=HEIGHT if height is None else height,
        encoding=encoding,
        step=rows.shape[1] + len(padding) if step is None else step,
        is_bigendian=is_bigendian,
        data=array.array('B', data),
    )


def bayer(first_row, second_row):
    """Return the mosaic of RGB whose 2x2 blocks are named channel by channel."""
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for y, row in enumerate((first_row, second_row)):
        for x, channel in enumerate(row):
            mosaic[y::2, x::2] = SMOOTH[y::2, x::2, 'rgb'.index(channel)]
    return mosaic


def yuv422(y_first):
    """Return SMOOTH as packed YUV 4:2:2, U and V taken at even columns."""
    rgb = SMOOTH.astype(float)
    # ITU-R BT.601, video range.
    y = 16 + rgb @ [65.738 / 256, 129.057 / 256, 25.064 / 256]
    u = 128 + rgb @ [-37.945 / 256, -74.494 / 256, 112.439 / 256]
    v = 128 + rgb @ [112.439 / 256, -94.154 / 256, -18.285 / 256]
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = (0, 1) if y_first else (1, 0)
    packed[..., luma] = np.rint(y)
    packed[:, 0::2, chroma] = np.rint(u[:, 0::2])
    packed[:, 1::2, chroma] = np.rint(v[:, 0::2])
    return packed


def nv12():
    i420 = cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2YUV_I420)
    u, v = i420[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    return np.concatenate([i420[:HEIGHT], np.stack([u, v], -1).reshape(HEIGHT // 2, WIDTH)])


def with_alpha(pixels):
    return np.dstack([pixels, np.full((HEIGHT, WIDTH), 77, np.uint8)])


def wide(pixels):
    """Return 16 bits for each of 8."""
    return pixels.astype(np.uint16) * 256 + 200


def nv21():
    planes = nv12()
    chroma = planes[HEIGHT:].reshape(HEIGHT // 2, WIDTH // 2, 2)[..., ::-1]
    return np.concatenate([planes[:HEIGHT], chroma.reshape(HEIGHT // 2, WIDTH)])


#: Encoding -> pixels, what they show, how far a channel may be off.
CASES = {
    'rgb8': (RGB, RGB, 0),
    'bgr8': (RGB[..., ::-1].copy(), RGB, 0),
    'rgba8': (with_alpha(RGB), RGB, 0),
    'bgra8': (with_alpha(RGB[..., ::-1]), RGB, 0),
    'mono8': (GRAY, GRAY, 0),
    '8UC1': (GRAY, GRAY, 0),
    '8UC3': (RGB[..., ::-1].copy(), RGB, 0),
    '8UC4': (with_alpha(RGB[..., ::-1]), RGB, 0),
    'mono16': (wide(GRAY), GRAY, 0),
    '16UC1': (wide(GRAY), GRAY, 0),
    'rgb16': (wide(RGB), RGB, 0),
    'bgr16': (wide(RGB[..., ::-1]), RGB, 0),
    '16UC3': (wide(RGB[..., ::-1]), RGB, 0),
    'rgba16': (wide(with_alpha(RGB)), RGB, 0),
    'bgra16': (wide(with_alpha(RGB[..., ::-1])), RGB, 0),
    '16UC4': (wide(with_alpha(RGB[..., ::-1])), RGB, 0),
    # Worst differences of these images: 5 (mosaic), 5 (shared colour).
    'bayer_rggb8': (bayer('rg', 'gb'), SMOOTH, 6),
    'bayer_bggr8': (bayer('bg', 'gr'), SMOOTH, 6),
    'bayer_gbrg8': (bayer('gb', 'rg'), SMOOTH, 6),
    'bayer_grbg8': (bayer('gr', 'bg'), SMOOTH, 6),
    'bayer_rggb16': (wide(bayer('rg', 'gb')), SMOOTH, 6),
    'bayer_bggr16': (wide(bayer('bg', 'gr')), SMOOTH, 6),
    'bayer_gbrg16': (wide(bayer('gb', 'rg')), SMOOTH, 6),
    'bayer_grbg16': (wide(bayer('gr', 'bg')), SMOOTH, 6),
    'yuv422': (yuv422(y_first=False), SMOOTH, 6),
    'uyvy': (yuv422(y_first=False), SMOOTH, 6),
    'yuv422_yuy2': (yuv422(y_first=True), SMOOTH, 6),
    'yuyv': (yuv422(y_first=True), SMOOTH, 6),
    'nv12': (nv12(), SMOOTH, 8),
    'nv21': (nv21(), SMOOTH, 8),
}
