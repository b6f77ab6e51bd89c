"""The mailbox loses the right items and counts them; the thread reports every error."""

import ast
import threading

import pytest
from r3_ros.classical.backend import Background
from r3_ros.core.threads import Mailbox, RepeatingThread, THREAD_PREFIX
from sources import syntax_trees

#: Long enough to be a hang, never waited for when all is well.
LONG_S = 20.0


def test_newest_keeps_one_item_and_counts_the_rest():
    box = Mailbox(1)
    for item in range(5):
        box.put(item)
    assert box.get(0.0) == 4
    assert box.get(0.0) is None
    assert (box.received, box.dropped) == (5, 4)


def test_queue_keeps_order_and_loses_the_oldest():
    box = Mailbox(3)
    for item in range(5):
        box.put(item)
    assert [box.get(0.0) for _ in range(4)] == [2, 3, 4, None]
    assert (box.received, box.dropped) == (5, 2)


def test_clear_counts_what_it_throws_away():
    box = Mailbox(3)
    box.put('a')
    box.put('b')
    assert box.clear() == 2
    assert box.get(0.0) is None
    assert (box.received, box.dropped) == (2, 2)
    assert box.clear() == 0


def test_counters_are_exact_with_several_threads():
    box = Mailbox(1)
    taken = []
    done = threading.Event()

    def take():
        while not done.is_set():
            item = box.get(LONG_S)
            if item is not None:
                taken.append(item)

    def give(first):
        for item in range(first, first + 2000):
            box.put(item)

    taker = threading.Thread(target=take)
    givers = [threading.Thread(target=give, args=(n * 2000,)) for n in range(3)]
    taker.start()
    for giver in givers:
        giver.start()
    for giver in givers:
        giver.join()
    done.set()
    box.wake()
    taker.join(LONG_S)
    assert not taker.is_alive()
    left = box.get(0.0)
    assert box.received == 6000
    assert box.received == box.dropped + len(taken) + (left is not None)
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize('release', ['put', 'wake', 'close'])
def test_a_waiting_get_is_released(release):
    box = Mailbox(1)
    got = []
    waiter = threading.Thread(target=lambda: got.append(box.get(LONG_S)))
    waiter.start()
    {'put': lambda: box.put('item'), 'wake': box.wake, 'close': box.close}[release]()
    waiter.join(LONG_S / 2)
    assert got == ['item' if release == 'put' else None]


def test_wake_counts_for_one_get_and_loses_no_item():
    box = Mailbox(30)
    box.wake()
    assert box.get(LONG_S) is None
    box.put('a')
    box.wake()
    assert box.get(LONG_S) == 'a'


def test_a_closed_box_takes_and_gives_nothing():
    box = Mailbox(30)
    box.put('a')
    box.close()
    box.put('b')
    assert box.get(LONG_S) is None
    assert box.received == 1


def test_the_thread_repeats_its_job_and_reports_errors():
    rounds, errors = [], []
    enough = threading.Event()

    def job():
        rounds.append(threading.current_thread().name)
        if len(rounds) == 5:
            enough.set()
        if len(rounds) in (2, 3):
            raise ValueError(f'round {len(rounds)}')

    thread = RepeatingThread('test', job, errors.append)
    thread.start()
    assert enough.wait(LONG_S)
    assert thread.stop(LONG_S)
    assert [str(error) for error in errors] == ['round 2', 'round 3']
    assert set(rounds) == {'r3_test'}


def test_a_reporter_that_fails_does_not_end_the_thread(capfd):
    calls = []
    enough = threading.Event()

    def job():
        raise ValueError('job')

    def on_error(error):
        calls.append(error)
        if len(calls) == 3:
            enough.set()
        raise RuntimeError('reporter')

    thread = RepeatingThread('test', job, on_error)
    thread.start()
    assert enough.wait(LONG_S)
    assert thread.stop(LONG_S)
    log = capfd.readouterr().err
    assert 'ValueError: job' in log and 'RuntimeError: reporter' in log


def test_stop_returns_whether_the_job_has_ended():
    inside, release = threading.Event(), threading.Event()

    def job():
        inside.set()
        release.wait(LONG_S)

    thread = RepeatingThread('test', job, lambda error: None)
    thread.start()
    assert inside.wait(LONG_S)
    assert thread.stop(0.01) is False
    assert thread.stopping
    release.set()
    assert thread.stop(LONG_S)


def test_the_job_may_stop_its_own_thread():
    ended = []
    thread = RepeatingThread('test', lambda: ended.append(thread.stop(LONG_S)), lambda error: None)
    thread.start()
    thread._thread.join(LONG_S)
    assert ended == [False] and thread.stop(0.0)


def test_a_thread_that_never_started_is_stopped():
    assert RepeatingThread('test', lambda: None, lambda error: None).stop(0.0)


def test_every_thread_of_the_package_has_its_prefix():
    starters = {'Thread', 'Timer', 'ThreadPoolExecutor'}
    for path, tree in syntax_trees().items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        names = [getattr(n.func, 'attr', getattr(n.func, 'id', '')) for n in calls]
        started = sum(name in starters for name in names)
        assert names.count('thread_name') >= started, path


def test_background_threads_have_the_prefix():
    background = Background('bundle')
    background.submit(0, threading.current_thread)
    (thread,) = background.take(0)
    assert thread.name.startswith(THREAD_PREFIX)
    background.close()
