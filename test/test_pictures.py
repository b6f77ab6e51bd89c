"""Every encoding against the picture it was made from, and everything that is no picture."""

import cv2
import numpy as np
import pytest
from r3_ros.errors import FrameError
from r3_ros.pictures import decode_compressed, decode_raw, ENCODINGS

HEIGHT, WIDTH = 48, 64


def smooth_picture() -> np.ndarray:
    """Return a colourful picture that survives subsampled colour and demosaicing."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(30, 226, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def yuv(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, U, V by the BT.601 video-range formula that cameras use."""
    r, g, b = np.moveaxis(picture.astype(float), -1, 0)
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return tuple(np.rint(plane).astype(np.uint8) for plane in (y, u, v))


def encoded(picture: np.ndarray, encoding: str) -> np.ndarray:
    """Write a picture in an encoding by its definition, not with OpenCV."""
    grey = picture.mean(axis=-1).astype(np.uint8)
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    y, u, v = yuv(picture)
    if encoding in ('rgb8', 'rgba8'):
        return np.concatenate([picture, alpha], axis=-1)[..., : len(encoding) - 1]
    if encoding in ('bgr8', '8UC3'):
        return picture[..., ::-1]
    if encoding in ('bgra8', '8UC4'):
        return np.concatenate([picture[..., ::-1], alpha], axis=-1)
    if encoding in ('mono8', '8UC1'):
        return grey
    if encoding in ('mono16', '16UC1'):
        return (
            (grey.astype(int) * 256 + 17).astype('<u2').view(np.uint8).reshape(HEIGHT, 2 * WIDTH)
        )
    if encoding.startswith('bayer'):
        order = encoding[6:10]
        mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
        for i, color in enumerate(order):
            place = np.s_[i // 2 :: 2, i % 2 :: 2]
            mosaic[place] = picture[..., 'rgb'.index(color)][place]
        return mosaic
    if encoding == 'nv12':
        chroma = np.stack([u[::2, ::2], v[::2, ::2]], axis=-1).reshape(HEIGHT // 2, WIDTH)
        return np.concatenate([y, chroma])
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma = 1 if encoding in ('yuv422', 'uyvy') else 0
    packed[..., luma] = y
    packed[:, ::2, 1 - luma] = u[:, ::2]
    packed[:, 1::2, 1 - luma] = v[:, ::2]
    return packed


@pytest.mark.parametrize('padding', [0, 12])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_gives_the_picture(encoding, padding):
    picture = smooth_picture()
    pixels = encoded(picture, encoding)
    rows = pixels.reshape(pixels.shape[0], -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    step = data.shape[1]
    decoded = decode_raw(data.tobytes(), WIDTH, HEIGHT, encoding, step)
    assert decoded.shape == (HEIGHT, WIDTH, 3) and decoded.flags.c_contiguous
    if encoding.startswith(('mono', '8UC1', '16UC1')):
        expected = np.repeat(picture.mean(axis=-1).astype(np.uint8)[..., None], 3, axis=-1)
        np.testing.assert_array_equal(decoded, expected)
        return
    exact = encoding.startswith(('rgb', 'bgr', '8UC'))
    inside = np.s_[2:-2, 2:-2]
    difference = np.abs(decoded.astype(int) - picture)[inside]
    # Half of the colour samples are interpolated; a swapped channel would cost over 30 levels.
    assert difference.max() == 0 if exact else difference.mean() < 6.0


def test_big_endian_sixteen_bit():
    grey = smooth_picture().mean(axis=-1).astype(np.uint8)
    data = (grey.astype(int) * 256 + 5).astype('>u2').tobytes()
    decoded = decode_raw(data, WIDTH, HEIGHT, 'mono16', 2 * WIDTH, is_bigendian=True)
    np.testing.assert_array_equal(decoded[..., 0], grey)


def test_a_hint_decides_untyped_encodings():
    picture = smooth_picture()
    decoded = decode_raw(picture.tobytes(), WIDTH, HEIGHT, '8UC3', 3 * WIDTH, hint='rgb8')
    np.testing.assert_array_equal(decoded, picture)
    assert not np.array_equal(
        decode_raw(picture.tobytes(), WIDTH, HEIGHT, '8UC3', 3 * WIDTH), picture
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'encoding': 'rgb9'}, "'rgb9' is not supported.*rgb8"),
        ({'encoding': ''}, 'not supported'),
        ({'width': 0}, '0x48'),
        ({'height': -1}, '64x-1'),
        ({'step': 3 * WIDTH - 1}, 'contradict'),
        ({'step': 4 * WIDTH}, 'cut off'),
        ({'data': b''}, 'cut off'),
        ({'data': bytes(3 * WIDTH * HEIGHT - 1)}, 'cut off'),
    ],
)
def test_contradicting_messages_are_refused(change, message):
    content = {
        'data': smooth_picture().tobytes(),
        'width': WIDTH,
        'height': HEIGHT,
        'encoding': 'rgb8',
        'step': 3 * WIDTH,
    }
    with pytest.raises(FrameError, match=message):
        decode_raw(**(content | change))


def test_odd_sizes_that_an_encoding_cannot_have_are_refused():
    with pytest.raises(FrameError, match='nv12|cannot be'):
        decode_raw(bytes(9 * 7 * 2), 7, 7, 'nv12', 7)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp'])
def test_compressed_pictures(suffix):
    picture = smooth_picture()
    data = cv2.imencode(suffix, picture[..., ::-1])[1].tobytes()
    assert np.abs(decode_compressed(data).astype(int) - picture).mean() < 3


def test_grey_and_sixteen_bit_files_become_rgb():
    grey = smooth_picture()[..., 0]
    decoded = decode_compressed(cv2.imencode('.png', grey.astype(np.uint16) * 256)[1])
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_cut_off_pictures_are_refused(suffix, share):
    """OpenCV decodes a cut-off JPEG without an error; the rest is grey."""
    data = cv2.imencode(suffix, smooth_picture())[1].tobytes()
    with pytest.raises(FrameError, match='cut off'):
        decode_compressed(data[: int(share * len(data))])


def test_a_thumbnail_does_not_hide_that_the_picture_is_cut_off():
    picture = smooth_picture()
    whole = cv2.imencode('.jpg', picture)[1].tobytes()
    thumbnail = cv2.imencode('.jpg', picture[::4, ::4])[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert decode_compressed(with_thumbnail).shape == picture.shape
    with pytest.raises(FrameError, match='cut off'):
        decode_compressed(with_thumbnail[:-40])


def test_bytes_behind_the_end_are_ignored():
    data = cv2.imencode('.jpg', smooth_picture())[1].tobytes()
    assert decode_compressed(data + bytes(500)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('data', [b'', b'hello, this is no picture', bytes(1000)])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(FrameError, match='empty|no picture'):
        decode_compressed(data)


def test_hints_are_the_encodings_that_say_what_they_hold():
    from r3_ros.config import ENCODING_HINTS
    from r3_ros.pictures import ENCODINGS, UNTYPED

    assert set(ENCODING_HINTS) - {''} == set(ENCODINGS) - UNTYPED.keys()
