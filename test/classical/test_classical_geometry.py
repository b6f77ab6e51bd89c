"""Pose refinement, triangulation, two-view start and bundle adjustment on exact points."""

import numpy as np
import pytest
from r3_ros.classical.bundle import adjust, BundleProblem
from r3_ros.classical.initialise import StartUp
from r3_ros.classical.landmarks import Observations, SparseMap
from r3_ros.classical.pinhole import depth_along_first_ray, parallax_cosine, Pinhole, project
from r3_ros.classical.pnp import exp_se3, ExpectedCentre, ransac_pose, refine_pose, reprojection_px
from r3_ros.classical.two_views import contradicting_motion, fit_rotation, solve_two_views
from r3_ros.core.geometry import inverse, rotation_angle

FOCAL = 500.0


def motion(tx=0.0, ty=0.0, tz=0.0, rx=0.0, ry=0.0, rz=0.0):
    return exp_se3(np.array([tx, ty, tz, rx, ry, rz], float))


def rays_of(T_camera_world, points):
    return project(points @ T_camera_world[:3, :3].T + T_camera_world[:3, 3])[0]


def cloud(rng, count=300):
    return np.column_stack(
        [rng.uniform(-2, 2, count), rng.uniform(-1.5, 1.5, count), rng.uniform(3, 8, count)]
    )


def test_pinhole_goes_there_and_back_through_a_resize():
    camera = Pinhole(400.0, 410.0, 310.0, 235.0, 640, 480)
    pixels = np.array([[0.0, 0.0], [639.0, 479.0], [100.5, 33.25]])
    assert np.allclose(camera.pixels(camera.rays(pixels)), pixels)
    half = Pinhole.of(camera.resized(320, 240), 320, 240)
    # The same ray through the centre of a block of four pixels and of the one it became.
    assert np.allclose(camera.rays([[20.5, 40.5]]), half.rays([[10.0, 20.0]]))


def test_refined_pose_is_exact_despite_outliers():
    rng = np.random.default_rng(0)
    points, T = cloud(rng), motion(0.3, -0.1, 0.2, 0.05, -0.1, 0.02)
    rays = rays_of(T, points)
    rays[:90] += rng.uniform(-0.2, 0.2, (90, 2))
    found = ransac_pose(points, rays, FOCAL)
    assert found is not None
    start, mask = found
    assert mask[90:].mean() > 0.99 and mask[:90].mean() < 0.1
    refined = refine_pose(start, points, rays, FOCAL, iterations=20)
    assert np.abs(refined - T).max() < 1e-3
    assert np.median(reprojection_px(refined, points, rays, FOCAL)[90:]) < 0.05


def test_points_behind_the_camera_have_infinite_error():
    points = np.array([[0.0, 0.0, 5.0], [0.1, 0.0, -5.0]] * 4)
    error_px = reprojection_px(np.eye(4), points, np.zeros((8, 2)), FOCAL)
    assert np.isinf(error_px[1::2]).all() and np.isfinite(error_px[::2]).all()


def test_ransac_rejects_noise_and_to_too_few_points():
    rng = np.random.default_rng(1)
    points = cloud(rng, 200)
    found = ransac_pose(points, rng.uniform(-0.5, 0.5, (200, 2)), FOCAL)
    assert found is None or found[1].sum() < 15
    assert ransac_pose(points[:5], points[:5, :2], FOCAL) is None


