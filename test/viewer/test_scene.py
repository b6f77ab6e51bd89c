"""The scene on a real server: what a page receives, what is sent again, what the controls do."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('viser', reason='viser is not installed (pip install ".[view]")')

from r3_ros.core.datatypes import Intrinsics
from r3_ros.core.errors import ConfigError, R3Error
from r3_ros.core.geometry import inverse, make_T, similarity, transform
from r3_ros.maps.cloud import Cloud
from r3_ros.maps.frustum import frustum_lines
from r3_ros.viewer import panel
from r3_ros.viewer.cloud_cells import cells_of
from r3_ros.viewer.point_layer import BLOCK_POINTS, COARSE_STEP
from r3_ros.viewer.scene import Scene
from r3_ros.viewer.shapes import confidence_colors, ellipsoids, path_lines
from r3_ros.viewer.view_data import Command, ShownKeyframes
from scipy.spatial.transform import Rotation

HERE = np.eye(4)


def cloud(count=800, seed=0):
    rng = np.random.default_rng(seed)
    return Cloud(
        rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        rng.integers(0, 255, (count, 3), np.uint8),
        np.linspace(1.0, 2.0, count, dtype=np.float32),
    )


def at(x):
    return make_T(np.eye(3), np.array([x, 0.0, 0.0]))


def keyframes(count=4):
    covariance = np.diag([0.01, 0.04, 0.0])
    return ShownKeyframes(
        T_map_camera=np.stack([at(k) for k in range(count)]),
        confidence=np.arange(count, dtype=np.float64),
        covariances=np.broadcast_to(covariance, (count, 3, 3)),
        links=np.array([(k, k + 1) for k in range(count - 1)]),
        kinds=np.array([0] * (count - 2) + [2]),
    )


# The server


def test_a_page_receives_what_was_there_before_it_connected(scene, page):
    scene.show_cloud([(cloud(), HERE)])
    scene.show_keyframes(keyframes())
    scene.show_path(keyframes().centres)
    scene.show_camera(at(1.0), np.zeros((24, 32, 3), np.uint8), np.ones((24, 32)))
    wanted = {'/points/0/coarse', '/points/0/fine', '/keyframes', '/graph', '/path', '/camera'}
    page.until(lambda: wanted <= set(page.created))


def test_a_port_in_use_is_left_to_its_owner(scene):
    assert scene.url == f'http://127.0.0.1:{scene.port}'
    second = Scene(port=scene.port)
    assert second.port > scene.port
    second.close()


def test_no_thread_is_left_after_the_end():
    before = set(threading.enumerate())
    Scene(port=18090).close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith('r3_')]


@pytest.mark.parametrize(
    ('host', 'port', 'words'),
    [
        ('203.0.113.7', 18080, 'cannot listen on host'),
        ('127.0.0.1', 0, 'between 1 and 65535'),
        ('127.0.0.1', 70000, 'between 1 and 65535'),
    ],
)
def test_an_address_that_cannot_be_served_is_an_error(host, port, words):
    with pytest.raises(ConfigError, match=words):
        Scene(host, port)


# The cloud


def test_only_new_blocks_are_sent(scene, page):
    first, second = cloud(seed=1), cloud(seed=2)
    scene.show_cloud([(first, HERE)])
    scene.show_cloud([(first, HERE), (second, at(3.0))])
    assert scene.points.sent_blocks == 2
    page.until(lambda: page.created['/points/1/fine'])
    assert page.created['/points/0/fine'] == page.created['/points/1/fine'] == 1


def test_a_corrected_pose_moves_a_block_without_its_points(scene):
    part = cloud()
    scene.show_cloud([(part, HERE)])
    S = similarity(make_T(Rotation.from_euler('z', 0.3).as_matrix(), np.array([1, 2, 3])), 2.0)
    scene.show_cloud([(part, S)])
    assert scene.points.sent_blocks == 1
    block = next(iter(scene.points._blocks.values()))
    for handle in (block.coarse, block.fine):
        R = Rotation.from_quat(np.roll(handle.wxyz, -1)).as_matrix()
        shown = handle.scale * handle.points.astype(np.float64) @ R.T + handle.position
        rows = np.arange(len(part)) % COARSE_STEP == 0
        expected = transform(S, part.points[rows if handle is block.coarse else ~rows])
        np.testing.assert_allclose(shown, expected, atol=5e-3)


def test_what_is_gone_is_removed(scene, page):
    first, second = cloud(seed=1), cloud(seed=2)
    scene.show_cloud([(first, HERE), (second, HERE)])
    page.until(lambda: page.created['/points/1/fine'])
    scene.show_cloud([(second, HERE)])
    page.until(lambda: {'/points/0/coarse', '/points/0/fine'} <= page.removed)
    assert len(scene.points) == len(second)


def test_the_nearest_blocks_get_the_detail_that_the_budget_allows(scene):
    near, far = cloud(8000, seed=1), cloud(8000, seed=2)
    layer = scene.points
    layer.set_most_drawn(2000 + 7000)
    layer.show([(near, HERE), (far, at(50.0))])
    layer.refine([np.zeros(3)])
    assert layer.drawn == 8000 + 1000
    layer.refine([np.array([50.0, 0.0, 0.0])])
    assert layer.drawn == 8000 + 1000
    visible = [block.fine.visible for block in layer._blocks.values()]
    assert visible == [False, True]
    layer.set_most_drawn(16_000)
    layer.refine([np.zeros(3)])
    assert layer.drawn == 16_000 and layer.sent_blocks == 2


def test_large_clouds_are_divided(scene):
    scene.show_cloud([(cloud(BLOCK_POINTS + 10), HERE)])
    assert scene.points.sent_blocks == 2
    assert len(scene.points) == scene.points.drawn == BLOCK_POINTS + 10


def test_the_least_confident_points_are_hidden(scene):
    scene.show_cloud([(cloud(1000), HERE)])
    scene.points.set_hidden_share(0.25)
    scene.points.refine([])
    assert scene.points.drawn == 750
    scene.points.set_hidden_share(0.0)
    scene.points.refine([])
    assert scene.points.drawn == 1000


def test_cells_keep_their_objects_where_nothing_has_changed():
    whole = cloud(5000)
    before = cells_of(whole, {})
    assert sum(map(len, before.values())) == 5000 and len(before) > 20
    for (edge, *place), cell in before.items():
        np.testing.assert_array_equal(np.floor(cell.points / edge), [place] * len(cell))
    colors = whole.colors.copy()
    colors[0] += 1
    after = cells_of(Cloud(whole.points, colors, whole.confidence), before)
    assert after.keys() == before.keys()
    assert sum(after[key] is not before[key] for key in before) == 1
    assert cells_of(Cloud.empty(), before) == {}


# Shapes


def test_colours_rank_confidence_by_the_usual_one():
    colors = confidence_colors(np.array([0.0, 1.0, 2.0, 2.0, 9.0, np.nan]))
    red, yellow, green = colors[0], colors[1], colors[2]
    assert red[0] == 255 and red[1] == 0
    assert yellow[0] == yellow[1] == 255
    assert green[0] == 0 and green[1] == 255
    np.testing.assert_array_equal(colors[4], green)
    assert len(set(colors[5].tolist())) == 1  # grey


def test_a_frustum_has_the_field_of_view_of_the_camera():
    intrinsics = Intrinsics(fx=100, fy=50, cx=49.5, cy=49.5, width=100, height=100)
    T = make_T(Rotation.from_euler('y', 1.0).as_matrix(), np.array([1.0, 2.0, 3.0]))
    lines = frustum_lines(T[None], intrinsics, 2.0)
    assert lines.shape == (8, 2, 3)
    corners = transform(inverse(T), lines[:4, 1])
    np.testing.assert_allclose(np.abs(corners), [[1.0, 2.0, 2.0]] * 4)
    np.testing.assert_allclose(lines[:4, 0], [T[:3, 3]] * 4)


def test_a_path_has_gaps_where_poses_are_unknown():
    centres = np.array([[0, 0, 0], [1, 0, 0], [np.nan] * 3, [3, 0, 0], [4, 0, 0.0]])
    np.testing.assert_array_equal(path_lines(centres)[:, :, 0], [[0, 1], [3, 4]])


def test_ellipsoids_have_three_deviations_along_the_axes_of_the_covariance():
    R_camera = Rotation.from_euler('xyz', [0.3, -0.4, 0.5]).as_matrix()
    axes = Rotation.from_euler('xyz', [1.0, 0.2, -0.7]).as_matrix()
    covariance = axes @ np.diag([0.01, 0.04, 0.09]) @ axes.T
    shown = ShownKeyframes(
        np.stack([make_T(R_camera, np.ones(3)), np.eye(4)]),
        np.ones(2),
        np.stack([covariance, np.full((3, 3), np.nan)]),
    )
    positions, wxyz, half_axes = ellipsoids(shown, largest=10.0)
    np.testing.assert_array_equal(positions, [[1, 1, 1]])
    R = Rotation.from_quat(np.roll(wxyz[0], -1)).as_matrix()
    in_map = R @ np.diag((half_axes[0] / 3) ** 2) @ R.T
    np.testing.assert_allclose(in_map, R_camera @ covariance @ R_camera.T, atol=1e-9)
    assert ellipsoids(shown, largest=0.5)[2].max() == 0.5


# Controls


def test_layers_are_switched(scene):
    scene.show_keyframes(keyframes())
    assert 'Covariance' not in scene._nodes
    scene.panel._layers['Covariance'].value = True
    scene._switch_layer('Covariance', True)
    assert len(scene._nodes['Covariance'].batched_positions) == 4
    scene._switch_layer('Path', False)
    scene._switch_layer('Keyframes', False)
    assert not scene._nodes['Keyframes'].visible and scene._nodes['Graph'].visible


def test_a_status_is_text_whatever_it_holds(scene):
    scene.show_status('low_confidence', {'why': '<b>few</b> & blurred'})
    content = scene.panel._status.content
    assert 'low confidence' in content and '&lt;b&gt;few&lt;/b&gt; &amp; blurred' in content


def test_the_answer_of_a_command_is_shown_where_it_was_called():
    shown = []
    client = SimpleNamespace(add_notification=lambda *text, **how: shown.append((*text, how)))

    def refuse(value):
        raise R3Error(f'not {value}')

    event, name = SimpleNamespace(client=client), 'Set scale'
    panel._call(Command(name, lambda value: f'scale {value}'), event, 2.0)
    panel._call(Command(name, refuse), event, -1.0)
    assert [entry[:2] for entry in shown] == [
        ('Set scale', 'scale 2.0'),
        ('Set scale', 'not -1.0'),
    ]
    assert [entry[2]['color'] for entry in shown] == [None, 'red']
    panel._call(Command('Pause', refuse), SimpleNamespace(client=None), True)  # by the program
