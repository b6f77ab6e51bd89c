"""Parameters of the running node: declared, changed while it runs, refused with a reason."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')


from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import flattened, parameters

pytestmark = pytest.mark.ros


def test_live_parameters_take_effect_between_frames(graph):
    g = graph().start()
    g.send()
    (result,) = g.set_parameters(points__stride=4)
    assert result.successful
    g.send()
    stream = g.node.worker
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
    assert g.node.worker.config == g.node._config


def test_a_fixed_parameter_may_change_before_configure(graph):
    g = graph()
    (result,) = g.set_parameters(map__voxel_size=0.1)
    assert result.successful
    g.start()
    assert g.node.worker.config.map.voxel_size == 0.1


def test_every_parameter_is_declared_and_described(graph):
    g = graph()
    for parameter in parameters(R3Config()):
        described = g.node.describe_parameter(parameter.name)
        assert parameter.meta.help in described.description
        assert g.node.get_parameter(parameter.name).value is not None
        if parameter.meta.low is not None:
            (bounds,) = described.integer_range or described.floating_point_range
            assert (bounds.from_value, bounds.to_value) == (
                parameter.meta.low, parameter.meta.high,
            )  # fmt: skip


def test_a_misspelt_parameter_is_reported(graph, capfd):
    graph(arguments=('-p', 'keyframe.max_intervals:=5'))
    log = capfd.readouterr().err
    assert "did you mean 'keyframe.max_interval'?" in log


def other_value(parameter):
    """Return an allowed value that is not the present one."""
    meta, value = parameter.meta, parameter.value
    if parameter.kind is bool:
        return not value
    if meta.choices:
        return next(choice for choice in meta.choices if choice != value)
    if parameter.kind is str:
        return 'other'
    nearer = 0.5 * (meta.low + meta.high) if value == meta.high else 0.5 * (value + meta.high)
    return parameter.kind(value + 1) if parameter.kind is int else float(nearer)


def test_every_live_parameter_reaches_whoever_uses_it(graph):
    g = graph().start()
    g.send()
    stream = g.node.worker
    # Those that only fit together with another one are moved down, where they fit.
    small = {
        'occupancy.min_height': 0.5,
        'tracking.lost_ratio': 0.1,
        'points.min_range': 0.1,
        'scale.fixed': 2.0,
    }
    for parameter in parameters(stream.config):
        if not parameter.meta.live:
            continue
        value = small.get(parameter.name, other_value(parameter))
        (result,) = g.set_parameters(**{parameter.name.replace('.', '__'): value})
        assert result.successful, (parameter.name, value, result.reason)
        g.until(lambda p=parameter, v=value: flattened(stream.config)[p.name] == v)
    now, engine = stream.config, stream.engine
    assert engine.config == now and engine.loops.config == now
    assert engine.session.gate.config == now.tracking
    assert stream.camera.config == stream._frame_filter.config == now.input
    assert stream.pose_output.config == stream._clouds.config == stream.authority._config == now
    assert stream.control.config == stream._readiness.config == now
    assert stream._stepper.config == now.memory


def test_every_fixed_parameter_is_refused_while_configured(graph):
    g = graph().start()
    before = g.node.worker.config
    for parameter in parameters(before):
        if parameter.meta.live:
            continue
        value = other_value(parameter)
        (result,) = g.set_parameters(**{parameter.name.replace('.', '__'): value})
        assert not result.successful, parameter.name
        assert 'fixed while the node is configured' in result.reason
    assert g.node.worker.config == before
