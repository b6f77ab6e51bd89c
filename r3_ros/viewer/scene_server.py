"""The web server of the viewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
import io
import socket
from typing import TYPE_CHECKING

from ..core.errors import ConfigError

if TYPE_CHECKING:
    import viser

#: Seen from this machine alone.
LOOPBACK = '127.0.0.1'
DEFAULT_PORT = 8080


def start_server(host: str, port: int) -> viser.ViserServer:
    """Start a server on this port, or on the next one that is free.

    :raises ConfigError: it cannot listen on this host, or on this port.
    """
    import viser

    _require_bindable(host, port)
    with _quiet():
        server = viser.ViserServer(host, port, label='r3', verbose=False)
    # A page of another site could ask for a tunnel to the internet.
    setattr(server, 'request_share_url', lambda: None)  # noqa: B010
    return server


def stop_server(server: viser.ViserServer) -> None:
    """Close all connections and end the server's threads."""
    with _quiet():
        server.stop()


def _require_bindable(host: str, port: int) -> None:
    """Raise what the server would try again with other ports, for ever."""
    if not 1 <= port <= 65535:
        raise ConfigError(f'--port must be between 1 and 65535, got {port}')
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise ConfigError(
            f"the viewer cannot listen on host '{host}' ({error.strerror or error}): use an "
            f'address of this machine; {LOOPBACK} is for this machine alone'
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.bind(address)
        except PermissionError as error:
            raise ConfigError(
                f'the viewer may not listen on port {port}: choose one above 1023'
            ) from error
        except OSError:
            pass  # in use: the server takes the next one


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the server prints; we report its address ourselves."""
    with redirect_stdout(io.StringIO()):
        yield
