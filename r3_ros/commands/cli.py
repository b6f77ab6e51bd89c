"""The ``r3`` command: finds the subcommands and turns errors into one line and a status.

Each module of :mod:`r3_ros.commands` is a subcommand, or a part of one. They import what they need
when they run, so that ``r3 --help`` is quick and needs nothing but the standard library.
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
#: Libraries that come with an extra of setup.py, and the commands that need ``learning``.
_OPTIONAL = {'huggingface_hub', 'safetensors', 'torch'}
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
        if hasattr(command, 'register'):  # a part of another has none
            command.register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status.

    0: done; 2: wrong usage or an :class:`R3Error`, told in one line; 130: interrupted; 143:
    terminated. A command may return another status of its own.
    """
    args = build_parser().parse_args(argv)
    # NumPy reads it when it is imported, which no command has done yet. The matrices are small:
    # a second BLAS thread halves the speed and doubles the CPU time, waiting for the first.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    try:
        with _termination_unwinds():
            return int(args.func(args) or 0)
    except R3Error as error:
        print(f'r3 {args.command}: {error}', file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        extra = 'learning' if args.command in _LEARNING else 'r3'
        print(f'r3 {args.command}: {error}: pip install "r3_ros[{extra}]"', file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print(f'r3 {args.command}: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`r3 ... | head`): leave quietly, and keep the
        # interpreter from failing again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Leave by an exception on SIGTERM and SIGHUP, so that temporary files are removed."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == '__main__':
    sys.exit(main())
