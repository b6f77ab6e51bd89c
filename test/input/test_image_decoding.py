"""Every encoding against the image it was made from, and everything that is no image."""

import io
import math
import zlib

import cv2
import numpy as np
from PIL import Image
import pytest
from r3_ros.core.errors import FrameError
from r3_ros.input.image_decoding import (
    decode_compressed,
    decode_eight_bit,
    decode_raw,
    encoded_size,
    ENCODINGS,
    MOST_PIXELS,
)

HEIGHT, WIDTH = 48, 64


def smooth_image() -> np.ndarray:
    """Return a colourful image that survives subsampled colour and demosaicing."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(30, 226, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def yuv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, U, V by the BT.601 video-range formula that cameras use."""
    r, g, b = np.moveaxis(image.astype(float), -1, 0)
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return tuple(np.rint(plane).astype(np.uint8) for plane in (y, u, v))


def encoded(image: np.ndarray, encoding: str) -> np.ndarray:
    """Write an image in an encoding by its definition, not with OpenCV."""
    if encoding.endswith('16') or encoding.startswith('16UC'):
        narrow = encoding.replace('16UC', '8UC').replace('16', '8')
        return (encoded(image, narrow).astype(int) * 256 + 17).astype('<u2')
    grey = image.mean(axis=-1).astype(np.uint8)
    alpha = np.full((HEIGHT, WIDTH, 1), 7, np.uint8)
    y, u, v = yuv(image)
    if encoding in ('rgb8', 'rgba8'):
        return np.concatenate([image, alpha], axis=-1)[..., : len(encoding) - 1]
    if encoding in ('bgr8', '8UC3'):
        return image[..., ::-1]
    if encoding in ('bgra8', '8UC4'):
        return np.concatenate([image[..., ::-1], alpha], axis=-1)
    if encoding in ('mono8', '8UC1'):
        return grey
    if encoding.startswith('bayer'):
        order = encoding[6:10]
        mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
        for i, color in enumerate(order):
            place = np.s_[i // 2 :: 2, i % 2 :: 2]
            mosaic[place] = image[..., 'rgb'.index(color)][place]
        return mosaic
    if encoding in ('nv12', 'nv21'):
        planes = (u, v) if encoding == 'nv12' else (v, u)
        chroma = np.stack([p[::2, ::2] for p in planes], axis=-1).reshape(HEIGHT // 2, WIDTH)
        return np.concatenate([y, chroma])
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma = 1 if encoding in ('yuv422', 'uyvy') else 0
    packed[..., luma] = y
    packed[:, ::2, 1 - luma] = u[:, ::2]
    packed[:, 1::2, 1 - luma] = v[:, ::2]
    return packed


@pytest.mark.parametrize('padding', [0, 12])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_gives_the_image(encoding, padding):
    image = smooth_image()
    pixels = encoded(image, encoding)
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    step = data.shape[1]
    decoded = decode_raw(data.tobytes(), WIDTH, HEIGHT, encoding, step)
    assert decoded.flags.c_contiguous
    if decoded.dtype == np.uint16:
        decoded = (decoded // 256).astype(np.uint8)
    if encoding.startswith(('mono', '8UC1', '16UC1')):
        np.testing.assert_array_equal(decoded, image.mean(axis=-1).astype(np.uint8))
        return
    exact = encoding.startswith(('rgb', 'bgr', '8UC', '16UC'))
    inside = np.s_[2:-2, 2:-2]
    difference = np.abs(decoded.astype(int) - image)[inside]
    # Half of the colour samples are interpolated; a swapped channel would cost over 30 levels.
    assert difference.max() == 0 if exact else difference.mean() < 6.0


def test_big_endian_sixteen_bit():
    grey = smooth_image().mean(axis=-1).astype(np.uint8)
    data = (grey.astype(int) * 256 + 5).astype('>u2').tobytes()
    decoded = decode_raw(data, WIDTH, HEIGHT, 'mono16', 2 * WIDTH, is_bigendian=True)
    np.testing.assert_array_equal(decoded, grey.astype(int) * 256 + 5)


def test_a_hint_decides_untyped_encodings():
    image = smooth_image()
    decoded = decode_raw(image.tobytes(), WIDTH, HEIGHT, '8UC3', 3 * WIDTH, hint='rgb8')
    np.testing.assert_array_equal(decoded, image)
    assert not np.array_equal(decode_raw(image.tobytes(), WIDTH, HEIGHT, '8UC3', 3 * WIDTH), image)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'encoding': 'rgb9'}, "'rgb9' is not supported.*rgb8"),
        ({'encoding': ''}, 'not supported'),
        ({'width': 0}, '0x48'),
        ({'height': -1}, '64x-1'),
        ({'step': 3 * WIDTH - 1}, 'contradict'),
        ({'step': 4 * WIDTH}, 'cut off'),
        ({'height': HEIGHT - 1}, 'more than 47 rows'),
        ({'data': b''}, 'cut off'),
        ({'data': bytes(3 * WIDTH * HEIGHT - 1)}, 'cut off'),
    ],
)
def test_contradicting_messages_are_refused(change, message):
    content = {
        'data': smooth_image().tobytes(),
        'width': WIDTH,
        'height': HEIGHT,
        'encoding': 'rgb8',
        'step': 3 * WIDTH,
    }
    with pytest.raises(FrameError, match=message):
        decode_raw(**(content | change))


