"""What the launch files can be told, their presets and parameter files, without launch."""

import ast
from pathlib import Path

import pytest
from r3_ros.core.config import flattened, load_config, parameters, R3Config
from r3_ros.core.errors import ConfigError
from r3_ros.ros.launch.launch_arguments import (
    BOOLEAN,
    frame_name,
    node_name,
    preset_file,
    PRESETS,
    STREAM,
    with_defaults,
    without,
)
from r3_ros.ros.launch.parameter_files import overlaid, read_tree, renamed, write_tree
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'config'
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
BY_NAME = {argument.name: argument for argument in STREAM}


def test_the_documented_arguments_are_there_and_explained():
    wanted = (
        'image_topic camera_info_topic transport checkpoint preset params_file namespace name '
    )
    wanted += 'map_frame odom_frame base_frame publish_map_to_odom_tf publish_odom_to_base_tf '
    wanted += 'scale_source scale frame_policy use_sim_time rviz rviz_config autostart respawn '
    wanted += 'log_level model frame_prefix odom_topic'
    assert set(wanted.split()) == BY_NAME.keys()
    assert all(len(argument.description) > 10 for argument in STREAM)


def test_arguments_set_parameters_that_exist_in_their_types_and_choices():
    known = {p.name: p for p in parameters()}
    setting = [a for a in STREAM if a.parameter and a.parameter != 'use_sim_time']
    assert len(setting) >= 12
    for argument in setting:
        parameter = known[argument.parameter]
        assert argument.kind is parameter.kind
        choices = BOOLEAN if parameter.kind is bool else parameter.meta.choices
        assert argument.choices == tuple(choices)
        assert parameter.meta.help in argument.description
        # A default here would hide what a file says.
        assert argument.default == ''
        assert argument.allowed[:1] == (('',) if choices else ())


def test_a_launch_file_may_have_other_defaults_of_the_same_arguments():
    changed = {a.name: a for a in with_defaults(STREAM, base_frame='base_link', rviz='true')}
    assert changed['base_frame'].default == 'base_link'
    assert changed['rviz'].default == 'true'
    assert changed.keys() == BY_NAME.keys()
    with pytest.raises(KeyError, match='base_fram'):
        with_defaults(STREAM, base_fram='x')
    assert 'rviz' not in {a.name for a in without(STREAM, 'rviz')}


def test_a_default_may_be_taken_back_to_what_the_files_say():
    (changed,) = (
        a
        for a in with_defaults(STREAM, publish_odom_to_base_tf='false')
        if a.name == 'publish_odom_to_base_tf'
    )
    assert changed.allowed == ('', *BOOLEAN)


@pytest.mark.parametrize(
    ('prefix', 'given', 'expected'),
    [('', '', ''), ('', 'world', 'world'), ('left/', '', 'left/map'), ('l_', 'world', 'l_world')],
)
def test_a_prefix_goes_before_the_frame_or_its_usual_name(prefix, given, expected):
    assert frame_name(prefix, given, 'map_frame') == expected


@pytest.mark.parametrize(
    ('namespace', 'expected'), [('', '/r3'), ('left', '/left/r3'), ('/a/b/', '/a/b/r3')]
)
def test_full_names(namespace, expected):
    assert node_name(namespace, 'r3') == expected


# Presets.


def preset_values(name):
    tree = yaml.safe_load(preset_file(name, CONFIG).read_text())
    return dict(flat(tree['/**']['ros__parameters']))


