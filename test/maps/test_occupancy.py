"""Occupancy grids against the ground plan of rooms that are known exactly."""

from dataclasses import replace

from map_server import as_map_server_reads
import numpy as np
import pytest
from r3_ros.core.config import OccupancyConfig
from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import OccupancyError, OutputError
from r3_ros.core.geometry import make_T, R_BODY_OPTICAL, transform
from r3_ros.maps.floor import find_floor, Floor
from r3_ros.maps.ground_plan import write_grid
from r3_ros.maps.occupancy_grid import FREE, occupancy_grid, OCCUPIED, UNKNOWN
from scipy.spatial.transform import Rotation
from surveyed_room import INTRINSICS, survey

CONFIG = OccupancyConfig()
AHEAD = make_T(R_BODY_OPTICAL, np.array([0.0, 0.0, 0.6]))
CAMERA = Intrinsics(200.0, 200.0, 159.5, 119.5, 320, 240)


def centres(grid):
    """Return (H * W, 2) the middles of the cells."""
    rows, columns = np.indices(grid.cells.shape)
    return (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * grid.resolution + grid.origin


def at(grid, x, y):
    column, row = np.floor((np.array([x, y]) - grid.origin) / grid.resolution).astype(int)
    return grid.cells[row, column]


def sheet(x, y, z, step=0.02):
    """Return the points of a box given by its ranges, on a lattice."""
    axes = [np.arange(low, high + step / 2, step) for low, high in (x, y, z)]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 3).astype(np.float32)


FLOOR = sheet((-1, 4), (-2, 2), (0, 0))
WALL = sheet((4.02, 4.02), (-2, 2), (0, 2.4))


def two_cameras():
    aside = AHEAD.copy()
    aside[1, 3] = 0.3
    return np.stack([AHEAD, aside])


