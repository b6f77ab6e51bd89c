"""What every test sees: the sources first, skips that name their reason, a ROS domain of its own.

The sources come first on the path (``pythonpath`` in pyproject.toml), and ``r3_ros/__init__.py``
adds the generated ``r3_ros.msg`` and ``r3_ros.srv`` of the installed package to them, so the same
tests run from the source tree, under colcon and, without the ``ros`` ones, with no ROS at all.
"""

from collections.abc import Callable, Iterator
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from ros_domain import Domain

# Sums in the same order, however many processors there are and whatever shares them. NumPy and
# torch read this as they are imported.
for _variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_variable, '1')

# Nodes of the tests must not talk to nodes of the machine, nor to those of another test run.
# Held until the run ends, for what takes its domain from the environment.
if 'ROS_DOMAIN_ID' not in os.environ:
    _domain = Domain()
    os.environ['ROS_DOMAIN_ID'] = str(_domain.number)
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def _lacks_ros() -> str:
    """Say what is missing for the tests marked ``ros``; empty if nothing is."""
    if importlib.util.find_spec('rclpy') is None:
        return 'rclpy is not installed'
    if importlib.util.find_spec('r3_ros.msg') is None:
        return 'r3_ros.msg is not built, or its environment not sourced (see make setup)'
    return ''


def _lacks_gpu() -> str:
    """Say what is missing for the tests marked ``gpu``; empty if nothing is."""
    if importlib.util.find_spec('torch') is None:
        return 'torch is not installed'
    import torch

    return '' if torch.cuda.is_available() else 'there is no NVIDIA GPU that torch can use'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run on this machine."""
    for marker, lacks in (('ros', _lacks_ros), ('gpu', _lacks_gpu)):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = lacks() if marked else ''
        if reason:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Have torch compute on one thread: sums in the same order each time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make graphs (see ros_graph.py) whose maps go to a temporary folder; closed at the end."""
    from ros_graph import Graph

    made: list[Graph] = []

    def make(script: Any = None, arguments: tuple[str, ...] = (), **parameters: Any) -> Graph:
        parameters.setdefault('map__directory', str(tmp_path / 'maps'))
        made.append(Graph(script, arguments, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()
