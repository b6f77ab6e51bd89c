"""The report page: one file, nothing fetched, every part there."""

from html.parser import HTMLParser
import re

import cv2
import numpy as np
import pytest
from r3_ros import __version__, factory
from r3_ros.commands.cli import main
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import make_T
from r3_ros.evaluation.figures import encoded, new_figure
from r3_ros.evaluation.map_views import draw_from_half_way, draw_plan, level_scene
from r3_ros.evaluation.report.report_page import write_report
from r3_ros.maps.cloud import Cloud
import scripted
from sequences import write_folder

#: Elements of HTML and SVG that have no end.
VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}


class Outline(HTMLParser):
    """Checks that elements are closed in order, and collects what a page refers to."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.headings = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.references += [v for k, v in attributes if k in ('src', 'href', 'xlink:href') and v]

    def handle_startendtag(self, tag, attributes):
        self.references += [v for k, v in attributes if k in ('src', 'href') and v]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == 'h2':
            self.headings.append(data)


@pytest.fixture
def run(tmp_path, monkeypatch):
    def make(script=None, count=30, *extra):
        monkeypatch.setattr(
            factory, 'load_predictor', lambda config: scripted.ScriptedPredictor(script)
        )
        folder = write_folder(tmp_path / 'my <seq> & co', count=count)
        out = tmp_path / 'out'
        assert main(['run', str(folder), '-o', str(out), *extra]) == 0
        return out

    return make


def test_the_page_is_whole_and_needs_nothing_else(run):
    out = run()
    truth = out.parent / 'my <seq> & co' / 'groundtruth.txt'
    assert main(['eval', str(out), '--groundtruth', str(truth)]) == 0
    page = (out / 'report.html').read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.headings == [
        'Trajectory',
        'Map',
        'Confidence and state',
        'Time per frame',
        'Against the truth',
        'Details',
    ]
    assert outline.references and all(r.startswith('data:image/') for r in outline.references)
    assert len(outline.references) == page.count('<img alt="') == 5
    assert len(page) < 3_000_000
    text = re.sub(r'src="data:[^"]*"', '', page)
    assert not re.search(r'https?://|@import|url\(|<script', text)
    assert 'my &lt;seq&gt; &amp; co' in text and '<seq>' not in text
    assert 'NaN' not in text and '>nan' not in text


def test_a_run_without_any_pose_has_a_page(run):
    script = scripted.Script(blackouts=range(1, 100), depth_size=None)
    out = run(script, 12)
    (out / 'trajectory_final.tum').write_text('# nothing\n')
    write_report(out)
    page = (out / 'report.html').read_text()
    assert 'Confidence and state' in page and '<h2>Trajectory' not in page


def test_a_run_that_never_started_says_so(run):
    out = run(scripted.Script(blackouts=range(1, 100), depth_size=None), 12)
    page = (out / 'report.html').read_text()
    assert 'Nothing was tracked' in page and 'The map is empty' in page
    assert f'r3_ros {__version__}, python' in page


@pytest.mark.slow
def test_a_truth_that_stands_still_gives_no_share_of_its_path(run, tmp_path):
    out = run(None, 12)
    truth = tmp_path / 'still.tum'
    stamps = [line.split()[0] for line in (out / 'trajectory.tum').read_text().splitlines()[1:]]
    truth.write_text(''.join(f'{text} 1 2 3 0 0 0 1\n' for text in stamps))
    assert main(['eval', str(out), '--groundtruth', str(truth)]) == 0
    page = (out / 'report.html').read_text()
    assert re.search(r'<b>\d+\.\d+<small> m</small></b><span>position error', page)
    assert 'of the path: position error' not in page


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(SourceError, match='cannot read'):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'content'),
    [('frames.csv', 'x\n'), ('frames.csv', 'stamp,a\n1.0\n'), ('evaluation.json', '{')],
)
def test_a_damaged_file_is_reported(run, name, content):
    out = run(count=3)
    (out / name).write_text(content)
    with pytest.raises(SourceError, match='damaged'):
        write_report(out)


def scene(points, colors, T=None):
    cloud = Cloud(
        np.array(points, np.float32), np.array(colors, np.uint8), np.ones(len(points), np.float32)
    )
    T = np.tile(np.eye(4), (2, 1, 1)) if T is None else T
    return level_scene(cloud, T)


def test_levelling_puts_up_up_and_forward_ahead():
    """Optical axes: y is down, z is ahead; a rolled world must come out level all the same."""
    roll = make_T(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.zeros(3))
    points = np.array([[0.0, -1, 0], [0, 0, 2], [3, 0, 0]])  # above, ahead, right
    for T in (np.eye(4), roll):
        moved = points @ T[:3, :3].T
        levelled = scene(moved, np.zeros((3, 3)), np.tile(T, (3, 1, 1))).cloud.points
        np.testing.assert_allclose(levelled, [[0, 0, 1], [0, 2, 0], [3, 0, 0]], atol=1e-6)


def test_the_nearest_point_is_seen():
    red, blue = (255, 0, 0), (0, 0, 255)
    for order in (1, -1):
        both = scene([[0, 0, 2.0], [0, 0, 4.0]][::order], [red, blue][::order])
        figure = new_figure(4, 3)
        draw_from_half_way(figure.subplots(), both)
        image = cv2.imdecode(np.frombuffer(encoded(figure, 50), np.uint8), cv2.IMREAD_COLOR)
        # In the middle, BGR.
        assert image[75, 100].tolist() == [0, 0, 255]


def test_plans_are_to_scale_with_right_and_up_where_they_belong():
    # Optical axes: right, up and ahead of the first camera.
    points, colors = [[1.0, 0, 0], [0, -1.0, 0], [0, 0, 3.0]], [[255, 0, 0]] * 3
    for view, expected in (
        ('from above', [[1, 0], [0, 0], [0, 3]]),
        ('from the right', [[0, 0], [0, 1], [3, 0]]),
    ):
        axes = new_figure(4, 3).subplots()
        draw_plan(axes, scene(points, colors), 'm', np.array([0]), view)
        drawn = np.asarray(axes.collections[0].get_offsets())
        assert sorted(drawn.round(6).tolist()) == sorted(expected)
        assert axes.get_aspect() == 1


def test_a_camera_that_stands_is_drawn_as_a_point():
    T = np.tile(np.eye(4), (20, 1, 1))
    T[:, :3, 3] = 1e-12 * np.random.default_rng(0).normal(size=(20, 3))
    axes = new_figure(4, 3).subplots()
    still = scene(np.zeros((0, 3)), np.zeros((0, 3)), T)
    draw_plan(axes, still, 'm', np.array([0]), 'from above')
    assert np.ptp(axes.get_xlim()) > 1e-3


def test_a_large_cloud_is_thinned_evenly_and_always_alike():
    points = np.linspace(0, 1, 1_000_000)[:, None] * [1.0, 0.0, 0.0]
    first, again = (scene(points, np.zeros((len(points), 3))).cloud.points for _ in range(2))
    assert len(first) < 200_000
    np.testing.assert_array_equal(first, again)
    assert np.diff(first[:, 0]).max() < 1e-4
