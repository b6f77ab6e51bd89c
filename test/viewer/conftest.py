"""A scene on a real server, and what a page in a browser would receive of it."""

from collections import Counter
import time

import pytest

#: Not the default one, which a viewer on this machine may use.
PORT = 18080
_TIMEOUT_S = 20.0


class Page:
    """A client of the server that counts the nodes that it is told to create."""

    def __init__(self, scene):
        import viser
        import websockets.sync.client

        self.created = Counter()
        self.removed = set()
        self._connection = websockets.sync.client.connect(
            f'ws://127.0.0.1:{scene.port}',
            subprotocols=[f'viser-v{viser.__version__}'],
            max_size=None,
        )

    def until(self, condition):
        """Receive until the condition holds."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, (self.created, self.removed)
            self._take(self._connection.recv(timeout=_TIMEOUT_S))

    def close(self):
        self._connection.close()

    def _take(self, data):
        # These come with viser, which the tests are skipped without.
        import msgspec
        import zstandard

        # Two sizes, compressed messages, arrays.
        packed = data[16 : 16 + int.from_bytes(data[8:16], 'little')]
        for message in msgspec.msgpack.decode(zstandard.decompress(packed))['messages']:
            if message['type'] == 'RemoveSceneNodeMessage':
                self.removed.add(message['name'])
            elif 'props' in message and 'name' in message:
                self.created[message['name']] += 1


@pytest.fixture
def scene():
    from r3_ros.viewer.scene import Scene

    made = Scene(port=PORT)
    yield made
    made.close()


@pytest.fixture
def page(scene):
    made = Page(scene)
    yield made
    made.close()
