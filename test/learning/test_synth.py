"""The procedural world: exact geometry, honest files, the same bytes for the same seed."""

from dataclasses import replace
import json
import math

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the synthetic world needs torch')

from r3_ros.commands.cli import main  # noqa: E402
from r3_ros.core.datatypes import Intrinsics  # noqa: E402
from r3_ros.core.errors import ConfigError, OutputError  # noqa: E402
from r3_ros.core.geometry import is_rigid  # noqa: E402
from r3_ros.core.trajectory_file import read_tum  # noqa: E402
from r3_ros.input.open_source import open_source  # noqa: E402
from r3_ros.learning.synth.dataset import (  # noqa: E402
    SequenceOptions,
    SyntheticSequence,
    write_sequence,
)
from r3_ros.learning.synth.facets import Assembly, FacetTable  # noqa: E402
from r3_ros.learning.synth.kinds import KINDS  # noqa: E402
from r3_ros.learning.synth.materials import Material, paint  # noqa: E402
from r3_ros.learning.synth.optics import band_rows, rolling  # noqa: E402
from r3_ros.learning.synth.path import (  # noqa: E402
    clearance,
    HANDHELD,
    make_path,
    MIN_CLEARANCE_M,
    PATH_STYLES,
    turn_rates_deg_s,
)
from r3_ros.learning.synth.raster import find_visible, project_facets  # noqa: E402
from r3_ros.learning.synth.renderer import render_radiance  # noqa: E402
from r3_ros.learning.synth.sensor import (  # noqa: E402
    jpeg_compressed,
    Sensor,
    SensorOptions,
    to_display,
)
from r3_ros.learning.synth.world import World  # noqa: E402

SMALL = SequenceOptions(frames=45, width=160, height=120, coarseness=4.0)


@pytest.fixture(scope='module')
def sequence():
    return SyntheticSequence(SMALL)


@pytest.fixture(scope='module')
def corridor():
    return World.generate(1, 'corridor', coarseness=6.0)


def poses(sequence, *numbers):
    return torch.from_numpy(sequence.path.T_world_camera[list(numbers)])


# Geometry


def reproject(depth, T_b_a, camera):
    """Return where the pixels of A lie in B (2, H, W), and their depth there."""
    y, x = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    rays = np.linalg.inv(camera.K) @ np.stack((x, y, np.ones_like(x))).reshape(3, -1)
    points = T_b_a[:3, :3] @ (rays * depth.reshape(1, -1)) + T_b_a[:3, 3:]
    pixels = camera.K @ points
    return (pixels[:2] / pixels[2]).reshape(2, *depth.shape), points[2].reshape(depth.shape)


def render(world, T, camera):
    """Return the images of an ideal camera with fixed exposure, and exact depth."""
    seen = render_radiance(world, T, camera)
    return to_display(seen.radiance * world.exposure), seen.depth


@pytest.mark.slow
def test_pixels_moved_by_depth_and_pose_show_the_same_surface(sequence):
    a, b = 3, 9
    camera = sequence.intrinsics
    rgb, depth = (p.numpy() for p in render(sequence.world, poses(sequence, a, b), camera))
    T_a, T_b = sequence.path.T_world_camera[[a, b]]
    where, expected = reproject(depth[0].astype(np.float64), np.linalg.inv(T_b) @ T_a, camera)
    x, y = where.astype(np.float32)
    inside = (x > 1) & (x < camera.width - 2) & (y > 1) & (y < camera.height - 2)
    assert inside.mean() > 0.6

    inverse = cv2.remap(1 / depth[1], x, y, cv2.INTER_LINEAR)
    nearest = cv2.remap(depth[1], x, y, cv2.INTER_NEAREST)
    # Not occluded, and no edge between the four neighbours.
    smooth = inside & (np.abs(nearest / expected - 1) < 0.02)
    assert smooth.sum() / inside.sum() > 0.85
    off = np.abs(expected[smooth] * inverse[smooth] - 1)
    # Inverse depth is linear in the pixel on a plane: the median is rounding alone.
    assert np.median(off) < 1e-5

    moved = cv2.remap(np.ascontiguousarray(rgb[1].transpose(1, 2, 0)), x, y, cv2.INTER_LINEAR)
    difference = np.abs(moved - rgb[0].transpose(1, 2, 0)).mean(-1)
    shifted = np.abs(np.roll(moved, 3, axis=1) - rgb[0].transpose(1, 2, 0)).mean(-1)
    assert np.median(difference[smooth]) < 0.012
    assert difference[smooth].mean() < 0.6 * shifted[smooth].mean()


