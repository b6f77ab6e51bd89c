"""Parameters of the running node: declared, changed while it runs, refused with a reason."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')


pytestmark = pytest.mark.ros


def test_live_parameters_take_effect_between_frames(graph):
    g = graph().start()
    g.send()
    (result,) = g.set_parameters(points__stride=4)
    assert result.successful
    g.send()
    stream = g.node.stream
    assert stream.config.points.stride == stream.engine.config.points.stride == 4


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('points.stride', 0, ''),
        ('points.max_range', 0.01, "'points.min_range'"),
        ('tracking.lost_ratio', 0.9, "'tracking.low_confidence_ratio'"),
        ('input.on_time_jump_back', 'panic', 'reset, ignore, error'),
        ('input.encoding_hint', 'rgb9', 'bayer_rggb8'),
        ('model.name', 'classic', 'classical'),
        ('map.voxel_size', 0.1, 'fixed while the node is configured'),
        ('base_frame', 'base_link', 'fixed while the node is configured'),
    ],
)
def test_bad_values_are_refused_with_a_reason(graph, name, value, words):
    g = graph().start()
    (result,) = g.set_parameters(**{name.replace('.', '__'): value})
    assert not result.successful
    assert words in result.reason
    assert g.node.stream.config == g.node._config


def test_a_fixed_parameter_may_change_before_configure(graph):
    g = graph()
    (result,) = g.set_parameters(map__voxel_size=0.1)
    assert result.successful
    g.start()
    assert g.node.stream.config.map.voxel_size == 0.1


def test_every_parameter_is_declared_and_described(graph):
    from r3_ros.config import parameters

    g = graph()
    for parameter in parameters():
        described = g.node.describe_parameter(parameter.name)
        assert parameter.meta.help in described.description
        assert g.node.get_parameter(parameter.name).value is not None
        if parameter.meta.low is not None:
            (bounds,) = described.integer_range or described.floating_point_range
            assert (bounds.from_value, bounds.to_value) == (
                parameter.meta.low, parameter.meta.high,
            )  # fmt: skip


def test_a_misspelt_parameter_is_told(graph, capfd):
    graph(arguments=('-p', 'keyframe.intervals:=5'))
    assert "did you mean 'keyframe.interval'?" in capfd.readouterr().err