def test_triangulated_depths_are_exact_and_parallel_rays_give_none():
    rng = np.random.default_rng(2)
    points, T = cloud(rng), motion(-0.5, 0.1, 0.0, 0.0, 0.1, 0.0)
    depth = depth_along_first_ray(T, rays_of(np.eye(4), points), rays_of(T, points))
    assert np.allclose(depth, points[:, 2])
    same = depth_along_first_ray(np.eye(4), points[:, :2], points[:, :2])
    assert (same == 0).all()
    cosine = parallax_cosine(np.array([[0.0, 0.0, 1.0]]), np.zeros(3), np.array([1.0, 0.0, 1.0]))
    assert cosine[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize('flat', [False, True], ids=['depth', 'plane'])
def test_two_view_start_finds_the_motion(flat):
    rng = np.random.default_rng(3)
    points = cloud(rng, 400)
    if flat:
        points[:, 2] = 5.0 + 0.3 * points[:, 0]
    T = motion(-0.6, 0.05, 0.1, 0.01, 0.06, -0.02)
    first = rays_of(np.eye(4), points) + rng.normal(0, 0.1 / FOCAL, (400, 2))
    second = rays_of(T, points) + rng.normal(0, 0.1 / FOCAL, (400, 2))
    solutions = solve_two_views(first, second, fit_rotation(first, second), FOCAL)
    assert solutions
    # A plane has two solutions for one pair of images; more images decide between them.
    assert len(solutions) == 1 or flat
    direction = T[:3, 3] / np.linalg.norm(T[:3, 3])

    def cosine(views):
        t = views.T_second_first[:3, 3]
        return t @ direction / np.linalg.norm(t)

    best = max(solutions, key=cosine)
    found, depth, good = best.T_second_first, best.depth, best.good
    assert rotation_angle(found[:3, :3].T @ T[:3, :3]) < np.deg2rad(0.2)
    assert cosine(best) > np.cos(np.deg2rad(2.0))
    assert np.median(depth[good]) == pytest.approx(1.0)
    ratio = depth[good] / points[good, 2]
    assert np.std(ratio) / np.mean(ratio) < 0.05


def test_a_small_motion_straight_ahead_is_not_taken_for_one_to_the_side():
    rng = np.random.default_rng(11)
    points = cloud(rng, 500)
    points[:300] *= 3.0
    T = motion(0.0, 0.0, -0.12)
    first = rays_of(np.eye(4), points) + rng.normal(0, 0.2 / FOCAL, (500, 2))
    second = rays_of(T, points) + rng.normal(0, 0.2 / FOCAL, (500, 2))
    (only,) = solve_two_views(first, second, fit_rotation(first, second), FOCAL)
    t = only.T_second_first[:3, 3]
    assert t[2] / np.linalg.norm(t) < -np.cos(np.deg2rad(6.0))


def test_a_landmark_of_unknown_depth_holds_a_pose_across_its_ray_only():
    rng = np.random.default_rng(12)
    points, T = cloud(rng, 300), motion(-0.3, 0.05, 0.02, 0.01, 0.03, 0.0)
    rays = rays_of(T, points)
    # Wrong by a factor each, along the rays of the first camera.
    factors = np.exp(rng.normal(0, 0.4, 300))
    factors[:60] = 1.0
    guessed = points * factors[:, None]
    sigmas = np.where(np.arange(300) < 60, 0.01, 1.0)
    steps = guessed * sigmas[:, None]
    start = exp_se3(rng.normal(0, 0.01, 6)) @ T
    blind = refine_pose(start, guessed, rays, FOCAL, iterations=20)
    aware = refine_pose(start, guessed, rays, FOCAL, steps, iterations=20)
    assert np.abs(aware - T).max() < 0.1 * np.abs(blind - T).max()
    assert np.median(reprojection_px(T, guessed, rays, FOCAL)[60:]) > 3.0
    assert (reprojection_px(T, guessed, rays, FOCAL, steps)[60:] < 3.0).mean() > 0.95


def test_the_expected_motion_decides_what_landmarks_leave_open_and_no_more():
    """With guessed depths alone a turn to the side and a shift look alike."""
    rng = np.random.default_rng(13)
    T = motion(-0.05, 0.0, 0.02, 0.0, 0.1, 0.0)
    start = exp_se3(np.array([0.1, 0.0, 0.0, 0.0, -0.04, 0.0])) @ T

    def errors(spread, sigma, off_by):
        """Return shift and turn without and with an expected centre: (2, 2)."""
        points = cloud(rng, 60)
        rays = rays_of(T, points) + rng.normal(0, 0.5 / FOCAL, (60, 2))
        guessed = points * np.exp(rng.normal(0, spread, (60, 1)))
        expected = ExpectedCentre(inverse(T)[:3, 3] + off_by, 0.01)
        found = np.stack(
            [
                refine_pose(start, guessed, rays, FOCAL, sigma * guessed, None, e, iterations=30)
                for e in (None, expected)
            ]
        )
        off = inverse(found) @ T
        return np.stack([np.linalg.norm(off[:, :3, 3], axis=1), rotation_angle(off[:, :3, :3])], 1)

    off_by = np.array([0.005, -0.003, 0.0])
    alone, decided = np.median([errors(0.2, 1.0, off_by) for _ in range(9)], axis=0)
    assert decided[0] < 0.5 * alone[0] and decided[1] < 0.7 * alone[1]
    # Landmarks outweigh even an expectation that is three standard deviations off.
    alone, decided = np.median([errors(0.0, 0.01, 6 * off_by) for _ in range(9)], axis=0)
    assert decided[0] < alone[0] + 0.15 * np.linalg.norm(6 * off_by)


def test_corners_of_unknown_depth_contradict_a_turn_that_is_taken_for_a_shift():
    rng = np.random.default_rng(14)
    points, T = cloud(rng, 300), motion(-0.25, 0.02, 0.03, 0.0, 0.06, 0.0)
    first = rays_of(np.eye(4), points) + rng.normal(0, 0.3 / FOCAL, (300, 2))
    second = rays_of(T, points) + rng.normal(0, 0.3 / FOCAL, (300, 2))
    expected = inverse(T)[:3, 3] * 1.4
    # Turned three degrees less, and moved so that points in the middle stay where they are.
    wrong = motion(-0.25 + 5.0 * np.deg2rad(3.0), 0.02, 0.03, 0.0, 0.06 - np.deg2rad(3.0), 0.0)
    views = contradicting_motion(wrong, first, second, FOCAL, expected)
    assert rotation_angle(views.T_second_first[:3, :3].T @ T[:3, :3]) < np.deg2rad(0.5)
    # Nothing speaks against the right motion, and nothing is known without an expected one ...
    assert contradicting_motion(T, first, second, FOCAL, expected) is None
    assert contradicting_motion(wrong, first, second, FOCAL, np.zeros(3)) is None
    # ... or where the corners tell a motion that nobody expects.
    assert contradicting_motion(wrong, first, second, FOCAL, -expected) is None


def test_two_view_start_rejects_a_pure_rotation():
    rng = np.random.default_rng(4)
    points, T = cloud(rng, 400), motion(ry=0.2, rx=0.05)
    noise = rng.normal(0, 0.2 / FOCAL, (400, 2))
    first, second = rays_of(np.eye(4), points), rays_of(T, points) + noise
    assert solve_two_views(first, second, fit_rotation(first, second), FOCAL) == []


def test_rotation_is_found_under_moving_points():
    rng = np.random.default_rng(5)
    points, T = cloud(rng), motion(ry=0.2, rx=0.05)
    second = rays_of(T, points)
    second[:60] += 0.05
    R = fit_rotation(rays_of(np.eye(4), points), second)
    assert rotation_angle(R.T @ T[:3, :3]) < np.deg2rad(0.05)


def bundle(rng, noise_px=0.3, outliers=0, focal_factor=1.0):
    """Return the truth and a disturbed problem: four free cameras, two fixed ones."""
    points = cloud(rng, 250)
    T = np.stack(
        [motion(-0.25 * i, 0.1 * (i % 2), 0.05 * i, 0.0, 0.03 * i, 0.0) for i in range(6)]
    )
    T = T[[2, 3, 4, 5, 0, 1]]
    camera, point = np.repeat(np.arange(6), 250), np.tile(np.arange(250), 6)
    rays = np.concatenate([rays_of(pose, points) for pose in T])
    rays = rays * focal_factor + rng.normal(0, noise_px / FOCAL, rays.shape)
    if outliers:
        rays[rng.choice(len(rays), outliers, replace=False)] += 0.05
    disturbed = T.copy()
    disturbed[:4] = exp_se3(rng.normal(0, 0.01, (4, 6))) @ T[:4]
    problem = BundleProblem(
        disturbed, 4, points + rng.normal(0, 0.05, points.shape), camera, point, rays, FOCAL
    )
    return T, points, problem


def test_bundle_adjustment_recovers_cameras_and_points():
    T, points, problem = bundle(np.random.default_rng(6))
    result = adjust(problem, iterations=15)
    assert np.array_equal(result.T_camera_world[4:], T[4:])
    assert np.abs(result.T_camera_world - T).max() < 5e-3
    assert np.median(np.abs(result.points - points)) < 5e-3
    assert np.median(result.error_px) < 0.5


def test_bundle_adjustment_bears_outliers():
    T, _, problem = bundle(np.random.default_rng(7), outliers=60)
    result = adjust(problem, iterations=20)
    assert np.abs(result.T_camera_world - T).max() < 2e-2
    assert (result.error_px > 10).sum() >= 50


def test_bundle_adjustment_knows_which_depths_are_uncertain():
    T, points, problem = bundle(np.random.default_rng(8))
    result = adjust(problem, iterations=10)
    depth = points[:, 2]
    assert np.corrcoef(result.relative_sigma, depth)[0, 1] > 0.9


def test_focal_length_is_estimated_against_its_prior():
    _, _, problem = bundle(np.random.default_rng(9), noise_px=0.1, focal_factor=1.15)
    prior = dict(vars(problem), focal_prior=(1.0, 0.3))
    # Fixed cameras would hold the wrong focal length: only the first stays.
    prior['free_count'] = 5
    prior['T_camera_world'] = problem.T_camera_world[[0, 1, 2, 3, 5, 4]]
    swapped = problem.camera.copy()
    swapped[problem.camera == 4], swapped[problem.camera == 5] = 5, 4
    result = adjust(BundleProblem(**{**prior, 'camera': swapped}), iterations=30)
    assert result.focal_factor == pytest.approx(1.15, abs=0.02)
    assert result.focal_sigma < 0.1
    held = adjust(
        BundleProblem(**{**prior, 'camera': swapped, 'focal_prior': (1.0, 1e-6)}), iterations=30
    )
    assert held.focal_factor == pytest.approx(1.0, abs=1e-3)


def test_translation_alone_does_not_determine_the_focal_length():
    rng = np.random.default_rng(11)
    points = cloud(rng, 250)
    T = np.stack([motion(0.1 * i, 0.0, -0.3 * i, 0.0, 0.0, 0.0) for i in (1, 2, 3, 4, 0)])
    rays = np.concatenate([rays_of(pose, points) for pose in T])
    rays += rng.normal(0, 0.2 / FOCAL, rays.shape)
    camera, point = np.repeat(np.arange(5), 250), np.tile(np.arange(250), 5)
    problem = BundleProblem(T, 4, points, camera, point, rays, FOCAL, (1.3, 0.3))
    result = adjust(problem, iterations=30)
    assert result.focal_sigma > 0.2


def test_a_camera_that_sees_nothing_new_stays():
    """A problem without free cameras adjusts its points alone."""
    T, points, problem = bundle(np.random.default_rng(10))
    fixed = BundleProblem(T, 0, problem.points, problem.camera, problem.point, problem.rays, FOCAL)
    result = adjust(fixed)
    assert np.array_equal(result.T_camera_world, T)
    assert np.median(np.abs(result.points - points)) < 5e-3


def test_keyframes_before_the_first_that_saw_a_landmark_are_left_out():
    sparse = SparseMap(Pinhole(FOCAL, FOCAL, 319.5, 239.5, 640, 480))
    slots = []
    for i in range(4):
        frame = sparse.hold(10 * i, np.zeros((480, 640), np.uint8), np.eye(4))
        frame.keyframe = True
        slots.append(sparse.landmarks.add(np.ones((2, 3)), frame, np.ones((2, 2))))
        frame.seen = Observations.of(
            sparse.landmarks, np.concatenate(slots), np.ones((2 * i + 2, 2))
        )
    ids = [frame.frame_id for frame in sparse.keyframes_seeing(slots[2])]
    assert ids == [f.frame_id for f in sparse.keyframes() if np.isin(slots[2], f.seen.slots).any()]
    assert ids == [20, 30]
    mask = np.zeros(len(sparse.landmarks.used), bool)
    assert sparse.keyframes_seeing(mask) == []
    mask[slots[1]] = True
    assert [frame.frame_id for frame in sparse.keyframes_seeing(mask)] == [10, 20, 30]


def start_up(points, poses, noise_px):
    """Return a start-up that has tracked points (N, 3) through images from these poses."""
    rng = np.random.default_rng(4)
    camera = Pinhole(FOCAL, FOCAL, 319.5, 239.5, 640, 480)
    start = StartUp(700, 10.0)
    for frame_id, T in enumerate(poses):
        pixels = camera.pixels(rays_of(T, points))
        start._pixels.append(pixels + rng.normal(0, noise_px, pixels.shape))
        start._frame_ids.append(frame_id)
    start.parallax_px = 0.005 * camera.width
    return start, camera


def test_corners_of_small_parallax_do_not_speak_against_the_right_motion():
    """A wrong rotation gives them a parallax, and so depths that explain their noise."""
    rng = np.random.default_rng(8)
    points = rng.uniform([-3, -2, 4], [3, 2, 6], (600, 3))
    T = motion(-0.014, 0.0, -0.036, 0.0, 0.006, 0.0)
    start, camera = start_up(points, [np.eye(4), T], 0.1)
    best = min(start._solutions(camera, 1.0), key=lambda s: s.cost)
    direction = inverse(T)[:3, 3] / np.linalg.norm(T[:3, 3])
    assert best.moved @ direction / np.linalg.norm(best.moved) > np.cos(np.deg2rad(10.0))
    assert best.cost < 0.02


def test_a_start_needs_a_second_image_with_the_same_motion():
    rng = np.random.default_rng(8)
    poses = [motion(-0.1 * k, 0.0, -0.02 * k, 0.0, 0.01 * k, 0.0) for k in range(5)]
    start, camera = start_up(cloud(rng, 400), poses, 0.3)
    frame_ids, pixels = start._frame_ids, start._pixels

    def tried(count):
        start._frame_ids, start._pixels = frame_ids[:count], pixels[:count]
        return start.try_start(camera)

    assert tried(2) is None
    wrong = start._unconfirmed.T_camera_reference[-1]
    wrong[:3, 3] = -wrong[:3, 3]
    assert tried(3) is None
    parallax_px, start.parallax_px = start.parallax_px, 0.0
    assert tried(4) is None  # an image between that shows no motion
    start.parallax_px = parallax_px
    assert tried(4) is None
    found = tried(5)
    assert found is not None and found.frame_ids == [0, 1, 2, 3, 4]
    # A fast camera may not see the reference twice: a clear start is believed at once.
    start.parallax_px = 10.0 * parallax_px
    start._unconfirmed = None
    assert tried(2) is not None
    t = found.T_camera_reference[-1][:3, 3]
    true = poses[-1][:3, 3]
    assert t @ true / np.linalg.norm(t) / np.linalg.norm(true) > np.cos(np.deg2rad(2.0))
