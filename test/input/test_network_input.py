"""Images against those of the official loaders, and where pixels and intrinsics go with them."""

from functools import partial
import json
import math
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
from paths import SHARED
from PIL import Image
import pytest
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import CalibrationError, FrameError
from r3_ros.core.resize_geometry import image_size, Resize
from r3_ros.input.network_input import (
    area_geometry,
    da3_geometry,
    DA3_METHODS,
    fov_of,
    intrinsics_from_fov,
    PATCH,
    r3_geometry,
)

GOLDEN = SHARED / 'parity/golden-preprocess.npz'
HOUSE = SHARED / 'data/house_r3/rgb'
#: Network goldens whose pixels were made from images of the house.
HOUSE_GOLDENS = ('r3-small-house4', 'r3-small-portrait2', 'r3-small-eps2', 'r3-large-house2')
DA3_GOLDENS = ('da3-small-house', 'da3metric-large-house')

quick = settings(max_examples=200, deadline=None)
few = settings(max_examples=40, deadline=None)
sides = st.integers(PATCH, 3000)
sizes = st.sampled_from([14, 28, 98, 112, 200, 224, 392, 500, 504, 518])
r3_rules = st.fixed_dictionaries({'size': sizes, 'square_ok': st.booleans()})
da3_rules = st.fixed_dictionaries({'process_res': sizes, 'method': st.sampled_from(DA3_METHODS)})


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(geometry_of, image, **rule):
    """Return an image resized by a rule, and the geometry."""
    geometry = geometry_of(*image_size(image), **rule)
    return geometry.apply(image), geometry


def golden_cases(rule):
    if not GOLDEN.exists():
        reason = pytest.mark.skip(reason=f'{GOLDEN.name} is not here')
        return [pytest.param(None, id=rule, marks=reason)]
    with np.load(GOLDEN) as golden:
        names = [name.removesuffix('.settings') for name in golden if name.startswith(rule)]
        return sorted({name for name in names if f'{name}.settings' in golden})


# --- As the official loaders ---


@pytest.mark.parametrize('case', [*golden_cases('r3.'), *golden_cases('da3.')])
def test_pixels_are_the_official_ones(case):
    with np.load(GOLDEN) as golden:
        options = json.loads(golden[f'{case}.settings'].item())
        image = golden[f'source.{options.pop("source")}']
        if options.pop('exif_orientation', 1) != 1 or options.pop('crop_to_landscape', False):
            pytest.skip('turned or cropped before, which tools/parity does')
        if case.startswith('r3.'):
            pixels, _ = resized(r3_geometry, image, **options)
        else:
            pixels, _ = resized(da3_geometry, image, method=case.split('.')[-1], **options)
        np.testing.assert_array_equal(pixels, golden[f'{case}.pixels'])


def house_image(name):
    """Return the image that a golden calls house/frame_00001.jpg, None if it is not here."""
    path = HOUSE / f'{int(Path(name).stem.removeprefix("frame_")) - 1:06d}.jpg'
    return np.asarray(Image.open(path)) if path.exists() else None


@pytest.mark.skipif(not HOUSE.exists(), reason='the house sequence is not here')
@pytest.mark.parametrize('name', [*HOUSE_GOLDENS, *DA3_GOLDENS])
def test_images_of_the_house_become_the_input_of_the_networks(name):
    path = SHARED / f'parity/golden-{name}.npz'
    if not path.exists():
        pytest.skip(f'{path.name} is not here')
    with np.load(path) as golden:
        compared = 0
        for frame, pixels in zip(golden['frames'], golden['pixels'], strict=True):
            image = house_image(frame)
            if image is None:
                continue
            if name in DA3_GOLDENS:
                ours, _ = resized(da3_geometry, image, process_res=int(golden['process_res']))
            else:
                options = json.loads(golden['options'].item())
                if options.pop('rotate_clockwise_90', False):
                    image = np.rot90(image, -1)
                ours, _ = resized(r3_geometry, image, size=int(golden['size']), **options)
            np.testing.assert_array_equal(ours, pixels)
            compared += 1
    assert compared


# --- Sizes ---