def test_a_hint_of_another_size_of_pixels_is_refused():
    data = smooth_image().tobytes()
    with pytest.raises(FrameError, match='encoding_hint is bayer_rggb8, which is no 8UC3'):
        decode_raw(data, WIDTH, HEIGHT, '8UC3', 3 * WIDTH, hint='bayer_rggb8')


def test_odd_sizes_that_an_encoding_cannot_have_are_refused():
    with pytest.raises(FrameError, match='nv12|cannot be'):
        decode_raw(bytes(10 * 7), 7, 7, 'nv12', 7)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.tif', '.webp', '.ppm'])
def test_image_files(suffix):
    image = smooth_image()
    data = cv2.imencode(suffix, image[..., ::-1])[1].tobytes()
    assert np.abs(decode_compressed(data).astype(int) - image).mean() < 3
    assert encoded_size(data) == (WIDTH, HEIGHT)


def test_grey_and_sixteen_bit_files_stay_so_until_rgb_is_wanted():
    grey = smooth_image()[..., 0]
    np.testing.assert_array_equal(decode_compressed(cv2.imencode('.png', grey)[1]), grey)
    file = cv2.imencode('.png', grey.astype(np.uint16) * 16)[1]
    np.testing.assert_array_equal(decode_compressed(file), grey.astype(np.uint16) * 16)
    file = cv2.imencode('.png', grey.astype(np.uint16) * 256)[1]
    np.testing.assert_array_equal(decode_eight_bit(file), np.dstack([grey] * 3))


def test_alpha_is_left_out_and_floats_are_refused():
    image = smooth_image()
    file = cv2.imencode('.png', np.dstack([image[..., ::-1], image[..., 0]]))[1]
    np.testing.assert_array_equal(decode_compressed(file), image)
    file = io.BytesIO()
    Image.fromarray(image[..., 0].astype(np.float32)).save(file, 'TIFF')
    with pytest.raises(FrameError, match='float32'):
        decode_compressed(file.getvalue())


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_pixels_are_as_stored_whatever_exif_says(kind, orientation):
    tags, file = Image.Exif(), io.BytesIO()
    tags[0x112] = orientation
    Image.fromarray(smooth_image()).save(file, kind, exif=tags, quality=95)
    decoded = decode_compressed(file.getvalue())
    assert np.abs(decoded.astype(int) - smooth_image()).mean() < 3
    assert encoded_size(file.getvalue()) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ('form', 'is_exchanged'),
    [
        ('', False),
        ('jpeg', False),
        ('rgb8; jpeg compressed bgr8', False),
        ('bgr8; jpeg compressed bgr8', False),
        ('bgra8;jpeg compressed bgr8', False),
        ('bayer_rggb8; jpeg compressed bgr8', False),
        ('mono8; jpeg compressed ', False),
        ('rgb8; jpeg compressed rgb8', True),
        ('rgb8; png compressed ', True),
        ('bgr8; jpeg compressed rgb8', True),
    ],
)
def test_colours_are_in_the_order_of_the_format(form, is_exchanged):
    image = smooth_image()
    shown = image[..., ::-1] if is_exchanged else image
    file = cv2.imencode('.png', image[..., ::-1])[1]
    np.testing.assert_array_equal(decode_compressed(file, form), shown)


