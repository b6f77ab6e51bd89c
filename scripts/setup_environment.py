#!/usr/bin/env python3
"""Set up everything the project needs on a machine without ROS; do nothing that is done already.

Steps: virtual environment, torch, wheels of ROS 2 and the rest, repair of the wheels' CMake files,
colcon build of ``underlay/`` (only what is missing) and of this package. Each step leaves a stamp
keyed on what it was made from, so a second run takes a moment. Standard library only: it runs
before anything is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
import hashlib
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
VENV_PYTHON = VENV / 'bin' / 'python'
STAMPS = VENV / 'stamps'
LOGS = ROOT / 'log' / 'setup'
REQUIREMENTS = ROOT / 'requirements'
UNDERLAY = ROOT / 'underlay'

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 14)
LOG_TAIL_LINES = 40

# A ROS installation that happens to be sourced would be mixed with the wheels through these, and
# the guard keeps the wheels from setting their library path in a child of another environment.
FOREIGN_VARIABLES = (
    'AMENT_PREFIX_PATH',
    'CMAKE_PREFIX_PATH',
    'COLCON_PREFIX_PATH',
    'PYTHONHOME',
    'PYTHONPATH',
    '_ROS_WHEELS_BOOTSTRAP_COMPLETE',
)


class SetupError(Exception):
    """A step cannot be done; the message says why and what to do."""


def main() -> int:
    """Run the steps; return the exit status."""
    arguments = parse_arguments()
    try:
        check_machine()
        environment = clean_environment()
        with one_at_a_time():
            create_venv()
            install_torch(environment)
            install_packages(arguments.distribution, environment)
            install_library(environment)
            build_workspace(environment)
    except SetupError as error:
        print(f'[setup] FAILED: {error}', file=sys.stderr, flush=True)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    choices = sorted(path.stem[len('ros-') :] for path in REQUIREMENTS.glob('ros-*.txt'))
    parser.add_argument('--distribution', required=True, choices=choices, help='of ROS 2')
    return parser.parse_args()


def say(text: str) -> None:
    """Print one progress line at once, so that a long step is seen to begin."""
    print(f'[setup] {text}', flush=True)


# --- What the machine must have ------------------------------------------------------------------


def check_machine() -> None:
    """Name everything that is missing, with the packages that bring it.

    :raises SetupError: if something is missing.
    """
    if not OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        raise SetupError(
            f'Python {sys.version.split()[0]} ({sys.executable}) is outside '
            f'{".".join(map(str, OLDEST_PYTHON))} to {".".join(map(str, NEWEST_PYTHON))}, for '
            'which there are ROS 2 wheels. Name another one: make setup PYTHON=python3.12'
        )
    missing = missing_tools()
    if missing:
        listed = '\n'.join(
            f'  {what} (Debian/Ubuntu package {package})' for what, package in missing
        )
        packages = ' '.join(dict.fromkeys(package for _, package in missing))
        raise SetupError(
            f'this machine lacks:\n{listed}\nInstall with: sudo apt install {packages}'
        )


def missing_tools() -> list[tuple[str, str]]:
    """Return (what, apt package) for each tool that the build needs and the machine lacks."""
    import importlib.util
    import sysconfig

    missing = []
    if shutil.which('c++') is None and shutil.which('g++') is None:
        missing.append(('a C++ compiler', 'g++'))
    if shutil.which('cmake') is None:
        missing.append(('CMake', 'cmake'))
    if not all(importlib.util.find_spec(name) for name in ('venv', 'ensurepip')):
        missing.append((f'virtual environments for {sys.executable}', 'python3-venv'))
    if not (Path(sysconfig.get_paths()['include']) / 'Python.h').exists():
        missing.append((f'the C headers of {sys.executable}', 'python3-dev'))
    return missing


def clean_environment() -> dict[str, str]:
    """Return the environment for the child processes: the virtual environment's and no other's."""
    environment = {k: v for k, v in os.environ.items() if k not in FOREIGN_VARIABLES}
    if os.environ.get('AMENT_PREFIX_PATH'):
        # Its libraries would shadow the wheels'.
        environment.pop('LD_LIBRARY_PATH', None)
        say(
            'a ROS installation is sourced; it is left out here, where ROS 2 comes from wheels '
            '(to build for that installation: colcon build)'
        )
    environment['VIRTUAL_ENV'] = str(VENV)
    environment['PATH'] = f'{VENV / "bin"}{os.pathsep}{environment.get("PATH", os.defpath)}'
    environment['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
    environment['PIP_NO_INPUT'] = '1'
    return environment


# --- Steps ---------------------------------------------------------------------------------------


def create_venv() -> None:
    """Create the virtual environment unless there is a working one.

    :raises SetupError: if there is one that does not run, or that was made for another folder.
    """
    place = STAMPS / 'place'
    if place.exists() and place.read_text() != str(VENV):
        raise SetupError(
            f'{VENV} was made as {place.read_text()}, and its scripts still name that folder. '
            'Start anew: make distclean'
        )
    if VENV_PYTHON.exists():
        probe = [str(VENV_PYTHON), '-S', '-c', 'import sys; print(*sys.version_info[:2])']
        answer = subprocess.run(probe, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            stamp('place', str(VENV))
            return
        raise SetupError(f'{VENV} does not run any more. Remove it: make distclean')
    run_logged(
        'virtual environment',
        [sys.executable, '-m', 'venv', str(VENV)],
        dict(os.environ),
    )
    stamp('place', str(VENV))


def install_torch(environment: dict[str, str]) -> None:
    """Install torch first and alone: nothing after it may choose another build of it."""
    constraints = REQUIREMENTS / 'constraints.txt'
    pin = next(
        line.strip() for line in constraints.read_text().splitlines() if line.startswith('torch==')
    )
    if is_stamped('torch', pin):
        return
    run_logged(
        f'{pin} (requirements/constraints.txt says which build pip takes)',
        [str(VENV_PYTHON), '-m', 'pip', 'install', pin],
        environment,
    )
    stamp('torch', pin)


def install_packages(distribution: str, environment: dict[str, str]) -> None:
    """Install ROS 2, the build tools and the development tools.

    :raises SetupError: if the environment holds another ROS 2 distribution.
    """
    chosen = STAMPS / 'distribution'
    if chosen.exists() and chosen.read_text() != distribution:
        raise SetupError(
            f'{VENV} holds ROS 2 {chosen.read_text()}; two distributions do not mix. '
            f'For {distribution} start anew: make distclean'
        )
    names = [f'ros-{distribution}.txt', 'development.txt']
    key = digest([REQUIREMENTS / name for name in (*names, 'build.txt', 'constraints.txt')])
    if is_stamped('packages', key):
        return
    command = [str(VENV_PYTHON), '-m', 'pip', 'install']
    command += ['--constraint', str(REQUIREMENTS / 'constraints.txt')]
    for name in names:
        command += ['--requirement', str(REQUIREMENTS / name)]
    run_logged(f'ROS 2 {distribution} and the build and test tools', command, environment)
    STAMPS.mkdir(parents=True, exist_ok=True)
    chosen.write_text(distribution)
    stamp('packages', key)


def install_library(environment: dict[str, str]) -> None:
    """Install the library as a link to this folder, with all it can use but CuPy."""
    # The version is in __init__.py.
    sources = [ROOT / 'setup.py', ROOT / 'r3_ros' / '__init__.py']
    key = digest([*sources, REQUIREMENTS / 'constraints.txt'])
    if is_stamped('library', key):
        return
    command = [str(VENV_PYTHON), '-m', 'pip', 'install', '--no-build-isolation']
    command += ['--constraint', str(REQUIREMENTS / 'constraints.txt')]
    command += ['--editable', f'{ROOT}[batch,export,learning,view]']
    run_logged('the r3 command and the libraries it needs', command, environment)
    stamp('library', key)


def build_workspace(environment: dict[str, str]) -> None:
    """Build the missing underlay packages and this package with colcon."""
    key = workspace_digest()
    if is_stamped('workspace', key) and (ROOT / 'install' / 'setup.sh').exists():
        return
    repair_cmake_files(environment)
    environment = {**environment, 'AMENT_PREFIX_PATH': str(VENV), 'CMAKE_PREFIX_PATH': str(VENV)}
    packages = [ROOT, *missing_underlay(environment)]
    command = [str(VENV_PYTHON), '-m', 'colcon', '--log-base', str(ROOT / 'log'), 'build']
    command += ['--symlink-install', '--base-paths', *map(str, packages), '--cmake-args']
    command += ['-GNinja', f'-DPython3_EXECUTABLE={VENV_PYTHON}', '-DCMAKE_BUILD_TYPE=Release']
    names = ', '.join(path.name for path in packages[1:]) or 'nothing'
    run_logged(f'colcon build (underlay: {names})', command, environment)
    stamp('workspace', key)


def workspace_digest() -> str:
    """Return a key that changes whenever colcon has something to do.

    Sources that are compiled or configured count by content. The rest is installed as symbolic
    links, so an edit needs no build, but a new or a removed file does.
    """
    content, names = [], []
    for folder in ('msg', 'srv', 'underlay'):
        content += sorted((ROOT / folder).rglob('*'))
    content += [ROOT / 'CMakeLists.txt', ROOT / 'package.xml', STAMPS / 'packages']
    for folder in ('r3_ros', 'launch', 'config', 'rviz', 'bin'):
        names += sorted((ROOT / folder).rglob('*'))
    names = [path for path in names if '__pycache__' not in path.parts]
    built = [path for path in content if path.is_file() and path.suffix != '.pyc']
    return digest(built, extra='\n'.join(str(path.relative_to(ROOT)) for path in names))


def repair_cmake_files(environment: dict[str, str]) -> None:
    """Point the wheels' CMake files to this machine's include folders.

    The exported targets of the Python generator name the include folders of the machine that
    built the wheels, and CMake refuses a target whose include folder does not exist.
    """
    question = 'import numpy, sysconfig; print(sysconfig.get_paths()["include"]); '
    question += 'print(numpy.get_include())'
    answer = subprocess.run(
        [str(VENV_PYTHON), '-c', question], env=environment, capture_output=True, text=True
    )
    if answer.returncode != 0:
        raise SetupError(f'NumPy cannot be imported from {VENV}:\n{answer.stderr}')
    python_include, numpy_include = answer.stdout.splitlines()
    for path in sorted(VENV.glob('share/*/cmake/export_*__rosidl_generator_pyExport.cmake')):
        text = path.read_text()
        fixed = re.sub(r'/opt/python/[^;"]*/numpy/[^;"]*include', lambda _: numpy_include, text)
        fixed = re.sub(r'/opt/python/[^;"]*/include/python[\d.]+', lambda _: python_include, fixed)
        if fixed != text:
            path.write_text(fixed)


def missing_underlay(environment: dict[str, str]) -> list[Path]:
    """Return the packages of ``underlay/`` whose real ones the environment lacks."""
    packages = sorted(path.parent for path in UNDERLAY.glob('*/package.xml'))
    question = 'import sys, importlib.util as u; '
    question += 'print(*[name for name in sys.argv[1:] if u.find_spec(name) is None])'
    command = [str(VENV_PYTHON), '-c', question, *[path.name for path in packages]]
    # Not from this folder, where a package could be found by accident.
    answer = subprocess.run(
        command, env=environment, cwd=VENV, capture_output=True, text=True, check=True
    )
    names = answer.stdout.split()
    return [path for path in packages if path.name in names]


# --- Stamps and logs -----------------------------------------------------------------------------


def digest(paths: list[Path], extra: str = '') -> str:
    """Return one hash over the names and contents of the files."""
    total = hashlib.sha256(extra.encode())
    for path in paths:
        total.update(path.name.encode() + b'\0')
        total.update(path.read_bytes() if path.exists() else b'')
    return total.hexdigest()


def is_stamped(step: str, key: str) -> bool:
    """Tell whether a step was finished with this key."""
    path = STAMPS / step
    return path.exists() and path.read_text() == key


def stamp(step: str, key: str) -> None:
    """Remember that a step was finished."""
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / step).write_text(key)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other set-up works in this folder, and keep others waiting meanwhile."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / 'lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up is at work in this folder; waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_logged(title: str, command: list[str], environment: dict[str, str]) -> None:
    """Run a command with its output in a file.

    :raises SetupError: if it fails, with the end of that file.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / (re.sub(r'[^a-z0-9]+', '_', title.lower().split('(')[0]).strip('_') + '.log')
    say(f'{title} ... (log: {log.relative_to(ROOT)})')
    start = time.monotonic()
    with log.open('w') as output:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status != 0:
        tail = '\n'.join(log.read_text(errors='replace').splitlines()[-LOG_TAIL_LINES:])
        raise SetupError(f'{title}: exit status {status}. The end of {log}:\n{tail}')
    say(f'{title.split(" (")[0]}: done in {time.monotonic() - start:.0f} s')


if __name__ == '__main__':
    sys.exit(main())