@pytest.mark.parametrize(
    ('source', 'rule', 'expected'),
    [
        ((504, 284), {}, (504, 280)),
        ((1920, 1080), {}, (504, 280)),
        ((1080, 1920), {}, (280, 504)),
        ((640, 480), {}, (504, 378)),
        ((640, 480), dict(size=392), (392, 294)),
        ((1241, 376), {}, (504, 140)),
        ((8000, 6000), {}, (504, 378)),
        ((14, 14), dict(square_ok=True), (504, 504)),
        # Squares: 4:3, floored to whole patches where 3/4 of the width are none.
        ((1000, 1000), {}, (504, 378)),
        ((1000, 1000), dict(size=518), (518, 378)),
        ((518, 518), dict(size=500), (490, 364)),
        ((518, 518), dict(size=518, square_ok=True), (518, 518)),
        # Square once it is resized.
        ((2001, 2000), {}, (504, 378)),
        ((301, 217), dict(size=224), (224, 224)),
        ((217, 301), dict(size=224), (224, 224)),
    ],
)
def test_r3_sizes(source, rule, expected):
    geometry = r3_geometry(*source, **rule)
    assert (geometry.width, geometry.height) == expected


@pytest.mark.parametrize(
    ('method', 'source', 'expected'),
    [
        ('upper_bound_resize', (1920, 1080), (504, 280)),
        ('upper_bound_resize', (640, 490), (504, 392)),  # 386 is nearer to 392
        ('upper_bound_crop', (640, 490), (504, 378)),
        ('upper_bound_resize', (504, 385), (504, 392)),  # as near to 378: up
        ('lower_bound_resize', (640, 480), (672, 504)),
        ('lower_bound_crop', (640, 470), (686, 504)),
        ('upper_bound_resize', (504, 378), (504, 378)),
        ('upper_bound_resize', (1000, 14), (504, 14)),  # 7 rows, as near to 14 as to none
    ],
)
def test_da3_sizes(method, source, expected):
    geometry = da3_geometry(*source, method=method)
    assert (geometry.width, geometry.height) == expected


@pytest.mark.parametrize('size', range(28, 600, 14))
def test_squares_of_every_size_lose_rows_only(size):
    geometry = r3_geometry(size + 6, size + 6, size)
    if size == 224:
        assert (geometry.width, geometry.height) == (224, 224)
        return
    assert geometry.width == size
    assert 0 <= 0.75 * size - geometry.height < PATCH
    # Centred, half a row at most beside the middle.
    middle = geometry.pixels_network_source @ [(size + 5) / 2, (size + 5) / 2, 1]
    assert middle == pytest.approx([(size - 1) / 2, (geometry.height - 1) / 2, 1], abs=0.501)


def r3_or_none(width, height, rule):
    try:
        return r3_geometry(width, height, **rule)
    except FrameError:
        return None


def da3_or_none(width, height, rule):
    try:
        return da3_geometry(width, height, **rule)
    except FrameError:
        return None


geometries = st.one_of(
    st.builds(r3_or_none, sides, sides, r3_rules),
    st.builds(da3_or_none, sides, sides, da3_rules),
).filter(lambda geometry: geometry is not None)


@quick
@given(sides, sides, r3_rules)
def test_r3_inputs_are_whole_patches_no_longer_than_asked(width, height, rule):
    geometry = r3_or_none(width, height, rule)
    # Nothing is refused that has a patch on its short side.
    short, long = sorted((width, height))
    if short * rule['size'] / long >= 2 * PATCH and rule['size'] >= 2 * PATCH:
        assert geometry is not None
    assume(geometry is not None)
    assert geometry.width % PATCH == geometry.height % PATCH == 0
    assert min(geometry.width, geometry.height) >= PATCH
    assert rule['size'] - PATCH < max(geometry.width, geometry.height) <= rule['size']


@quick
@given(sides, sides, da3_rules)
def test_da3_inputs_are_whole_patches(width, height, rule):
    geometry = da3_or_none(width, height, rule)
    short, long = sorted((width, height))
    refused = (
        long / short > 60 if 'lower' in rule['method'] else short * rule['process_res'] / long < 14
    )
    assert geometry is not None or refused
    assume(geometry is not None)
    assert geometry.width % PATCH == geometry.height % PATCH == 0
    bound = (max if 'upper' in rule['method'] else min)(geometry.width, geometry.height)
    assert PATCH <= bound and abs(bound - rule['process_res']) <= PATCH
    assert min(geometry.width, geometry.height) >= PATCH


def test_sides_that_lie_between_two_pixels_round_to_the_even_one():
    # 1080 * 504 / 1920 = 283.5
    assert r3_geometry(1920, 1080).steps[0].height == 284
    assert da3_geometry(1920, 1080).steps[0].height == 284