def one_facet_view(T_world_camera, camera, up=0.5, **shape):
    """Depth of a single facet 2 m wide that stands 3 m before the camera."""
    assembly = Assembly()
    material = Material(paint, {'colour': (0.5, 0.5, 0.5)}, 0)
    assembly.panel((0, 3, 0), (1, 0, 0), (0, 0, -up), material, **shape)
    facets = FacetTable.from_specs(assembly.facets, torch.device('cpu'))
    identity = torch.eye(4, dtype=torch.float64)
    view = project_facets(
        facets, torch.linalg.inv(T_world_camera)[None], identity[None, None], camera
    )
    seen = find_visible(view, 1, camera, 4)
    return seen.untile(seen.inverse_depth, camera)[0].numpy()


LOOKING_AHEAD = torch.tensor(
    [[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
)


def test_pixel_centres_lie_at_integer_coordinates():
    # The facet covers x in [20 - 100/3, 20 + 100/3], y in [20.25 +- 50/3].
    camera = Intrinsics(100.0, 100.0, 50.0, 20.25, 101, 41)
    inverse = one_facet_view(LOOKING_AHEAD, camera)
    assert inverse[20, 50] == pytest.approx(1 / 3)
    columns, rows = np.flatnonzero(inverse[20] > 0), np.flatnonzero(inverse[:, 50] > 0)
    assert (columns[0], columns[-1]) == (math.ceil(50 - 100 / 3), math.floor(50 + 100 / 3))
    assert (rows[0], rows[-1]) == (math.ceil(20.25 - 50 / 3), math.floor(20.25 + 50 / 3))


def test_a_facet_is_seen_from_its_front_only():
    camera = Intrinsics(100.0, 100.0, 50.0, 20.0, 101, 41)
    from_behind = LOOKING_AHEAD.clone()
    from_behind[:3, :3] = torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])
    from_behind[1, 3] = 6.0
    assert one_facet_view(LOOKING_AHEAD, camera).any()
    assert not one_facet_view(from_behind, camera).any()


@pytest.mark.parametrize('turns', [False, True])
def test_a_rolling_shutter_slants_an_upright_edge(turns):
    """The left edge of a facet, 1 m left and 3 m ahead, seen by a camera that moves or turns."""
    camera, readout = Intrinsics(100.0, 100.0, 90.0, 47.5, 181, 96), 0.04
    speed = 3.0  # metres per second to the right, or radians

    def expose(time_s, band):
        T = LOOKING_AHEAD.clone()
        if turns:
            c, s = (float(f(time_s * speed)) for f in (torch.cos, torch.sin))
            T[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]).mT.double() @ T[:3, :3]
        else:
            T[0, 3] = speed * float(time_s)
        return torch.from_numpy(one_facet_view(T, band, up=2.0))[None, None]

    image = rolling(expose, camera, torch.zeros(1, dtype=torch.float64), readout)[0, 0] > 0
    assert image.shape == (96, 181) and image.any(1).all()
    edge = image.int().argmax(1).numpy()
    rows = np.arange(96)
    # By hand: the row's time after the middle, and where a point at (-1, 3) is seen then.
    time_s = (rows - 47.5) / 96 * readout
    expected = (
        90 + 100 * np.tan(math.atan(-1 / 3) - speed * time_s) if turns
        else 90 + 100 * (-1 - speed * time_s) / 3
    )  # fmt: skip
    assert expected[0] - expected[-1] > 3.5
    # A band of rows shares its time: off by half of it, and by the rounding to whole pixels.
    per_row = abs(expected[1] - expected[0])
    off = edge - np.ceil(expected)
    assert np.abs(off).max() <= math.ceil(per_row * band_rows(96) / 2)
    assert abs(off.mean()) < 0.5


