"""The page and the parameter files for other packages speak of topics that exist, as they are."""

import ast
import re

from paths import ROOT
import pytest
import yaml

EXAMPLES = ROOT / 'examples' / 'launch'
FILES = sorted((ROOT / 'config' / 'integration').glob('*.yaml'))
PAGE = (ROOT / 'docs' / 'integration.md').read_text(encoding='utf-8')
SECTIONS = dict(re.findall(r'^## (.+)\n((?:(?!^## ).*\n?)*)', PAGE, re.M))
LAUNCH = {
    'nav2': 'nav2',
    'depth_image_proc': 'depth_image_proc',
    'nvblox': 'nvblox',
    'RTAB-Map': 'rtabmap',
    'robot_localization': 'robot_localization',
    'octomap_server': 'octomap',
}

#: Of nav2_costmap_2d's ObstacleLayer and its observation sources, and nav2_collision_monitor's
#: point clouds, in Jazzy.
LAYER = {'plugin', 'enabled', 'observation_sources', 'points'}
OBSERVATION = {
    'topic', 'data_type', 'min_obstacle_height', 'max_obstacle_height', 'obstacle_min_range',
    'obstacle_max_range', 'raytrace_min_range', 'raytrace_max_range', 'marking', 'clearing',
    'observation_persistence', 'expected_update_rate', 'sensor_frame', 'inf_is_valid',
}  # fmt: skip
MONITORED = {
    'type', 'topic', 'min_height', 'max_height', 'min_range', 'use_global_height', 'enabled',
    'source_timeout',
}  # fmt: skip


def texts(tree):
    """Yield every text in a tree of parameters."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from texts(value)
    elif isinstance(tree, str):
        yield tree


@pytest.mark.ros
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_files_are_read_by_ros_and_name_our_topics(path):
    from r3_ros.ros.outputs.outputs import TOPICS

    text = path.read_text()
    tree = yaml.safe_load(text)
    # The YAML reader of ROS knows no aliases.
    assert not re.search(r'(: |- )[&*]\w', text)
    assert f'{path.stem}' in text.lower().replace('-', '') or 'octomap' in text
    for value in texts(tree):
        if value.startswith('/r3'):
            assert value.removeprefix('/r3/') in TOPICS, value


@pytest.mark.ros
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_files_hold_parameters_as_rcl_reads_them(path, tmp_path):
    import rclpy

    context = rclpy.Context()
    # It raises where rcl cannot read the file.
    rclpy.init(args=['--ros-args', '--params-file', str(path)], context=context)
    node = rclpy.create_node('any', context=context, start_parameter_services=False)
    assert context.ok() and node.get_name() == 'any'
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_nav2_gets_parameters_that_it_has():
    tree = yaml.safe_load((ROOT / 'config' / 'integration' / 'nav2.yaml').read_text())
    layers = [
        tree[name][name]['ros__parameters']['r3_layer']
        for name in ('local_costmap', 'global_costmap')
    ]
    assert layers[0] == layers[1]
    assert layers[0].keys() == LAYER
    assert layers[0]['points'].keys() <= OBSERVATION
    assert layers[0]['points']['data_type'] == 'PointCloud2'
    monitor = tree['collision_monitor']['ros__parameters']
    assert monitor['points'].keys() <= MONITORED and monitor['points']['type'] == 'pointcloud'
    # Silence must not look like a free way.
    assert layers[0]['points']['expected_update_rate'] > 0 and monitor['source_timeout'] > 0


def test_every_package_has_a_section_with_its_launch_file():
    assert LAUNCH.keys() <= SECTIONS.keys()
    for title, name in LAUNCH.items():
        assert f'ros2 launch examples/launch/{name}.launch.py' in SECTIONS[title]
        assert (EXAMPLES / f'{name}.launch.py').exists()


@pytest.mark.ros
@pytest.mark.parametrize('title', LAUNCH)
def test_connections_are_of_our_topics_in_their_types(title):
    from r3_ros.ros.outputs.outputs import TOPICS

    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in SECTIONS[title].splitlines()
        if line.startswith('| `')
    ]
    assert rows
    for ours, _, kind, *_ in rows:
        for topic in re.findall(r'`~/([\w/]+)`', ours):
            message = TOPICS[topic][0]
            assert f'{message.__name__}' in kind, f'{topic} is a {message.__name__}: {kind}'
        assert re.search(r'`(~/|/tf)', ours)


@pytest.mark.parametrize('path', sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_say_how_they_are_started_and_compile(path):
    tree = ast.parse(path.read_text())
    text = ast.get_docstring(tree)
    assert f'ros2 launch examples/launch/{path.name}' in text and 'Needs: ' in text
    compile(tree, str(path), 'exec')


@pytest.mark.ros
@pytest.mark.parametrize('title', LAUNCH)
def test_launch_files_connect_what_the_page_says(title):
    source = (EXAMPLES / f'{LAUNCH[title]}.launch.py').read_text()
    parameters = ROOT / 'config' / 'integration' / f'{title.lower()}.yaml'
    if parameters.exists():
        source += parameters.read_text()
    connected = set(re.findall(r'/r3/([\w/]+)', source))
    rows = [line.split('|')[1] for line in SECTIONS[title].splitlines() if line.startswith('| `')]
    reported = {topic for row in rows for topic in re.findall(r'`~/([\w/]+)`', row)}
    assert connected == reported
