"""Images against those of the official loaders, and where pixels and intrinsics go with them."""

from io import BytesIO
import json
import math
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
from paths import SHARED
from PIL import Image, ImageOps
import pytest
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import CalibrationError, ConfigError, FrameError
from r3_ros.core.resize_geometry import Resize
from r3_ros.input.network_input import (
    da3_geometry,
    DA3_METHODS,
    DA3Rule,
    fov_of,
    IMAGENET_MEAN,
    IMAGENET_STD,
    intrinsics_from_fov,
    normalised,
    PATCH,
    prepare_da3,
    prepare_r3,
    r3_geometry,
    R3Rule,
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
flags = st.booleans()
r3_rules = st.builds(R3Rule, sizes, flags, flags, flags)
da3_rules = st.builds(DA3Rule, sizes, st.sampled_from(DA3_METHODS))
orientations = st.integers(1, 8)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def golden_cases(rule):
    if not GOLDEN.exists():
        reason = pytest.mark.skip(reason=f'{GOLDEN.name} is not here')
        return [pytest.param(None, id=rule, marks=reason)]
    with np.load(GOLDEN) as golden:
        names = [name.removesuffix('.settings') for name in golden if name.startswith(rule)]
        return sorted({name for name in names if f'{name}.settings' in golden})


# --- As the official loaders ---


@pytest.mark.parametrize('case', golden_cases('r3.'))
def test_r3_pixels_are_the_official_ones(case):
    with np.load(GOLDEN) as golden:
        options = json.loads(golden[f'{case}.settings'].item())
        image = golden[f'source.{options.pop("source")}']
        orientation = options.pop('exif_orientation')
        prepared = prepare_r3(image, R3Rule(**options), orientation)
        np.testing.assert_array_equal(prepared.pixels, golden[f'{case}.pixels'])


@pytest.mark.parametrize('case', golden_cases('da3.'))
def test_da3_pixels_are_the_official_ones(case):
    with np.load(GOLDEN) as golden:
        options = json.loads(golden[f'{case}.settings'].item())
        image = golden[f'source.{options.pop("source")}']
        prepared = prepare_da3(image, DA3Rule(method=case.split('.')[-1], **options))
        np.testing.assert_array_equal(prepared.pixels, golden[f'{case}.pixels'])


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
                ours = prepare_da3(image, DA3Rule(int(golden['process_res'])))
            else:
                options = json.loads(golden['options'].item())
                ours = prepare_r3(image, R3Rule(int(golden['size']), **options))
            np.testing.assert_array_equal(ours.pixels, pixels)
            compared += 1
    assert compared


@pytest.mark.parametrize('name', HOUSE_GOLDENS)
def test_the_networks_see_pixels_normalised_as_the_official_ones(name):
    path = SHARED / f'parity/golden-{name}.npz'
    if not path.exists():
        pytest.skip(f'{path.name} is not here')
    with np.load(path) as golden:
        expected = golden['full.net_input_sample']
        ours = normalised(golden['pixels'])[..., ::14, ::14]
    np.testing.assert_allclose(ours, expected, atol=2e-5 * expected.std())


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientations_are_what_pillow_makes_of_them(orientation):
    image = noise(70, 42)
    stored = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(stored, format='PNG', exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(stored)))
    ours = prepare_r3(image, R3Rule(size=70), orientation)
    np.testing.assert_array_equal(ours.pixels, upright)


# --- Sizes ---


