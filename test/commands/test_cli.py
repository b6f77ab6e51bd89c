"""The command: quick help, one line for an error, the right exit status."""

import os
import signal
import subprocess
import sys

import pytest
from r3_ros import __version__
from r3_ros.commands import cli
from r3_ros.core.errors import SourceError

#: A command with a number that has bounds.
GRID = ['map', 'export', 'a', '--format', 'grid', '-o', 'b']
COMMANDS = ('bag', 'bench', 'demo', 'doctor', 'eval', 'parameters', 'run', 'synth', 'weights')


def r3(*arguments, **options):
    return subprocess.run(
        [sys.executable, '-m', 'r3_ros.commands.cli', *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_help_lists_every_command_without_heavy_imports():
    code = (
        'import sys, r3_ros.commands.cli as cli\n'
        'cli.build_parser().format_help()\n'
        'heavy = {"numpy", "cv2", "torch", "rclpy", "rosbags", "evo", "huggingface_hub"}\n'
        'print(sorted(heavy & set(sys.modules)))'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == '[]'
    help_text = cli.build_parser().format_help()
    assert all(f'    {command}' in help_text for command in COMMANDS)


def test_links_to_modules_that_were_removed_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / 'removed.py').symlink_to(tmp_path / 'gone.py')
    monkeypatch.setattr(cli.commands, '__path__', [*cli.commands.__path__, str(tmp_path)])
    assert 'removed' not in cli.build_parser().format_help()


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, '--help'])
    assert exit.value.code == 0
    assert 'usage: r3 ' + command in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'extra'),
    [
        (['run', 'walk', '-o', 'out', '--model', 'r3'], 'r3'),
        (['weights', 'check', 'x.safetensors'], 'r3'),
        (['synth', 'world'], 'learning'),
        (['train', '-o', 'out'], 'learning'),
    ],
)
def test_what_needs_an_extra_names_it(tmp_path, arguments, extra):
    cv2, np = pytest.importorskip('cv2'), pytest.importorskip('numpy')
    (tmp_path / 'walk').mkdir()
    cv2.imwrite(str(tmp_path / 'walk' / '0.png'), np.zeros((48, 64, 3), np.uint8))
    without = ('torch', 'safetensors', 'huggingface_hub')
    code = (
        f'import sys; sys.modules.update(dict.fromkeys({without}))\n'
        'from r3_ros.commands import cli\n'
        f'sys.exit(cli.main({arguments}))'
    )
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f'pip install "r3_ros[{extra}]"' in done.stderr


def test_a_library_that_no_workspace_has_is_named(tmp_path):
    pytest.importorskip('cv2')
    (tmp_path / 'walk.mp4').write_bytes(b'video')
    code = (
        "import sys; sys.modules['av'] = None\n"
        'from r3_ros.commands import cli\n'
        "sys.exit(cli.main(['run', 'walk.mp4', '-o', 'out']))"
    )
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    command = [sys.executable, '-c', code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 2 and done.stderr.strip().endswith('pip install av'), done.stderr


def test_version():
    out = r3('--version')
    assert out.returncode == 0 and out.stdout.strip() == f'r3_ros {__version__}'


def test_wrong_usage_is_status_two():
    assert r3().returncode == 2
    assert r3('walk').returncode == 2


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['run', 'a', '-o', 'b', '--max-frames', 'ten'], 'must be a whole number'),
        (['run', 'a', '-o', 'b', '--max-frames', '0'], 'at least 1'),
        ([*GRID, '--metres-per-unit', 'nan'], 'between 1e-06 and 1e+06'),
        ([*GRID, '--metres-per-unit', '-1'], 'between 1e-06 and 1e+06'),
    ],
)
def test_a_wrong_number_is_reported(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2 and said in capsys.readouterr().err


def test_an_error_is_one_line_and_status_two(tmp_path):
    out = r3('run', str(tmp_path / 'gone'), '-o', str(tmp_path / 'out'))
    assert out.returncode == 2
    assert out.stderr.strip() == f'r3 run: {tmp_path / "gone"} does not exist'
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('error', 'status', 'reported'),
    [
        (SourceError('no such thing'), 2, 'r3 eval: no such thing'),
        (KeyboardInterrupt(), 130, 'r3 eval: interrupted'),
    ],
)
def test_statuses(monkeypatch, capsys, error, status, reported):
    from r3_ros.commands import eval as command

    def fail(args):
        raise error

    monkeypatch.setattr(command, 'run', fail)
    assert cli.main(['eval', 'x', '--groundtruth', 'y']) == status
    assert capsys.readouterr().err.strip() == reported


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_leaves_nothing_behind(monkeypatch, tmp_path, number):
    from r3_ros.commands import eval as command
    from r3_ros.core.atomic_files import atomic_directory

    def work(args):
        with atomic_directory(tmp_path / 'out'):
            signal.raise_signal(number)

    monkeypatch.setattr(command, 'run', work)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as exit:
        cli.main(['eval', 'x', '--groundtruth', 'y'])
    assert exit.value.code == 128 + number
    assert os.listdir(tmp_path) == [] and signal.getsignal(number) is before


def test_a_bug_is_not_hidden(monkeypatch):
    from r3_ros.commands import eval as command

    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr(command, 'run', fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(['eval', 'x', '--groundtruth', 'y'])
