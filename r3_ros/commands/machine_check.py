"""What of this machine the package can use, and what to install for the rest.

Imports nothing but the standard library by itself: a missing or broken library is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
import importlib
from importlib import metadata
import os
from pathlib import Path
import platform
import re
import sys
from types import ModuleType
from typing import Any, NamedTuple

from ..core.findings import Finding, Level
from ..model.weights.catalogue import CATALOGUE, find_weights, weights_folder

_OLDEST_PYTHON = (3, 10)
#: The classical predictor has a background thread.
_ENOUGH_CORES = 2
#: With less a map of map.max_points may not fit beside the system.
_ENOUGH_MEMORY_GIB = 4.0


class Library(NamedTuple):
    """A library that the package uses.

    :ivar module: by which it is imported.
    :ivar requirement: as in setup.py.
    :ivar extra: of setup.py; empty for what is always installed.
    :ivar use: what needs it.
    :ivar vital: whether no folder of images can be processed without it.
    """

    module: str
    requirement: str
    extra: str
    use: str
    vital: bool = False


#: In the order of setup.py.
LIBRARIES = (
    Library('av', 'av>=14.2', '', 'reading videos'),
    Library('evo', 'evo>=1.31', '', 'r3 eval and runs with a truth'),
    Library('gtsam', 'gtsam>=4.3a1', '', 'closing loops', True),
    Library('matplotlib', 'matplotlib>=3.7', '', 'figures of the report', True),
    Library('numpy', 'numpy>=1.24', '', 'everything', True),
    Library('cv2', 'opencv-python-headless>=4.8', '', 'everything', True),
    Library('PIL', 'pillow>=9.1', '', 'reading images', True),
    Library('yaml', 'PyYAML>=6.0', '', 'configuration and calibration files', True),
    Library('rosbags', 'rosbags>=0.11.2', '', 'reading bags'),
    Library('scipy', 'scipy>=1.10', '', 'everything', True),
    Library('tqdm', 'tqdm>=4.60', '', 'progress', True),
    Library('huggingface_hub', 'huggingface_hub>=1.0', 'r3', 'fetching weights'),
    Library('safetensors', 'safetensors>=0.8', 'r3', 'reading weights'),
    Library('torch', 'torch>=2.2', 'r3', 'the networks, training, r3 synth'),
    Library('trimesh', 'trimesh>=4.0', 'view', 'the view in the browser, glTF export'),
    Library('viser', 'viser>=1.1', 'view', 'the view in the browser'),
    Library('foxglove', 'foxglove-sdk>=0.20', 'export', 'r3 map export --format mcap'),
    Library('rerun', 'rerun-sdk>=0.26', 'export', 'r3 map export --format rerun'),
    Library('ray', 'ray>=2.52', 'batch', 'r3 batch, r3 eval --workers'),
)


def check_machine() -> Iterator[Finding]:
    """Yield a finding for each part of this machine; problems keep ``r3 run`` from working."""
    yield _python()
    yield from _libraries()
    yield from _ros()
    yield from _graphics()
    yield _weights()
    yield _cores()
    yield _memory()
    yield _threads()


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        oldest = '.'.join(map(str, _OLDEST_PYTHON))
        return Finding(
            Level.PROBLEM, 'Python', f'{version} is too old', f'install {oldest} or newer'
        )
    return Finding(Level.OK, 'Python', version)


def _libraries() -> Iterator[Finding]:
    here: dict[str, list[str]] = {}
    faults = []
    for library in LIBRARIES:
        name, _, least = library.requirement.partition('>=')
        module, error = _imported(library.module)
        version = _version(name, module)
        install = f'"r3_ros[{library.extra}]"' if library.extra else f'"{library.requirement}"'
        fault = ''
        if module is None:
            fault = error
        elif version and _numbers(version) < _numbers(least):
            fault = f'{version} is too old, {least} is needed'
        if fault:
            level = Level.PROBLEM if library.vital else Level.NOTE
            text = f'{fault}; needed for: {library.use}'
            faults.append(Finding(level, name, text, f'pip install {install}'))
        else:
            here.setdefault(library.extra, []).append(f'{name} {version}'.rstrip())
    for extra, names in here.items():
        subject = f'extra {extra}' if extra else 'libraries'
        yield Finding(Level.OK, subject, ', '.join(names))
    yield from faults


def _ros() -> Iterator[Finding]:
    module, error = _imported('rclpy')
    if module is None:
        text = f'rclpy: {error}; the node and r3 demo do not work, the rest of r3 does'
        change = 'source the setup.sh of ROS 2, or run `make setup`'
        yield Finding(Level.NOTE, 'ROS 2', text, change)
        return
    distribution = os.environ.get('ROS_DISTRO', 'ROS_DISTRO is not set')
    yield Finding(Level.OK, 'ROS 2', f'rclpy can be imported ({distribution})')
    messages, error = _imported('r3_ros.msg')
    if messages is None:
        text = f'{error}; the node does not start without them'
        change = 'colcon build --packages-select r3_ros, then source install/setup.sh'
        yield Finding(Level.NOTE, 'messages', text, change)
    else:
        yield Finding(Level.OK, 'messages', 'the messages of r3_ros are built')


def _graphics() -> Iterator[Finding]:
    torch, _ = _imported('torch')
    driver = Path('/proc/driver/nvidia/version').exists()
    if torch is None or not torch.cuda.is_available():
        if not driver:
            text = 'none found: the default predictor needs none, the networks are slow without'
            yield Finding(Level.OK, 'GPU', text)
        elif torch is None:
            yield Finding(
                Level.NOTE, 'GPU', 'there is an NVIDIA driver, but no torch to use it',
                'for the networks: pip install "r3_ros[r3]"',
            )  # fmt: skip
        else:
            built = f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'
            yield Finding(
                Level.NOTE, 'GPU',
                f'there is an NVIDIA driver, but torch {torch.__version__}, built {built}, finds '
                'no GPU',
                'install a torch that fits the driver, see nvidia-smi and pytorch.org',
            )  # fmt: skip
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        text = f'{device.name}, {device.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}'
        yield Finding(Level.OK, 'GPU', text)
    cupy, error = _imported('cupy')
    if cupy is not None:
        yield Finding(Level.OK, 'CuPy', cupy.__version__)
    else:
        extra = f'cuda{(torch.version.cuda or "12").split(".")[0]}'
        text = f'{error}; keyframes are searched on the host'
        yield Finding(Level.NOTE, 'CuPy', text, f'pip install "r3_ros[{extra}]"')


def _weights() -> Finding:
    found = [name for name in CATALOGUE if find_weights(name)]
    if not found:
        text = f'none, not even those of this package; searched in {weights_folder()} too'
        return Finding(Level.NOTE, 'weights', text, 'install r3_ros again for --model r3_tiny')
    text = f'found {", ".join(found)}'
    if 'r3' in found or 'r3_long' in found:
        return Finding(Level.OK, 'weights', text)
    text += '; the default predictor needs none, --model r3 needs those of its authors'
    return Finding(Level.OK, 'weights', text, 'see `r3 weights list`')


def _cores() -> Finding:
    on_linux = hasattr(os, 'sched_getaffinity')
    count = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    if count < _ENOUGH_CORES:
        text = (
            'one: the adjustment of the map competes with tracking, so a live camera loses frames'
        )
        return Finding(Level.NOTE, 'CPU cores', text, f'use {_ENOUGH_CORES} or more')
    return Finding(Level.OK, 'CPU cores', str(count))


def _memory() -> Finding:
    gib = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    if gib < _ENOUGH_MEMORY_GIB:
        text = f'{gib:.1f} GiB: little for large maps'
        return Finding(Level.NOTE, 'memory', text, 'lower map.max_points if it runs out')
    return Finding(Level.OK, 'memory', f'{gib:.0f} GiB')


def _threads() -> Finding:
    openblas = os.environ.get('OPENBLAS_NUM_THREADS', '')
    openmp = os.environ.get('OMP_NUM_THREADS', '')
    text = (
        f'OPENBLAS_NUM_THREADS is {openblas or "not set"}, '
        f'OMP_NUM_THREADS is {openmp or "not set: torch takes all cores"}'
    )
    # The command sets it where the user has not.
    if openblas not in ('', '1'):
        text += '; with more than one thread the small matrices here take longer'
        return Finding(Level.NOTE, 'threads', text, 'unset OPENBLAS_NUM_THREADS')
    return Finding(Level.OK, 'threads', text)


def _imported(name: str) -> tuple[Any, str]:
    """Import a module; return it, or None and why it cannot be imported."""
    try:
        return importlib.import_module(name), ''
    except ModuleNotFoundError as error:
        if error.name == name or name.startswith(f'{error.name}.'):
            return None, 'not installed'
        return None, f'cannot be imported: {error}'
    except Exception as error:  # any: a broken installation raises what it likes
        reason = (str(error) or repr(error)).splitlines()[0]
        return None, f'cannot be imported: {reason}'


def _version(distribution: str, module: ModuleType | None) -> str:
    """Return the version of an installed library; empty if it does not say one."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        # Packaged by the system, or under another name, as OpenCV is.
        return str(getattr(module, '__version__', ''))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 4.3a1 is (4, 3)."""
    leading = re.match(r'[\d.]*', version)
    return tuple(int(part) for part in (leading.group() if leading else '').split('.') if part)
