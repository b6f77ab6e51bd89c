"""Losses of matches and solved pairs, with values worked out by hand."""

from dataclasses import replace
import math

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='training needs torch')

from r3_ros.learning.training import tiny_objective  # noqa: E402
from r3_ros.learning.training.clips import Clips  # noqa: E402
from r3_ros.learning.training.losses import softplus_weighted  # noqa: E402
from r3_ros.learning.training.matching_losses import (  # noqa: E402
    coarse_loss,
    fine_loss,
    match_confidence_loss,
    true_places,
    TruePlaces,
    View,
)
from r3_ros.learning.training.tiny_objective import plan_pairs  # noqa: E402
from r3_ros.learning.training.training_settings import TrainingSettings  # noqa: E402
from r3_ros.model.tiny.matching import FineMatches, OUTSIDE, Similarities  # noqa: E402
from r3_ros.model.tiny.tiny_network import SolvedPairs  # noqa: E402
from training_source import made_up  # noqa: E402

ALL = torch.ones(1, 4, dtype=torch.bool)


def view(depth, moving=None):
    """Return one frame of 8 x 8 pixels with a focal length of 4 pixels."""
    depth = torch.as_tensor(depth, dtype=torch.float32).expand(1, 8, 8).clone()
    moving = torch.zeros(1, 8, 8, dtype=torch.bool) if moving is None else moving
    return View(depth, moving, torch.tensor([[4.0, 4.0, 3.5, 3.5]]))


def places(source, target, t=(0.0, 0.0, 0.0)):
    return true_places(source, target, torch.eye(3)[None], torch.tensor([t]), (2, 2))


def test_true_places_follow_depth_and_motion():
    # At depth 2, half a metre to the right is one pixel: 4 * 0.5 / 2.
    found = places(view(2.0), view(2.0), (0.5, 0.0, 0.0))
    assert found.pixel[0].tolist() == [[2.5, 1.5], [6.5, 1.5], [2.5, 5.5], [6.5, 5.5]]
    assert found.visible.all() and found.known.all()
    # Two metres are four pixels: the cells on the right leave the image.
    found = places(view(2.0), view(2.0), (2.0, 0.0, 0.0))
    assert found.visible[0].tolist() == [True, False, True, False]


def test_hidden_moving_and_unknown_cells_do_not_count():
    # Something nearer than 6 % hides all.
    assert not places(view(2.0), view(1.8)).visible.any()
    assert places(view(2.0), view(1.9)).visible.all()
    source = view(2.0)
    source.depth[0, :4, :4] = 0.0
    source.moving[0, 4:, 4:] = True
    found = places(source, view(2.0))
    assert found.known[0].tolist() == [False, True, True, True]
    assert found.visible[0].tolist() == [False, True, True, False]
    # Behind the other camera.
    assert not places(view(2.0), view(2.0), (0.0, 0.0, -3.0)).visible.any()


def test_without_depth_where_a_cell_leads_nothing_is_known_of_it():
    """Depth of recordings is that of some frames, with holes."""
    target = view(2.0)
    target.depth[0, :, :4] = 0.0
    found = places(view(2.0), target)
    assert found.known[0].tolist() == [False, True, False, True]
    target.depth[:] = 0.0
    found = places(view(2.0), target, (2.0, 0.0, 0.0))
    assert not found.visible.any()
    assert found.known[0].tolist() == [False, True, False, True]  # the others leave the image


def test_pairs_of_clips_without_depth_are_judged_in_the_unit_of_their_steps():
    """A network that is right in its own unit has no error, and may be confident."""
    plan = plan_pairs(2, 3, np.random.default_rng(0))
    clips = made_up(1), made_up(2)
    clips = Clips.joined([replace(clips[0], depth=torch.zeros_like(clips[0].depth)), clips[1]])
    R, t = tiny_objective._motions(clips, plan)
    logits = torch.zeros(len(t))
    solved = SolvedPairs(
        rotation=R, translation=5 * t, logit_rotation=logits, logit_translation=logits
    )
    scales = torch.tensor([1e-3, 15.0]), torch.tensor([1e-3, 3.0])
    settings = TrainingSettings().loss
    loss, errors = tiny_objective._pair_losses(clips, plan, solved, scales, settings)
    assert errors['translation'] < 1e-5 and errors['rotation_deg'] < 0.1
    # The clip with depth has the scale of that.
    first = (plan.source < 3)[:, None]
    same = solved._replace(translation=torch.where(first, 10 * t, 5 * t))
    worse = solved._replace(translation=torch.where(first, 5 * t, 10 * t))
    losses = [
        tiny_objective._pair_losses(clips, plan, pairs, scales, settings)[0]
        for pairs in (same, worse)
    ]
    assert losses[0] == pytest.approx(float(loss)) and losses[1] > loss + 0.005


