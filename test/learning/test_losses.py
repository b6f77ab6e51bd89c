"""Losses against cases worked out by hand, and their gradients against differences."""

import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from r3_ros.learning.training.losses import (  # noqa: E402
    confidence_weighted,
    edge_loss,
    pair_losses,
    pixel_rays,
    relative_motions,
    rotation_of,
    scene_scale,
)
from r3_ros.learning.training.objective import depth_parts  # noqa: E402
from r3_ros.learning.training.training_settings import LossSettings  # noqa: E402
from r3_ros.model.camera_head import Pairs  # noqa: E402


def double(*values, grad=False):
    return torch.tensor(*values, dtype=torch.float64, requires_grad=grad)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def pose(yaw, x, y, z):
    c, s = math.cos(yaw), math.sin(yaw)
    return double([[c, 0, s, x], [0, 1, 0, y], [-s, 0, c, z], [0, 0, 0, 1]])


# Geometry


def test_rays_lie_in_the_middle_of_their_pixels():
    rays = pixel_rays(double([math.pi / 2, 2 * math.atan(2)]), 2, 4)
    assert rays.shape == (2, 4, 3)
    # The border of the image is at tan(fov / 2): 1 up and down, 2 to the sides.
    assert torch.allclose(rays[0, 0], double([-1.5, -0.5, 1]))
    assert torch.allclose(rays[1, 2], double([0.5, 0.5, 1]))


def test_scale_is_the_mean_distance_of_valid_points():
    points = torch.zeros(1, 2, 1, 2, 3, dtype=torch.float64)
    points[0, 0, 0] = double([[3, 0, 4], [0, 0, 1]])
    points[0, 1, 0] = double([[100, 0, 0], [0, 6, 0]])
    valid = torch.tensor([[[[True, True]], [[False, True]]]])
    assert scene_scale(points, valid).tolist() == [pytest.approx((5 + 1 + 6) / 3)]
    assert scene_scale(points, torch.zeros_like(valid)).item() > 0  # nothing to divide by


def test_confidence_weighted_error():
    error, confidence = double([[2.0, 0.5, math.inf]]), double([[3.0, 2.0, 7.0]])
    valid = torch.tensor([[True, True, False]])
    by_hand = ((3 * 2 - 0.1 * math.log(3)) + (2 * 0.5 - 0.1 * math.log(2))) / 2
    assert confidence_weighted(error, confidence, valid, 0.1).item() == pytest.approx(by_hand)
    nothing = confidence_weighted(error, confidence, torch.zeros_like(valid), 0.1)
    assert nothing.item() == 0


def test_the_best_confidence_is_alpha_over_the_error():
    confidence = double([[0.25 / 0.5]], grad=True)
    valid = torch.ones(1, 1, dtype=torch.bool)
    confidence_weighted(double([[0.5]]), confidence, valid, 0.25).backward()
    assert confidence.grad.item() == pytest.approx(0, abs=1e-12)