def test_the_scale_is_rounded_before_it_meets_the_side():
    # 720 * 392 / 1280 = 220.5, but 392 / 1280 as a float is a little more than it is.
    assert r3_geometry(1280, 720, 392).steps[0].height == 221


@pytest.mark.parametrize(
    ('source', 'size'),
    [((640, 480), (112, 84)), ((1241, 376), (182, 56)), ((1080, 1920), (70, 126))],
)
def test_r3_tiny_sees_all_of_an_image_of_any_shape_with_the_same_area(source, size):
    geometry = area_geometry(*source, 112)
    assert (geometry.width, geometry.height) == size
    corners = np.array([[-0.5, -0.5, 1], [source[0] - 0.5, source[1] - 0.5, 1]])
    expected = [[-0.5, -0.5], [size[0] - 0.5, size[1] - 0.5]]
    found = (corners @ geometry.pixels_network_source.T)[:, :2]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_r3_tiny_refuses_an_image_that_would_have_no_row_of_patches():
    with pytest.raises(FrameError, match='crop the image to the part of interest'):
        area_geometry(8000, 16, 112)


@pytest.mark.parametrize(('long', 'short', 'resized'), [(849, 192, 990), (345, 320, 242)])
def test_the_long_side_at_224_is_rounded_from_the_ratio_of_the_sides(long, short, resized):
    # Both are ties (990.5, 241.5), which 224 / short would round the other way.
    assert r3_geometry(long, short, 224).steps[0] == Resize(
        resized, 224, r3_geometry(long, short, 224).steps[0].filter
    )


@pytest.mark.parametrize(
    ('geometry', 'filters'),
    [
        (r3_geometry(640, 480), ['pillow lanczos']),
        (r3_geometry(320, 240), ['pillow bicubic']),
        # The short side counts: 300 becomes 224 although the long one stays above 224.
        (r3_geometry(400, 300, 224), ['pillow lanczos']),
        (r3_geometry(400, 200, 224), ['pillow bicubic']),
        (da3_geometry(640, 480), ['opencv area']),
        (da3_geometry(320, 240), ['opencv cubic']),
        # The second step has a filter of its own: 370 becomes 364, or 374 becomes 378.
        (da3_geometry(640, 470), ['opencv area', 'opencv area']),
        (da3_geometry(640, 475), ['opencv area', 'opencv cubic']),
        (da3_geometry(320, 235), ['opencv cubic', 'opencv area']),
    ],
)
def test_the_filter_depends_on_whether_the_image_grows(geometry, filters):
    assert [step.filter for step in geometry.steps if isinstance(step, Resize)] == filters


# --- Where pixels go ---


