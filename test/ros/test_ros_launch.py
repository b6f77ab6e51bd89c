"""The launch files, where launch is installed, with recorders in the place of programs."""

from pathlib import Path

import pytest

pytest.importorskip('launch_ros.actions', reason='launch_ros is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launched import on_path, Stage, write_parameters
from paths import ROOT
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import flattened, load_config
from r3_ros.ros.outputs.outputs import TOPICS

import launch

pytestmark = pytest.mark.ros

FILES = sorted(path.name.removesuffix('.launch.py') for path in ROOT.glob('launch/*.launch.py'))
#: Arguments without which a launch file does not start.
NEEDED = {'bag': {'bag': str(ROOT)}}
#: Examples, and the program of another package that each starts.
EXAMPLES = {
    'depth_image_proc': 'point_cloud_xyzrgb_node',
    'nvblox': 'nvblox_node',
    'octomap': 'octomap_server_node',
    'robot_localization': 'ekf_node',
    'rtabmap': 'rtabmap',
}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    made = Stage(tmp_path)
    monkeypatch.setenv('AMENT_PREFIX_PATH', on_path(made))
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    return made


def described(name):
    path = ROOT / 'launch' / f'{name}.launch.py'
    return get_launch_description_from_python_launch_file(str(path))


def only(started, program):
    (found,) = [s for s in started if s.program == program]
    return found


@pytest.mark.parametrize('name', FILES)
def test_every_argument_is_explained_and_its_default_is_allowed(name):
    arguments = described(name).get_launch_arguments()
    assert arguments and len({a.name for a in arguments}) == len(arguments)
    for argument in arguments:
        assert argument.description and argument.description != 'no description given'
        if argument.choices and argument.default_value:
            context = launch.LaunchContext()
            default = ''.join(part.perform(context) for part in argument.default_value)
            assert default in argument.choices, argument.name


@pytest.mark.parametrize('name', FILES)
def test_every_launch_file_starts_what_it_is_for_as_it_stands(stage, monkeypatch, name):
    # bag.launch.py plays by the command, which is not part of launch.
    monkeypatch.setenv('PATH', str(stage.record('commands', 'ros2')), prepend=':')
    started = stage.carry_out(name, **NEEDED.get(name, {}))
    assert stage.status == 0
    assert started
    for each in started:
        assert all(Path(path).is_file() for path in each.parameter_files)


def test_a_choice_that_is_none_is_refused(stage):
    for name, value in (('transport', 'theora'), ('rviz', 'yes'), ('scale_source', 'guess')):
        assert not stage.carry_out('stream', **{name: value})
        assert stage.status != 0


def test_by_itself_the_node_has_its_own_defaults(stage):
    node = only(stage.carry_out('stream'), 'r3_stream')
    assert node.name == '/r3'
    assert node.remappings['image'] == '/camera/image_raw'
    assert 'camera_info' not in node.remappings
    values = node.parameters()
    defaults = flattened(R3Config())
    of_ros = {'use_sim_time', 'start_type_description_service'}
    assert {k for k, v in values.items() if defaults.get(k) != v} <= of_ros


def test_presets_then_files_then_arguments(stage, tmp_path):
    defaults = flattened(R3Config())
    preset = flattened(load_config(ROOT / 'config' / 'preset_outdoor_long.yaml', R3Config()))
    changed = {k: v for k, v in preset.items() if v != defaults[k]}
    values = only(stage.carry_out('stream', preset='outdoor_long'), 'r3_stream').parameters()
    assert changed.items() <= values.items()
    for key in ('/**', '/r3', 'r3', '/**/r3'):
        given = {'map__voxel_size': 0.5, 'base_frame': 'file', 'use_sim_time': True}
        file = write_parameters(tmp_path / 'own.yaml', key, **given)
        both = stage.carry_out(
            'stream', preset='outdoor_long', params_file=file, base_frame='argument'
        )
        values = only(both, 'r3_stream').parameters()
        assert values['map.voxel_size'] == 0.5, key
        assert values['base_frame'] == 'argument', key
        assert values['use_sim_time'] is True, key
        assert values['keyframe.max_keyframes'] == preset['keyframe.max_keyframes'], key


def test_arguments_arrive_in_their_types(stage):
    values = only(
        stage.carry_out(
            'stream', scale_source='fixed', scale='2', autostart='false', base_frame='1',
            frame_prefix='left/', model='classical', use_sim_time='true',
            publish_map_to_odom_tf='false',
        ),
        'r3_stream',
    ).parameters()  # fmt: skip
    expected = {
        'scale.source': 'fixed',
        'scale.fixed': 2.0,
        'autostart': False,
        'base_frame': '1',
        'map_frame': 'left/map',
        'odom_frame': 'left/odom',
        'model.name': 'classical',
        'use_sim_time': True,
        'publish_map_to_odom_tf': False,
    }
    assert expected.items() <= values.items()
    assert type(values['scale.fixed']) is float and type(values['base_frame']) is str


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'preset': 'outdoors'}, 'neither one of indoor'),
        ({'params_file': '/missing.yaml'}, "there is no file '/missing.yaml'"),
        ({'rviz': 'true', 'rviz_config': 'my.rviz'}, "there is no file 'my.rviz'"),
    ],
)
def test_what_is_not_there_is_reported(stage, caplog, arguments, words):
    assert not stage.carry_out('stream', **arguments)
    assert stage.status != 0
    assert words in caplog.text