def flat(group, prefix=''):
    for name, value in group.items():
        if isinstance(value, dict):
            yield from flat(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', value


def test_presets_are_those_of_the_folder():
    assert {path.stem for path in CONFIG.glob('preset_*.yaml')} == {
        f'preset_{name}' for name in PRESETS
    }


@pytest.mark.parametrize('name', PRESETS)
def test_presets_hold_parameters_in_their_ros_types_and_a_reason_for_each(name):
    load_config(preset_file(name, CONFIG))
    kinds = {p.name: p.kind for p in parameters()}
    assert all(type(value) is kinds[key] for key, value in preset_values(name).items())
    lines = [line.strip() for line in preset_file(name, CONFIG).read_text().splitlines()]
    for before, line in zip(lines, lines[1:], strict=False):
        if ': ' in line and not line.startswith('#'):
            assert before.startswith('#'), f'{line} has no reason'


def test_indoors_is_what_the_node_does_by_itself():
    defaults = flattened(R3Config())
    assert preset_values('indoor').items() <= defaults.items()
    assert preset_values('indoor').keys() == preset_values('outdoor_long').keys()


@pytest.mark.parametrize('name', ['outdoor_long', 'low_vram'])
def test_the_other_presets_change_all_that_they_name(name):
    defaults = flattened(R3Config())
    assert not [key for key, value in preset_values(name).items() if defaults[key] == value]


def test_low_vram_has_room_for_the_context_it_asks_for():
    """23 MiB a frame at 504x280 in bf16, by the number of patches."""
    config = load_config(preset_file('low_vram', CONFIG))
    entry_mib = 23 * (config.model.image_size / 504) ** 2
    stream = config.stream
    frames = 2 + stream.recent_frames + stream.recent_keyframes + stream.retrieved_keyframes
    assert frames * entry_mib < config.memory.max_gpu_mib < R3Config().memory.max_gpu_mib
    image_mib = 0.4 * (config.model.image_size / 504) ** 2
    assert config.keyframe.max_keyframes * image_mib < config.memory.max_host_mib


def test_a_preset_may_be_a_file(tmp_path):
    own = tmp_path / 'mine.yaml'
    own.write_text('')
    assert preset_file(str(own), CONFIG) == own
    with pytest.raises(ConfigError, match='outdoor_long'):
        preset_file('outdoors', CONFIG)


# Files of other packages.


def test_our_part_is_laid_over_the_file_of_another_package():
    base = {'costmap': {'plugins': ['static'], 'width': 3}, 'planner': {'rate': 1.0}}
    overlay = {'costmap': {'plugins': ['r3_layer'], 'r3_layer': {'topic': '/r3/points'}}}
    assert overlaid(base, overlay) == {
        'costmap': {'plugins': ['r3_layer'], 'width': 3, 'r3_layer': {'topic': '/r3/points'}},
        'planner': {'rate': 1.0},
    }
    assert base['costmap']['plugins'] == ['static']


def test_names_of_the_node_are_moved_and_others_are_not():
    tree = {'a': '/r3/points', 'b': ['/r3', '/r3_other/points'], 'c': 3, 'd': 'r3'}
    assert renamed(tree, '/r3', '/left/r3') == {
        'a': '/left/r3/points',
        'b': ['/left/r3', '/r3_other/points'],
        'c': 3,
        'd': 'r3',
    }


def test_parameter_files_come_back_as_they_were_and_bad_ones_are_told(tmp_path):
    shared = {'topic': '/r3/points'}
    path = write_tree({'one': shared, 'two': dict(shared)})
    text = Path(path).read_text()
    Path(path).unlink()
    assert yaml.safe_load(text) == {'one': shared, 'two': shared}
    # The YAML reader of ROS knows no aliases.
    assert '&' not in text and '*' not in text
    with pytest.raises(ConfigError, match='missing'):
        read_tree(tmp_path / 'missing.yaml')
    (tmp_path / 'list.yaml').write_text('- 1\n')
    with pytest.raises(ConfigError, match='holds no parameters'):
        read_tree(tmp_path / 'list.yaml')


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_say_how_they_are_started_and_repeat_no_argument(path):
    tree = ast.parse(path.read_text())
    assert f'ros2 launch r3_ros {path.name}' in ast.get_docstring(tree)
    assert 'DeclareLaunchArgument' not in path.read_text()


def test_every_launch_file_of_the_interface_is_there():
    names = 'bag depth_image_proc nav2_overlay nvblox_bridge octomap robot_localization '
    names += 'rtabmap_bridge rviz stream two_cameras webcam'
    assert {path.name.removesuffix('.launch.py') for path in LAUNCH_FILES} == set(names.split())
