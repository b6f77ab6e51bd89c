"""The launch file, where launch is installed."""

from pathlib import Path

import pytest

pytest.importorskip('launch_ros.actions', reason='launch_ros is not installed')

from launch.launch_description_sources import get_launch_description_from_python_launch_file

import launch

pytestmark = pytest.mark.ros

LAUNCH_FILE = Path(__file__).resolve().parents[1] / 'launch' / 'stream.launch.py'


@pytest.fixture
def described():
    return get_launch_description_from_python_launch_file(str(LAUNCH_FILE))


def test_every_argument_is_explained(described):
    arguments = described.get_launch_arguments()
    assert {'image_topic', 'params_file', 'model', 'rviz'} <= {a.name for a in arguments}
    assert all(argument.description for argument in arguments)


def node_of(described, **values):
    context = launch.LaunchContext()
    for argument in described.get_launch_arguments():
        context.launch_configurations[argument.name] = values.get(
            argument.name,
            ''.join(part.perform(context) for part in argument.default_value or []),
        )
    (opaque,) = [e for e in described.entities if isinstance(e, launch.actions.OpaqueFunction)]
    (node,) = opaque.execute(context)
    return node


def test_the_node_is_ours(described):
    node = node_of(described, namespace='/robot', name='eye')
    assert node.node_package == 'r3_ros'
    assert node.node_executable == 'r3_stream'


def test_a_choice_that_is_none_is_refused(described):
    context = launch.LaunchContext()
    context.launch_configurations['transport'] = 'theora'
    (argument,) = [a for a in described.get_launch_arguments() if a.name == 'transport']
    with pytest.raises(RuntimeError):
        argument.execute(context)