def test_samples_weigh_the_same_however_much_of_them_is_valid():
    error = double([[1.0, 1.0, 1.0], [5.0, 0, 0]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    assert confidence_weighted(error, torch.ones_like(error), valid, 1.0).item() == 3.0


def prediction_of(depth, confidence, fov):
    """Return what the losses of depth need of a prediction."""
    points = depth[..., None] * pixel_rays(fov, *depth.shape[2:])
    return depth, confidence, fov, points


def clips_of(depth, fov):
    """Return clips of (B, S, H, W) true depth seen by cameras of (B, 2) fields of view."""
    return SimpleNamespace(depth=depth, fov=fov, rays=pixel_rays(fov, *depth.shape[2:]))


def test_depth_and_points_are_compared_in_their_own_units():
    clips = clips_of(1 + noise(2, 3, 4, 5), double([[0.8, 1.0], [0.9, 1.1]]))
    fov, one = clips.fov[:, None].expand(2, 3, 2), torch.ones_like(clips.depth)
    # The same scene in another unit is no error at all.
    factor, ones = double([3.0, 0.2]), double([1.0, 1.0])
    scaled = prediction_of(clips.depth * factor[:, None, None, None], one, fov)
    parts, errors = depth_parts(*scaled, clips, (factor, ones), LossSettings())
    assert [value.item() for value in parts.values()] == pytest.approx([0] * 4, abs=1e-12)
    assert errors['abs_rel'].item() == pytest.approx(0, abs=1e-12)
    far = prediction_of(clips.depth + 0.5, 2 * one, fov)
    parts, _ = depth_parts(*far, clips, (ones, ones), LossSettings(alpha_depth=0.1))
    assert parts['depth'].item() == pytest.approx(2 * 0.5 - 0.1 * math.log(2))
    lengths = clips.rays.norm(dim=-1).mean().item()
    assert parts['points'].item() == pytest.approx(2 * 0.5 * lengths - 0.1 * math.log(2))


def test_edges_ignore_scale_and_see_steps():
    truth = 1 + noise(1, 1, 3, 4)
    valid = torch.ones(truth.shape, dtype=torch.bool)
    assert edge_loss(7 * truth, truth, valid).item() == pytest.approx(0, abs=1e-12)
    flat = torch.ones(1, 1, 1, 3, dtype=torch.float64)
    step = flat.clone()
    step[..., 2] = math.e
    # Two horizontal steps, one of them wrong by 1; no vertical ones.
    assert edge_loss(step, flat, torch.ones_like(flat, dtype=torch.bool)).item() == (
        pytest.approx(0.5)
    )
    hidden = torch.tensor([[[[True, True, False]]]])
    unknown = flat.clone()
    unknown[..., 2] = 0.0
    assert edge_loss(step, unknown, hidden).item() == 0


def test_geometry_gradients():
    truth = 1 + noise(2, 1, 2, 3, seed=1)
    truth[0, 0, 0, 0] = 0
    depth = (1.5 + noise(2, 1, 2, 3, seed=2)).requires_grad_()
    confidence = (1.2 + noise(2, 1, 2, 3, seed=3)).requires_grad_()
    fov = (0.8 + 0.3 * noise(2, 1, 2, seed=4)).requires_grad_()
    clips = clips_of(truth, fov.detach()[:, 0] * 0.9)
    true_points = truth[..., None] * clips.rays[:, None]

    def loss(depth, confidence, fov):
        seen = prediction_of(depth, confidence, fov)
        scales = scene_scale(seen[3], truth > 0), scene_scale(true_points, truth > 0)
        parts, _ = depth_parts(*seen, clips, scales, LossSettings())
        return torch.stack(list(parts.values())).sum()

    assert torch.autograd.gradcheck(loss, (depth, confidence, fov))


# Poses


def test_relative_motions_take_points_of_the_source_to_the_target():
    T = torch.stack([pose(0.0, 0, 0, 0), pose(0.4, 1, 2, 3), pose(-0.2, 0, 0, 5)])[None]
    R, t = relative_motions(T)
    in_source = double([0.3, -0.2, 2.0, 1.0])
    for i in range(3):
        for j in range(3):
            in_target = torch.linalg.inv(T[0, j]) @ T[0, i] @ in_source
            assert torch.allclose(R[0, i, j] @ in_source[:3] + t[0, i, j], in_target[:3])


def test_quaternions_of_any_length_and_sign_are_rotations():
    half = 0.35
    quaternion = double([0, math.sin(half), 0, math.cos(half)])
    assert torch.allclose(rotation_of(quaternion), pose(2 * half, 0, 0, 0)[:3, :3])
    assert torch.allclose(rotation_of(-3 * quaternion), rotation_of(quaternion))


def pairs_of(quaternion, translation, logits):
    S = 2
    shape = (1, S, S)
    predicted = torch.tensor([[False, True], [False, False]])
    full = Pairs(
        torch.zeros(*shape, 3, dtype=torch.float64),
        torch.zeros(*shape, 4, dtype=torch.float64),
        torch.zeros(shape, dtype=torch.float64),
        torch.zeros(shape, dtype=torch.float64),
        predicted,
    )
    full.translation[0, 0, 1], full.quaternion[0, 0, 1] = translation, quaternion
    full.logit_translation[0, 0, 1], full.logit_rotation[0, 0, 1] = logits
    return full


def test_pair_losses_by_hand():
    angle = 0.2
    T = torch.stack([pose(0.0, 0, 0, 0), pose(0.0, 0, 0, -2)])[None]  # X_1 = X_0 + (0, 0, 2)
    quaternion = double([0, math.sin(angle / 2), 0, math.cos(angle / 2)])
    pairs = pairs_of(quaternion, double([0, 0, 6.0]), (1.0, -0.5))
    out = pair_losses(pairs, relative_motions(T), (double([2.0]), double([4.0])), (0.1, 0.3))
    c_t, c_r = math.log(1 + math.e), math.log(1 + math.exp(-0.5))
    l_r, l_t = 2 * math.sin(angle / 2), 6 / 2 - 2 / 4
    assert out.rotation_error.tolist() == [[pytest.approx(l_r)]]
    assert out.translation_error.tolist() == [[pytest.approx(l_t)]]
    assert out.rotation.item() == pytest.approx(c_r * l_r - 0.1 * math.log(c_r))
    assert out.translation.item() == pytest.approx(c_t * l_t - 0.3 * math.log(c_t))


def test_pairs_that_were_not_predicted_do_not_count():
    T = torch.stack([pose(0.0, 0, 0, 0), pose(0.0, 0, 0, -2)])[None]
    scales = (double([1.0]), double([1.0]))
    identity = double([0, 0, 0, 1])
    pairs = pairs_of(identity, double([0, 0, 2.0]), (0.0, 0.0))
    before = pair_losses(pairs, relative_motions(T), scales, (0.1, 0.1))
    pairs.translation[0, 1, 0] = 1e6
    after = pair_losses(pairs, relative_motions(T), scales, (0.1, 0.1))
    assert torch.equal(before.translation, after.translation)
    assert before.rotation_error.item() < 1e-7


def test_pair_losses_stay_finite_without_error_and_without_confidence():
    T = torch.stack([pose(0.0, 0, 0, 0), pose(0.0, 0, 0, -2)])[None]
    quaternion = double([0, 0, 0, 1], grad=True)
    logit = double(-800.0, grad=True)
    pairs = pairs_of(quaternion, double([0, 0, 2.0]), (logit, logit))
    out = pair_losses(pairs, relative_motions(T), (double([1.0]), double([1.0])), (0.1, 0.1))
    (out.rotation + out.translation).backward()
    assert out.rotation.item() == pytest.approx(80)
    assert torch.isfinite(quaternion.grad).all()
    assert logit.grad.item() < 0  # gaining confidence helps


def test_a_single_frame_has_no_pairs_and_no_loss():
    empty = torch.zeros(1, 1, 1, 4, dtype=torch.float64, requires_grad=True)
    logits = empty[..., 0]
    none = torch.zeros(1, 1, dtype=torch.bool)
    pairs = Pairs(empty[..., :3], empty, logits, logits, none)
    T = pose(0.1, 0, 0, 0)[None, None]
    out = pair_losses(pairs, relative_motions(T), (double([1.0]), double([1.0])), (0.1, 0.1))
    assert (out.rotation + out.translation).item() == 0


def test_pose_gradients():
    T = torch.stack([pose(0.0, 0, 0, 0), pose(0.3, 0.5, 0, -2), pose(-0.4, 1, 1, 0)])[None]
    motions = relative_motions(T)
    predicted = torch.ones(3, 3, dtype=torch.bool).triu(1)

    def loss(translation, quaternion, logit_t, logit_r, scale):
        pairs = Pairs(translation, quaternion, logit_t, logit_r, predicted)
        out = pair_losses(pairs, motions, (scale, double([1.5])), (0.1, 0.2))
        return out.rotation + out.translation

    inputs = [noise(1, 3, 3, 3), noise(1, 3, 3, 4, seed=1), noise(1, 3, 3), noise(1, 3, 3, seed=2)]
    inputs = [x.requires_grad_() for x in (*inputs, double([1.2]))]
    assert torch.autograd.gradcheck(loss, inputs)


def test_fields_of_view():
    truth = 1 + noise(1, 1, 2, 3)
    clips, ones = clips_of(truth, double([[1.5, 1.9]])), double([1.0])
    seen = prediction_of(truth, torch.ones_like(truth), double([[[1.0, 2.0]]]))
    parts, _ = depth_parts(*seen, clips, (ones, ones), LossSettings())
    assert parts['fov'].item() == pytest.approx(0.3)