@pytest.mark.slow
def test_every_row_is_of_the_whole_image_at_its_own_time(sequence):
    path, world = sequence.path, sequence.world
    camera = replace(sequence.intrinsics, height=100)

    def expose(time_s, band):
        T = torch.from_numpy(path.interpolated(time_s.numpy()))
        return render_radiance(world, T, band, time_s=time_s).radiance

    at = torch.tensor([0.5, 1.1], dtype=torch.float64)
    image = rolling(expose, camera, at, 0.06)
    assert image.shape == (2, 3, 100, 160)
    step = band_rows(100)
    for top in (0, 2 * step, 100 - 100 % step):
        rows = slice(top, min(top + step, 100))
        middle = (rows.start + rows.stop - 1) / 2
        whole = expose(at + (middle - 49.5) / 100 * 0.06, camera)
        assert torch.allclose(image[:, :, rows], whole[:, :, rows], atol=1e-5)
    apart = (image - expose(at, camera)).abs().mean((0, 1, 3))
    assert apart[[0, -1]].min() > 3 * apart[48:52].mean()
    # All at once, where reading takes no time.
    assert torch.allclose(rolling(expose, camera, at, 0.0), expose(at, camera), atol=1e-5)


@pytest.mark.parametrize(
    ('shape', 'share'),
    [({}, 1.0), ({'disc': True}, math.pi / 4), ({'middle': 0.5, 'slope': 0.5}, 0.5)],
)
def test_shapes_cover_their_area(shape, share):
    camera = Intrinsics(400.0, 400.0, 159.5, 119.5, 320, 240)
    covered = (one_facet_view(LOOKING_AHEAD, camera, **shape) > 0).sum()
    assert covered == pytest.approx(share * (400 * 2 / 3) * (400 * 1 / 3), rel=0.02)


