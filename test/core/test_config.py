"""The one place of every default: documented, in range, frozen, and read from YAML."""

from dataclasses import FrozenInstanceError
import math

import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.errors import ConfigError
from r3_ros.core.parameter_fields import flattened, load_config, parameters, updated
import yaml

ALL = list(parameters(R3Config()))


def test_the_defaults_are_a_valid_configuration():
    R3Config().validate()
    assert [p.name for p in ALL if p.value != p.default] == []


def test_names_are_unique_dotted_paths():
    names = [p.name for p in ALL]
    assert len(set(names)) == len(names)
    assert {name.count('.') for name in names} == {0, 1}
    assert 'keyframe.max_keyframes' in names and 'autostart' in names


@pytest.mark.parametrize('parameter', ALL, ids=lambda p: p.name)
def test_every_parameter_is_documented_and_bounded(parameter):
    meta = parameter.meta
    assert len(meta.help) > 10 and not meta.help.endswith('.')
    assert parameter.check(parameter.default) == parameter.default
    assert parameter.kind in (bool, int, float, str)
    if parameter.kind in (int, float):
        # ROS descriptors need both ends.
        assert meta.low is not None and meta.high is not None and meta.low < meta.high
        assert parameter.check(parameter.kind(meta.low)) == meta.low
        assert parameter.check(parameter.kind(meta.high)) == meta.high
        for beyond in (meta.low - 1, meta.high + 1):
            with pytest.raises(ConfigError, match=parameter.name):
                parameter.check(parameter.kind(beyond))
    if meta.choices:
        with pytest.raises(ConfigError, match='one of'):
            parameter.check('no such choice')
    assert parameter.allowed


@pytest.mark.parametrize(
    'name,value',
    [
        ('input.queue_size', 3.0),
        ('input.queue_size', True),
        ('input.queue_size', '3'),
        ('autostart', 1),
        ('map_frame', 7),
        ('input.max_rate', '10'),
        ('input.max_rate', math.nan),
        ('input.max_rate', math.inf),
        ('map.voxel_size', None),
    ],
)
def test_wrong_types_and_numbers_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        updated(R3Config(), {name: value})


def test_an_integer_will_do_for_a_number():
    config = updated(R3Config(), {'input.max_rate': 15})
    assert config.input.max_rate == 15.0 and type(config.input.max_rate) is float


def test_a_change_is_a_new_object():
    config = R3Config()
    changed = updated(config, {'keyframe.max_keyframes': 7, 'map_frame': 'world'})
    assert (changed.keyframe.max_keyframes, changed.map_frame) == (7, 'world')
    assert config == R3Config()
    assert flattened(changed).items() - flattened(config).items() == {
        ('keyframe.max_keyframes', 7),
        ('map_frame', 'world'),
    }
    with pytest.raises(FrozenInstanceError):
        config.keyframe.max_keyframes = 7
    with pytest.raises(FrozenInstanceError):
        config.map_frame = 'world'


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'keyframe.max_keyframes'"):
        updated(R3Config(), {'keyframe.max_keyframe': 7})
    with pytest.raises(ConfigError, match="unknown parameter 'keyframe'"):
        updated(R3Config(), {'keyframe': 7})


@pytest.mark.parametrize(
    'changes,match',
    [
        ({'map_frame': '/map'}, 'slash'),
        ({'odom_frame': ''}, 'odom_frame'),
        ({'base_frame': 'map'}, 'must differ'),
        ({'map_frame': 'odom'}, 'must differ'),
        ({'tracking.lost_ratio': 0.9}, 'low_confidence_ratio'),
        ({'points.min_range': 30.0}, 'max_range'),
    ],
)
def test_parameters_must_not_contradict_one_another(changes, match):
    with pytest.raises(ConfigError, match=match):
        updated(R3Config(), changes)


def test_no_limit_and_no_base_frame_are_allowed():
    config = updated(R3Config(), {'points.max_range': 0, 'points.min_range': 30.0})
    assert config.points.max_range == 0.0
    assert updated(R3Config(), {'base_frame': 'base_link'}).base_frame == 'base_link'


def write(tmp_path, text):
    path = tmp_path / 'params.yaml'
    path.write_text(text)
    return path


def test_plain_yaml_nested_or_dotted(tmp_path):
    path = write(tmp_path, 'map: {voxel_size: 0.1}\nkeyframe.max_interval: 7\n')
    config = load_config(path, updated(R3Config(), {'map_frame': 'world'}))
    assert (config.map.voxel_size, config.keyframe.max_interval) == (0.1, 7)
    assert config.map_frame == 'world'


def test_ros_yaml_of_several_nodes_and_what_belongs_to_rclpy(tmp_path):
    content = {
        '/**': {'ros__parameters': {'use_sim_time': True, 'map': {'voxel_size': 0.1}}},
        'r3': {
            'ros__parameters': {
                'map': {'voxel_size': 0.2, 'enabled': False},
                'qos_overrides': {'/tf': {'publisher': {'depth': 1}}},
            }
        },
        '/ns/r3': {'ros__parameters': None},
    }
    config = load_config(write(tmp_path, yaml.safe_dump(content, sort_keys=False)), R3Config())
    assert config.map.voxel_size == 0.2 and not config.map.enabled


def test_every_default_survives_a_trip_through_ros_yaml(tmp_path):
    tree = {}
    for name, value in flattened(R3Config()).items():
        *group, leaf = name.split('.')
        (tree.setdefault(group[0], {}) if group else tree)[leaf] = value
    path = write(tmp_path, yaml.safe_dump({'r3': {'ros__parameters': tree}}))
    assert load_config(path, R3Config()) == R3Config()


@pytest.mark.parametrize(
    'text',
    [
        '[1, 2]',
        'a: [unclosed',
        'map: {voxel_size: [1, 2]}',
        'map: {voxel_sise: 1.0}',
        'r3: {ros__parameters: 3}',
        'covariance: {unscaled_factor: 5e1}',  # YAML reads this as text
        '1: 2',
    ],
)
def test_bad_files_are_named(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match='params.yaml'):
        load_config(path, R3Config())


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match='nowhere.yaml'):
        load_config(tmp_path / 'nowhere.yaml', R3Config())
    path = tmp_path / 'params.yaml'
    path.write_bytes(b'\xff\xfe\x00\x80')
    with pytest.raises(ConfigError, match='params.yaml'):
        load_config(path, R3Config())


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_config(write(tmp_path, '# nothing\n'), R3Config()) == R3Config()
