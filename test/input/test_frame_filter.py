"""What becomes of a frame by its stamp and size."""

from dataclasses import replace

import pytest
from r3_ros.core.config import InputConfig
from r3_ros.input.frame_filter import Action, FrameFilter

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def frame_filter(**options):
    return FrameFilter(replace(InputConfig(), **options))


def actions(gate, times_s, size=(64, 48)):
    return [gate.admit(START + round(t * SECOND), *size).action for t in times_s]


ACCEPT, DROP, RESET, FAULT = Action.ACCEPT, Action.DROP, Action.RESET, Action.FAULT


def test_frames_in_order_are_accepted_however_close():
    gate = frame_filter()
    assert actions(gate, [0, 1e-9, 0.1, 100.0]) == 4 * [ACCEPT]
    assert not gate.rejected


def test_repeated_and_late_frames_are_dropped_and_counted():
    gate = frame_filter(time_jump_threshold=0.5)
    assert actions(gate, [1.0, 1.0, 0.9, 0.51, 1.1]) == [ACCEPT, DROP, DROP, DROP, ACCEPT]
    assert gate.rejected == {'duplicate stamp': 1, 'out of order': 2}


@pytest.mark.parametrize('policy,action', [('reset', RESET), ('ignore', DROP), ('error', FAULT)])
def test_a_jump_back_does_what_is_configured(policy, action):
    gate = frame_filter(on_time_jump_back=policy, time_jump_threshold=0.5)
    assert actions(gate, [10.0, 9.5]) == [ACCEPT, action]
    verdict = gate.admit(START, 64, 48)
    # After a reset the reference is 9.5 s, otherwise still 10.0 s.
    assert verdict.action is action
    assert f'{9.5 if policy == "reset" else 10.0:.3f} s' in verdict.reason


def test_after_ignoring_a_jump_frames_count_again_when_time_has_caught_up():
    gate = frame_filter(on_time_jump_back='ignore')
    assert actions(gate, [10.0, 5.0, 9.99, 10.1]) == [ACCEPT, DROP, DROP, ACCEPT]


def test_a_fault_ends_with_a_reset():
    gate = frame_filter(on_time_jump_back='error')
    assert actions(gate, [10.0, 5.0, 5.1]) == [ACCEPT, FAULT, FAULT]
    gate.reset()
    assert actions(gate, [5.2]) == [ACCEPT]


@pytest.mark.parametrize('policy,action', [('reset', RESET), ('reject', DROP)])
def test_a_new_size_does_what_is_configured(policy, action):
    gate = frame_filter(on_resolution_change=policy)
    gate.admit(START, 64, 48)
    verdict = gate.admit(START + SECOND, 32, 24)
    assert verdict.action is action
    assert '64x48 to 32x24' in verdict.reason
    again = gate.admit(START + 2 * SECOND, 32, 24)
    assert again.action is (ACCEPT if policy == 'reset' else DROP)


def test_a_dropped_frame_is_no_reference():
    gate = frame_filter(on_resolution_change='reject')
    gate.admit(START, 64, 48)
    gate.admit(START + 2 * SECOND, 32, 24)
    assert gate.admit(START + SECOND, 64, 48).action is ACCEPT


def test_old_frames_are_dropped_by_the_clock():
    gate = frame_filter(max_age=0.5)
    assert gate.admit(START, 64, 48, now_ns=START + SECOND).action is DROP
    assert gate.admit(START, 64, 48, now_ns=START + SECOND // 2).action is ACCEPT
    assert gate.admit(START + 1, 64, 48).action is ACCEPT
    assert gate.rejected == {'too old': 1}
    assert frame_filter().admit(START, 64, 48, now_ns=START + 99 * SECOND).action is ACCEPT


@pytest.mark.parametrize('camera_hz', [10.0, 12.0, 15.0, 29.97, 60.0])
def test_the_rate_is_limited_on_the_average_and_reached(camera_hz):
    gate = frame_filter(max_rate=10.0)
    times = [i / camera_hz for i in range(round(20 * camera_hz))]
    accepted = actions(gate, times).count(ACCEPT)
    assert 195 <= accepted <= 201


def test_jitter_does_not_cost_frames_of_a_camera_at_the_limit():
    gate = frame_filter(max_rate=10.0)
    jitter = [0.0, 0.008, -0.007, 0.005, -0.008]
    times = [0.1 * i + jitter[i % 5] for i in range(100)]
    assert actions(gate, times) == 100 * [ACCEPT]


def test_a_pause_earns_no_burst():
    gate = frame_filter(max_rate=10.0)
    times = [0.0, 0.1, 5.0, 5.03, 5.06, 5.1, 5.13]
    assert actions(gate, times) == [ACCEPT, ACCEPT, ACCEPT, DROP, DROP, ACCEPT, DROP]


def test_the_rate_starts_anew_with_a_session():
    gate = frame_filter(max_rate=1.0)
    assert actions(gate, [100.0, 100.1, 50.0, 50.5, 51.0]) == [ACCEPT, DROP, RESET, DROP, ACCEPT]


def test_a_stray_tiny_image_does_not_end_the_session():
    gate = frame_filter()
    gate.admit(START, 64, 48)
    verdict = gate.admit(START + SECOND, 1, 1)
    assert verdict.action is DROP and '1x1' in verdict.reason
    assert gate.rejected['too small'] == 1
    assert gate.admit(START + 2 * SECOND, 64, 48).action is ACCEPT