def test_rviz_follows_the_node_to_its_name_and_frame(stage):
    rviz = only(stage.carry_out('stream', rviz='true'), 'rviz2')
    assert {f'/r3/{t}': f'r3/{t}' for t in TOPICS}.items() <= rviz.remappings.items()
    assert str(ROOT) in str(Path(rviz.arguments[rviz.arguments.index('-d') + 1]).resolve())
    arguments = {'namespace': 'left', 'name': 'eye', 'frame_prefix': 'l_'}
    rviz = only(stage.carry_out('stream', rviz='true', **arguments), 'rviz2')
    assert rviz.remappings['__ns'] == '/left'
    # Names without a slash are below the namespace.
    assert {f'/r3/{t}': f'eye/{t}' for t in TOPICS}.items() <= rviz.remappings.items()
    assert rviz.remappings['/initialpose'] == 'initialpose'
    assert rviz.arguments[rviz.arguments.index('-f') + 1] == 'l_map'


def test_a_view_in_the_browser_follows_the_node_to_its_name(stage):
    assert 'r3_viewer' not in {s.program for s in stage.carry_out('stream')}
    view = only(stage.carry_out('stream', viewer='true'), 'r3_viewer')
    assert view.name == '/r3_viewer'
    assert view.arguments[:5] == ['r3', '--host', '127.0.0.1', '--port', '8080']
    arguments = {'namespace': 'left', 'name': 'eye', 'viewer_port': '9000'}
    view = only(stage.carry_out('stream', viewer='true', **arguments), 'r3_viewer')
    assert view.name == '/left/eye_viewer' and view.remappings['__ns'] == '/left'
    assert view.arguments[:5] == ['eye', '--host', '127.0.0.1', '--port', '9000']


def test_a_recording_waits_for_the_node_and_brings_the_clock(stage, tmp_path, monkeypatch):
    commands = stage.record('commands', 'ros2')
    monkeypatch.setenv('PATH', str(commands), prepend=':')
    stage.record('r3_ros', 'r3_stream', until='ros2')
    started = stage.carry_out('bag', bag=str(tmp_path), rate='0.5', loop='true', rviz='false')
    wait, player = only(started, 'r3_wait_active'), only(started, 'ros2')
    assert wait.arguments[0] == '/r3' and wait.order < player.order
    assert player.arguments[:3] == ['bag', 'play', str(tmp_path)]
    assert {'--clock', '--loop'} <= set(player.arguments)
    assert player.arguments[player.arguments.index('--rate') + 1] == '0.5'
    assert only(started, 'r3_stream').parameters()['use_sim_time'] is True


def test_a_node_that_does_not_become_active_gets_no_recording(stage, tmp_path, monkeypatch):
    commands = stage.record('commands', 'ros2')
    monkeypatch.setenv('PATH', str(commands), prepend=':')
    stage.record('r3_ros', 'r3_stream', until='never')
    stage.record('r3_ros', 'r3_wait_active', status=1)
    started = stage.carry_out('bag', bag=str(tmp_path), rviz='false')
    assert {s.program for s in started} == {'r3_stream', 'r3_wait_active'}
    assert not stage.carry_out('bag', bag='/missing.mcap')
    assert stage.status != 0


