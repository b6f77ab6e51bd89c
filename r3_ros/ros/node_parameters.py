"""ROS parameters made from the one typed configuration, and back. Nothing is listed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, ReliabilityPolicy

from ..core.config import R3Config
from ..core.errors import ConfigError
from ..core.parameter_fields import Parameter, parameters, unknown_advice, updated

_QOS_OVERRIDE = re.compile(r'qos_overrides\..*\.(?:publisher|subscription)\.(\w+)')
_QOS_POLICIES = {
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
    'history': HistoryPolicy,
}
#: DDS counts in 32 bits.
_MAX_DEPTH = 2**31 - 1


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Return what ``ros2 param describe`` says of a parameter."""
    meta = parameter.meta
    unit = f' [{meta.unit}]' if meta.unit else ''
    change = 'may change at any time' if meta.live else 'fixed once the node is configured'
    message = ParameterDescriptor(
        name=parameter.name,
        description=meta.help + unit,
        additional_constraints=f'{parameter.allowed}; {change}',
    )
    if meta.low is None or meta.high is None:
        return message
    if parameter.kind is int:
        message.integer_range = [
            IntegerRange(from_value=int(meta.low), to_value=int(meta.high), step=1)
        ]
    else:
        message.floating_point_range = [
            FloatingPointRange(from_value=float(meta.low), to_value=float(meta.high), step=0.0)
        ]
    return message


def declare_parameters(node: Node) -> None:
    """Declare every parameter, with the value that a file or the command line gave it.

    :raises ConfigError: such a value has the wrong type or is not allowed.
    """
    for parameter in parameters(R3Config()):
        try:
            node.declare_parameter(parameter.name, parameter.default, descriptor(parameter))
        except InvalidParameterTypeException as error:
            hint = ' (write whole numbers with a point: 20.0)' if parameter.kind is float else ''
            raise ConfigError(f'{error}{hint}') from error
        except InvalidParameterValueException as error:
            raise ConfigError(
                f"parameter '{parameter.name}' has a value that is not allowed, allowed: "
                f'{parameter.allowed}'
            ) from error


def unknown_parameters(node: Node) -> list[str]:
    """Return a line on each parameter that was given to the node but does not exist.

    ROS passes over them in silence, so a misspelt one would leave its default in force unseen.
    """
    known = [parameter.name for parameter in parameters(R3Config())]
    lines = []
    for name in _given(node):
        if not node.has_parameter(name) and not name.startswith('qos_overrides.'):
            advice = unknown_advice(name, known)
            lines.append(f"unknown parameter '{name}' is ignored: {advice}")
    return lines


def was_given(node: Node, prefix: str) -> bool:
    """Tell whether a file or the command line gave a parameter whose name begins like this."""
    return any(name.startswith(prefix) for name in _given(node))


def require_qos(node: Node) -> None:
    """Look at the qualities of service that a file or the command line gave.

    :raises ConfigError: one is none. rclpy would find out as it makes the topic, half-way through
        a transition, and say nothing.
    """
    for name, given in _given(node).items():
        match = _QOS_OVERRIDE.fullmatch(name)
        if match is None:
            continue
        policy, value = match[1], given.value
        if policy == 'depth':
            # bool is an int.
            good = type(value) is int and 0 <= value <= _MAX_DEPTH
            allowed = f'0 to {_MAX_DEPTH}'
        elif policy in _QOS_POLICIES:
            keys = [key for key in _QOS_POLICIES[policy].short_keys() if key != 'unknown']
            good, allowed = value in keys, 'one of ' + ', '.join(keys)
        else:
            continue
        if not good:
            raise ConfigError(f"parameter '{name}' is {value!r}, allowed: {allowed}")


def _given(node: Node) -> Mapping[str, RosParameter]:
    # rclpy has no public way to tell.
    return getattr(node, '_parameter_overrides', {})


def read_config(node: Node) -> R3Config:
    """Return the configuration that the parameters hold now.

    :raises ConfigError: two parameters contradict each other.
    """
    values = {p.name: node.get_parameter(p.name).value for p in parameters(R3Config())}
    return updated(R3Config(), values)


def changed_config(
    config: R3Config, changes: Sequence[RosParameter], is_configured: bool
) -> R3Config:
    """Return the configuration after a change of parameters; others than ours are let be.

    :param is_configured: only live parameters may change.
    :raises ConfigError: unknown, not allowed, or not now.
    """
    known = {parameter.name: parameter for parameter in parameters(config)}
    values: dict[str, Any] = {}
    for change in changes:
        parameter = known.get(change.name)
        if parameter is None:
            continue
        value = parameter.check(change.value)
        if is_configured and not parameter.meta.live and value != parameter.value:
            raise ConfigError(
                f"parameter '{change.name}' is fixed while the node is configured: deactivate and "
                'clean up the node first, or start it with the new value'
            )
        values[change.name] = value
    return updated(config, values) if values else config


def accepted() -> SetParametersResult:
    """Return the answer to a change that is carried out."""
    return SetParametersResult(successful=True)


def refused(error: ConfigError) -> SetParametersResult:
    """Return the answer to a change that is not carried out."""
    return SetParametersResult(successful=False, reason=str(error))