@pytest.mark.slow
@pytest.mark.parametrize('seed', [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_furnished_room_has_its_ground_plan(seed):
    room = survey(seed)
    grid = occupancy_grid(room.points, room.T_map_optical, INTRINSICS, CONFIG)
    assert abs(grid.floor.offset) < 0.01 and np.degrees(grid.floor.tilt_rad) < 0.2
    xy, cells = centres(grid), grid.cells.ravel()
    outside = ((xy < -0.05) | (xy > room.size + 0.05)).any(axis=1)
    assert (cells[outside] == UNKNOWN).all()
    inside = ((xy > 0.0) & (xy < room.size)).all(axis=1)
    clear = inside & ~room.blocked(xy, 0.05, 2.5, reach=0.1)
    assert np.mean(cells[clear] == FREE) > 0.95 and np.mean(cells[clear] == OCCUPIED) < 0.02
    blocked = inside & room.blocked(xy, CONFIG.min_height, CONFIG.max_height, reach=-0.05)
    assert np.mean(cells[blocked] == FREE) < 0.01 and np.mean(cells[blocked] == OCCUPIED) > 0.7
    # The walls themselves: the cells that the four sides of the floor run through.
    side = np.linspace(0.1, 0.9, 80)
    across = [(low, high) for low in side for high in (0.0, 1.0)]
    places = np.array([*across, *(place[::-1] for place in across)]) * room.size
    places[places == 0.0] -= 1e-3
    walls = np.array([at(grid, *place) for place in places])
    assert not (walls == FREE).any() and np.mean(walls == OCCUPIED) > 0.9


@pytest.mark.slow
def test_noise_of_two_centimetres_and_stray_points_change_little():
    room = survey(3)
    rng = np.random.default_rng(1)
    points = room.points + rng.normal(0.0, 0.02, room.points.shape).astype(np.float32)
    stray = rng.uniform([0, 0, 0.1], [*room.size, 1.5], (len(points) // 200, 3))
    points = np.concatenate([points, stray.astype(np.float32)])
    clean = occupancy_grid(room.points, room.T_map_optical, INTRINSICS, CONFIG)
    noisy = occupancy_grid(points, room.T_map_optical, INTRINSICS, CONFIG)
    xy = centres(clean)
    known = ((xy > 0.1) & (xy < room.size - 0.1)).all(axis=1)
    clear = xy[known & ~room.blocked(xy, 0.05, 2.5, reach=0.15)]
    cells = np.array([at(noisy, *place) for place in clear])
    assert np.mean(cells == OCCUPIED) < 0.02
    assert np.mean(cells == FREE) > 0.85


def test_what_hangs_above_the_band_is_not_in_the_way_and_what_is_below_is_floor():
    high = sheet((1, 2), (-0.5, 0.5), (1.7, 1.7))
    low = sheet((1, 2), (1.0, 1.5), (0.05, 0.05))
    table = sheet((1, 2), (-1.6, -1.0), (0.7, 0.7))
    points = np.concatenate([FLOOR, WALL, high, low, table])
    grid = occupancy_grid(points, two_cameras(), CAMERA, CONFIG)
    assert at(grid, 1.5, 0.0) == FREE and at(grid, 1.5, 1.25) == FREE
    assert at(grid, 1.51, -1.31) == OCCUPIED
    lower = occupancy_grid(points, two_cameras(), CAMERA, replace(CONFIG, max_height=2.0))
    assert at(lower, 1.5, 0.0) == OCCUPIED


def test_rays_free_what_has_no_points_and_stop_at_what_they_meet():
    box = sheet((1.52, 1.52), (-0.5, 0.5), (0, 1.2))
    beyond = sheet((4.02, 4.02), (-2, 2), (0, 0.5))
    # Without a floor of its own the room is known from its rays.
    points = np.concatenate([box, beyond])
    grid = occupancy_grid(points, two_cameras(), CAMERA, CONFIG, Floor.at(0.0))
    assert at(grid, 0.8, 0.1) == FREE
    assert at(grid, 1.52, 0.1) == OCCUPIED
    # In the shadow of the box nothing is known, beside it there is a way through.
    assert at(grid, 2.5, 0.1) == UNKNOWN
    assert at(grid, 2.5, 1.1) == FREE
    assert at(grid, 4.02, 1.3) == OCCUPIED
    blind = occupancy_grid(points, two_cameras(), None, CONFIG, Floor.at(0.0))
    assert blind.count(FREE) == 0 and blind.count(OCCUPIED) == grid.count(OCCUPIED)


def test_one_camera_of_many_frees_nothing():
    turned = AHEAD.copy()
    turned[:3, :3] = Rotation.from_euler('z', 180, degrees=True).as_matrix() @ R_BODY_OPTICAL
    wall = sheet((3.02, 3.02), (-1, 1), (0, 0.5))
    both_ways = np.stack([AHEAD, turned])
    grid = occupancy_grid(wall, both_ways, CAMERA, CONFIG, Floor.at(0.0))
    assert grid.count(FREE) == 0


def test_the_floor_is_found_in_a_leaning_map_which_is_then_refused_until_it_is_level():
    room = survey(3)
    lean = make_T(Rotation.from_rotvec([0.3, -0.25, 0.0]).as_matrix(), np.array([0.5, 0.2, -1.0]))
    points, T = transform(lean, room.points), lean @ room.T_map_optical
    floor = find_floor(points, T)
    assert np.degrees(np.arccos(floor.normal @ lean[:3, 2])) < 0.2
    assert abs(floor.heights(lean[None, :3, 3])[0]) < 0.01
    with pytest.raises(OccupancyError, match=r'leans by 2[123] degrees.*base_frame'):
        occupancy_grid(points, T, INTRINSICS, CONFIG)
    level = floor.T_level_frame()
    np.testing.assert_allclose(level[:3, :3] @ floor.normal, [0, 0, 1], atol=1e-12)
    grid = occupancy_grid(transform(level, points), level @ T, INTRINSICS, CONFIG)
    straight = occupancy_grid(room.points, room.T_map_optical, INTRINSICS, CONFIG)
    assert grid.count(OCCUPIED) == pytest.approx(straight.count(OCCUPIED), rel=0.1)
    assert grid.count(FREE) == pytest.approx(straight.count(FREE), rel=0.05)


def test_a_slight_slope_is_measured_along():
    slope = make_T(Rotation.from_euler('y', -3, degrees=True).as_matrix(), np.zeros(3))
    points = transform(slope, np.concatenate([FLOOR, WALL]))
    grid = occupancy_grid(points, slope @ two_cameras(), CAMERA, CONFIG)
    # 3 degrees over 4 m are 0.2 m: more than min_height.
    assert at(grid, 3.5, 0.0) == FREE and at(grid, -0.8, 0.0) == FREE
    flat = replace(CONFIG, estimate_floor=False)
    assert at(occupancy_grid(points, slope @ two_cameras(), CAMERA, flat), 3.5, 0.0) == OCCUPIED


def test_cameras_held_upright_tell_a_ramp_from_a_floor():
    turn = make_T(Rotation.from_euler('y', 25, degrees=True).as_matrix(), np.array([0, 0, -1.0]))
    ramp = transform(turn, FLOOR)
    yaws = Rotation.from_euler('z', np.linspace(-60, 60, 9)[:, None], degrees=True).as_matrix()
    looks = np.repeat(AHEAD[None], len(yaws), axis=0)
    looks[:, :3, :3] = yaws @ R_BODY_OPTICAL
    with pytest.raises(OccupancyError, match='no floor'):
        find_floor(ramp, looks)
    # They may look down, and the map may lean with them: then up leans, too.
    leaning = turn @ looks
    assert np.degrees(find_floor(ramp, leaning).tilt_rad) == pytest.approx(25, abs=0.1)
    # A camera that went straight on says nothing, and the ramp is all there is.
    assert np.degrees(find_floor(ramp, looks[:1]).tilt_rad) == pytest.approx(25, abs=0.1)


def test_what_cannot_be_a_grid_is_refused_with_the_remedy():
    T = two_cameras()
    with pytest.raises(OccupancyError, match='no points'):
        occupancy_grid(np.full((5, 3), np.nan, np.float32), T, CAMERA, CONFIG)
    with pytest.raises(OccupancyError, match='floor-height'):
        occupancy_grid(WALL, T, CAMERA, CONFIG)
    with pytest.raises(OccupancyError, match=r'occupancy\.resolution'):
        occupancy_grid(FLOOR, T, CAMERA, replace(CONFIG, max_cells=1000))
    with pytest.raises(OccupancyError, match=r'occupancy\.min_points'):
        occupancy_grid(FLOOR[:4], np.empty((0, 4, 4)), CAMERA, CONFIG, Floor.at(0.0))


def test_a_far_stray_point_does_not_make_the_grid_large():
    points = np.concatenate([FLOOR, np.array([[5e4, 3e8, 0.5], [1e12, 0, 0.5]], np.float32)])
    grid = occupancy_grid(points, two_cameras(), CAMERA, CONFIG)
    assert grid.cells.size < 20_000


def test_files_say_what_the_grid_says(tmp_path):
    grid = occupancy_grid(np.concatenate([FLOOR, WALL]), two_cameras(), CAMERA, CONFIG)
    write_grid(tmp_path / 'plan', grid)
    cells, resolution, origin = as_map_server_reads(tmp_path / 'plan')
    assert {UNKNOWN, FREE, OCCUPIED} == set(np.unique(cells))
    np.testing.assert_array_equal(cells, grid.cells)
    assert resolution == grid.resolution and origin == [*grid.origin, 0.0]
    header = (tmp_path / 'plan' / 'map.pgm').read_bytes()[:2]
    assert header == b'P5'


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    grid = occupancy_grid(FLOOR, two_cameras(), CAMERA, CONFIG)
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(OutputError, match=r'map\.yaml'):
        write_grid(tmp_path, grid, overwrite=True)
    write_grid(tmp_path / 'plan', grid)
    with pytest.raises(OutputError, match='exists'):
        write_grid(tmp_path / 'plan', grid)
    write_grid(tmp_path / 'plan', grid, overwrite=True)
