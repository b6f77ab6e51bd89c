"""The executable with something that goes wrong: ``python node_process.py WHERE ...``.

WHERE is configure, frame or save, which never end, or cleanup, which fails. A process of its own,
so that signals come as they do from a terminal; the rest is the real thing.
"""

import sys
import time

from r3_ros.core.errors import DeviceLostError
from r3_ros.ros import node, process
from r3_ros.ros.services import saving
from r3_ros.streaming.engine import Engine
from scripted import Script, ScriptedPredictor


def for_ever(where: str) -> None:
    """Say where, and do not come back."""
    sys.stderr.write(f'stuck in {where}\n')
    sys.stderr.flush()
    time.sleep(600.0)


class StuckPredictor(ScriptedPredictor):
    """Never answers."""

    def predict(self, *args, **kwargs):
        for_ever('a frame')


def load(config):
    if where == 'configure':
        for_ever('configure')
    script = Script(close_failure=DeviceLostError('gone') if where == 'cleanup' else None)
    return Engine((StuckPredictor if where == 'frame' else ScriptedPredictor)(script), config)


def save_slowly(cancelled, reported=saving._give_up_if):
    sys.stderr.write('stuck in a save\n')
    sys.stderr.flush()
    cancelled.wait(600.0)
    reported(cancelled)


where = sys.argv.pop(1)
node.R3StreamNode.__init__.__kwdefaults__['engine_loader'] = load
if where == 'save':
    saving._give_up_if = save_slowly
sys.exit(process.main())
