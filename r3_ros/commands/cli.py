"""The ``r3`` command: finds the subcommands; reports errors in one line and by the exit status.

Modules of :mod:`r3_ros.commands` with ``register`` are subcommands. They import libraries when
they run, so that ``r3 --help`` is quick and needs only the standard library.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import importlib.util
import os
import pkgutil
import signal
import sys

from .. import __version__, commands
from ..core.errors import R3Error

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
#: Libraries and their extras in setup.py, and the commands that need the extra ``learning``.
_OPTIONAL = {
    **dict.fromkeys(('huggingface_hub', 'safetensors', 'torch'), 'r3'),
    **dict.fromkeys(('foxglove', 'rerun', 'trimesh'), 'export'),
    'faiss': 'bench',
    'ray': 'batch',
    'viser': 'view',
}
#: Libraries that rosdep does not install in a ROS workspace, see package.xml.
_BY_PIP = {'av', 'evo', 'gtsam', 'rosbags'}
_LEARNING = {'finetune', 'synth', 'train'}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every subcommand registered."""
    parser = argparse.ArgumentParser(
        prog='r3', description='Camera stream in; poses, depth and a coloured map out.'
    )
    parser.add_argument('--version', action='version', version=f'r3_ros {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for module in pkgutil.iter_modules(commands.__path__):
        name = f'{commands.__name__}.{module.name}'
        # A symlinked install keeps links to modules that were removed.
        if importlib.util.find_spec(name) is None:
            continue
        command = importlib.import_module(name)
        if hasattr(command, 'register'):
            command.register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status.

    0: done; 2: wrong usage or an :class:`R3Error`; 130: interrupted; 143: terminated. Commands
    may return others.
    """
    args = build_parser().parse_args(argv)
    # Read when NumPy is imported, later. With small matrices a second BLAS thread halves the speed
    # and doubles the CPU time.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    try:
        with _termination_unwinds():
            return int(args.func(args) or 0)
    except R3Error as error:
        print(f'r3 {args.command}: {error}', file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        if error.name in _BY_PIP:
            missing = error.name
        elif error.name in _OPTIONAL:
            extra = 'learning' if args.command in _LEARNING else _OPTIONAL[error.name]
            missing = f'"r3_ros[{extra}]"'
        else:
            raise
        print(f'r3 {args.command}: {error}: pip install {missing}', file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print(f'r3 {args.command}: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The output is closed (`r3 ... | head`): exit quietly, also when the interpreter flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Exit by an exception on SIGTERM and SIGHUP, so that temporary files are removed."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == '__main__':
    sys.exit(main())
