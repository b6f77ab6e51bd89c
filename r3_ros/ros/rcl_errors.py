"""What ROS itself says of its errors, made fit for one line of a log."""

import re

from rclpy.impl.implementation_singleton import rclpy_implementation

#: What rclpy raises where the layers below refuse: security, the middleware, a name.
RCLError = rclpy_implementation.RCLError
_PLACES_IN_SOURCES = re.compile(r',? at [^\s,]+\.(?:c|cpp|h|hpp):\d+')


def one_line(error: BaseException) -> str:
    """Return the words of an error without line breaks, and without places in rcl's sources."""
    return _PLACES_IN_SOURCES.sub('', ' '.join(str(error).split()))
