"""The map: one point a voxel, bounded, following the keyframes, safe to look at meanwhile."""

from dataclasses import replace

import numpy as np
import pytest
from r3_ros.core.config import MapConfig
from r3_ros.core.geometry import inverse_similarity, make_T, similarity
from r3_ros.maps.cloud import Cloud
from r3_ros.streaming.voxel_map import voxelised, VoxelMap
from scipy.spatial.transform import Rotation


def cloud(count=500, seed=0, size=1.0, confidence=None):
    rng = np.random.default_rng(seed)
    return Cloud(
        rng.uniform(-size, size, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3)).astype(np.uint8),
        (rng.uniform(1, 5, count) if confidence is None else np.full(count, confidence)).astype(
            np.float32
        ),
    )


def a_map(**options):
    return VoxelMap(replace(MapConfig(), **options))


def at(x):
    return make_T(Rotation.from_euler('y', 0.5).as_matrix(), [x, 0.0, 0.0])


def same(a, b):
    for x, y in ((a.points, b.points), (a.colors, b.colors), (a.confidence, b.confidence)):
        np.testing.assert_array_equal(x, y)


def test_a_voxel_keeps_the_mean_weighted_by_confidence():
    points = np.array([[0.1, 0.1, 0.1], [0.4, 0.1, 0.1], [-0.1, 0.1, 0.1]], np.float32)
    colors = np.array([[0, 0, 0], [100, 200, 40], [9, 9, 9]], np.uint8)
    confidence = np.array([1.0, 3.0, 2.0], np.float32)
    small = voxelised(Cloud(points, colors, confidence), 0.5)
    np.testing.assert_allclose(small.points, [[0.325, 0.1, 0.1], [-0.1, 0.1, 0.1]], rtol=1e-6)
    np.testing.assert_array_equal(small.colors, [[75, 150, 30], [9, 9, 9]])
    np.testing.assert_array_equal(small.confidence, [3.0, 2.0])


def test_there_is_one_point_in_each_occupied_voxel():
    many = cloud(5000)
    small = voxelised(many, 0.25)
    cells = np.floor(many.points / 0.25)
    assert len(small) == len(np.unique(cells, axis=0))
    assert len(np.unique(np.floor(small.points / 0.25 + 1e-6), axis=0)) >= len(small) - 2
    # Voxels come in the order in which they were first met.
    np.testing.assert_array_equal(np.floor(small.points[0] / 0.25), cells[0])


def test_points_beyond_the_grid_and_empty_clouds():
    far = cloud(3)
    far.points[1] = 1e9
    assert len(voxelised(far, 0.001)) == 2
    assert len(voxelised(Cloud.empty(), 0.1)) == 0


def test_a_rewritten_keyframe_pose_moves_its_points():
    world = a_map()
    world.insert(1, cloud(seed=1))
    world.insert(2, cloud(seed=2))
    before = world.view({1: at(0.0), 2: at(10.0)}).cloud()
    revision = world.revision
    world.poses_changed()
    after = world.view({1: at(0.0), 2: at(13.0)}).cloud()
    assert world.revision > revision
    near = before.points[:, 0] < 5
    assert near.any() and (~near).any()
    kept = after.points[:, 0] < 5
    np.testing.assert_array_equal(before.points[near], after.points[kept])
    moved = after.points[~kept].mean(axis=0) - before.points[~near].mean(axis=0)
    np.testing.assert_allclose(moved, [3.0, 0.0, 0.0], atol=0.01)


def test_a_keyframe_that_leaves_the_bank_leaves_its_points():
    world = a_map()
    world.insert(1, cloud(seed=1))
    world.insert(2, cloud(seed=2))
    poses = {1: at(0.0), 2: at(10.0)}
    before = world.view(poses).cloud()
    world.bake(1, poses[1], None)
    world.bake(77, at(0.0), None)  # a frame without points
    after = world.view({2: at(10.0)}).cloud()
    assert abs(len(after) - len(before)) < 0.05 * len(before)
    moved = world.view({2: at(20.0)}).cloud()
    stayed = moved.points[moved.points[:, 0] < 5]
    np.testing.assert_array_equal(stayed, after.points[after.points[:, 0] < 5])


def test_points_that_were_inherited_follow_their_heir():
    world = a_map()
    poses = {i: at(10.0 * i) for i in range(4)}
    for i in range(4):
        world.insert(i, cloud(seed=i))
    before = world.view(poses).cloud()
    world.bake(1, inverse_similarity(poses[2]) @ poses[1], 2)
    world.bake(2, inverse_similarity(poses[3]) @ poses[2], 3)  # with what it had inherited
    rest = {0: poses[0], 3: poses[3]}
    after = world.view(rest).cloud()
    assert len(after) == pytest.approx(len(before), rel=0.05)
    near = np.sort(np.round(after.points[:, 0] / 10))
    np.testing.assert_array_equal(np.unique(near), [0, 1, 2, 3])
    # The parent moves up and doubles its unit: so do the points that follow it.
    higher = at(30.0)
    higher[1, 3] = 5.0
    turned = similarity(higher, 2.0)
    moved = world.view({0: poses[0], 3: turned}).cloud()
    places = np.unique(np.round(moved.points[:, 0] / 10))
    assert {-1.0, 1.0, 3.0} <= set(places)
    follows = moved.points[:, 0] < -5
    assert follows.any() and abs(moved.points[follows, 1].mean() - 5.0) < 0.5
    # Without a known pose of the parent, theirs are unknown too.
    assert world.view({0: poses[0]}).cloud().points[:, 0].max() < 5
    revision = world.revision
    world.drop(3)
    assert world.revision > revision
    assert world.view(poses).cloud().points[:, 0].max() < 5