def test_a_mosaic_may_be_compressed():
    mosaic = encoded(smooth_image(), 'bayer_grbg8')
    file = cv2.imencode('.png', mosaic)[1]
    decoded = decode_compressed(file, 'bayer_grbg8; png compressed ')
    raw = decode_raw(mosaic.tobytes(), WIDTH, HEIGHT, 'bayer_grbg8', WIDTH)
    np.testing.assert_array_equal(decoded, raw)
    assert np.ptp(decoded, axis=2).max() > 30
    np.testing.assert_array_equal(decode_compressed(file), mosaic)


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.tif', '.webp', '.ppm'])
def test_cut_off_images_are_refused(suffix, share):
    data = cv2.imencode(suffix, smooth_image())[1].tobytes()
    with pytest.raises(FrameError, match='cut off|damaged'):
        decode_compressed(data[: int(share * len(data))])


def jpeg(*options: int) -> bytes:
    return cv2.imencode('.jpg', smooth_image(), options)[1].tobytes()


def with_segment(data: bytes, marker: bytes, content: bytes) -> bytes:
    """Put a segment in front of the others of a JPEG."""
    return data[:2] + marker + (len(content) + 2).to_bytes(2, 'big') + content + data[2:]


#: JPEGs as the standard allows them, all with the same pixels but for progressive coding.
JPEGS = {
    'fill byte': jpeg().replace(b'\xff\xdb', b'\xff\xff\xdb', 1),
    'fill bytes before the scan': jpeg().replace(b'\xff\xda', b'\xff\xff\xff\xda', 1),
    'fill byte before the end': jpeg()[:-2] + b'\xff\xff\xd9',
    'restart markers': jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    'progressive': jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    'comment that holds an end marker': with_segment(jpeg(), b'\xff\xfe', b'\xff\xd9 and more'),
    'bytes behind the end': jpeg() + bytes(500),
    'markers behind the end': jpeg() + b'\xff\xda' + bytes(500),
    'thumbnail': with_segment(jpeg(), b'\xff\xe1', b'Exif\0\0' + jpeg()),
}


@pytest.mark.parametrize('kind', JPEGS)
def test_whatever_a_jpeg_may_hold_is_decoded(kind):
    decoded = decode_compressed(JPEGS[kind]).astype(int)
    assert np.abs(decoded - decode_compressed(jpeg())).mean() < 1


@pytest.mark.parametrize('kind', [kind for kind in JPEGS if 'behind the end' not in kind])
def test_no_form_of_jpeg_hides_that_it_is_cut_off(kind):
    with pytest.raises(FrameError, match='cut off'):
        decode_compressed(JPEGS[kind][:-40])
    # As drivers with buffers of one size deliver it.
    with pytest.raises(FrameError, match='cut off'):
        decode_compressed(JPEGS[kind][:-40] + bytes(500))


def test_bytes_behind_the_end_of_a_png_are_ignored():
    data = cv2.imencode('.png', smooth_image())[1].tobytes()
    np.testing.assert_array_equal(decode_compressed(data + bytes(500)), decode_compressed(data))


def test_an_image_too_large_is_refused_before_it_is_decoded(monkeypatch):
    def decode(*_):
        raise AssertionError('the pixels were decoded')

    monkeypatch.setattr(cv2, 'imdecode', decode)
    side = math.isqrt(MOST_PIXELS) + 1
    small = np.zeros((16, 16, 3), np.uint8)
    for claimed in (side, 20_000, 65_000):
        png = bytearray(cv2.imencode('.png', small)[1].tobytes())
        png[16:24] = claimed.to_bytes(4, 'big') * 2
        png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, 'big')
        jpeg = bytearray(cv2.imencode('.jpg', small)[1].tobytes())
        frame = jpeg.index(b'\xff\xc0')
        jpeg[frame + 5 : frame + 9] = claimed.to_bytes(2, 'big') * 2
        bmp = bytearray(cv2.imencode('.bmp', small)[1].tobytes())
        bmp[18:26] = claimed.to_bytes(4, 'little') * 2
        for data in (png, jpeg, bmp):
            with pytest.raises(FrameError, match='too large'):
                decode_compressed(bytes(data))
            with pytest.raises(FrameError, match='too large'):
                encoded_size(bytes(data))


@pytest.mark.parametrize('data', [b'', b'hello, this is no image', bytes(1000)])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(FrameError, match='empty|no image'):
        decode_compressed(data)


def test_hints_are_the_encodings_that_say_what_they_hold():
    from r3_ros.core.config import ENCODING_HINTS
    from r3_ros.input.image_decoding import ENCODINGS, UNTYPED

    assert set(ENCODING_HINTS) - {''} == set(ENCODINGS) - UNTYPED.keys()
