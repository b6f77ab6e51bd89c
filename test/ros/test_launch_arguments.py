"""What launch arguments set, and the presets, without launch."""

import ast

from paths import ROOT
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.errors import ConfigError
from r3_ros.core.parameter_fields import flattened, load_config, parameters
from r3_ros.ros.launch.launch_arguments import (
    parameter_arguments,
    parameter_files,
    parameter_texts,
    PRESETS,
)
import yaml

CONFIG = ROOT / 'config'
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))


def given(**texts):
    return {a.name: '' for a in parameter_arguments()} | {'frame_prefix': ''} | texts


def test_arguments_set_parameters_that_exist_in_their_types_and_choices():
    known = {p.name: p for p in parameters(R3Config())}
    setting = [a for a in parameter_arguments() if a.parameter != 'use_sim_time']
    assert len(setting) >= 12
    for argument in setting:
        parameter = known[argument.parameter]
        assert argument.kind is parameter.kind
        choices = ('true', 'false') if parameter.kind is bool else tuple(parameter.meta.choices)
        # Empty is the default, and a choice: it leaves the parameter to the files.
        assert argument.choices == (('', *choices) if choices else ())
        assert parameter.meta.help in argument.description


def test_what_is_given_is_set_and_nothing_else():
    assert parameter_texts(given()) == {}
    assert parameter_texts(given(scale='2', autostart='false', use_sim_time='true')) == {
        'scale.fixed': ('2', float),
        'autostart': ('false', bool),
        'use_sim_time': ('true', bool),
    }


@pytest.mark.parametrize(
    ('prefix', 'name', 'expected'),
    [
        ('', '', None),
        ('', 'world', 'world'),
        ('left/', '', 'left/map'),
        ('l_', 'world', 'l_world'),
    ],
)
def test_a_prefix_goes_before_the_frame_or_its_usual_name(prefix, name, expected):
    texts = parameter_texts(given(frame_prefix=prefix, map_frame=name))
    assert texts.get('map_frame', (None,))[0] == expected
    assert ('odom_frame' in texts) == bool(prefix)


# Presets.


def preset_values(name):
    tree = yaml.safe_load(parameter_files(name, '', CONFIG)[0].read_text())
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
    load_config(parameter_files(name, '', CONFIG)[0], R3Config())
    kinds = {p.name: p.kind for p in parameters(R3Config())}
    assert all(type(value) is kinds[key] for key, value in preset_values(name).items())
    lines = [
        line.strip() for line in parameter_files(name, '', CONFIG)[0].read_text().splitlines()
    ]
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
    config = load_config(*parameter_files('low_vram', '', CONFIG), R3Config())
    entry_mib = 23 * (config.model.image_size / 504) ** 2
    stream = config.stream
    frames = 2 + stream.recent_frames + stream.recent_keyframes + stream.retrieved_keyframes
    assert frames * entry_mib < config.memory.max_gpu_mib < R3Config().memory.max_gpu_mib
    image_mib = 0.4 * (config.model.image_size / 504) ** 2
    assert config.keyframe.max_keyframes * image_mib < config.memory.max_host_mib


def test_a_preset_may_be_a_file_and_another_file_comes_after_it(tmp_path):
    own = tmp_path / 'mine.yaml'
    own.write_text('')
    assert parameter_files(str(own), '', CONFIG) == [own]
    assert parameter_files('indoor', str(own), CONFIG) == [CONFIG / 'preset_indoor.yaml', own]
    with pytest.raises(ConfigError, match='outdoor_long'):
        parameter_files('outdoors', '', CONFIG)
    with pytest.raises(ConfigError, match='missing.yaml'):
        parameter_files('indoor', 'missing.yaml', CONFIG)


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_say_how_they_are_started(path):
    assert f'ros2 launch r3_ros {path.name}' in ast.get_docstring(ast.parse(path.read_text()))
