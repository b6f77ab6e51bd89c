"""Events of runs that are known frame by frame, and depth samples."""

import cv2
import numpy as np
import pytest
from r3_ros.core.datatypes import DepthMap, Frame, TrackingState
from r3_ros.offline.depth_samples import DepthSamples, MOST_SAMPLES
from r3_ros.offline.frame_record import FrameRecord
from r3_ros.offline.run_events import EventLog, events_of, MOST_EVENTS
from r3_ros.offline.stream_run import loss_warnings
from r3_ros.streaming.image_check import ImageCheck
import scripted
from sequences import stamp

TRACKED, LOST = TrackingState.TRACKING, TrackingState.LOST
FOUND, STARTING = TrackingState.RECOVERING, TrackingState.INITIALIZING


def record(i, state=TRACKED, reason='', **facts):
    has_pose = facts.pop('has_pose', state is TRACKED)
    stamp_ns = facts.pop('stamp_ns', stamp(i))
    return FrameRecord(
        i, stamp_ns, state, reason, has_pose, False, 1.0, 1.0, 1.0, 1, 1.0, 1.0, **facts
    )


def told(records):
    return [(e.kind, e.frame_id, e.frames) for e in events_of(records).events()]


def test_a_loss_lasts_until_the_camera_is_tracked_again():
    states = [STARTING, TRACKED, TRACKED, LOST, LOST, FOUND, TRACKED, TRACKED, LOST]
    log = events_of(record(i, state, 'no remembered frame fits') for i, state in enumerate(states))
    first, last = log.events()
    assert (first.kind, first.frame_id, first.frames) == ('lost', 3, 3)
    assert first.duration_s == pytest.approx(0.3) and not first.until_end
    assert (last.frame_id, last.frames, last.until_end) == (8, 1, True)
    assert 'no remembered frame fits' in last.what and 'more slowly' in last.advice


def test_what_helps_follows_from_the_reason():
    def advice(reason):
        records = [record(0), record(1, LOST, reason)]
        (event,) = events_of(records).events()
        # The last line of a run says the same.
        (warning,) = loss_warnings(records)
        assert reason in warning and warning.endswith(event.advice)
        return event.advice

    def fault(images):
        check = ImageCheck()
        return [check.fault(Frame(image, stamp(i)), 0.2) for i, image in enumerate(images)][-1]

    assert 'lens' in advice(fault([np.zeros((48, 64, 3), np.uint8)]))
    assert 'cable' in advice(fault([scripted.pattern_image()] * 5) + '; no remembered frame fits')
    assert 'slowly' in advice('score at 12% of the usual')


def test_a_start_is_an_event_if_it_is_long_and_its_last_reason_counts():
    quick = [record(i, STARTING if i < 5 else TRACKED, 'no geometry yet') for i in range(8)]
    assert told(quick) == []
    long = [
        record(0, STARTING, 'first frame'),
        *(record(i, STARTING, 'no geometry yet: wave') for i in range(1, 20)),
    ]
    (event,) = events_of([*long, record(20)]).events()
    assert (event.kind, event.frames) == ('start', 20)
    assert event.what == 'no geometry yet: wave' and event.advice == ''


def test_a_gap_in_the_images_is_not_the_camera_s_fault():
    after = [record(i, FOUND, '1 of 3 frames agree', stamp_ns=stamp(i + 40)) for i in (2, 3)]
    (event,) = events_of([record(0), record(1), *after]).events()
    assert event.kind == 'gap' and 'no image came for 4.1 s' in event.what


def test_segments_and_loops():
    steps = [
        record(0),
        record(1, LOST),
        record(2, STARTING, segment_id=1),
        record(3, FOUND, segment_id=1),
        record(4, segment_id=0, loops_closed=1, corrected_frames=7),
        record(5, loops_closed=2, corrected_frames=5),
        record(6, LOST, loops_closed=2),
        record(7, STARTING, segment_id=2, loops_closed=2),
        record(8, segment_id=0, loops_closed=2),
    ]
    assert told(steps) == [
        ('lost', 1, 3),
        ('segment', 2, 1),
        ('joined', 4, 7),
        ('loop', 5, 5),
        ('lost', 6, 2),
        ('segment', 7, 1),
        ('joined', 8, 1),
    ]


def test_a_correction_that_reaches_far_is_told():
    counts = [0, 8, 0, 12, 11, 0, 23, 11, 40, 0]
    records = [record(i, corrected_frames=count) for i, count in enumerate(counts)]
    assert told(records) == [('correction', 6, 23), ('correction', 8, 40)]


def test_the_log_stays_small_and_keeps_what_concerns_most():
    log = EventLog()
    log.note(record(0))
    image = scripted.pattern_image(640, 480)
    frame = 1
    for n in range(1000):
        for _ in range(12 if n == 500 else 1):
            log.note(record(frame, LOST), image)
            frame += 1
        log.note(record(frame))
        frame += 1
        assert len(log._events) <= 4 * MOST_EVENTS
    events = log.events()
    assert len(events) == MOST_EVENTS and log.left_out == 1000 - MOST_EVENTS
    assert max(event.frames for event in events) == 12
    assert [e.frame_id for e in events] == sorted(e.frame_id for e in events)
    small = cv2.imdecode(np.frombuffer(events[0].image, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (120, 160, 3)


def depth_map(i, height=30, width=40):
    depth = np.full((height, width), float(i), np.float32)
    image = np.full((height, width, 3), i % 256, np.uint8)
    return DepthMap(i, depth, np.ones_like(depth), image, scripted.intrinsics(width, height))


@pytest.mark.parametrize('count', [0, 1, 5, 6, 7, 13, 100, 1000])
def test_depth_samples_are_few_and_lie_evenly(count):
    samples = DepthSamples()
    for i in range(count):
        samples.note([depth_map(i)])
    chosen = [sample.frame_id for sample in samples.chosen()]
    assert len(chosen) == min(count, MOST_SAMPLES) and chosen == sorted(set(chosen))
    if count > 20:
        assert chosen[0] == 0 and chosen[-1] > 0.8 * count
        assert np.diff(chosen).max() < 2.1 * np.diff(chosen).min()


def test_large_depth_maps_are_thinned_and_all_take_their_scale():
    samples = DepthSamples()
    samples.note([depth_map(2, 300, 900), depth_map(3)])
    samples.rescale({2: 1.5})
    (sample,) = samples.chosen()
    assert sample.depth.shape == sample.confidence.shape == sample.image.shape[:2] == (75, 225)
    assert (sample.depth == 3.0).all() and (sample.image == 2).all()