def test_depth_is_along_the_optical_axis_and_exact_at_a_slant():
    turned = LOOKING_AHEAD.clone()
    angle = 0.4
    turn = torch.tensor(
        [
            [math.cos(angle), -math.sin(angle), 0],
            [math.sin(angle), math.cos(angle), 0],
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )
    turned[:3, :3] = turn @ turned[:3, :3]
    camera = Intrinsics(80.0, 80.0, 79.5, 59.5, 160, 120)
    inverse = one_facet_view(turned, camera)
    y, x = np.nonzero(inverse)
    rays = turned[:3, :3].numpy() @ np.linalg.inv(camera.K) @ np.stack((x, y, np.ones_like(x)))
    expected = 3 / rays[1]
    # Worst seen: 8e-8, single precision.
    assert np.allclose(1 / inverse[y, x], expected, rtol=5e-7)


@pytest.mark.slow
def test_a_closed_world_has_no_holes(sequence, corridor):
    path = make_path(corridor, 8, 2.0, 0)
    camera = Intrinsics(70.0, 70.0, 79.5, 59.5, 160, 120)
    for world, T in (
        (sequence.world, poses(sequence, 0, 15, 30)),
        (corridor, torch.from_numpy(path.T_world_camera)),
    ):
        seen = render_radiance(world, T, camera)
        assert (seen.depth > 0.2).all()
        assert (seen.depth < 15).all()
        assert torch.isfinite(seen.radiance).all()


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(sequence):
    together = render_radiance(sequence.world, poses(sequence, 5, 20), sequence.intrinsics)
    alone = render_radiance(sequence.world, poses(sequence, 20), sequence.intrinsics)
    assert torch.equal(together.depth[1], alone.depth[0])
    assert torch.equal(together.radiance[1], alone.radiance[0])


@pytest.mark.slow
def test_edges_are_smoothed_and_depth_is_not(sequence):
    T = poses(sequence, 10)
    smooth = render_radiance(sequence.world, T, sequence.intrinsics, samples=4)
    rough = render_radiance(sequence.world, T, sequence.intrinsics, samples=1)
    assert torch.equal(smooth.depth, rough.depth)
    changed = (smooth.radiance != rough.radiance).any(1).float().mean()
    assert 0.02 < changed < 0.5


@pytest.mark.slow
def test_texture_look_ups_are_filtered(sequence):
    """A small image must look like a large one that was averaged down."""
    world = sequence.world
    camera = sequence.intrinsics.resized(80, 60)
    T = poses(sequence, 12)
    fine = render_radiance(world, T, camera.resized(640, 480)).radiance
    mean = torch.nn.functional.avg_pool2d(fine, 8)
    reference = (mean * world.exposure).clamp(0, 1).sqrt()

    def error(textures):
        image, _ = render(replace(world, textures=textures), T, camera)
        return float((image - reference).abs().mean())

    contrast = float((reference - reference.mean((2, 3), keepdim=True)).abs().mean())
    unfiltered = world.textures._replace(levels=world.textures.levels[:, :1].contiguous())
    # Measured: 0.13 and 0.22 of the contrast.
    assert error(world.textures) < 0.16 * contrast
    assert error(world.textures) < 0.7 * error(unfiltered)


# Moving bodies


@pytest.mark.slow
def test_moving_bodies_are_masked_and_nothing_else_changes():
    world = World.generate(2, 'room', moving=2, coarseness=8.0)
    path = make_path(world, 30, 15.0, 2)
    camera = Intrinsics(120.0, 120.0, 79.5, 59.5, 160, 120)
    T = torch.from_numpy(path.T_world_camera[[4, 4]])
    seen = render_radiance(world, T, camera, time_s=torch.tensor([0.0, 1.1]))
    moving = seen.moving.any(0)
    assert 0.001 < moving.float().mean() < 0.5
    assert not torch.equal(seen.moving[0], seen.moving[1])
    assert torch.equal(seen.depth[0][~moving], seen.depth[1][~moving])
    assert (seen.depth[0] != seen.depth[1]).any()


@pytest.mark.slow
def test_a_world_without_bodies_has_empty_masks(sequence):
    assert not sequence.world.bodies
    seen = render_radiance(sequence.world, poses(sequence, 0), sequence.intrinsics)
    assert not seen.moving.any()


# Paths


class Furnished:
    """What a path needs to know of a world, without the textures."""

    def __init__(self, seed, kind, moving=0):
        plan = KINDS[kind](np.random.default_rng(seed), moving)
        self.seed, self.kind = seed, kind
        self.solids = (*plan.assembly.solids, *plan.keep_out)
        self.loop, self.look = plan.loop, plan.look


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    ('seed', 'frames', 'moving'), [(0, 400, 0), (1, 60, 2), (2, 700, 2), (3, 16, 0)]
)
def test_a_path_keeps_its_promises(kind, seed, frames, moving):
    world, rate_hz = Furnished(seed, kind, moving), 15.0
    path = make_path(world, frames, rate_hz, seed)
    T = path.T_world_camera
    position = T[:, :3, 3]
    speed = np.linalg.norm(np.diff(position, axis=0), axis=1) * rate_hz
    assert len(T) == frames
    assert all(is_rigid(pose) for pose in T)
    assert clearance(world.solids, position).min() >= MIN_CLEARANCE_M
    assert speed.max() <= HANDHELD.max_speed_m_s
    assert 0.25 < speed.mean() < 1.0
    assert turn_rates_deg_s(T, rate_hz).max() <= HANDHELD.max_turn_deg_s
    lap = np.linalg.norm(np.diff(world.loop[[*range(len(world.loop)), 0]], axis=0), axis=1).sum()
    if frames >= 400 and lap < 0.85 * frames / rate_hz:  # a walker gets around in that time
        # Back at the start, looking the same way.
        assert np.linalg.norm(position[-1] - position[0]) < 0.15
        assert T[0, :3, 2] @ T[-1, :3, 2] > 0.9
    # Sideways motion in the first second, so that one camera can see depth.
    forward = T[0, :3, 2]
    step = position[15] - position[0]
    sideways = np.linalg.norm(step - (step @ forward) * forward)
    assert sideways > 0.12
    assert T[:, 2, 1].max() < -0.8  # the image's down is the world's down


@pytest.mark.slow
@pytest.mark.parametrize('name', PATH_STYLES)
def test_a_path_keeps_the_limits_of_its_style(name):
    style = PATH_STYLES[name]
    world = Furnished(4, 'street' if name == 'driving' else 'room')
    T = make_path(world, 150, 15.0, 4, style).T_world_camera
    speed = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1) * 15.0
    assert clearance(world.solids, T[:, :3, 3]).min() >= MIN_CLEARANCE_M
    assert speed.max() <= style.max_speed_m_s
    assert turn_rates_deg_s(T, 15.0).max() <= style.max_turn_deg_s
    if name == 'driving':
        assert speed.mean() > 1.2
    if name in ('wheeled', 'driving'):
        assert np.ptp(T[:, 2, 3]) < 0.05  # neither climbs


