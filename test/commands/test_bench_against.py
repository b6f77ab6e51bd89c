"""Comparisons with the code of others: arguments, errors, and that both do the same."""

import argparse
from contextlib import nullcontext
import sys

from lively_network import frame, lively
import numpy as np
import pytest
from r3_ros import factory
from r3_ros.commands import bench_against
from r3_ros.commands.bench_against import Comparison, comparisons, Reference, reference, Turn
from r3_ros.commands.cli import main
from r3_ros.core.config import ModelConfig, R3Config
from r3_ros.core.datatypes import ModelInfo
from r3_ros.core.errors import ModelError, SourceError
from r3_ros.core.parameter_fields import updated
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.official_r3 import OfficialR3
from r3_ros.model.r3_predictor import R3Predictor
from scripted import ScriptedPredictor
from sequences import write_folder
import torch


def test_references_are_read():
    assert reference('official=/some/where') == Reference('official', '/some/where')
    assert reference('faiss') == Reference('faiss', '')


@pytest.mark.parametrize('text', ['', 'cuvslam', 'official', 'official=', 'torch=/some/where'])
def test_other_references_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='must be'):
        reference(text)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--against', 'torch'], 'add --model r3_tiny'),
        (['--roofline', '--json', 'x.json'], '--json writes what was measured'),
        (['--against', 'torch', '--plot', 'x.png'], '--plot draws stages'),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, capsys):
    assert main(['bench', *arguments]) == 2
    assert message in capsys.readouterr().err


def test_medians_are_those_of_the_ratios_of_each_round():
    turns = [Turn(1.0, 2.0, 1.0, 1.0), Turn(9.0, 3.0, 2.0, 1.0), Turn(4.0, 4.0, 3.0, 1.0)]
    found = Comparison.of('some', turns)
    assert (found.ours_ms, found.theirs_ms, found.ratio, found.cpu_ratio) == (4.0, 3.0, 1.0, 2.0)


# --- The authors' code ---


def test_a_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(ModelError, match='no clone of the authors'):
        OfficialR3(tmp_path, lively())


def test_a_clone_without_its_libraries_is_refused(tmp_path):
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'r3-large.yaml').touch()
    with pytest.raises(ModelError, match='requirements.txt'):
        OfficialR3(tmp_path, lively())
    assert str(tmp_path) not in sys.path


# --- torch ---


def test_the_pass_without_a_cache_gives_what_the_steps_give():
    network = lively()
    room = CacheBudget(2**26, 2**26)
    cpu = torch.device('cpu')
    stream = R3Predictor(network, ModelInfo('r3'), ModelConfig(image_size=154), room, cpu)
    answers = [stream.predict(frame(n), range(n)).depths[0] for n in range(3)]
    clip = torch.from_numpy(np.stack([answer.image for answer in answers])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        depth = bench_against._related(network, clip)
    np.testing.assert_allclose(depth[0, -1].numpy(), answers[-1].depth, rtol=1e-3)


def test_steps_of_the_included_network_are_compared():
    changes = {'model.name': 'r3_tiny', 'stream.recent_frames': 1}
    changes |= {'stream.recent_keyframes': 1, 'stream.retrieved_keyframes': 0}
    found = bench_against._whole_pass(updated(R3Config(), changes), rounds=1)
    assert found.what == 'r3_tiny, 2 context frames'
    assert found.ratio < 1.0  # one frame instead of three


# --- FAISS ---


def test_a_missing_faiss_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    assert main(['bench', '--against', 'faiss']) == 2
    assert 'pip install "r3_ros[bench]"' in capsys.readouterr().err


def test_keyframes_are_searched_by_both(monkeypatch):
    pytest.importorskip('faiss', reason='r3 bench --against faiss needs FAISS')
    monkeypatch.setattr(bench_against, '_BANKS', (50,))
    found = list(bench_against._faiss(R3Config(), rounds=4))
    assert [each.what for each in found] == [
        '50 keyframes, similarity alone',
        '50 keyframes, every term',
    ]
    assert all(each.ours_ms > 0 and each.theirs_ms > 0 for each in found)


# --- ORB-SLAM3 ---

#: Stands in for its example: reads what that reads, and prints what that prints.
PROGRAM = """#!{python}
import sys
from pathlib import Path
vocabulary, settings, sequence = map(Path, sys.argv[1:])
lines = (sequence / 'rgb.txt').read_text().splitlines()[3:]
assert vocabulary.is_file() and len(lines) == 30
seconds, names = zip(*(line.split() for line in lines))
assert all((sequence / name).is_file() for name in names)
assert list(map(float, seconds)) == sorted(map(float, seconds))
first, *lines = settings.read_text().splitlines()
values = dict(line.split(': ') for line in lines)
assert first == '%YAML:1.0' and values['Camera.width'] == '{width}'
print('-------\\n\\nmedian tracking time: 0.0125\\nmean tracking time: 0.02')
"""


@pytest.fixture
def orbslam3(tmp_path, monkeypatch):
    """Return the folder of a program that stands in for ORB-SLAM3."""
    walk = write_folder(tmp_path / 'walk', 30)
    monkeypatch.setattr(bench_against, 'rendered_folder', lambda frames: nullcontext(walk))
    monkeypatch.setattr(factory, 'load_predictor', lambda config: ScriptedPredictor())
    program = tmp_path / 'ORB_SLAM3' / 'Examples' / 'Monocular' / 'mono_tum'
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM.format(python=sys.executable, width=64))
    program.chmod(0o755)
    vocabulary = tmp_path / 'ORB_SLAM3' / 'Vocabulary' / 'ORBvoc.txt'
    vocabulary.parent.mkdir()
    vocabulary.touch()
    return tmp_path / 'ORB_SLAM3'


def compared(folder):
    (found,) = comparisons(Reference('orbslam3', str(folder)), R3Config(), quick=True)
    return found


def test_orb_slam3_is_given_the_recording_and_its_time_is_read(orbslam3):
    found = compared(orbslam3)
    assert found.theirs_ms == pytest.approx(12.5)
    assert found.ratio == pytest.approx(found.ours_ms / 12.5)
    assert found.rounds == 30 and found.cpu_ratio is None


def test_what_orb_slam3_says_when_it_fails_is_reported(orbslam3):
    program = orbslam3 / 'Examples' / 'Monocular' / 'mono_tum'
    program.write_text('#!/bin/sh\necho cannot open the display >&2\nexit 1\n')
    with pytest.raises(SourceError, match='status 1: cannot open the display; .*xvfb-run'):
        compared(orbslam3)


def test_a_missing_build_is_named(tmp_path):
    with pytest.raises(SourceError, match='mono_tum: build ORB-SLAM3'):
        compared(tmp_path)
