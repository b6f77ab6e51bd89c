"""Conversion between the typed configuration and ROS parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, ReliabilityPolicy

from ..core.config import R3Config
from ..core.errors import ConfigError
from ..core.parameter_fields import Parameter, parameters, unknown_advice, updated

#: The parameters of this package, without those that rclpy declares.
PARAMETER_NAMES = frozenset(parameter.name for parameter in parameters(R3Config()))

_QOS_OVERRIDE = re.compile(r'qos_overrides\..*\.(?:publisher|subscription)\.(\w+)')
_QOS_POLICIES = {
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
    'history': HistoryPolicy,
}
_MAX_DEPTH = 2**31 - 1  # of DDS


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Return the description, range and constraints of a parameter."""
    meta = parameter.meta
    unit = f' [{meta.unit}]' if meta.unit else ''
    change = 'may change at any time' if meta.live else 'fixed once the node is configured'
    message = ParameterDescriptor(
        name=parameter.name,
        description=meta.help + unit,
        additional_constraints=f'{parameter.allowed}; {change}',
    )
    low, high = meta.low, meta.high
    if low is None or high is None:
        return message
    if parameter.kind is int:
        message.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    else:
        message.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
        ]
    return message


def declare_parameters(node: Node) -> None:
    """Declare every parameter, with its value from a file or the command line.

    :raises ConfigError: a value has the wrong type or is not allowed.
    """
    for parameter in parameters(R3Config()):
        try:
            node.declare_parameter(parameter.name, parameter.default, descriptor(parameter))
        except InvalidParameterTypeException as error:
            hint = ' (integers need a decimal point: 20.0)' if parameter.kind is float else ''
            raise ConfigError(f'{error}{hint}') from error
        except InvalidParameterValueException as error:
            raise ConfigError(
                f"parameter '{parameter.name}' has a value that is not allowed, allowed: "
                f'{parameter.allowed}'
            ) from error


def unknown_parameters(node: Node) -> list[str]:
    """Return a warning for each given parameter that does not exist; ROS ignores them silently."""
    known = [parameter.name for parameter in parameters(R3Config())]
    return [
        f"unknown parameter '{name}' is ignored: {unknown_advice(name, known)}"
        for name in _given(node)
        if not (node.has_parameter(name) or name.startswith('qos_overrides.'))
    ]


def was_given(node: Node, prefix: str) -> bool:
    """Return whether a file or the command line sets a parameter whose name has this prefix."""
    return any(name.startswith(prefix) for name in _given(node))


def require_qos(node: Node) -> None:
    """Check the QoS overrides from files and the command line.

    :raises ConfigError: a value is invalid. rclpy would fail only when it creates the topic, in
        the middle of a transition, without a message.
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
    # rclpy has no public access to them.
    return getattr(node, '_parameter_overrides', {})


def read_config(node: Node) -> R3Config:
    """Return the configuration with the current values of the parameters.

    :raises ConfigError: two parameters contradict each other.
    """
    values = {p.name: node.get_parameter(p.name).value for p in parameters(R3Config())}
    return updated(R3Config(), values)


def changed_config(
    config: R3Config, changes: Sequence[RosParameter], is_configured: bool
) -> R3Config:
    """Return the configuration after a change of parameters; unknown ones are ignored.

    :param is_configured: only live parameters may change.
    :raises ConfigError: a value is not allowed, or not while the node is configured.
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