def test_the_sky_is_seen_where_nothing_stands():
    world = World.generate(1, 'objects', coarseness=8.0)
    assert world.sky is not None
    up = np.eye(4)
    up[:3, 3] = (*world.loop.mean(0), 30.0)
    # Optical axes turned about nothing look along +z, which is up here.
    seen = render_radiance(world, torch.from_numpy(up)[None], Intrinsics(40, 40, 20, 15, 41, 31))
    assert (seen.depth == 0).all()
    zenith = torch.tensor(world.sky.zenith, dtype=torch.float32)
    # Straight up it is the zenith, but for the clouds.
    ratio = seen.radiance[0, :, 15, 20] / zenith
    assert torch.allclose(ratio, ratio[0].expand(3), rtol=0.2)
    assert 0.2 < ratio.mean() < 2.1


@pytest.mark.slow
def test_variety_changes_the_looks_and_not_the_shapes():
    plain, varied = (World.generate(2, 'room', coarseness=8.0, variety=v) for v in (0.0, 0.6))
    assert torch.equal(plain.facets.centre, varied.facets.centre)
    T = torch.from_numpy(make_path(plain, 1, 15.0, 2).T_world_camera)
    first, second = (render(w, T, Intrinsics(60, 60, 40, 30, 81, 61)) for w in (plain, varied))
    assert torch.equal(first[1], second[1])
    assert (first[0] - second[0]).abs().mean() > 0.05


@pytest.mark.slow
def test_paths_differ_by_seed_and_repeat_by_seed():
    world = Furnished(0, 'room')
    first, again, other = (make_path(world, 30, 15.0, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.T_world_camera, again.T_world_camera)
    assert not np.allclose(first.T_world_camera, other.T_world_camera)


def test_clearance_of_a_turned_solid():
    world = Furnished(0, 'room')
    solid = replace(world.solids[0], centre=np.zeros(3), half=np.ones(3), yaw=math.pi / 4)
    far = clearance((solid,), np.array([[2 * math.sqrt(2), 0, 0], [0, 0, 3], [0.2, 0.1, 0]]))
    assert far == pytest.approx([math.sqrt(2), 2, 0])


@pytest.mark.slow
def test_poses_between_frames_lie_between_them(sequence):
    times = sequence.path.time_s
    middle = sequence.path.interpolated((times[3:4] + times[4:5]) / 2)[0]
    a, b = sequence.path.T_world_camera[3:5]
    assert is_rigid(middle)
    assert np.allclose(middle[:3, 3], (a[:3, 3] + b[:3, 3]) / 2)
    assert np.allclose(sequence.path.interpolated(times), sequence.path.T_world_camera)


# The sensor


def test_noise_has_the_asked_strength_and_repeats_by_frame():
    radiance = torch.full((2, 3, 100, 120), 0.5**2)
    sensor = Sensor(SensorOptions(noise=4.0), 1.0, 15.0, seed=7)
    values = sensor.develop(radiance, 10)
    assert float((values - 0.5).std()) * 255 == pytest.approx(4.0, rel=0.05)
    assert not torch.equal(values[0], values[1])
    assert torch.equal(sensor.develop(radiance[:1], 11)[0], values[1])


def test_exposure_wanders_within_its_stops():
    sensor = Sensor(SensorOptions(noise=0, exposure=1.0), 2.0, 15.0, seed=1)
    stops = np.log2([sensor.gain(frame) / 2.0 for frame in range(300)])
    assert np.abs(stops).max() <= 1.0
    assert np.ptp(stops) > 0.5
    assert np.abs(np.diff(stops)).max() < 0.15


def test_vignetting_darkens_the_corners_only():
    radiance = torch.full((1, 3, 61, 81), 0.4)
    values = Sensor(SensorOptions(noise=0, vignetting=0.5), 1.0, 15.0, 0).develop(radiance, 0)
    assert float(values[0, 0, 30, 40]) == pytest.approx(0.4**0.5)
    assert float(values[0, 0, 0, 0]) == pytest.approx(0.2**0.5)


@pytest.mark.slow
def test_motion_blur_softens_the_image_and_leaves_the_depth(sequence):
    options = replace(SMALL, sensor=SensorOptions(noise=0, motion_blur=1.0))
    blurred, sharp = (SyntheticSequence.__new__(SyntheticSequence) for _ in range(2))
    blurred.__dict__.update(sequence.__dict__, options=options)
    sharp.__dict__.update(sequence.__dict__, options=replace(options, sensor=SensorOptions(0)))
    fastest = int(np.argmax(turn_rates_deg_s(sequence.path.T_world_camera, 15.0)))
    soft, hard = (s.frames(fastest, fastest + 1)[0] for s in (blurred, sharp))
    assert np.array_equal(soft.depth, hard.depth)
    detail = [np.abs(np.diff(f.image.astype(float), axis=1)).mean() for f in (soft, hard)]
    assert detail[0] < 0.9 * detail[1]


@pytest.mark.parametrize('wrong', [{'noise': -1}, {'motion_blur': 2}, {'exposure': math.nan}])
def test_sensor_options_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace('_', '-')):
        SensorOptions(**wrong)


