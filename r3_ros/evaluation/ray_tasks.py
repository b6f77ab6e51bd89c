"""Calls a function for many tasks: in this process, or through Ray on a machine or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
import logging
import os
import secrets
import sys
from typing import Any, TypeVar

from tqdm import tqdm

from ..core.errors import ConfigError, R3Error

LOCAL = 'local'
#: How long cancelled tasks may take: r3 run ends its frame and writes what it has.
_STOP_S = 30.0
#: Little, as results are small or files; by default it is a third of the memory.
_OBJECT_STORE_BYTES = 80 * 2**20
#: Of what Ray prints when a worker or a node is lost, all but "Task one_task failed. There are 2
#: retries remaining", with its reason; else there are thirty lines of a log.
_NOT_PRINTED = r'\A(?!Task )'

Task = TypeVar('Task')
Result = TypeVar('Result')


class TaskLostError(R3Error):
    """The worker or node of a task was lost, in every attempt."""


@dataclass(frozen=True)
class RaySettings:
    """Where tasks run, and what each of them takes.

    :ivar address: of a cluster; ``local`` starts Ray on this machine.
    :ivar workers: tasks at once, at most; None: as many as the CPUs and GPUs allow.
    :ivar cpus: that a task takes, and as many threads for sums; ``gpus``: without one it sees
        no GPU. Parts of one are allowed.
    :ivar retries: how often a task is repeated whose worker or node was lost.
    """

    address: str = LOCAL
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 2


@contextmanager
def ray_cluster(settings: RaySettings | None) -> Iterator[None]:
    """Start Ray on this machine, or connect to a cluster; disconnect afterwards.

    :param settings: None: nothing is done.
    :raises ConfigError: no cluster there, or no node of it has what a task takes.
    """
    if settings is None:
        yield
        return
    address, cpus, gpus = settings.address, settings.cpus, settings.gpus
    # Read by Ray when it is imported.
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    os.environ.setdefault('RAY_DEDUP_LOGS_SKIP_REGEX', _NOT_PRINTED)
    # Of a task that is killed because the memory of its node is nearly used up: without end.
    os.environ['RAY_task_oom_retries'] = str(settings.retries)
    if address == LOCAL:
        # Ray listens to the network and runs what it is sent, so only this process knows a token.
        os.environ['RAY_AUTH_MODE'] = 'token'
        os.environ.setdefault('RAY_AUTH_TOKEN', secrets.token_hex(32))
    import ray

    options: dict[str, Any] = {}
    if address == LOCAL:
        options = {'include_dashboard': False, 'object_store_memory': _OBJECT_STORE_BYTES}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises this very class, too
        raise ConfigError(
            f'no Ray cluster at {address}: {error}; if it runs there, RAY_AUTH_MODE and '
            'its token must be the same here'
        ) from error
    try:
        nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
        if not any(n.get('CPU', 0) >= cpus and n.get('GPU', 0) >= gpus for n in nodes):
            raise ConfigError(
                f'no node has {cpus:g} CPUs and {gpus:g} GPUs, as a run was to take; they have '
                + ', '.join(f'{n.get("CPU", 0):g} and {n.get("GPU", 0):g}' for n in nodes)
            )
        yield
    finally:
        ray.shutdown()


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    settings: RaySettings | None,
    unit: str,
    line: Callable[[Result], str],
    failed: Callable[[Task, Exception], Result] | None = None,
) -> Generator[Result, None, None]:
    """Call a function for each task; print and yield the results as they come.

    Closing the iterator cancels the tasks that run.

    :param settings: of the :func:`ray_cluster` that is open; None: the calls are made in this
        process, in the order of the tasks.
    :param unit: what the progress counts; ``line`` describes a result.
    :param failed: makes a result of the error of a task on Ray; None: it is raised.
    :raises TaskLostError: the worker or node of a task was lost too often.
    """
    if settings is None:
        results = (function(task) for task in tasks)
    else:
        results = _on_ray(function, tasks, settings, failed)
    # No bar where every refresh would be a line of a log.
    with closing(results), tqdm(total=len(tasks), unit=f' {unit}', disable=None) as bar:
        for result in results:
            bar.write(line(result))
            bar.update()
            yield result


def _on_ray(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    settings: RaySettings,
    failed: Callable[[Task, Exception], Result] | None,
) -> Generator[Result, None, None]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    remote: Any = ray.remote  # its types know fewer options than its documentation
    call = remote(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries)(
        one_task
    )
    waiting, here = iter(tasks), os.getcwd()
    running: dict[Any, Task] = {}
    try:
        while True:
            count = settings.workers and settings.workers - len(running)
            running |= {call.remote(function, task, here): task for task in islice(waiting, count)}
            if not running:
                return
            (reference,), _ = ray.wait(list(running))
            task = running.pop(reference)
            try:
                result = ray.get(reference)
            except RayError as error:
                if isinstance(error, RayTaskError):
                    cause = error.cause
                else:
                    attempts = 1 + settings.retries
                    cause = TaskLostError(f'{str(error).splitlines()[0]} (attempts: {attempts})')
                if failed is None:
                    raise cause from error
                result = failed(task, cause)
            yield result
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            print('stopping what is still running', file=sys.stderr)
            ray.wait(list(running), num_returns=len(running), timeout=_STOP_S)


def one_task(function: Callable[[Task], Result], task: Task, folder: str) -> Result:
    """Call the function in the folder of the command, if this machine has it."""
    with suppress(OSError):
        os.chdir(folder)
    return function(task)
