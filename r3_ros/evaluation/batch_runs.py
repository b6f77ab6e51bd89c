"""Runs ``r3 run`` on many recordings, each as a task of Ray, on this machine or on a cluster.

The folder of a batch holds for each recording ``NAME/``, the output of ``r3 run``, and
``NAME.log``, what it printed; and ``batch.json``: the options, the names, and how each recording
ended. A recording is done if and only if the summary in its folder is complete, so a batch can be
stopped at any time and continued later.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
import enum
import json
import logging
import os
from pathlib import Path
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from ..core.errors import ConfigError, R3Error, SourceError
from ..offline.run_files import load_summary, write_json
from .run_evaluation import EVALUATION

BATCH = 'batch.json'
#: Of r3 run: the results are written, but many frames were left out.
_LEFT_OUT = 3
#: How long stopped runs may take to remove their temporary files.
_STOP_S = 10.0
#: Little, as results are files; by default it is a third of the memory.
_OBJECT_STORE_BYTES = 80 * 2**20
#: The run ends with the process that started it: if Ray's worker is killed, another one repeats
#: the recording. 1 is PR_SET_PDEATHSIG of prctl(2), which only Linux has.
_PROGRAM = """
import ctypes, signal, sys
if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from r3_ros.commands.cli import main
sys.exit(main(sys.argv[1:]))
"""


class RunKilledError(R3Error):
    """The process of a run was killed: it may succeed when it is repeated."""


class BatchState(enum.Enum):
    """How far a recording is."""

    PENDING = 'not run'
    DONE = 'done'
    FAILED = 'failed'


@dataclass(frozen=True)
class BatchRun:
    """A recording of a batch.

    :ivar name: of its folder; ``input``: absolute path of the recording.
    :ivar reason: why it failed, or what is to be known of its result.
    :ivar exit_status: of ``r3 run``; None if it was killed, or has not ended.
    :ivar node: name of the machine.
    :ivar seconds: from the start of ``r3 run`` to its end, of the last attempt.
    :ivar frames: processed; ``tracked_share``: of them.
    :ivar ate_m: position error before corrections, root mean square, if the truth was found.
    """

    name: str
    input: str
    state: BatchState = BatchState.PENDING
    reason: str = ''
    exit_status: int | None = None
    node: str = ''
    seconds: float | None = None
    frames: int | None = None
    tracked_share: float | None = None
    ate_m: float | None = None


def named_runs(inputs: Iterable[str], earlier: Sequence[BatchRun], folder: Path) -> list[BatchRun]:
    """Return the runs of a batch: the earlier ones, then those of new inputs.

    An input that was there before keeps its name. A new one is named like its file or folder,
    without suffix and with ``_`` for anything but letters, digits and ``-``; if that name is
    taken, by another input or by something else in the folder, ``-2``, ``-3``... is added.
    """
    runs = {run.input: run for run in earlier}
    taken = {run.name for run in earlier}
    for text in inputs:
        path = Path(os.path.abspath(text))
        if str(path) in runs:
            continue
        stem = path.name if path.is_dir() else path.stem
        # Without dots no name is that of a file of the batch.
        stem = name = re.sub(r'[^\w-]+', '_', stem).strip('_') or 'recording'
        number = 1
        while name in taken or (folder / name).exists():
            number += 1
            name = f'{stem}-{number}'
        taken.add(name)
        runs[str(path)] = BatchRun(name, str(path))
    return list(runs.values())


def with_results(run: BatchRun, folder: Path) -> BatchRun:
    """Return the run as done, with its numbers, if its folder is complete; else as not done."""
    output = folder / run.name
    try:
        summary = load_summary(output)
    except SourceError:
        summary = {}
    if not summary.get('complete'):
        is_done = run.state is BatchState.DONE
        return replace(run, state=BatchState.PENDING) if is_done else run
    ate_m = None
    # There is none without a truth.
    with suppress(OSError, ValueError, KeyError):
        evaluation = json.loads((output / EVALUATION).read_text(encoding='utf-8'))
        ate_m = evaluation['trajectory']['ate_rmse_m']
    return replace(
        run,
        state=BatchState.DONE,
        frames=summary['frames']['processed'],
        tracked_share=summary['tracked_share'],
        ate_m=ate_m,
        reason=run.reason if run.state is BatchState.DONE else '',
    )


def load_batch(folder: Path, options: Sequence[str]) -> list[BatchRun]:
    """Read the runs of an earlier batch; there may be none.

    :param options: for ``r3 run``; runs of one batch share them.
    :raises ConfigError: the earlier batch had other options.
    :raises SourceError: the file is damaged.
    """
    path = folder / BATCH
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        earlier = content['options']
        runs = [BatchRun(**{**run, 'state': BatchState(run['state'])}) for run in content['runs']]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f'{path} is damaged: {error!r}; name another output folder') from error
    if earlier != list(options):
        raise ConfigError(
            f'the runs in {folder} were made with {" ".join(earlier) or "no options"}, and now '
            f'there is {" ".join(options) or "none"}: give the same options or another folder'
        )
    return runs


def save_batch(folder: Path, options: Sequence[str], runs: Sequence[BatchRun]) -> None:
    """Write ``batch.json``.

    :raises OutputError: it cannot be written.
    """
    content = [{**asdict(run), 'state': run.state.value} for run in runs]
    write_json(folder / BATCH, {'options': list(options), 'runs': content})


@contextmanager
def ray_cluster(address: str, cpus: float, gpus: float, retries: int) -> Iterator[None]:
    """Start Ray on this machine, or connect to a cluster; disconnect afterwards.

    :param address: of the cluster; ``local`` starts one.
    :param cpus, gpus: what a run needs.
    :param retries: of a run that Ray kills because the memory of its node is nearly used up.
    :raises ConfigError: no cluster there, or no node of it has so much.
    """
    # Read by Ray when it is imported.
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    os.environ['RAY_task_oom_retries'] = str(retries)  # by default without end
    if address == 'local':
        # Ray listens to the network and runs what it is sent, so only this process knows a token.
        os.environ['RAY_AUTH_MODE'] = 'token'
        os.environ.setdefault('RAY_AUTH_TOKEN', secrets.token_hex(32))
    import ray
    from ray.exceptions import RayError

    options: dict[str, Any] = {}
    if address == 'local':
        options = {'include_dashboard': False, 'object_store_memory': _OBJECT_STORE_BYTES}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
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


def run_batch(
    runs: Sequence[BatchRun],
    folder: Path,
    options: Sequence[str],
    cpus: float,
    gpus: float,
    retries: int,
) -> Generator[BatchRun, None, None]:
    """Run recordings in a :func:`ray_cluster`; yield each when it has ended.

    Closing the iterator stops those that are running.

    :param options: for ``r3 run``, with absolute paths.
    :param retries: how often a run is repeated whose process, worker or node was killed.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    remote: Any = ray.remote  # its types know fewer options than its documentation
    task = remote(
        num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=[RunKilledError]
    )(run_recording)
    pending = {task.remote(run, folder, options): run for run in runs}
    try:
        while pending:
            (reference,), _ = ray.wait(list(pending))
            run = pending.pop(reference)
            try:
                yield _seen_from_here(ray.get(reference), folder)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                reason = (str(cause) or repr(cause)).splitlines()[0]
                if not isinstance(error, RayTaskError) or isinstance(cause, RunKilledError):
                    reason += f' (attempts: {1 + retries})'
                yield replace(run, state=BatchState.FAILED, reason=reason)
    finally:
        for reference in pending:
            ray.cancel(reference)
        if pending:
            ray.wait(list(pending), num_returns=len(pending), timeout=_STOP_S)


