"""The report page: one file, nothing fetched, every part there."""

from html.parser import HTMLParser
import re

import numpy as np
import pytest
from r3_ros import __version__, factory
from r3_ros.cli import main
from r3_ros.errors import SourceError
from r3_ros.geometry import make_T
from r3_ros.maps.cloud import Cloud
from r3_ros.report.charts import Line, line_chart, plan_box, tick_text, ticks
from r3_ros.report.page import write_report
from r3_ros.report.views import BACKGROUND, from_above, level_scene, perspective, View
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
    assert not re.search(r'https?://|@import|url\(', page)
    assert 'my &lt;seq&gt; &amp; co' in page and '<seq>' not in page
    assert 'NaN' not in page and '>nan' not in page


def test_a_run_without_any_pose_has_a_page(run):
    script = scripted.Script(blackouts=range(1, 100), depth_size=None)
    out = run(script, 12)
    (out / 'trajectory_final.tum').write_text('# nothing\n')
    write_report(out)
    page = (out / 'report.html').read_text()
    assert 'Confidence and state' in page and '<h2>Trajectory' not in page


def test_a_run_that_never_started_says_so_and_draws_no_rounding_errors(run):
    out = run(scripted.Script(blackouts=range(1, 100), depth_size=None), 12)
    page = (out / 'report.html').read_text()
    assert 'Nothing was tracked' in page and 'The map is empty' in page
    assert f'r3_ros {__version__}, python' in page
    assert not re.search(r'>-?\d+(\.\d+)?e-\d+</text>', page)


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


@pytest.mark.parametrize(
    ('name', 'content'),
    [('frames.csv', 'x\n'), ('frames.csv', 'stamp,a\n1.0\n'), ('evaluation.json', '{')],
)
def test_a_damaged_file_is_told(run, name, content):
    out = run(count=3)
    (out / name).write_text(content)
    with pytest.raises(SourceError, match='damaged'):
        write_report(out)


def test_ticks_are_round_and_inside():
    for low, high in ((0.0, 1.0), (-3.7, 12.2), (0.0, 1e-6), (1e5, 1.3e5)):
        values = ticks(low, high)
        assert 2 <= len(values) <= 12
        assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)
        assert all(len(tick_text(value)) <= 8 for value in values)


def test_gaps_break_a_line_and_spikes_survive_thinning():
    x = np.arange(10_000.0)
    y = np.ones(10_000)
    y[5000:5010] = np.nan
    y[7777] = 50.0
    svg = line_chart(x, [Line('', y)], 'value')
    assert svg.count('<polyline') == 2
    heights = [float(p.split(',')[1]) for p in re.findall(r'[\d.]+,[\d.]+', svg)]
    assert min(heights) < 40 and len(heights) < 4000


def test_a_plan_keeps_its_proportions():
    low, high = plan_box(np.array([[0.0, 0.0], [10.0, 1.0]]), aspect=4 / 3)
    assert (high - low)[0] / (high - low)[1] == pytest.approx(4 / 3)
    assert (low <= 0).all() and (high >= [10, 1]).all()


def scene(points, colors, T=None):
    cloud = Cloud(
        np.array(points, np.float32), np.array(colors, np.uint8), np.ones(len(points), np.float32)
    )
    T = np.tile(np.eye(4), (2, 1, 1)) if T is None else T
    return level_scene(cloud, T, spacing=0.05)


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
        view = View('', np.array([0.0, 0, 0]), np.array([0.0, 1, 0]), with_path=False)
        image = perspective(both, view, (80, 60))
        assert image[30, 40, 0] > 150 and image[30, 40, 2] < 50
        assert tuple(image[0, 0]) == BACKGROUND


def test_from_above_right_is_right_and_ahead_is_up():
    points, colors = [[1.0, 0, 0], [0, 0, 1.0]], [(255, 0, 0), (0, 255, 0)]
    image = from_above(scene(points, colors), (50, 50), np.array([-2.0, -2]), np.array([2.0, 2]))
    red = np.argwhere((image[..., 0] > 200) & (image[..., 3] > 0)).mean(axis=0)
    green = np.argwhere((image[..., 1] > 200) & (image[..., 3] > 0)).mean(axis=0)
    assert red[1] > 30 and abs(red[0] - 25) < 3  # (row, column)
    assert green[0] < 20 and abs(green[1] - 25) < 3
