"""The predictor of image pairs, around scripted networks that know the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from r3_ros.core.config import ModelConfig, R3Config, StreamConfig  # noqa: E402
from r3_ros.core.datatypes import Estimate, KnownKeyframe  # noqa: E402
from r3_ros.core.errors import FrameError  # noqa: E402
from r3_ros.core.geometry import inverse, make_T, rotation_angle, transform  # noqa: E402
from r3_ros.model.pairs.alignment import reciprocal_matches, refined_pose  # noqa: E402
from r3_ros.model.pairs.pair_predictor import PairPredictor  # noqa: E402
from r3_ros.model.pairs.pose_pairs import PairWorld, PosePair  # noqa: E402
from r3_ros.model.variants import PairOutput  # noqa: E402
from r3_ros.streaming.engine import Engine  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from scripted import circle, frames, intrinsics, straight, truth  # noqa: E402
from scripted_pairs import pair_predictor, PairScript, ScriptedPoints, ScriptedPoses  # noqa: E402

#: A loop and a little more.
_LOOP, _FRAMES = circle(period_s=3.0), 36


def _run(
    network: ScriptedPoints | ScriptedPoses, count: int = _FRAMES
) -> tuple[Engine, list[Estimate]]:
    stream = StreamConfig(recent_frames=3, recent_keyframes=2, retrieved_keyframes=3)
    engine = Engine(pair_predictor(network), replace(R3Config(), stream=stream))
    estimates = [engine.step(frame) for frame in frames(count)]
    engine.drain()
    return engine, estimates


def _off(network: ScriptedPoints | ScriptedPoses, estimates: list[Estimate]) -> float:
    """Return the largest error of a position over the extent of the path, in the best unit."""
    found = np.array([e.T_world_camera[:3, 3] for e in estimates])  # type: ignore[index]
    true = np.array([truth(network.script.path, e.stamp_ns)[:3, 3] for e in estimates])
    found *= (found * true).sum() / (found**2).sum()
    return float(np.linalg.norm(found - true, axis=1).max() / np.ptp(true, axis=0).max())


def _steps(predictor: PairPredictor, *numbers: int) -> list:
    """Predict frames, each against all before it."""
    shown = list(frames(max(numbers) + 1))
    found = []
    for n, number in enumerate(numbers):
        frame = replace(shown[number], frame_id=number)
        predictor.describe(frame)
        found.append(predictor.predict(frame, numbers[:n]))
    return found


def test_points_of_pairs_in_any_unit_with_wrong_pairs_give_the_trajectory() -> None:
    script = PairScript(_LOOP, noise=0.005, units=0.5, wrong_share=0.08, garbage_share=0.08)
    network = ScriptedPoints(script)
    _, estimates = _run(network)
    assert all(e.state.is_tracked for e in estimates[1:])
    assert _off(network, estimates) < 0.01
    assert network.encoded == _FRAMES  # once each, however often they are context


def test_directions_without_length_give_the_trajectory() -> None:
    script = PairScript(_LOOP, noise=0.002, wrong_share=0.08, garbage_share=0.08)
    network = ScriptedPoses(script)
    _, estimates = _run(network)
    assert all(e.state.is_tracked for e in estimates[1:])
    assert _off(network, estimates) < 0.01


def test_a_loop_is_closed_when_old_frames_are_seen_again() -> None:
    # Only the nearest frames are seen, so poses drift until the camera is back.
    network = ScriptedPoints(PairScript(_LOOP, noise=0.01, units=0.5, far=0.3))
    engine, estimates = _run(network, count=46)
    assert all(e.state.is_tracked for e in estimates[1:])
    around = [e for e in engine.session.graph.edges() if e.target_id - e.source_id > 25]
    assert engine.session.map_revision
    assert len(around) > 5
    assert _off(network, estimates[-5:]) < 0.06


@pytest.mark.parametrize('kind', [ScriptedPoints, ScriptedPoses])
def test_pairs_that_contradict_themselves_give_no_pose(kind: type) -> None:
    _, estimates = _run(kind(PairScript(_LOOP, garbage_share=1.0)), count=8)
    assert all(e.T_world_camera is None for e in estimates[1:])


def test_edges_and_depth_have_one_unit() -> None:
    network = ScriptedPoints(PairScript(_LOOP, units=0.7))
    predictions = _steps(pair_predictor(network), 0, 3, 6)
    first = predictions[0].depths[0].depth
    assert np.median(first) == pytest.approx(1.0, rel=0.01)  # the scene is a unit away
    unit = np.median(first / network._points(0)[..., 2])
    for edge in predictions[2].edges:
        T = inverse(network.T_room(edge.source_id)) @ network.T_room(6)
        np.testing.assert_allclose(edge.T_source_target[:3, 3], T[:3, 3] * unit, atol=1e-4)
        assert rotation_angle(edge.T_source_target[:3, :3].T @ T[:3, :3]) < 1e-4
    depth = predictions[2].depths[0].depth
    np.testing.assert_allclose(depth, network._points(6)[..., 2] * unit, rtol=1e-3)


def test_depth_in_metres_keeps_its_unit() -> None:
    network = ScriptedPoints(PairScript(_LOOP), PairOutput.DESCRIPTORS)
    (prediction,) = _steps(pair_predictor(network), 0)
    np.testing.assert_allclose(prediction.depths[0].depth, network._points(0)[..., 2], rtol=1e-3)


def test_the_focal_length_of_an_uncalibrated_camera_is_found() -> None:
    predictor = pair_predictor(ScriptedPoints(PairScript(_LOOP, noise=0.01)))
    frame = replace(next(frames(1, calibrated=False)), frame_id=0)
    prediction = predictor.predict(frame, [])
    assert prediction.intrinsics_estimated
    assert prediction.intrinsics.fx == pytest.approx(0.8 * 64, rel=0.01)
    predictor = pair_predictor(ScriptedPoses(PairScript(_LOOP)))
    with pytest.raises(FrameError, match='give the calibration'):
        predictor.predict(frame, [])


def test_points_behind_the_camera_refuse_a_frame_only_without_a_calibration() -> None:
    network = ScriptedPoints(PairScript(_LOOP))
    for i in range(2):
        network._walls[i] = -network._points(i)
    predictor = pair_predictor(network)
    calibrated, unknown = (next(frames(1, calibrated=c)) for c in (True, False))
    prediction = predictor.predict(replace(calibrated, frame_id=0), [])
    assert np.isnan(prediction.depths[0].depth).all()
    assert np.isnan(prediction.seen_fov_x)
    with pytest.raises(FrameError, match='no focal length'):
        predictor.predict(replace(unknown, frame_id=1), [0])


def test_a_frame_with_an_unusable_field_of_view_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = pair_predictor(ScriptedPoints(PairScript(_LOOP)))
    _steps(predictor, 0, 1)

    def refuse(*_: object) -> None:
        raise FrameError('unusable')

    monkeypatch.setattr('r3_ros.model.network_predictor.intrinsics_from_fov', refuse)
    frame = replace(list(frames(3))[2], frame_id=2, intrinsics=None)
    with pytest.raises(FrameError, match='unusable'):
        predictor.predict(frame, [0, 1])
    assert len(predictor._fovs) == len(predictor._depths) == len(predictor._features) == 2


@pytest.mark.parametrize('kind', [ScriptedPoints, ScriptedPoses])
def test_pairs_that_are_not_finite_are_left_out_and_a_frame_of_them_alone_is_refused(
    kind: type,
) -> None:
    predictor = pair_predictor(kind(PairScript(_LOOP)))
    _steps(predictor, 0, 1, 2)
    predictor._network.script.not_finite = {0, 5}
    shown = [replace(frame, frame_id=n) for n, frame in enumerate(frames(6))]
    edges = predictor.predict(shown[3], [0, 1, 2]).edges
    assert [edge.source_id for edge in edges] == [1, 2]
    for number, context in ((4, [0]), (5, [1, 2])):
        with pytest.raises(FrameError, match='not finite'):
            predictor.predict(shown[number], context)
    assert len(predictor._features) == 4


def test_a_forgotten_frame_leaves_nothing_behind() -> None:
    predictor = pair_predictor(ScriptedPoints(PairScript(_LOOP)))
    _steps(predictor, 0, 1, 2)
    predictor.forget([0, 1, 2, 77])
    assert not len(predictor._features)
    assert not predictor._depths


def test_frames_of_a_saved_map_are_encoded_when_needed_and_give_the_place() -> None:
    for network in (ScriptedPoints(PairScript(_LOOP)), ScriptedPoses(PairScript(_LOOP))):
        predictor = pair_predictor(network)
        shown = list(frames(6))
        known = [
            KnownKeyframe(i, f.stamp_ns, f.image, f.intrinsics, network.T_room(i), np.zeros(128))
            for i, f in enumerate(shown[:4])
        ]
        predictor.restore(known, None)
        assert network.encoded == 0
        frame = replace(shown[5], frame_id=100)
        edges = predictor.predict(frame, [0, 1, 2, 3]).edges
        assert network.encoded == 5
        assert [edge.source_id for edge in edges] == [0, 1, 2, 3]
        true = [inverse(network.T_room(i)) @ network.T_room(5) for i in range(4)]
        lengths = np.array([np.linalg.norm(edge.T_source_target[:3, 3]) for edge in edges])
        ratios = lengths / [np.linalg.norm(T[:3, 3]) for T in true]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-2)  # one unit


def test_of_frames_to_be_encoded_again_the_newest_come_first() -> None:
    network = ScriptedPoints(PairScript(_LOOP))
    predictor = pair_predictor(network, recomputed_per_frame=1)
    shown = [replace(frame, frame_id=n) for n, frame in enumerate(frames(5))]
    for frame in shown[:3]:
        predictor._features.hold_image(frame.frame_id, predictor._pixels(frame.image)[0])
    edges = [predictor.predict(shown[n], [0, 1, 2]).edges for n in (3, 4)]
    assert [[edge.source_id for edge in found] for found in edges] == [[2], [1, 2]]


def test_a_straight_path_has_no_length_and_the_edge_says_so() -> None:
    network = ScriptedPoses(PairScript(straight()))
    predictions = _steps(pair_predictor(network), 0, 1, 2, 3)
    for edge in predictions[3].edges:
        sigma, turn = edge.evidence
        assert sigma > 0.2  # of a step of about 1
        assert turn < 0.02
        assert edge.confidence_translation < 0.5 * edge.confidence_rotation


def test_lines_from_known_places_meet_at_the_frame() -> None:
    world = PairWorld()
    rng = np.random.default_rng(3)
    target, places = np.array([1.0, 2.0, 3.0]), rng.normal(size=(5, 3))
    pairs = []
    for i, place in enumerate(places):
        T = np.eye(4)
        T[:3, 3] = place
        world.place(i, T)
        line = target - place
        if i == 4:
            line = rng.normal(size=3)  # a wrong pair
        pairs.append(PosePair(i, np.eye(3), line / np.linalg.norm(line), 0.01, 0.01))
    edges = world.edges(9, pairs)
    assert [edge.source_id for edge in edges] == [0, 1, 2, 3]
    for edge in edges:
        np.testing.assert_allclose(
            edge.T_source_target[:3, 3], target - places[edge.source_id], atol=0.02
        )


def test_reciprocal_matches_refine_a_pose() -> None:
    network = ScriptedPoints(PairScript(_LOOP))
    T = inverse(network.T_room(0)) @ network.T_room(2)
    points, K = network._points(0), intrinsics()
    in_second = transform(inverse(T), points.reshape(-1, 3))
    uv = in_second[:, :2] / in_second[:, 2:] * [K.fx, K.fy] + [K.cx, K.cy]
    # Descriptors that tell where in the second image a point is.
    v, u = np.mgrid[: K.height, : K.width]
    seen = np.stack([uv[:, 0], uv[:, 1]], axis=1).reshape(K.height, K.width, 2)
    first, second = (_of_places(places) for places in (seen, np.stack([u, v], axis=-1)))
    at, other = reciprocal_matches(first, second)
    assert len(at) > 30
    np.testing.assert_allclose(seen[at[:, 1], at[:, 0]], other, atol=0.8)
    off = T @ make_T(Rotation.from_rotvec([0.01, -0.02, 0.01]).as_matrix(), [0.01, 0.0, -0.01])
    pixels = seen[at[:, 1], at[:, 0]]
    pixels[::5] += 20.0  # wrong matches
    refined = refined_pose(off, points[at[:, 1], at[:, 0]], pixels, replace(K, width=200))
    assert refined is not None
    np.testing.assert_allclose(refined[0], T, atol=1e-3)
    assert refined[1] == pytest.approx(0.8, abs=0.05)
    assert refined_pose(off, points[at[:, 1], at[:, 0]], pixels + 40.0, K) is None


def _of_places(places: np.ndarray) -> torch.Tensor:
    """Return unit vectors (H, W, 3) that are near for near places in an image of 64 x 48."""
    vectors = np.concatenate([places - [32.0, 24.0], np.full((*places.shape[:2], 1), 40.0)], -1)
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).float()


def test_images_of_another_shape_are_refused() -> None:
    predictor = pair_predictor(ScriptedPoints(PairScript(_LOOP)), ModelConfig())
    shown = list(frames(2))
    predictor.predict(replace(shown[0], frame_id=0), [])
    square = replace(shown[1], frame_id=1, image=np.zeros((64, 64, 3), np.uint8), intrinsics=None)
    with pytest.raises(FrameError, match='must not change'):
        predictor.predict(square, [0])