def _seen_from_here(run: BatchRun, folder: Path) -> BatchRun:
    """Return the run with its numbers; as failed if its folder is not here."""
    if run.state is not BatchState.DONE:
        return run
    found = with_results(run, folder)
    if found.state is BatchState.DONE:
        return found
    reason = f'{folder / run.name} was written on {run.node} and is not here: share the folder'
    return replace(run, state=BatchState.FAILED, reason=reason)


def run_recording(run: BatchRun, folder: Path, options: Sequence[str]) -> BatchRun:
    """Process one recording by ``r3 run`` in a process of its own.

    :raises RunKilledError: the process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # An output that is there is incomplete; r3 run replaces nothing but outputs of its own.
    output = ['--output', str(folder / run.name), '--overwrite']
    command = [sys.executable, '-c', _PROGRAM, 'run', run.input, *output, *options]
    log = folder / f'{run.name}.log'
    start = time.monotonic()
    with log.open('wb') as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            # An interrupt by Ray arrives between two waits.
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1.0)
        finally:
            process.terminate()
            process.wait()
    status = process.returncode
    if status < 0 or status > 128:
        number = -status if status < 0 else status - 128
        raise RunKilledError(f'r3 run was killed by {signal.Signals(number).name}, see {log}')
    lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
    last = next((line.strip() for line in reversed(lines) if line.strip()), 'it printed nothing')
    reason = '' if status == 0 else last.removeprefix('r3 run: ')
    return replace(
        run,
        state=BatchState.DONE if status in (0, _LEFT_OUT) else BatchState.FAILED,
        reason=reason,
        exit_status=status,
        node=socket.gethostname(),
        seconds=time.monotonic() - start,
    )
