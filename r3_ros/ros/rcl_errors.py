"""Errors of ROS itself, formatted for one line of a log."""

import re

from rclpy.impl.implementation_singleton import rclpy_implementation

#: Raised by rclpy for errors of the layers below: security, middleware, names.
RCLError = rclpy_implementation.RCLError
_SOURCE_LOCATIONS = re.compile(r',? at [^\s,]+\.(?:c|cpp|h|hpp):\d+')


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks and without locations in rcl's sources."""
    return _SOURCE_LOCATIONS.sub('', ' '.join(str(error).split()))