# Worlds


@pytest.mark.slow
def test_the_same_seed_gives_the_same_world_and_another_another(sequence):
    again = World.generate(SMALL.seed, SMALL.kind, coarseness=SMALL.coarseness)
    other = World.generate(SMALL.seed + 1, SMALL.kind, coarseness=SMALL.coarseness)
    assert torch.equal(again.textures.table, sequence.world.textures.table)
    assert torch.equal(again.facets.centre, sequence.world.facets.centre)
    assert len(other.facets.centre) != len(again.facets.centre)


@pytest.mark.parametrize('kind', ['garden', ''])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind):
    with pytest.raises(ConfigError, match='room, corridor'):
        World.generate(0, kind)


@pytest.mark.slow
def test_images_have_corners_everywhere_and_a_sensible_exposure(sequence):
    for frame in sequence.frames(0, 45)[::15]:
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        corners = cv2.goodFeaturesToTrack(grey, 400, 0.01, 4)
        cells = {(int(x // 40), int(y // 40)) for x, y in corners[:, 0]}
        assert len(corners) > 150
        assert len(cells) >= 10  # of 12
        assert 60 < grey.mean() < 190
        assert (grey > 250).mean() < 0.15


# The folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('synth') / 'out'
    options = replace(SMALL, frames=7, moving=1, depth_every=3, image_format='png')
    write_sequence(options, path)
    return path


@pytest.mark.slow
def test_the_folder_is_complete(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        'camera.yaml', 'depth', 'groundtruth.txt', 'mask', 'rgb', 'timestamps.txt', 'world.json',
    ]  # fmt: skip
    assert [p.name for p in sorted((folder / 'rgb').iterdir())] == [
        f'{k:06d}.png' for k in range(7)
    ]
    assert [p.stem for p in sorted((folder / 'depth').iterdir())] == ['000000', '000003', '000006']
    assert len(list((folder / 'mask').iterdir())) == 7
    about = json.loads((folder / 'world.json').read_text())
    assert about['options']['frames'] == 7
    assert about['options']['sensor']['noise'] == SensorOptions().noise


@pytest.mark.slow
def test_the_files_are_what_was_rendered(folder):
    options = replace(SMALL, frames=7, moving=1, depth_every=3, image_format='png')
    sequence = SyntheticSequence(options)
    frame = sequence.frames(3, 4)[0]
    depth = cv2.imread(str(folder / 'depth' / '000003.png'), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert np.abs(depth / 1000 - frame.depth).max() <= 0.00051
    image = cv2.imread(str(folder / 'rgb' / '000003.png'))[..., ::-1]
    assert np.array_equal(image, frame.image)
    mask = cv2.imread(str(folder / 'mask' / '000003.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask == 255, frame.moving)
    truth = read_tum(folder / 'groundtruth.txt')
    assert np.allclose(truth.T_world_camera, sequence.path.T_world_camera, atol=1e-7)


@pytest.mark.slow
def test_the_folder_is_read_as_a_recording(folder):
    with open_source(str(folder), None, None) as source:
        frames = list(source)
        intrinsics = source.camera.intrinsics
        distorted = source.camera.is_distorted
    truth = read_tum(folder / 'groundtruth.txt')
    about = json.loads((folder / 'world.json').read_text())
    assert [frame.stamp_ns for frame in frames] == truth.stamps_ns.tolist()
    assert frames[1].stamp_ns == round(1e9 / 15)
    assert not distorted
    for name, value in about['intrinsics'].items():
        assert getattr(intrinsics, name) == pytest.approx(value)


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(tmp_path, capsys):
    command = ['--frames', '3', '--width', '96', '--height', '64', '--seed', '5', '--moving', '1',
               '--motion-blur', '0.5', '--exposure', '0.5', '--device', 'cpu']  # fmt: skip
    for name in ('a', 'b'):
        assert main(['synth', str(tmp_path / name), *command]) == 0
    files = [p.relative_to(tmp_path / 'a') for p in (tmp_path / 'a').rglob('*') if p.is_file()]
    assert len(files) == 4 + 3 + 1 + 3
    for file in files:
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes()


# What goes wrong


@pytest.mark.slow
def test_an_existing_folder_is_kept_unless_overwritten(folder, capsys):
    before = (folder / 'world.json').read_bytes()
    assert main(['synth', str(folder), '--frames', '2']) == 2
    assert 'overwrite' in capsys.readouterr().err
    assert (folder / 'world.json').read_bytes() == before


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / 'thesis.txt').write_text('irreplaceable')
    with pytest.raises(OutputError):
        write_sequence(replace(SMALL, frames=1), tmp_path, overwrite=True)
    assert (tmp_path / 'thesis.txt').read_text() == 'irreplaceable'


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    import r3_ros.learning.synth.dataset as dataset

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(dataset, '_encode', full)
    with pytest.raises(OutputError, match='disk is full'):
        write_sequence(replace(SMALL, frames=3, coarseness=20.0), tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match='file'):
        write_sequence(replace(SMALL, frames=1), tmp_path / 'file' / 'out')


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--kind', 'cave'], 'room, corridor'),
        (['--width', '8'], 'width'),
        (['--rate', '0'], 'rate'),
        (['--seed', '-1'], 'seed must'),
        (['--seed', str(2**63)], 'seed must'),
        (['--moving', '-1'], 'moving must'),
        (['--noise', '-2'], 'noise'),
        (['--depth-every', '-1'], 'depth-every'),
    ],
)
def test_wrong_options_are_reported_in_one_line(tmp_path, capsys, arguments, said):
    assert main(['synth', str(tmp_path / 'out'), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has CUDA')
def test_cuda_requested_and_missing_is_reported(tmp_path, capsys):
    assert main(['synth', str(tmp_path / 'out'), '--device', 'cuda']) == 2
    assert '--device cpu' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_a_gpu_sees_the_same_world(sequence):
    world = World.generate(SMALL.seed, SMALL.kind, coarseness=SMALL.coarseness, device='cuda')
    T = poses(sequence, 0, 20)
    here, _ = render(sequence.world, T, sequence.intrinsics)
    there, depth = render(world, T, sequence.intrinsics)
    expected = render_radiance(sequence.world, T, sequence.intrinsics).depth
    assert ((depth.cpu() - expected).abs() < 1e-4).float().mean() > 0.999
    assert (there.cpu() - here).abs().mean() < 2e-3


@pytest.mark.slow
def test_jpeg_loses_what_a_file_of_that_quality_loses(sequence):
    rgb, _ = render(sequence.world, poses(sequence, 3, 9), sequence.intrinsics)
    images = (rgb * 255).to(torch.uint8)
    lost = []
    for quality in (95, 60, 20):
        back = jpeg_compressed(images, quality)
        assert back.dtype == torch.uint8 and back.shape == images.shape
        assert torch.equal(back, jpeg_compressed(images, quality))
        lost.append((back.float() - images.float()).abs().mean().item())
    assert 0 < lost[0] < lost[1] < lost[2] < 20
    # Channels stay where they are.
    red = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    red[:, 0] = 200
    back = jpeg_compressed(red, 90)
    assert back[:, 0].min() > 190 and back[:, 1:].max() < 10