@pytest.mark.parametrize(
    ('source', 'rule', 'expected'),
    [
        ((504, 284), R3Rule(), (504, 280)),
        ((1920, 1080), R3Rule(), (504, 280)),
        ((1080, 1920), R3Rule(), (280, 504)),
        ((640, 480), R3Rule(), (504, 378)),
        ((640, 480), R3Rule(392), (392, 294)),
        ((1241, 376), R3Rule(), (504, 140)),
        ((8000, 6000), R3Rule(), (504, 378)),
        ((14, 14), R3Rule(square_ok=True), (504, 504)),
        # Squares: 4:3, floored to whole patches where 3/4 of the width are none.
        ((1000, 1000), R3Rule(), (504, 378)),
        ((1000, 1000), R3Rule(518), (518, 378)),
        ((518, 518), R3Rule(500), (490, 364)),
        ((518, 518), R3Rule(518, square_ok=True), (518, 518)),
        # Square once it is resized.
        ((2001, 2000), R3Rule(), (504, 378)),
        ((301, 217), R3Rule(224), (224, 224)),
        ((217, 301), R3Rule(224), (224, 224)),
        ((1920, 1080), R3Rule(rotate_clockwise_90=True), (280, 504)),
        # 4:3 is wanted of the turned image.
        ((1920, 1080), R3Rule(crop_to_landscape=True), (504, 378)),
        ((1080, 1920), R3Rule(crop_to_landscape=True), (504, 378)),
        ((1920, 1080), R3Rule(crop_to_landscape=True, rotate_clockwise_90=True), (504, 378)),
    ],
)
def test_r3_sizes(source, rule, expected):
    geometry = r3_geometry(*source, rule)
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
    geometry = da3_geometry(*source, DA3Rule(method=method))
    assert (geometry.width, geometry.height) == expected


@pytest.mark.parametrize('size', range(28, 600, 14))
def test_squares_of_every_size_lose_rows_only(size):
    geometry = r3_geometry(size + 6, size + 6, R3Rule(size))
    if size == 224:
        assert (geometry.width, geometry.height) == (224, 224)
        return
    assert geometry.width == size
    assert 0 <= 0.75 * size - geometry.height < PATCH
    # Centred, half a row at most beside the middle.
    middle = geometry.pixels_network_source @ [(size + 5) / 2, (size + 5) / 2, 1]
    assert middle == pytest.approx([(size - 1) / 2, (geometry.height - 1) / 2, 1], abs=0.501)


def r3_or_none(width, height, rule, orientation):
    try:
        return r3_geometry(width, height, rule, orientation)
    except FrameError:
        return None


def da3_or_none(width, height, rule):
    try:
        return da3_geometry(width, height, rule)
    except FrameError:
        return None


geometries = st.one_of(
    st.builds(r3_or_none, sides, sides, r3_rules, orientations),
    st.builds(da3_or_none, sides, sides, da3_rules),
).filter(lambda geometry: geometry is not None)


@quick
@given(sides, sides, r3_rules, orientations)
def test_r3_inputs_are_whole_patches_no_longer_than_asked(width, height, rule, orientation):
    geometry = r3_or_none(width, height, rule, orientation)
    # Nothing is refused that has a patch on its short side.
    short, long = sorted((width, height))
    # Cropping for a landscape may cost an image a quarter of its width or height.
    if short * rule.size / long >= 2 * PATCH and rule.size >= 2 * PATCH:
        assert geometry is not None
    assume(geometry is not None)
    assert geometry.width % PATCH == geometry.height % PATCH == 0
    assert min(geometry.width, geometry.height) >= PATCH
    assert rule.size - PATCH < max(geometry.width, geometry.height) <= rule.size


@quick
@given(sides, sides, da3_rules)
def test_da3_inputs_are_whole_patches(width, height, rule):
    geometry = da3_or_none(width, height, rule)
    short, long = sorted((width, height))
    refused = long / short > 60 if 'lower' in rule.method else short * rule.process_res / long < 14
    assert geometry is not None or refused
    assume(geometry is not None)
    assert geometry.width % PATCH == geometry.height % PATCH == 0
    bound = (max if 'upper' in rule.method else min)(geometry.width, geometry.height)
    assert PATCH <= bound and abs(bound - rule.process_res) <= PATCH
    assert min(geometry.width, geometry.height) >= PATCH


def test_sides_that_lie_between_two_pixels_round_to_the_even_one():
    # 1080 * 504 / 1920 = 283.5
    assert r3_geometry(1920, 1080, R3Rule()).steps[0].height == 284
    assert da3_geometry(1920, 1080, DA3Rule()).steps[0].height == 284


def test_the_scale_is_rounded_before_it_meets_the_side():
    # 720 * 392 / 1280 = 220.5, but 392 / 1280 as a float is a little more than it is.
    assert r3_geometry(1280, 720, R3Rule(392)).steps[0].height == 221


