"""The check of the machine names what is missing, what it is for, and how to get it."""

import ast
import sys
from types import SimpleNamespace

from paths import ROOT
import pytest
from r3_ros.commands.cli import main
from r3_ros.commands.machine_check import check_machine, LIBRARIES
from r3_ros.core.findings import Level


def found(subject):
    """Return the one finding on a subject."""
    (finding,) = (finding for finding in check_machine() if finding.subject == subject)
    return finding


def test_the_libraries_are_those_of_setup_py():
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
    }
    base = next(
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == 'install_requires'
    )
    declared = {
        *(('', requirement) for requirement in base),
        *(('r3', requirement) for requirement in lists['R3']),
        *(('view', requirement) for requirement in lists['VIEW']),
        *(('export', requirement) for requirement in lists['EXPORT']),
        *(('batch', requirement) for requirement in lists['BATCH']),
    }
    # In two extras, and listed once.
    declared.remove(('export', 'trimesh>=4.0'))
    assert {(library.extra, library.requirement) for library in LIBRARIES} == declared


@pytest.mark.parametrize(
    ('module', 'subject', 'use', 'install', 'status'),
    [
        ('gtsam', 'gtsam', 'closing loops', 'pip install "gtsam>=4.3a1"', 1),
        ('av', 'av', 'reading videos', 'pip install "av>=14.2"', 0),
        ('viser', 'viser', 'the view in the browser', 'pip install "r3_ros[view]"', 0),
        ('rclpy', 'ROS 2', 'the node and r3 demo do not work', 'source the setup.sh', 0),
    ],
)
def test_a_missing_library_is_named(monkeypatch, capsys, module, subject, use, install, status):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(['doctor']) == status
    (finding,) = (finding for finding in check_machine() if finding.subject == subject)
    assert finding.level is (Level.PROBLEM if status else Level.NOTE)
    assert use in finding.text and install in finding.change
    assert f'{finding.level.value:<8} {subject}' in capsys.readouterr().out


def test_options_of_a_recording_need_one(capsys):
    assert main(['doctor', '--camera', 'camera.yaml']) == 2
    assert 'name INPUT' in capsys.readouterr().err


def test_an_old_library_is_named(monkeypatch):
    monkeypatch.setattr('importlib.metadata.version', lambda name: '1.9.3')
    finding = found('scipy')
    assert finding.level is Level.PROBLEM and '1.9.3 is too old, 1.10 is needed' in finding.text


def test_a_broken_library_is_named(monkeypatch, tmp_path):
    (tmp_path / 'evo.py').write_text('raise OSError("libGL.so.1: cannot open")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'evo', raising=False)
    assert 'cannot be imported: libGL.so.1' in found('evo').text


def fake_torch(devices):
    cuda = SimpleNamespace(
        is_available=lambda: devices > 0,
        device_count=lambda: devices,
        get_device_properties=lambda n: SimpleNamespace(name='Card', total_memory=8 << 30),
    )
    version = SimpleNamespace(cuda='12.8')
    return SimpleNamespace(cuda=cuda, version=version, __version__='2.9.0')


def test_a_gpu_is_described_and_without_cupy_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', fake_torch(1))
    monkeypatch.setitem(sys.modules, 'cupy', None)
    assert 'Card, 8 GiB, CUDA 12.8' in found('GPU').text
    assert found('CuPy').level is Level.NOTE and '[cuda12]' in found('CuPy').change


def test_threads_that_the_user_set_are_named(monkeypatch):
    monkeypatch.setenv('OPENBLAS_NUM_THREADS', '8')
    assert found('threads').level is Level.NOTE
    monkeypatch.setenv('OPENBLAS_NUM_THREADS', '1')
    assert found('threads').level is Level.OK
