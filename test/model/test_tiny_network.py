"""r3-tiny: matches of cells, the solver, and pairs of any cached frames."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='the network needs torch')

from lively_network import frame, K, lively  # noqa: E402
import networks  # noqa: E402
from r3_ros.core.config import ModelConfig  # noqa: E402
from r3_ros.core.datatypes import ModelInfo  # noqa: E402
from r3_ros.model.cache.frame_memory import CacheBudget  # noqa: E402
from r3_ros.model.network import FrameCache  # noqa: E402
from r3_ros.model.r3_predictor import R3Predictor  # noqa: E402
from r3_ros.model.tiny.matching import (  # noqa: E402
    cell_centres,
    chosen_cells,
    Matcher,
    pixels_of_cells,
)
from r3_ros.model.tiny.pair_solver import MatchedPoints, solve_motions  # noqa: E402
from r3_ros.model.tiny.tiny_network import camera_of_fov, quaternion_of  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_torch_thread')


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope='module')
def network():
    return networks.shared_network('tiny')


def textured(height=84, width=112, seed=0):
    """Return (3, height, width) values from 0 to 1 with structure at several scales."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(3, height, width)
    for scale in (2, 4, 8, 16):
        noise = torch.rand(1, 3, height // scale + 2, width // scale + 2, generator=generator)
        up = torch.nn.functional.interpolate(noise, scale_factor=scale, mode='bilinear')
        image += up[0, :, :height, :width]
    return image / 4


# Matches


def test_cells_are_centred_between_their_pixels():
    centres = cell_centres(2, 3, torch.device('cpu'))
    assert centres.tolist() == [[x, y] for y in (1.5, 5.5) for x in (1.5, 5.5, 9.5)]
    assert torch.equal(pixels_of_cells(torch.tensor([[2.0, 1.0]])), centres[5:])


def test_even_random_weights_match_an_image_moved_by_whole_cells(network):
    image = textured()
    moved = torch.roll(image, (8, 8), dims=(1, 2))
    coarse = network.describe_alone(torch.stack([image, moved])[None]).coarse[0]
    matcher = Matcher()
    matcher.log_temperature.fill_(10.0)  # bounded at 4: exponentials stay finite
    assert torch.isfinite(matcher.similarities(coarse[:1], coarse[1:]).rows).all()
    found = matcher.peaks(coarse, torch.tensor([0]), torch.tensor([1]))
    matches, _ = matcher.match(*found, coarse.shape[2])
    inner = torch.zeros(21, 28, dtype=torch.bool)
    inner[4:-5, 4:-6] = True
    way = (matches.pixel[0] - cell_centres(21, 28, torch.device('cpu')))[inner.flatten()]
    right = (way - 8.0).norm(dim=-1) < 2
    assert right.float().mean() > 0.9


def test_peaks_are_the_best_cells_and_expectations_near_them():
    h, w, radius = 5, 7, 2
    coarse = torch.nn.functional.normalize(torch.randn(3, h, w, 48), dim=-1)
    matcher = Matcher()
    there, back = matcher.peaks(coarse, torch.tensor([0, 2]), torch.tensor([1, 1]))
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    for pair, source in enumerate((0, 2)):
        similarity = (coarse[source].flatten(0, 1) @ coarse[1].flatten(0, 1).T).double().numpy()
        for peaks, rows in ((there, similarity), (back, similarity.T)):
            weight = np.exp(10 * rows)
            weight /= weight.sum(1, keepdims=True)
            best = weight.argmax(1)
            assert peaks.best[pair].tolist() == best.tolist()
            np.testing.assert_allclose(peaks.share[pair], weight.max(1), rtol=1e-4)
            apart = np.maximum(abs(x - x[best][:, None]), abs(y - y[best][:, None]))
            near = np.where(apart <= radius, weight, 0.0)
            mass = near.sum(1)
            np.testing.assert_allclose(peaks.mass[pair], mass, rtol=1e-4)
            mean = np.stack([near @ x / mass, near @ y / mass], axis=-1)
            np.testing.assert_allclose(peaks.place[pair], mean, atol=1e-4)
            variance = near @ (x**2 + y**2) / mass - np.square(mean).sum(1)
            np.testing.assert_allclose(peaks.variance[pair], variance, atol=1e-4)


def test_a_match_is_refined_to_the_place_of_its_descriptor():
    # One channel per pixel of a row at stride 2; the cell's descriptor is the mean of its 2 x 2.
    frames = torch.zeros(2, 2, 12, 12)
    for x in range(12):
        frames[0, :, x, x] = 1.0
        frames[1, :, (x + 1) % 12, x] = 1.0  # moved by one pixel of stride 2
    matcher = Matcher()
    matcher.log_fine_temperature.fill_(4.0)
    cells, near = torch.tensor([[2]]), torch.tensor([[[9.5, 1.5]]])
    fine = matcher.refine(frames, torch.tensor([0]), torch.tensor([1]), cells, near)
    # Cell 2 has the pixels 4 and 5 of stride 2, now at 5 and 6: between 10.5 and 12.5.
    assert fine.pixel[0, 0].tolist() == pytest.approx([11.5, 1.5], abs=1e-3)
    assert fine.candidate.shape == (1, 1, 49, 2)
    assert (fine.logit[0, 0] < -1000).sum() == 35  # five of seven rows are outside


def test_a_weak_background_does_not_draw_a_match_to_the_middle_of_its_window():
    frames = torch.zeros(2, 14, 14, 2)
    frames[0, ..., 0] = frames[1, ..., 1] = 1.0
    frames[1, 8:10, 8:10] = torch.tensor([1.0, 0.0])
    matcher = Matcher()
    matcher.log_fine_temperature.fill_(1.0)  # the background has half of the weight
    cells, near = torch.tensor([[17]]), torch.tensor([[[14.5, 14.5]]])
    fine = matcher.refine(frames, torch.tensor([0]), torch.tensor([1]), cells, near)
    assert fine.pixel[0, 0].tolist() == pytest.approx([17.5, 17.5], abs=0.7)


def test_points_of_sure_depth_decide():
    rng = np.random.default_rng(1)
    R, t = np.eye(3)[None], np.array([[0.1, 0.0, 0.05]])
    sides = [observed(rng, R, sign * t) for sign in (1, -1)]
    for side in sides:
        side.points[:, ::2] *= 1.5  # the depth of half of the points is wrong
        side.depth_noise[:, ::2] = 1.0  # and said to be unsure
    motions = solve_motions(*sides)
    assert motions.translation[0].tolist() == pytest.approx(t[0].tolist(), abs=2e-3)
    for side in sides:
        side.depth_noise.fill_(0.05)
    assert abs(solve_motions(*sides).translation[0] - torch.tensor(t[0])).max() > 5e-3


def test_chosen_cells_are_spread_in_proportion_to_their_confidence():
    logit = torch.full((1, 600), -9.0)
    logit[0, :300] = 2.0
    logit[0, 40:60] = 6.0
    chosen = chosen_cells(logit, 150)
    assert torch.equal(chosen, chosen_cells(logit, 150))
    assert chosen.max() < 300 and len(set(chosen[0].tolist())) == 150
    best = sum(40 <= cell < 60 for cell in chosen[0].tolist())
    assert 5 <= best < 17  # half of them, not all


# The solver


def observed(rng, R, t, noise=0.0, depth_noise=0.0, wrong=0.0):
    """Return points of a frame and where the other one sees them, with errors."""
    P, Q = len(R), 150
    rays = np.concatenate([rng.uniform(-0.7, 0.7, (P, Q, 2)), np.ones((P, Q, 1))], axis=-1)
    points = rays * rng.uniform(0.5, 2, (P, Q, 1))
    other = np.einsum('pij,pqj->pqi', R, points) + t[:, None]
    seen = other[..., :2] / other[..., 2:] + rng.normal(0, noise, (P, Q, 2))
    bad = rng.uniform(size=(P, Q)) < wrong
    seen[bad] = rng.uniform(-0.7, 0.7, (bad.sum(), 2))
    points = points * np.exp(rng.normal(0, depth_noise, (P, Q, 1)))
    sides = (points, seen, np.ones((P, Q)), np.full((P, Q), max(2 * depth_noise, 0.05)))
    return MatchedPoints(*(torch.tensor(x).float() for x in sides))


@pytest.mark.parametrize(
    ('errors', 'degrees', 'length'),
    [
        ({}, 0.01, 1e-4),
        ({'noise': 0.003, 'depth_noise': 0.25}, 0.4, 0.02),
        ({'noise': 0.003, 'depth_noise': 0.25, 'wrong': 0.3}, 0.4, 0.02),
    ],
)
def test_motions_are_solved_from_both_sides(errors, degrees, length):
    rng = np.random.default_rng(0)
    R = Rotation.from_rotvec(rng.normal(0, 0.12, (6, 3))).as_matrix()
    t = rng.normal(0, 0.1, (6, 3))
    back = R.swapaxes(1, 2)
    motions = solve_motions(
        observed(rng, R, t, **errors),
        observed(rng, back, -np.einsum('pij,pj->pi', back, t), **errors),
    )
    off = Rotation.from_matrix(motions.rotation.numpy() @ back).magnitude()
    assert np.degrees(off).max() < degrees
    assert np.linalg.norm(motions.translation.numpy() - t, axis=1).max() < length


def test_certainty_of_a_solution_grows_with_its_weights():
    rng = np.random.default_rng(1)
    R, t = np.eye(3)[None], np.zeros((1, 3))
    one, other = (observed(rng, R, t) for _ in range(2))
    sure = solve_motions(one, other)
    weak = (side._replace(weight=0.1 * side.weight) for side in (one, other))
    less = solve_motions(*weak)
    np.testing.assert_allclose(less.information, 0.1 * sure.information, rtol=1e-3, atol=1e-5)
    nothing = solve_motions(*(side._replace(weight=0 * side.weight) for side in (one, other)))
    assert torch.equal(nothing.rotation[0], torch.eye(3)) and nothing.translation.norm() == 0


# Pairs


def camera():
    return torch.tensor([[60.0, 61.0, 34.0, 20.0]])


def joined(caches):
    return FrameCache.join(list(caches))


def test_a_clip_at_once_gives_what_its_frames_give_one_by_one(network):
    images = networks.sample_images(4)
    whole = network.predict(network.describe(images), causal=True, camera=camera())
    caches = []
    for s in range(4):
        described = network.describe(images[:, s : s + 1])
        cached = joined(caches) if caches else None
        alone = network.predict(described, cached, camera=camera())
        caches.append(alone.cache)
        torch.testing.assert_close(alone.depth[:, 0], whole.depth[:, s], rtol=1e-4, atol=1e-4)
        assert alone.pairs.predicted[:, 0].tolist() == [True] * s + [False]
        for name in ('translation', 'quaternion', 'logit_rotation', 'logit_translation'):
            own, other = getattr(alone.pairs, name), getattr(whole.pairs, name)
            torch.testing.assert_close(own[:, :s, 0], other[:, :s, s], rtol=0.0, atol=5e-3)


def test_a_frame_relates_to_any_cached_frames_in_any_order(network):
    images = networks.sample_images(4)
    cache = network.predict(network.describe(images[:, :3])).cache
    new = network.describe(images[:, 3:])
    every = network.predict(new, cache, camera=camera())
    turned = network.predict(new, networks.select(cache, [2, 0, 1]), camera=camera())
    torch.testing.assert_close(every.depth, turned.depth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        every.pairs.quaternion[:, [2, 0, 1], 0], turned.pairs.quaternion[:, :3, 0],
        rtol=0.0, atol=5e-3,
    )  # fmt: skip
    one = network.predict(new, networks.select(cache, [1]), camera=camera())
    assert one.pairs.translation.shape == (1, 2, 1, 3)


def test_pairs_of_full_context_are_inverse_to_each_other(network):
    pairs = network(networks.sample_images(3), causal=False).pairs
    T = np.tile(np.eye(4), (3, 3, 1, 1))
    off_diagonal = ~np.eye(3, dtype=bool)
    assert (pairs.predicted.numpy() == off_diagonal).all()
    quaternion = pairs.quaternion[0].numpy()[off_diagonal]
    T[off_diagonal, :3, :3] = Rotation.from_quat(quaternion).as_matrix()
    T[..., :3, 3] = pairs.translation[0].numpy()
    np.testing.assert_allclose(T @ T.swapaxes(0, 1), np.tile(np.eye(4), (3, 3, 1, 1)), atol=1e-4)
    assert torch.equal(pairs.logit_rotation, pairs.logit_rotation.transpose(1, 2))


def test_two_views_of_the_same_image_have_not_moved(network):
    image = textured(42, 70)
    pairs = network(torch.stack([image, image])[None], causal=True).pairs
    assert Rotation.from_quat(pairs.quaternion[0, 0, 1].numpy()).magnitude() < 0.02


def test_a_known_camera_is_used(network):
    images = networks.sample_images(2)
    own = network.predict(network.describe(images))
    known = network.predict(network.describe(images), camera=camera())
    same = network.predict(
        network.describe(images), camera=camera_of_fov(own.fov.mean(1), (42, 70))
    )
    torch.testing.assert_close(
        own.pairs.quaternion[:, 0, 1], same.pairs.quaternion[:, 0, 1], rtol=0.0, atol=1e-4
    )
    assert (known.pairs.quaternion - own.pairs.quaternion).abs().max() > 1e-3


def test_translations_are_in_the_unit_of_depth(network):
    images = networks.sample_images(2)
    cache = network.predict(network.describe(images[:, :1])).cache
    described = network.describe(images[:, 1:])
    encoded = network.encode(described, cache)
    features = [torch.cat(both, dim=1) for both in zip(
        cache.pair_features, encoded.cache.pair_features, strict=True
    )]  # fmt: skip
    twice = [*features[:2], features[2] + np.log(2), *features[3:]]
    one, two = (
        network.pairs(type(encoded.cache.pair_features)(*f), 1, True, camera(), (42, 70))
        for f in (features, twice)
    )
    torch.testing.assert_close(2 * one.translation, two.translation, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.quaternion, two.quaternion, rtol=0.0, atol=1e-4)


def test_quaternions_of_rotations():
    rotations = Rotation.random(20, random_state=0)
    rotations = rotations[rotations.magnitude() < 3.0]
    found = quaternion_of(torch.tensor(rotations.as_matrix())).numpy()
    np.testing.assert_allclose(found, rotations.as_quat(canonical=True), atol=1e-6)


def test_cameras_of_fields_of_view():
    fov = torch.tensor([[np.pi / 2, 2 * np.arctan(0.5)]], dtype=torch.float32)
    assert camera_of_fov(fov, (84, 112))[0].tolist() == pytest.approx([112, 42, 55.5, 41.5])


# In a stream


@pytest.fixture(scope='module')
def streamed():
    return lively('r3-tiny')


def predictor(network):
    info, config = ModelInfo('r3_tiny'), ModelConfig(name='r3_tiny', image_size=112, depth=False)
    budget = CacheBudget(64 * 2**20, 64 * 2**20)
    return R3Predictor(network, info, config, budget, torch.device('cpu'))


@torch.inference_mode()
def kept_of(seen, number):
    return [t.clone() for t in seen._memory.context([number])[0].pair_features]


def edges_of_last(seen, numbers, intrinsics=K):
    for n, number in enumerate(numbers):
        prediction = seen.predict(frame(number, intrinsics), numbers[:n])
    return {edge.source_id: edge.T_source_target for edge in prediction.edges}


def test_a_calibrated_camera_reaches_the_solver(streamed):
    longer = replace(K, fx=2 * K.fx, fy=2 * K.fy)
    one, other = (edges_of_last(predictor(streamed), (0, 1), camera) for camera in (K, longer))
    assert np.abs(one[0] - other[0]).max() > 1e-3
    # Without one it is the median of the predicted ones: the same in every run.
    own = [edges_of_last(predictor(streamed), (0, 1, 2), None) for _ in range(2)]
    for source, pose in own[0].items():
        np.testing.assert_allclose(pose, own[1][source], atol=1e-4)


def test_all_that_pairs_need_comes_back_with_a_frame(streamed):
    straight = edges_of_last(predictor(streamed), (0, 1, 2))
    seen = predictor(streamed)
    edges_of_last(seen, (0, 1))
    before = kept_of(seen, 1)
    seen._memory.hold_image(1, seen._memory.image(1))
    again = seen.predict(frame(2), (0, 1))
    for kept, back in zip(before, kept_of(seen, 1), strict=True):
        torch.testing.assert_close(back, kept, atol=1e-4, rtol=0)
    for edge in again.edges:
        np.testing.assert_allclose(edge.T_source_target, straight[edge.source_id], atol=5e-3)
