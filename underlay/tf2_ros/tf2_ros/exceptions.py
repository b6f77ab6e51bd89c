"""What a lookup can fail with; ``TransformException`` catches all of them."""


class TransformException(Exception):
    """Root of the errors of a lookup."""


class ConnectivityException(TransformException):
    """The two frames are in different trees."""


class LookupException(TransformException):
    """A frame does not exist."""


class ExtrapolationException(TransformException):
    """The stamp lies outside of what the buffer holds."""


class InvalidArgumentException(TransformException):
    """A frame id is empty or starts with a slash."""


class TimeoutException(TransformException):
    """A lookup took too long."""
