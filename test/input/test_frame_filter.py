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


A, B = ('left', 64, 48), ('right', 64, 48)


def dropped(gate, cameras):
    return [bool(gate.drop_other_camera(*camera)) for camera in cameras]


@pytest.mark.parametrize('other', [B, ('left', 32, 24)])
def test_of_two_cameras_that_take_turns_one_is_kept(other):
    gate = frame_filter()
    found = dropped(gate, 10 * [A, other])
    # Four changes are taken for real ones; after them the camera of the last one stays.
    assert found == 4 * [False] + 8 * [True, False]
    assert gate.rejected == {'of another camera': 8}
    assert 'Do two drivers publish' in gate.drop_other_camera(*A)


def test_a_changed_camera_is_followed_at_once_and_after_turns_in_the_end():
    gate = frame_filter()
    assert not any(dropped(gate, 20 * [A] + 20 * [B] + 20 * [A]))
    dropped(gate, 10 * [A, B])
    assert dropped(gate, 60 * [B])[-1] is False and dropped(gate, 60 * [A])[-1] is False


def test_two_clocks_on_one_topic_begin_no_session_with_every_frame():
    gate = frame_filter()
    found = []
    for i in range(20):
        for camera, start_s in ((A, 100.0), (A, 50.0)):
            gate.drop_other_camera(*camera)
            action = gate.admit(START + round((start_s + i / 10) * SECOND), 64, 48).action
            found.append(action)
    assert found.count(RESET) == 3 and set(found[8:]) == {ACCEPT, DROP}
    assert gate.rejected['of another clock'] == 17


def test_a_short_recording_in_a_loop_begins_a_session_each_time():
    gate = frame_filter()
    for _ in range(5):
        for i in range(25):
            assert not gate.drop_other_camera(*A)
            action = gate.admit(START + i * SECOND // 10, 64, 48).action
            assert action in (ACCEPT, RESET)
