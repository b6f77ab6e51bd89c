"""Options that several subcommands share, how they become a configuration, and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
import math
import textwrap
import threading
from typing import Any, TYPE_CHECKING

from ..core.errors import ConfigError

if TYPE_CHECKING:
    from ..core.config import R3Config
    from ..evaluation.ray_tasks import RaySettings
    from ..viewer.scene import Scene

_WIDTH = 96


def positive_int(text: str) -> int:
    """Read a whole number of at least 1; for ``type=`` of an option."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be a whole number, got {text!r}') from None
    if value <= 0:
        raise argparse.ArgumentTypeError('must be at least 1')
    return value


def bounded(low: float, high: float) -> Callable[[str], float]:
    """Return a function that reads a number in a range; for ``type=`` of an option."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'must be between {low:g} and {high:g}, got {text!r}')
        return value

    return read


def print_rows(rows: Iterable[tuple[str, str]], indent: int) -> None:
    """Print labels and wrapped values in two columns; the second begins at ``indent``."""
    for label, value in rows:
        first, others = f'{label:<{indent}}', ' ' * indent
        print(
            textwrap.fill(
                value, _WIDTH, initial_indent=first, subsequent_indent=others,
                break_long_words=False, break_on_hyphens=False,
            )
        )  # fmt: skip


def size_text(size_bytes: float) -> str:
    """Return a size for people: 1.42 GB, 137 MB, 12.0 kB."""
    for unit in ('B', 'kB', 'MB'):
        if size_bytes < 999.5:
            return f'{size_bytes:.3g} {unit}'
        size_bytes /= 1000
    return f'{size_bytes:.3g} GB'


def summary_text(summary: dict[str, Any]) -> str:
    """Return the main numbers of summary.json in one line."""
    return (
        f'{summary["frames"]["processed"]} frames at {summary["fps"]:.1f} frames/s, '
        f'{100 * summary["tracked_share"]:.1f} % tracked, {summary["keyframes"]} keyframes, '
        f'{summary["map_points"]} map points'
    )


def add_view_options(parser: argparse._ActionsContainer) -> None:
    """Add the address of the view in the browser."""
    parser.add_argument(
        '--host', metavar='ADDRESS', default='127.0.0.1',
        help='address of this machine at which the view is served (default: 127.0.0.1, for '
        'browsers on this machine; 0.0.0.0: for the whole network, without a password)',
    )  # fmt: skip
    parser.add_argument(
        '--port', metavar='N', type=int, default=8080,
        help='port of the view (default: 8080); if it is in use, the next free one is taken',
    )  # fmt: skip


@contextmanager
def open_scene(args: argparse.Namespace) -> Iterator[Scene]:
    """Serve a view at the address of :func:`add_view_options`, and print where it is.

    :raises ConfigError: nothing can be served there.
    """
    from ..viewer.scene import Scene

    scene = Scene(args.host, args.port)
    try:
        if scene.port != args.port:
            print(f'port {args.port} is in use, so the view is at port {scene.port}')
        print(f'view: {scene.url}', flush=True)
        yield scene
    finally:
        scene.close()


def wait_for_interrupt() -> None:
    """Keep the view open until Ctrl-C."""
    try:
        print('Ctrl-C ends the view', flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print()


def add_ray_options(
    parser: argparse.ArgumentParser, address: str | None = None, tasks: str = 'recordings'
) -> None:
    """Add the options that :func:`ray_settings` reads.

    :param address: used by default; None: Ray is used only if it is asked for.
    :param tasks: what is shared out.
    """
    asked = f'With --workers or --address {tasks} are shared out by Ray; the result is the same.'
    ray = parser.add_argument_group('Ray', asked if address is None else None)
    ray.add_argument(
        '--address', metavar='HOST:PORT', default=address,
        help='cluster, of `ray start --head`, or local (default): this machine alone. The nodes '
        'of a cluster need this package and the same paths of inputs and output',
    )  # fmt: skip
    ray.add_argument(
        '--workers', metavar='N', type=positive_int,
        help=f'{tasks} at once, at most (default: as many as the CPUs allow)',
    )  # fmt: skip
    ray.add_argument(
        '--cpus-per-run', metavar='N', type=bounded(0.1, 1024), default=1.0,
        help='CPUs that each of them takes (default: 1)',
    )  # fmt: skip
    ray.add_argument(
        '--gpus-per-run', metavar='N', type=bounded(0, 16), default=0.0,
        help='GPUs that each of them takes, or the share of one, such as 0.5 (default: 0)',
    )  # fmt: skip
    ray.add_argument(
        '--retries', metavar='N', type=int, choices=range(11), default=2,
        help='how often one is repeated whose worker or machine was lost (default: 2)',
    )  # fmt: skip


def ray_settings(args: argparse.Namespace) -> RaySettings | None:
    """Return how Ray is used; None: it is not."""
    from ..evaluation.ray_tasks import LOCAL, RaySettings

    if args.address is None and args.workers is None:
        return None
    return RaySettings(
        args.address or LOCAL, args.workers, args.cpus_per_run, args.gpus_per_run, args.retries
    )


def add_config_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that :func:`config_from` reads."""
    parser.add_argument('--model', metavar='NAME', help='predictor (default: classical)')
    parser.add_argument('--config', metavar='FILE', help='parameters as YAML (plain or ROS)')
    add_set_option(parser, 'map.voxel_size=0.05')


def add_set_option(parser: argparse._ActionsContainer, example: str) -> None:
    """Add ``--set``, whose values :func:`parsed_settings` reads."""
    parser.add_argument(
        '--set', metavar='NAME=VALUE', action='append', default=[],
        help=f'set a parameter, for example {example}; may be repeated',
    )  # fmt: skip


def config_from(args: argparse.Namespace) -> R3Config:
    """Return the parameters: defaults, then --config, then --set, then --model.

    :raises ConfigError: naming what is wrong.
    """
    from ..core.config import R3Config
    from ..core.parameter_fields import load_config, updated

    config = load_config(args.config, R3Config()) if args.config else R3Config()
    return updated(config, changed_parameters(args))


def changed_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of --set and --model by parameter, unchecked.

    :raises ConfigError: a text without ``=``.
    """
    from ..core.config import R3Config

    changes = parsed_settings(args.set, R3Config())
    return changes | ({'model.name': args.model} if args.model else {})


def parsed_settings(settings: Sequence[str], root: Any) -> dict[str, Any]:
    """Read ``name=value`` texts, each value in the type of its parameter, unchecked.

    :param root: the configuration with these parameters.
    :raises ConfigError: a text without ``=``.
    """
    import yaml

    from ..core.parameter_fields import parameters

    kinds = {parameter.name: parameter.kind for parameter in parameters(root)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition('=')
        if not equals:
            raise ConfigError(f'--set takes NAME=VALUE, got {setting!r}')
        value: Any = text
        if kinds.get(name) is float:
            # YAML 1.1 takes 1e-3 for a word.
            try:
                value = float(text)
            except ValueError:
                pass
        elif kinds.get(name) is not str:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                pass  # a text, which the check of the type refuses
        changes[name] = value
    return changes