@pytest.mark.parametrize(('long', 'short', 'resized'), [(849, 192, 990), (345, 320, 242)])
def test_the_long_side_at_224_is_rounded_from_the_ratio_of_the_sides(long, short, resized):
    # Both are ties (990.5, 241.5), which 224 / short would round the other way.
    assert r3_geometry(long, short, R3Rule(224)).steps[0] == Resize(
        resized, 224, r3_geometry(long, short, R3Rule(224)).steps[0].filter
    )


@pytest.mark.parametrize(
    ('geometry', 'filters'),
    [
        (r3_geometry(640, 480, R3Rule()), ['pillow lanczos']),
        (r3_geometry(320, 240, R3Rule()), ['pillow bicubic']),
        # The short side counts: 300 becomes 224 although the long one stays above 224.
        (r3_geometry(400, 300, R3Rule(224)), ['pillow lanczos']),
        (r3_geometry(400, 200, R3Rule(224)), ['pillow bicubic']),
        (da3_geometry(640, 480, DA3Rule()), ['opencv area']),
        (da3_geometry(320, 240, DA3Rule()), ['opencv cubic']),
        # The second step has a filter of its own: 370 becomes 364, or 374 becomes 378.
        (da3_geometry(640, 470, DA3Rule()), ['opencv area', 'opencv area']),
        (da3_geometry(640, 475, DA3Rule()), ['opencv area', 'opencv cubic']),
        (da3_geometry(320, 235, DA3Rule()), ['opencv cubic', 'opencv area']),
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
    prepared, negative = prepare(image), prepare(255 - image)
    # Half of the difference, because halves are rounded up in both.
    levels = (prepared.pixels + 255.0 - negative.pixels)[..., :2] / 2
    seen_at = (levels - 25) / per_pixel

    w, h = prepared.geometry.width, prepared.geometry.height
    v, u = np.mgrid[:h, :w]
    source_network = np.linalg.inv(prepared.geometry.pixels_network_source)
    expected = np.stack([u, v, np.ones_like(u)], axis=-1) @ source_network.T
    # A filter that reaches over the border bends the ramp there.
    error = (seen_at - expected[..., :2])[h // 4 : h - h // 4, w // 4 : w - w // 4]
    assert np.abs(error).max() < 2.0
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.2


@few
@given(st.integers(60, 200), st.integers(60, 200), r3_rules, orientations)
def test_r3_pixels_are_where_the_geometry_says(width, height, rule, orientation):
    assume(rule.size >= 98 and max(width, height) < 3 * min(width, height))
    assert_pixels_are_where_the_geometry_says(
        width, height, lambda image: prepare_r3(image, rule, orientation)
    )


@few
@given(st.integers(60, 200), st.integers(60, 200), da3_rules)
def test_da3_pixels_are_where_the_geometry_says(width, height, rule):
    assume(rule.process_res >= 98 and max(width, height) < 3 * min(width, height))
    assert_pixels_are_where_the_geometry_says(
        width, height, lambda image: prepare_da3(image, rule)
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
    turned = points @ geometry.R_network_source.T
    network = (turned @ K_network.K.T) / turned[:, 2:]
    expected = source @ geometry.pixels_network_source.T
    np.testing.assert_allclose(network, expected, rtol=1e-9, atol=1e-6)
    # Depth, along the optical axis, is the same in both.
    np.testing.assert_array_equal(turned[:, 2], points[:, 2])


@quick
@given(geometries, st.integers(0, 2**32 - 1))
def test_intrinsics_come_back_as_they_went(geometry, seed):
    K = camera(geometry, seed)
    back = geometry.to_source(geometry.to_network(K))
    assert (back.width, back.height) == (K.width, K.height)
    np.testing.assert_allclose(back.K, K.K, rtol=1e-9, atol=1e-9)


def test_each_axis_has_its_own_factor():
    geometry = da3_geometry(640, 490, DA3Rule())
    K = geometry.to_network(Intrinsics(500.0, 500.0, 319.5, 244.5, 640, 490))
    assert (K.fx, K.fy) == pytest.approx((500 * 504 / 640, 500 * 392 / 490))
    assert (K.cx, K.cy) == pytest.approx((251.5, 195.5))


def test_a_crop_moves_the_centre_and_a_resize_keeps_the_borders():
    K = r3_geometry(1920, 1080, R3Rule()).to_network(
        Intrinsics(1000.0, 1100.0, 959.5, 539.5, 1920, 1080)
    )
    assert (K.fx, K.fy) == pytest.approx((1000 * 504 / 1920, 1100 * 284 / 1080))
    assert (K.cx, K.cy) == pytest.approx((251.5, 139.5))


def test_a_quarter_turn_swaps_the_axes():
    geometry = r3_geometry(70, 42, R3Rule(70, rotate_clockwise_90=True))
    K = geometry.to_network(Intrinsics(50.0, 60.0, 10.0, 30.0, 70, 42))
    # What was 30 from the top is 30 from the right; what was 10 from the left, 10 from the top.
    assert K == Intrinsics(60.0, 50.0, 42 - 1 - 30.0, 10.0, 42, 70)
    # Right becomes down, down becomes left.
    np.testing.assert_array_equal(
        geometry.R_network_source, [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    )


@pytest.mark.parametrize('orientation', range(1, 9))
def test_only_mirroring_orientations_give_a_mirrored_camera(orientation):
    R = r3_geometry(70, 42, R3Rule(70), orientation).R_network_source
    assert np.linalg.det(R) == pytest.approx(-1.0 if orientation in (2, 4, 5, 7) else 1.0)


# --- What is left alone ---


@pytest.mark.parametrize('size', [(504, 280), (280, 504), (504, 14)])
def test_an_image_of_the_right_size_is_not_resampled(size):
    image = noise(*size)
    for prepared in (prepare_r3(image, R3Rule()), prepare_da3(image, DA3Rule())):
        assert prepared.geometry.steps == ()
        np.testing.assert_array_equal(prepared.pixels, image)
        K = camera(prepared.geometry, 1)
        assert prepared.geometry.to_network(K) == K


def test_an_image_of_the_right_length_is_only_cropped():
    image = noise(504, 284)
    np.testing.assert_array_equal(prepare_r3(image, R3Rule()).pixels, image[2:282])
    cropped = prepare_da3(image, DA3Rule(method='upper_bound_crop'))
    np.testing.assert_array_equal(cropped.pixels, image[2:282])


@pytest.mark.parametrize('orientation', [1, 6])
@pytest.mark.parametrize('size', [98, 224])
def test_the_image_is_not_modified_and_may_be_any_view(size, orientation):
    big = noise(2 * 140, 98)
    big.flags.writeable = False
    view = big[::-1, ::2]
    copy = view.copy()
    for rule in (R3Rule(size), R3Rule(size, crop_to_landscape=True)):
        ours = prepare_r3(view, rule, orientation).pixels
        np.testing.assert_array_equal(ours, prepare_r3(copy, rule, orientation).pixels)
        assert ours.flags.c_contiguous and ours.dtype == np.uint8
    for method in DA3_METHODS:
        rule = DA3Rule(size, method)
        np.testing.assert_array_equal(
            prepare_da3(view, rule).pixels, prepare_da3(copy, rule).pixels
        )
    np.testing.assert_array_equal(view, copy)


def test_one_geometry_serves_every_image_of_a_stream():
    geometry = r3_geometry(301, 217, R3Rule(98))
    for seed in range(3):
        image = noise(301, 217, seed)
        np.testing.assert_array_equal(geometry.apply(image), prepare_r3(image, R3Rule(98)).pixels)
    assert geometry == r3_geometry(301, 217, R3Rule(98))
    with pytest.raises(FrameError, match='301x217'):
        geometry.apply(noise(300, 217))


def test_a_huge_image():
    prepared = prepare_r3(np.full((6000, 8000, 3), 200, np.uint8), R3Rule())
    assert prepared.pixels.shape == (378, 504, 3)
    assert np.all(prepared.pixels == 200)


# --- What is refused ---


@pytest.mark.parametrize(
    ('image', 'reason'),
    [
        (np.zeros((48, 64, 3), np.float32), 'float32'),
        (np.zeros((48, 64, 3), np.int8), 'int8'),
        (np.zeros((48, 64), np.uint8), r'\(48, 64\)'),
        (np.zeros((48, 64, 4), np.uint8), 'RGB'),
        (np.zeros((3, 48, 64), np.uint8), r'\(3, 48, 64\)'),
        (np.zeros((2, 48, 64, 3), np.uint8), 'height, width'),
        ([[[0, 0, 0]]], 'list'),
        (np.zeros((0, 64, 3), np.uint8), '64x0'),
        (np.zeros((13, 64, 3), np.uint8), '64x13'),
    ],
)
def test_what_is_no_image_is_refused(image, reason):
    for prepare, rule in ((prepare_r3, R3Rule()), (prepare_da3, DA3Rule())):
        with pytest.raises(FrameError, match=reason):
            prepare(image, rule)


@pytest.mark.parametrize('source', [(5000, 100), (100, 5000), (30000, 14)])
def test_an_image_too_elongated_for_a_patch_is_refused(source):
    asked = [lambda: r3_geometry(*source, R3Rule())]
    asked += [lambda: da3_geometry(*source, DA3Rule(400, 'upper_bound_crop'))]
    for geometry in asked:
        with pytest.raises(FrameError, match=r'patch.*raise (size|process_res), or crop'):
            geometry()
    with pytest.raises(FrameError, match='patch'):
        da3_geometry(30000, 14, DA3Rule(method='upper_bound_resize'))


def test_a_square_at_the_least_size_has_no_room_for_4_to_3():
    with pytest.raises(FrameError, match='raise size'):
        r3_geometry(100, 100, R3Rule(14))
    assert r3_geometry(100, 100, R3Rule(14, square_ok=True)).height == 14


def test_an_image_that_would_grow_without_bound_is_refused():
    with pytest.raises(FrameError, match='enlarged'):
        r3_geometry(14, 30000, R3Rule(224))
    with pytest.raises(FrameError, match='enlarged'):
        da3_geometry(30000, 14, DA3Rule(method='lower_bound_crop'))


@pytest.mark.parametrize('orientation', [0, 9, -1, None])
def test_an_unknown_orientation_is_refused(orientation):
    with pytest.raises(FrameError, match='EXIF'):
        prepare_r3(noise(64, 48), R3Rule(), orientation)


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda: R3Rule(size=13), 'size must be 14'),
        (lambda: R3Rule(size=504.0), 'whole number'),
        (lambda: R3Rule(size=True), 'whole number'),
        (lambda: R3Rule(square_ok=1), 'square_ok'),
        (lambda: DA3Rule(process_res=0), 'process_res must be 14'),
        (lambda: DA3Rule(method='upper_bound'), 'lower_bound_crop'),
    ],
)
def test_a_wrong_rule_is_refused(make, reason):
    with pytest.raises(ConfigError, match=reason):
        make()


def test_intrinsics_of_another_size_are_refused():
    geometry = r3_geometry(640, 480, R3Rule())
    K = Intrinsics(500.0, 500.0, 300.0, 200.0, 640, 360)
    with pytest.raises(CalibrationError, match='640x360.*640x480'):
        geometry.to_network(K)
    with pytest.raises(CalibrationError, match='640x360.*504x378'):
        geometry.to_source(K)


# --- Normalisation ---


def test_normalised_pixels_are_the_imagenet_ones():
    pixels = noise(28, 14, 3)[None].repeat(2, axis=0)
    pixels[1] = 255 - pixels[1]
    ours = normalised(pixels)
    assert ours.shape == (2, 3, 14, 28) and ours.dtype == np.float32
    assert ours.flags.c_contiguous
    expected = (pixels / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(ours, np.moveaxis(expected, -1, -3), rtol=0, atol=1e-6)


def test_normalised_does_not_guess_a_range():
    # Bright and dark images have no effect on one another.
    bright, dark = np.full((14, 14, 3), 250, np.uint8), np.zeros((14, 14, 3), np.uint8)
    both = normalised(np.stack([bright, dark]))
    np.testing.assert_array_equal(both[0], normalised(bright))
    np.testing.assert_array_equal(both[1], normalised(dark))
    for wrong in (np.zeros((14, 14, 3), np.float32), np.zeros((3, 14, 14), np.uint8)):
        with pytest.raises(FrameError, match='uint8'):
            normalised(wrong)


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