def truth(pixel, visible=ALL):
    return TruePlaces(torch.tensor([pixel]), visible, ALL)


def similarities(logits):
    values = torch.tensor([logits]).exp()
    return Similarities(values, values.sum(2), values.sum(1))


def test_coarse_loss_is_the_cross_entropy_of_four_cells():
    pixel = [[1.5, 1.5], [5.5, 1.5], [1.5, 5.5], [3.5, 1.5]]
    even = similarities([[0.0] * 4] * 4)
    assert coarse_loss(even, truth(pixel), 2) == pytest.approx(math.log(4), abs=1e-5)
    # Cell 0 says with 3 to 1 to 1 to 1 that it is at cell 0.
    logits = [[math.log(3), 0, 0, 0], [0.0] * 4, [0.0] * 4, [0.0] * 4]
    only = torch.tensor([[True, False, False, False]])
    loss = coarse_loss(similarities(logits), truth(pixel, only), 2)
    assert loss == pytest.approx(math.log(2), abs=2e-3)  # -log(3 / 6)
    # Cell 3 is half-way between cells 0 and 1.
    logits = [[0.0] * 4] * 3 + [[math.log(3), math.log(2), 0.0, 0.0]]
    only = torch.tensor([[False, False, False, True]])
    loss = coarse_loss(similarities(logits), truth(pixel, only), 2)
    assert loss == pytest.approx(math.log(7) - 0.5 * math.log(6), abs=1e-5)


def test_coarse_loss_of_no_visible_cell_is_nothing():
    none = torch.zeros(1, 4, dtype=torch.bool)
    pixel = [[math.nan, math.nan]] * 3 + [[1e9, -1e9]]
    found = truth(np.nan_to_num(pixel).tolist(), none)
    assert coarse_loss(similarities([[0.0] * 4] * 4), found, 2) == 0


def test_fine_loss_masks_places_beyond_its_candidates():
    candidate = torch.tensor([[[[0.5, 0.5], [2.5, 0.5], [4.5, 0.5]]]])
    logit = torch.tensor([[[math.log(2), 0.0, OUTSIDE]]])
    matches = FineMatches(logit, candidate, candidate[:, :, 0])
    seen = torch.ones(1, 1, dtype=torch.bool)
    # A quarter of the way to the second candidate: weights 3/4 and 1/4 of 2 to 1.
    loss = fine_loss(matches, torch.tensor([[[1.0, 0.5]]]), seen)
    assert loss == pytest.approx(math.log(3) - 0.75 * math.log(2), abs=1e-5)
    assert fine_loss(matches, torch.tensor([[[3.5, 0.5]]]), seen) == 0  # towards one outside
    assert fine_loss(matches, torch.tensor([[[9.0, 0.5]]]), seen) == 0
    assert fine_loss(matches, torch.tensor([[[1.0, 0.5]]]), ~seen) == 0


def test_match_confidence_is_right_within_four_pixels_of_a_visible_place():
    logit = torch.tensor([[2.0, 2.0, -2.0, 5.0]])
    true = TruePlaces(
        torch.zeros(1, 4, 2),
        torch.tensor([[True, True, False, True]]),
        torch.tensor([[True, True, True, False]]),
    )
    pixel = torch.tensor([[[3.9, 0.0], [0.0, 4.1], [0.0, 0.0], [0.0, 0.0]]])
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    # The first is right, the second too far, the third hidden, the last without depth.
    expected = (right + wrong + right) / 3
    assert match_confidence_loss(logit, pixel, true) == pytest.approx(expected, abs=1e-6)


def test_pair_confidence_has_its_minimum_at_the_inverse_of_the_error():
    errors = torch.tensor([[0.1, 0.02]])
    wanted = 0.05 / errors
    logits = torch.log(torch.expm1(wanted)).requires_grad_()
    loss = softplus_weighted(errors, logits, 0.05)
    expected = (0.05 - 0.05 * math.log(0.5) + 0.05 - 0.05 * math.log(2.5)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logits.grad.abs().max() < 1e-6


def test_pairs_are_neighbours_a_longer_one_and_some_of_different_clips():
    plan = plan_pairs(4, 3, np.random.default_rng(0))
    pairs = list(
        zip(plan.source.tolist(), plan.target.tolist(), plan.shared.tolist(), strict=True)
    )
    assert pairs[:3] == [(0, 1, True), (1, 2, True), (0, 2, True)]
    assert len(pairs) == 13
    source, target, shared = pairs[-1]
    assert not shared and source // 3 != target // 3
    assert plan_pairs(1, 2, np.random.default_rng(0)).source.tolist() == [0]