def test_baking_many_keyframes_loses_no_place():
    world = a_map(voxel_size=0.1)
    centres = np.linspace(0.0, 40.0, 60)
    for keyframe_id, x in enumerate(centres):
        world.insert(keyframe_id, cloud(200, seed=keyframe_id))
        world.bake(keyframe_id, at(x), None)
    whole = world.view({}).cloud()
    expected = np.concatenate(
        [cloud(200, seed=i).moved(at(x)).points for i, x in enumerate(centres)]
    )
    cells = np.unique(np.floor(expected / 0.1), axis=0)
    # Averaging can push a mean over a voxel's border by rounding, no more.
    assert len(whole) == pytest.approx(len(cells), rel=0.05)
    assert len(world) < 1.3 * len(whole)


def test_the_bound_holds_and_the_oldest_points_go_first():
    world = a_map(max_points=10_000, voxel_size=0.001)
    for keyframe_id in range(60):
        world.insert(keyframe_id, cloud(400, seed=keyframe_id))
        if keyframe_id >= 10:
            world.bake(keyframe_id - 10, at(10.0 * (keyframe_id - 10)), None)
        assert len(world) <= 10_000
    poses = {i: at(10.0 * i) for i in range(50, 60)}
    places = np.unique(np.round(world.view(poses).cloud().points[:, 0] / 10))
    np.testing.assert_array_equal(places, np.arange(60 - len(places), 60))
    assert len(places) >= 24


def test_keyframes_alone_are_bounded_too():
    world = a_map(max_points=10_000, voxel_size=0.001)
    for keyframe_id in range(30):
        world.insert(keyframe_id, cloud(1000, seed=keyframe_id))
        assert len(world) <= 10_000
    poses = {i: at(10.0 * i) for i in range(30)}
    newest = world.view(poses).cloud().points[:, 0] > 285
    assert newest.sum() > 990


def test_a_second_depth_of_a_keyframe_replaces_the_first():
    world = a_map()
    world.insert(1, cloud(seed=1))
    world.insert(1, cloud(seed=2))
    other = a_map()
    other.insert(1, cloud(seed=2))
    assert len(world) == len(other) > 0
    same(world.view({1: at(0.0)}).cloud(), other.view({1: at(0.0)}).cloud())


def test_a_snapshot_does_not_change():
    world = a_map()
    poses = {1: at(0.0), 2: at(3.0)}
    world.insert(1, cloud(seed=1))
    world.insert(2, cloud(seed=2))
    view, other = world.view(poses), world.view(poses)
    before = view.cloud()  # worked out now; the other one after all that follows
    poses[1] = at(99.0)
    world.insert(3, cloud(seed=3))
    world.bake(1, at(5.0), None)
    world.poses_changed()
    world.clear()
    same(view.cloud(), before)
    same(other.cloud(), before)
    assert view.revision == other.revision < world.revision
    assert len(world.view(poses).cloud()) == 0


def test_thinning_out_is_even_and_repeatable():
    world = a_map(voxel_size=0.01)
    world.insert(1, cloud(5000))
    view = world.view({1: np.eye(4)})
    thin = view.cloud(max_points=1000)
    assert len(thin) == 1000
    same(thin, world.view({1: np.eye(4)}).cloud(max_points=1000))
    octants = np.bincount((thin.points > 0) @ [1, 2, 4], minlength=8)
    assert octants.min() > 80
    assert len(view.cloud(max_points=10**9)) == len(view.cloud())


def test_every_change_has_a_revision():
    world = a_map()
    seen = [world.revision]
    for change in (
        lambda: world.insert(1, cloud()),
        lambda: world.insert(2, cloud()),
        world.poses_changed,
        lambda: world.bake(1, at(0.0), None),
        world.clear,
    ):
        change()
        seen.append(world.revision)
    assert seen == sorted(set(seen))
    world.poses_changed()  # of an empty map: nothing looks different
    assert world.revision == seen[-1]


def test_the_number_of_points_is_that_of_the_clouds():
    rng = np.random.default_rng(3)
    m = VoxelMap(MapConfig(voxel_size=0.2, max_points=10_000))
    poses = {}
    for i in range(60):
        points = rng.uniform(-3.0, 3.0, (800, 3)).astype(np.float32)
        m.insert(i, Cloud(points, np.zeros((800, 3), np.uint8), np.ones(800, np.float32)))
        poses[i] = np.eye(4)
        if i % 3 == 2:
            m.bake(i - 1, np.eye(4), i)
        if i % 7 == 6:
            m.bake(i - 3, np.eye(4), None)
        if i % 11 == 10:
            m.drop(i - 2)
        if i % 5 == 4:
            m.insert(i, Cloud(points[:9], np.zeros((9, 3), np.uint8), np.ones(9, np.float32)))
        assert len(m) == sum(len(cloud) for cloud, _ in m.view(poses).placed)
    assert m.evicted
    m.restore({59: Cloud(points, np.zeros((800, 3), np.uint8), np.ones(800, np.float32))})
    assert len(m) == sum(len(cloud) for cloud, _ in m.view(poses).placed)
    m.clear()
    assert len(m) == 0