def assert_pixels_are_where_the_geometry_says(width, height, prepare):
    """Prepare an image that says in red and green where each pixel was, and ask the result."""
    v, u = np.mgrid[:height, :width]
    per_pixel = 200.0 / (np.array([width, height]) - 1)
    levels = [25 + u * per_pixel[0], 25 + v * per_pixel[1], np.full_like(u, 128)]
    image = np.rint(np.stack(levels, axis=-1)).astype(np.uint8)
    (pixels, geometry), (negative, _) = prepare(image), prepare(255 - image)
    # Half of the difference, because halves are rounded up in both.
    levels = (pixels + 255.0 - negative)[..., :2] / 2
    seen_at = (levels - 25) / per_pixel

    w, h = geometry.width, geometry.height
    v, u = np.mgrid[:h, :w]
    source_network = np.linalg.inv(geometry.pixels_network_source)
    expected = np.stack([u, v, np.ones_like(u)], axis=-1) @ source_network.T
    # A filter that reaches over the border bends the ramp there.
    error = (seen_at - expected[..., :2])[h // 4 : h - h // 4, w // 4 : w - w // 4]
    assert np.abs(error).max() < 2.0
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.2


@few
@given(st.integers(60, 200), st.integers(60, 200), r3_rules)
def test_r3_pixels_are_where_the_geometry_says(width, height, rule):
    assume(rule['size'] >= 98 and max(width, height) < 3 * min(width, height))
    assert_pixels_are_where_the_geometry_says(
        width, height, lambda image: resized(r3_geometry, image, **rule)
    )


@few
@given(st.integers(60, 200), st.integers(60, 200), da3_rules)
def test_da3_pixels_are_where_the_geometry_says(width, height, rule):
    assume(rule['process_res'] >= 98 and max(width, height) < 3 * min(width, height))
    assert_pixels_are_where_the_geometry_says(
        width, height, lambda image: resized(da3_geometry, image, **rule)
    )


def camera(geometry, seed):
    """Return an off-centre camera with two focal lengths, of the size of the source."""
    rng = np.random.default_rng(seed)
    w, h = geometry.source_width, geometry.source_height
    return Intrinsics(*rng.uniform(0.5, 2.0, 2) * w, *rng.uniform(0.2, 0.8, 2) * [w, h], w, h)


@quick
@given(geometries, st.integers(0, 2**32 - 1))
def test_a_point_is_seen_at_the_pixel_where_its_pixel_went(geometry, seed):
    K_source = camera(geometry, seed)
    K_network = geometry.to_network(K_source)
    assert (K_network.width, K_network.height) == (geometry.width, geometry.height)
    points = np.random.default_rng(seed).uniform([-1, -1, 1], [1, 1, 4], (20, 3))
    source = (points @ K_source.K.T) / points[:, 2:]
    network = (points @ K_network.K.T) / points[:, 2:]
    expected = source @ geometry.pixels_network_source.T
    np.testing.assert_allclose(network, expected, rtol=1e-9, atol=1e-6)


@quick
@given(geometries, st.integers(0, 2**32 - 1))
def test_intrinsics_come_back_as_they_went(geometry, seed):
    K = camera(geometry, seed)
    back = geometry.to_source(geometry.to_network(K))
    assert (back.width, back.height) == (K.width, K.height)
    np.testing.assert_allclose(back.K, K.K, rtol=1e-9, atol=1e-9)


def test_each_axis_has_its_own_factor():
    geometry = da3_geometry(640, 490)
    K = geometry.to_network(Intrinsics(500.0, 500.0, 319.5, 244.5, 640, 490))
    assert (K.fx, K.fy) == pytest.approx((500 * 504 / 640, 500 * 392 / 490))
    assert (K.cx, K.cy) == pytest.approx((251.5, 195.5))


def test_a_crop_moves_the_centre_and_a_resize_keeps_the_borders():
    K = r3_geometry(1920, 1080).to_network(Intrinsics(1000.0, 1100.0, 959.5, 539.5, 1920, 1080))
    assert (K.fx, K.fy) == pytest.approx((1000 * 504 / 1920, 1100 * 284 / 1080))
    assert (K.cx, K.cy) == pytest.approx((251.5, 139.5))


# --- What is left alone ---


@pytest.mark.parametrize('size', [(504, 280), (280, 504), (504, 14)])
def test_an_image_of_the_right_size_is_not_resampled(size):
    image = noise(*size)
    for pixels, geometry in (resized(r3_geometry, image), resized(da3_geometry, image)):
        assert geometry.steps == ()
        np.testing.assert_array_equal(pixels, image)
        K = camera(geometry, 1)
        assert geometry.to_network(K) == K


def test_an_image_of_the_right_length_is_only_cropped():
    image = noise(504, 284)
    for rule in (r3_geometry, partial(da3_geometry, method='upper_bound_crop')):
        np.testing.assert_array_equal(resized(rule, image)[0], image[2:282])


@pytest.mark.parametrize('size', [98, 224])
def test_the_image_is_not_modified_and_may_be_any_view(size):
    big = noise(2 * 140, 98)
    big.flags.writeable = False
    view = big[::-1, ::2]
    copy = view.copy()
    ours, _ = resized(r3_geometry, view, size=size)
    np.testing.assert_array_equal(ours, resized(r3_geometry, copy, size=size)[0])
    assert ours.flags.c_contiguous and ours.dtype == np.uint8
    for method in DA3_METHODS:
        rule = {'process_res': size, 'method': method}
        np.testing.assert_array_equal(
            resized(da3_geometry, view, **rule)[0], resized(da3_geometry, copy, **rule)[0]
        )
    np.testing.assert_array_equal(view, copy)


def test_one_geometry_serves_every_image_of_a_stream():
    geometry = r3_geometry(301, 217, 98)
    for seed in range(3):
        image = noise(301, 217, seed)
        np.testing.assert_array_equal(
            geometry.apply(image), resized(r3_geometry, image, size=98)[0]
        )
    assert geometry == r3_geometry(301, 217, 98)
    with pytest.raises(FrameError, match='301x217'):
        geometry.apply(noise(300, 217))


@pytest.mark.parametrize('rule', [r3_geometry, da3_geometry])
def test_grey_images_become_rgb(rule):
    grey = noise(300, 217)[..., 0].copy()
    pixels, geometry = resized(rule, grey)
    # A filter may round one channel in another way than three.
    expected = geometry.apply(np.dstack([grey] * 3)).astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_a_huge_image():
    pixels, _ = resized(r3_geometry, np.full((6000, 8000, 3), 200, np.uint8))
    assert pixels.shape == (378, 504, 3)
    assert np.all(pixels == 200)


# --- What is refused ---


@pytest.mark.parametrize(
    ('image', 'reason'),
    [
        (np.zeros((48, 64, 3), np.float32), 'float32'),
        (np.zeros((48, 64, 3), np.int8), 'int8'),
        (np.zeros((48, 64, 1), np.uint8), r'\(48, 64, 1\)'),
        (np.zeros((48, 64, 4), np.uint8), 'RGB'),
        (np.zeros((3, 48, 64), np.uint8), r'\(3, 48, 64\)'),
        (np.zeros((2, 48, 64, 3), np.uint8), 'height, width'),
        ([[[0, 0, 0]]], 'list'),
        (np.zeros((0, 64, 3), np.uint8), '64x0'),
        (np.zeros((13, 64, 3), np.uint8), '64x13'),
    ],
)
def test_what_is_no_image_is_refused(image, reason):
    for rule in (r3_geometry, da3_geometry):
        with pytest.raises(FrameError, match=reason):
            resized(rule, image)


@pytest.mark.parametrize('source', [(5000, 100), (100, 5000), (30000, 14)])
def test_an_image_too_elongated_for_a_patch_is_refused(source):
    asked = [lambda: r3_geometry(*source)]
    asked += [lambda: da3_geometry(*source, 400, 'upper_bound_crop')]
    for geometry in asked:
        with pytest.raises(FrameError, match=r'patch.*raise (size|process_res), or crop'):
            geometry()
    with pytest.raises(FrameError, match='patch'):
        da3_geometry(30000, 14, method='upper_bound_resize')


def test_a_square_at_the_least_size_has_no_room_for_4_to_3():
    with pytest.raises(FrameError, match='raise size'):
        r3_geometry(100, 100, 14)
    assert r3_geometry(100, 100, 14, square_ok=True).height == 14


def test_an_image_that_would_grow_without_bound_is_refused():
    with pytest.raises(FrameError, match='enlarged'):
        r3_geometry(14, 30000, 224)
    with pytest.raises(FrameError, match='enlarged'):
        da3_geometry(30000, 14, method='lower_bound_crop')


def test_intrinsics_of_another_size_are_refused():
    geometry = r3_geometry(640, 480)
    K = Intrinsics(500.0, 500.0, 300.0, 200.0, 640, 360)
    with pytest.raises(CalibrationError, match='640x360.*640x480'):
        geometry.to_network(K)
    with pytest.raises(CalibrationError, match='640x360.*504x378'):
        geometry.to_source(K)


# --- Fields of view ---


fovs = st.floats(0.01, 3.1)


@quick
@given(fovs, fovs, st.integers(1, 37), st.integers(1, 37))
def test_fields_of_view_come_back(fov_v, fov_h, columns, rows):
    K = intrinsics_from_fov(fov_v, fov_h, columns * PATCH, rows * PATCH)
    assert fov_of(K) == pytest.approx((fov_v, fov_h))
    # The same angle as seen between the outer borders, by the definition of the intrinsics.
    assert K.fov_x == pytest.approx(fov_h)


def test_the_middle_of_the_image_is_seen_straight_ahead():
    K = intrinsics_from_fov(math.pi / 2, 2 * math.atan(2.0), 504, 280)
    # Half the height away on each side at 45 degrees; the middle of 504 pixels is at 251.5.
    assert Intrinsics(126.0, 140.0, 251.5, 139.5, 504, 280).K == pytest.approx(K.K)


@pytest.mark.parametrize('wrong', [0.0, -0.5, math.pi, 4.0, math.nan, math.inf, 5e-324])
def test_a_field_of_view_that_no_camera_has_is_refused(wrong):
    for fov_v, fov_h in ((wrong, 1.0), (1.0, wrong)):
        with pytest.raises(FrameError, match='fields of view'):
            intrinsics_from_fov(fov_v, fov_h, 504, 280)
