"""The scripted predictor tells one consistent story; tests of others lean on it."""

import numpy as np
import pytest
from r3_ros.core.geometry import inverse, is_rigid, transform, unproject
from scripted import circle, frames, ROOM, Script, ScriptedPredictor, straight, truth


def shown(predictor, count=12, **options):
    """Show frames to a predictor as an engine that keeps everything would."""
    said = []
    for frame_id, frame in enumerate(frames(count, **options)):
        object.__setattr__(frame, 'frame_id', frame_id)
        predictor.describe(frame)
        said.append((frame, predictor.predict(frame, sorted(predictor.held))))
    return said


def test_edges_are_the_relative_poses_of_the_path():
    predictor = ScriptedPredictor()
    said = shown(predictor)
    path = predictor.script.path
    for frame, prediction in said[1:]:
        assert len(prediction.edges) == frame.frame_id
        for edge in prediction.edges:
            T_world_frame = truth(path, said[edge.source_id][0].stamp_ns) @ edge.T_source_target
            np.testing.assert_allclose(T_world_frame, truth(path, frame.stamp_ns), atol=1e-12)


@pytest.mark.parametrize('path', [circle(), straight()])
def test_depth_lies_on_the_walls_of_the_room(path):
    for frame, prediction in shown(ScriptedPredictor(Script(path=path))):
        assert is_rigid(path(frame.stamp_ns))
        (depth,) = prediction.depths
        K = depth.intrinsics
        points = unproject(depth.depth, K.fx, K.fy, K.cx, K.cy).reshape(-1, 3)
        room = transform(path(frame.stamp_ns), points)
        assert np.abs(np.abs(room / ROOM).max(axis=1) - 1.0).max() < 1e-5


def test_similarity_falls_with_distance():
    predictor = ScriptedPredictor(Script(path=straight()))
    described = [predictor.describe(frame) for frame in frames(60)]
    similarity = np.array(described) @ described[0]
    assert similarity[0] == pytest.approx(1.0, abs=1e-6)
    assert similarity[1] > 0.99
    assert (np.diff(similarity[:10]) < 0).all()
    assert similarity[-1] < 0.9


def test_events_come_at_their_index():
    script = Script(
        blackouts={3},
        droughts={4},
        nan_pose_at={5},
        refine_at={6},
        depth_delay=2,
        provisional=2,
        keyframe=lambda index: index == 7 or None,
    )
    predictor = ScriptedPredictor(script)
    said = [prediction for _, prediction in shown(predictor, 8)]
    assert [p.provisional for p in said] == [True, True] + 6 * [False]
    assert said[3].edges == ()
    assert said[4].edges[0].confidence_rotation < 0.1 * said[2].edges[0].confidence_rotation
    assert np.isnan(said[5].edges[0].T_source_target).all()
    assert [(e.source_id, e.target_id) for e in said[6].refined] == [(i, i + 1) for i in range(6)]
    assert [p.keyframe for p in said] == 7 * [None] + [True]
    assert [[d.frame_id for d in p.depths] for p in said] == [[], []] + [[i] for i in range(6)]
    assert [d.frame_id for d in predictor.drain()[1]] == [6, 7]


def test_failures_are_raised_and_nothing_is_remembered():
    predictor = ScriptedPredictor(Script(failures={0: RuntimeError('scripted')}))
    frame = next(frames(1))
    predictor.describe(frame)
    with pytest.raises(RuntimeError, match='scripted'):
        predictor.predict(frame, ())
    assert predictor.held == set()


def test_noise_is_repeatable():
    scripts = [Script(translation_noise=0.1, rotation_noise=0.1, outlier_share=0.2)] * 2
    first, second = (shown(ScriptedPredictor(script))[-1][1] for script in scripts)
    for a, b in zip(first.edges, second.edges, strict=True):
        np.testing.assert_array_equal(a.T_source_target, b.T_source_target)
        assert is_rigid(a.T_source_target)
    assert not np.allclose(
        first.edges[0].T_source_target, inverse(circle()(0)) @ circle()(0), atol=1e-3
    )