def test_the_webcam_comes_from_either_driver_and_may_be_undistorted(stage):
    started = stage.carry_out('webcam', device='/dev/video2', width='1280', height='720')
    driver = only(started, 'v4l2_camera_node')
    values = driver.parameters()
    assert values['video_device'] == '/dev/video2'
    assert list(values['image_size']) == [1280, 720]
    assert driver.remappings['__ns'] == '/camera'
    assert only(started, 'r3_stream').remappings['image'] == '/camera/image_raw'
    started = stage.carry_out('webcam', driver='usb_cam', rectify='true')
    values = only(started, 'usb_cam_node_exe').parameters()
    assert (values['image_width'], values['image_height']) == (640, 480)
    assert only(started, 'rectify_node').remappings['image'] == '/camera/image_raw'
    assert only(started, 'r3_stream').remappings['image'] == '/camera/image_rect'


@pytest.mark.parametrize(('name', 'program'), EXAMPLES.items())
def test_examples_start_both_and_take_arguments_of_the_node(stage, name, program):
    started = stage.carry_out(f'examples/launch/{name}', image_topic='/eye/image')
    assert stage.status == 0
    assert only(started, 'r3_stream').remappings['image'] == '/eye/image'
    other = only(started, program)
    topics = [new for new in other.remappings.values() if new.startswith('/r3/')]
    assert topics or name == 'robot_localization'
    assert {topic.removeprefix('/r3/') for topic in topics} <= TOPICS.keys()
    other.parameters()


def test_in_the_examples_each_frame_has_one_owner(stage):
    started = stage.carry_out('examples/launch/rtabmap')
    r3, rtabmap = (only(started, p).parameters() for p in ('r3_stream', 'rtabmap'))
    assert r3['publish_map_to_odom_tf'] is False and rtabmap['publish_tf'] is True
    assert r3['base_frame'] == rtabmap['frame_id'] == 'camera_link'
    started = stage.carry_out('examples/launch/robot_localization')
    r3, ekf = (only(started, p).parameters() for p in ('r3_stream', 'ekf_node'))
    assert r3['publish_map_to_odom_tf'] is False and r3['publish_odom_to_base_tf'] is False
    assert ekf['odom0'] == '/r3/odometry' and ekf['base_link_frame'] == r3['base_frame']
    assert ekf['world_frame'] == ekf['odom_frame'] == 'odom'
    assert only(stage.carry_out('examples/launch/rviz'), 'rviz2')


def test_the_example_for_nav2_starts_it_with_the_users_parameters(stage, tmp_path):
    own = write_parameters(tmp_path / 'nav2.yaml', 'servers', width=3)
    server = stage.prefix / 'share/nav2_bringup/launch'
    server.mkdir()
    (server / 'navigation_launch.py').write_text(
        'from launch import LaunchDescription\n'
        'from launch.substitutions import LaunchConfiguration\n'
        'from launch_ros.actions import Node\n'
        'def generate_launch_description():\n'
        '    return LaunchDescription([Node(\n'
        "        package='nav2_bringup', executable='servers', name='servers',\n"
        "        parameters=[LaunchConfiguration('params_file')])])\n"
    )
    stage.record('nav2_bringup', 'servers')
    started = stage.carry_out('examples/launch/nav2', nav2_params_file=own)
    node = only(started, 'r3_stream').parameters()
    assert node['publish_odom_to_base_tf'] is False and node['base_frame'] == 'base_link'
    assert node['scale.source'] == 'odometry'
    assert only(started, 'servers').parameters()['width'] == 3


def test_two_cameras_share_no_name_frame_or_folder(stage, tmp_path):
    started = stage.carry_out(
        'two_cameras', map_directory=str(tmp_path / 'maps'), frame_policy='queue'
    )
    left, right = started
    assert (left.name, right.name) == ('/left/r3', '/right/r3')
    a, b = left.parameters(), right.parameters()
    for parameter in ('map_frame', 'odom_frame', 'map.directory'):
        assert a[parameter] != b[parameter]
    assert a['map_frame'] == 'left/map' and b['odom_frame'] == 'right/odom'
    assert left.remappings['image'] == '/left/image_raw'
    # What is set for neither goes to both.
    assert a['input.frame_policy'] == b['input.frame_policy'] == 'queue'
