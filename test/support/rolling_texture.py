"""A texture that moves before a camera with a rolling shutter."""

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 240


def texture():
    """Return a (600, 800) image of smooth noise."""
    noise = np.random.default_rng(4).integers(0, 256, (600, 800), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4.0)
    return cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)


def rolling_image(texture, place, time_s, readout_s=0.0, turn=lambda _: 0.0):
    """Return the image at a time of its middle row.

    :param place: gives the (x, y) pixels by which the content is moved, for (H, W) times.
    :param turn: gives the angle by which it is turned about the middle, likewise.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    time_s = time_s + (rows - (HEIGHT - 1) / 2) / HEIGHT * readout_s
    moved_x, moved_y = place(time_s)
    x, y = columns - WIDTH / 2, rows - HEIGHT / 2
    sine, cosine = np.sin(turn(time_s)), np.cos(turn(time_s))
    x, y = cosine * x - sine * y - moved_x + 400, sine * x + cosine * y - moved_y + 300
    return cv2.remap(texture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
