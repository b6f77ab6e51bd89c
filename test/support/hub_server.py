"""A hub on this machine: what a download asks of the Hugging Face hub, answered, with trouble."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import re
import threading

COMMIT = 'c0ffee' + '0' * 34


@dataclass
class Hub:
    """What the hub holds, how it behaves, and what it was asked.

    :ivar files: content by '<repo>/<file>'.
    :ivar cuts: bytes after which each of the next answers with content breaks off.
    :ivar status: answer everything with this status and error code instead.
    :ivar digest: SHA-256 to name instead of the true one.
    :ivar ignores_ranges: answer a request for a part with the whole.
    :ivar requests: (method, path, Range header).
    """

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    status: tuple[int, str] | None = None
    digest: str | None = None
    ignores_ranges: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ''

    def ranges(self) -> list[str | None]:
        """Return the Range header of every request for content."""
        return [part for method, _, part in self.requests if method == 'GET']


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve the hub on a free port of this machine."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.address = f'http://127.0.0.1:{server.server_port}'
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = 'HTTP/1.1'

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *args: object) -> None:
        """Keep the output of the tests clean."""

    def _answer(self, with_content: bool) -> None:
        hub, part = self.served, self.headers.get('Range')
        hub.requests.append((self.command, self.path, part))
        found = re.fullmatch(r'/(.+?)/resolve/([^/]+)/(.+)', self.path)
        content = hub.files.get(f'{found[1]}/{found[3]}') if found else None
        if hub.status:
            self._refuse(*hub.status)
        elif found and found[2] not in ('main', 'v1', COMMIT):
            self._refuse(404, 'RevisionNotFound')
        elif content is None:
            self._refuse(404, 'EntryNotFound')
        else:
            self._send(content, part, with_content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header('X-Error-Code', code)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def _send(self, content: bytes, part: str | None, with_content: bool) -> None:
        hub = self.served
        begin = 0
        if part and not hub.ignores_ranges:
            begin = int(part.removeprefix('bytes=').rstrip('-'))
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header('Content-Range', f'bytes {begin}-{len(content) - 1}/{len(content)}')
        self.send_header('Content-Length', str(len(content) - begin))
        self.send_header('X-Linked-Size', str(len(content)))
        self.send_header('X-Repo-Commit', COMMIT)
        digest = hub.digest or hashlib.sha256(content).hexdigest()
        self.send_header('X-Linked-Etag', f'"{digest}"')
        self.send_header('ETag', f'"{digest}"')
        self.end_headers()
        if not with_content:
            return
        if hub.cuts:
            self.wfile.write(content[begin : begin + hub.cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(content[begin:])
