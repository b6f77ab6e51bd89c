"""The RViz configurations show topics that exist, as what they are."""

from paths import ROOT
import pytest
from r3_ros.core.config import R3Config
import yaml

FILES = sorted(ROOT.glob('rviz/*.rviz'))
#: The plugins used, by rviz_default_plugins' plugins_description.xml, and what they show.
SHOWN = {
    'Image': 'Image',
    'Map': 'OccupancyGrid',
    'MarkerArray': 'MarkerArray',
    'Odometry': 'Odometry',
    'Path': 'Path',
    'PointCloud2': 'PointCloud2',
}
WITHOUT_TOPIC = {'Grid', 'TF'}
TOOLS = {
    'FocusCamera': None,
    'Measure': None,
    'MoveCamera': None,
    'PublishPoint': '/clicked_point',
    'Select': None,
    'SetGoal': '/goal_pose',
    'SetInitialPose': '/initialpose',
}
#: Topics of nav2 in nav.rviz: type and whether it is latched, as nav2 publishes them.
OF_NAV2 = {
    '/global_costmap/costmap': ('OccupancyGrid', True),
    '/local_costmap/costmap': ('OccupancyGrid', True),
    '/plan': ('Path', False),
}
WANTED = {
    'stream': {
        'color/image', 'depth/preview', 'points', 'map_points', 'path', 'odometry', 'markers',
    },
    'nav': {'keyframe_points', 'occupancy', 'points', 'path', 'odometry', 'markers'},
}  # fmt: skip

pytestmark = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def manager(path):
    return yaml.safe_load(path.read_text())['Visualization Manager']


def kind(item):
    package, _, name = item['Class'].partition('/')
    assert package == 'rviz_default_plugins'
    return name


@pytest.mark.ros
def test_displays_show_topics_of_their_type_with_their_durability(path):
    from r3_ros.ros.outputs.outputs import TOPICS

    ours = {
        f'/r3/{topic}': (message.__name__, latched)
        for topic, (message, _, latched) in TOPICS.items()
    }
    shown = set()
    for display in manager(path)['Displays']:
        if kind(display) in WITHOUT_TOPIC:
            assert 'Topic' not in display
            continue
        topic = display['Topic']
        message, latched = (ours | OF_NAV2)[topic['Value']]
        assert SHOWN[kind(display)] == message, display['Name']
        assert topic['Durability Policy'] == ('Transient Local' if latched else 'Volatile')
        assert topic['Reliability Policy'] == 'Reliable'
        shown.add(topic['Value'].removeprefix('/r3/'))
    assert WANTED[path.stem] <= shown


def test_the_fixed_frame_is_the_map(path):
    assert manager(path)['Global Options']['Fixed Frame'] == R3Config().map_frame


def test_names_of_displays_differ(path):
    names = [display['Name'] for display in manager(path)['Displays']]
    assert len(set(names)) == len(names)


def test_tools_publish_where_somebody_hears(path):
    for tool in manager(path)['Tools']:
        assert tool.get('Topic', {}).get('Value') == TOOLS[kind(tool)]


def test_the_view_is_one_that_exists(path):
    assert kind(manager(path)['Views']['Current']) == 'Orbit'


def test_the_map_is_drawn_in_the_size_of_its_voxels(path):
    (the_map,) = [d for d in manager(path)['Displays'] if d['Name'] == 'Map']
    assert the_map['Size (m)'] == R3Config().map.voxel_size
    assert the_map['Style'] == 'Flat Squares'


def test_the_saved_window_has_a_place_for_each_panel_and_image(path):
    content = yaml.safe_load(path.read_text())
    geometry = content['Window Geometry']
    docks = [panel['Name'] for panel in content['Panels']]
    docks += [d['Name'] for d in manager(path)['Displays'] if kind(d) == 'Image']
    # Qt writes the names of its docks as UTF-16.
    state = bytes.fromhex(geometry['QMainWindow State'])
    assert all(name.encode('utf-16-be') in state for name in docks)
    assert set(docks) <= geometry.keys()
