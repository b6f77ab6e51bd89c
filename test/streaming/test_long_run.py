"""Ten thousand frames: memory is flat once the bank is full."""

import gc
import tracemalloc

import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import updated
from r3_ros.streaming.engine import Engine
from scripted import frames, Script, ScriptedPredictor

FRAMES = 10_000
#: Memory is traced, which slows all down, from here on ...
TRACED_FROM = 7_500
#: ... and measured once everything that is there has been replaced.
SETTLED_FROM = 8_000
EVERY = 250


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_frames():
    config = updated(
        R3Config(),
        {
            'keyframe.max_keyframes': 20,
            'keyframe.max_interval': 10,
            'stream.recent_frames': 3,
            'stream.recent_keyframes': 2,
            'stream.retrieved_keyframes': 2,
            'points.stride': 1,
            'map.max_points': 10_000,
            'trajectory.max_poses': 2_000,
        },
    )
    # Trouble of every kind belongs to a long run.
    script = Script(
        droughts=set(range(500, FRAMES, 1000)) | set(range(700, FRAMES, 1000)),
        blackouts={i + j for i in range(800, FRAMES, 1000) for j in range(6)},
        refine_at=set(range(0, FRAMES, 40)),
        depth_size=(12, 16),
        depth_delay=2,
    )
    predictor = ScriptedPredictor(script)
    engine = Engine(predictor, config)
    held, sizes = [], []
    try:
        for number, frame in enumerate(frames(FRAMES), start=1):
            engine.step(frame)
            predictor.contexts.clear()  # a record that the test predictor keeps for other tests
            if number == TRACED_FROM:
                tracemalloc.start()
            if number % EVERY == 0:
                held.append(len(predictor.held))
                if number >= SETTLED_FROM:
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0] / 1e6)
    finally:
        tracemalloc.stop()
    session = engine.session
    assert session.frame_count == FRAMES and len(session.bank) == 20
    assert max(held) <= 23
    assert len(session.map) <= 10_000 and len(session.trajectory) <= 2_000
    assert len(session.graph.edges()) < 23 * 23
    slope = np.polyfit(np.arange(len(sizes)) * EVERY / 1000, sizes, 1)[0]
    assert abs(slope) < 0.1, f'{slope:.3f} MB per 1000 frames, measured {sizes} MB'
    assert np.ptp(sizes) < 1.0
