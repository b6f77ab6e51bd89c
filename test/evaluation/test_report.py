"""The report page: one file, nothing fetched, every part there."""

from html.parser import HTMLParser
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from r3_ros import __version__, factory
from r3_ros.commands.cli import main
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import make_T
from r3_ros.core.trajectory_file import read_tum
from r3_ros.evaluation.figures import draw_ellipse, encoded, new_figure
from r3_ros.evaluation.map_views import draw_from_half_way, draw_plan, level_scene
from r3_ros.evaluation.report.report_page import write_report
from r3_ros.evaluation.run_evaluation import evaluate_run
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
        # Not under its usual name, by which r3 run would find it.
        (folder / 'groundtruth.txt').rename(folder / 'truth.tum')
        out = tmp_path / 'out'
        assert main(['run', str(folder), '-o', str(out), *extra]) == 0
        return out

    return make


def test_the_page_is_whole_and_needs_nothing_else(run):
    out = run()
    truth = out.parent / 'my <seq> & co' / 'truth.tum'
    assert main(['eval', str(out), '--groundtruth', str(truth)]) == 0
    page = (out / 'report.html').read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.headings == [
        'Against the truth',
        'Trajectory',
        'Map',
        'Depth',
        'Over time',
        'Details',
    ]
    assert outline.references and all(r.startswith('data:image/') for r in outline.references)
    assert len(outline.references) == page.count('<img alt="')
    for title in (
        'Path beside the truth, from above',
        'Error and its bound',
        'Coverage of the covariances',
        'Time per frame',
        'Memory',
    ):
        assert f'<h3>{title}</h3>' in page
    assert '<h3>Expected error' not in page and page.count(': depth at ') == 2 * 6
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
    assert '<b>Not tracked at the start for 12 frames, until the end</b>' in page


def test_a_run_that_never_started_says_so(run):
    out = run(scripted.Script(blackouts=range(1, 100), depth_size=None), 12)
    page = (out / 'report.html').read_text()
    assert '<li>nothing was tracked' in page and 'The map is empty' in page
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
    with pytest.raises(SourceError, match='not the output of r3 run'):
        write_report(tmp_path)


def test_events_are_told_with_an_image_and_what_helps(run):
    page = (run(scripted.Script(blackouts=range(15, 22))) / 'report.html').read_text()
    (card,) = re.findall(r'<section class="panel event">.*?</section>', page)
    text = re.sub(r'src="data:image/jpeg;base64,[^"]{300,}"', 'IMAGE', card)
    assert text.startswith('<section class="panel event"><img alt="frame 15" IMAGE>')
    assert '<b>Lost for 9 frames (0.9 s)</b> <small>at 1.5 s, frame 15</small>' in text
    assert 'Move and turn more slowly' in text
    assert '<h3>Expected error' in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('frames.csv', 'x\n'),
        ('frames.csv', 'stamp,a\n1.0\n'),
        ('evaluation.json', '{'),
        ('covariances.npz', 'PK'),
    ],
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


def test_ellipses_lie_along_the_larger_spread():
    axes = new_figure(4, 3).subplots()
    along = np.array([np.cos(0.5), np.sin(0.5)])
    C = 0.04 * np.outer(along, along) + 0.0001 * (np.eye(2) - np.outer(along, along))
    draw_ellipse(axes, np.array([1.0, 2.0]), C, sigmas=3.0)
    (drawn,) = axes.patches
    assert drawn.width == pytest.approx(2 * 3 * 0.2) and drawn.height == pytest.approx(0.06)
    assert np.radians(drawn.angle) % np.pi == pytest.approx(0.5)


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


def test_a_report_is_written_anew_and_elsewhere(run, tmp_path, capsys):
    out = run(None, 3)
    before = (out / 'report.html').read_text()
    (out / 'report.html').unlink()
    assert main(['report', str(out)]) == 0
    assert (out / 'report.html').read_text() == before
    assert f'written to {out / "report.html"}' in capsys.readouterr().out
    write_report(out, tmp_path / 'other.html')
    assert (tmp_path / 'other.html').read_text() == before


def compared(tmp_path, *runs):
    assert main(['report', *map(str, runs), '-o', str(tmp_path / 'page.html')]) == 0
    page = (tmp_path / 'page.html').read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.open == [] and all(r.startswith('data:') for r in outline.references)
    assert outline.headings == [
        'Numbers',
        'Changed parameters',
        'Paths',
        'Time per frame and memory',
    ]
    return re.sub(r'src="data:[^"]*"', '', page)


def test_runs_are_compared_in_one_page(run, tmp_path):
    """One recording twice: the second time with noise and another parameter."""
    first = run(None, 12).rename(tmp_path / 'first')
    shutil.rmtree(tmp_path / 'my <seq> & co')
    second = run(scripted.Script(translation_noise=0.01), 12, '--set', 'map.voxel_size=0.05')
    page = compared(tmp_path, first, second)
    assert '<td>map.voxel_size</td><td>0.01</td><td>0.05</td>' in page
    assert '<td>tracked (%)</td><td class="number">91.7</td><td class="number">91.7</td>' in page
    assert '<h3>Distance from first</h3>' in page and 'ATE' not in page
    truth = tmp_path / 'my <seq> & co' / 'truth.tum'
    for out in (first, second):
        evaluate_run(out, read_tum(truth), truth)
    page = compared(tmp_path, first, second)
    assert '<h3>Distance from the truth</h3>' in page
    # The exact one is the better one.
    assert '<td>ATE (m)</td><td class="number"><b>0.0000</b></td>' in page
    (second / 'evaluation.json').unlink()
    summary = json.loads((second / 'summary.json').read_text()) | {'source': 'another'}
    (second / 'summary.json').write_text(json.dumps(summary))
    page = compared(tmp_path, first, second)
    assert 'not overlaid' in page and '<h3>Paths' not in page
    assert 'cannot be ranked' in page and '<b>' not in page


def test_what_is_no_run_or_named_twice_cannot_be_compared(run, tmp_path, capsys):
    out = run(None, 3)
    for other, message in (
        (tmp_path / 'nothing', 'nothing is not the output of r3 run'),
        (out / '..' / 'out', 'named twice'),
    ):
        assert main(['report', str(out), str(other), '-o', str(tmp_path / 'page.html')]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / 'page.html').exists()
