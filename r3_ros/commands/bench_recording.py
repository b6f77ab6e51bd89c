"""The recording that ``r3 bench`` measures with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from ..core.errors import SourceError

if TYPE_CHECKING:
    from ..offline.benchmark import EncodedRecording

#: Frames that are measured, without and with --quick.
FRAMES, QUICK_FRAMES = 300, 100


@contextmanager
def rendered_folder(frames: int) -> Iterator[Path]:
    """Render in another process, whose libraries and memory this one does not inherit."""
    with tempfile.TemporaryDirectory(prefix='r3_bench_') as folder:
        walk = Path(folder) / 'walk'
        command = [sys.executable, '-m', 'r3_ros.commands.cli', 'synth', str(walk)]
        command += ['--seed', '1', '--frames', str(frames), '--depth-every', '0']
        # What it prints on stdout names a folder that is removed; its progress is on stderr.
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SourceError('the recording could not be rendered, see above')
        yield walk


def rendered(frames: int) -> EncodedRecording:
    """Return a rendered recording as a camera with distortion would have taken it."""
    from ..input.open_source import open_source
    from ..offline.benchmark import through_lens

    with rendered_folder(frames) as walk, open_source(walk) as source:
        return through_lens(source)
