"""The training objective of r3-tiny: depth, matches, and the confidence of solved pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.tiny.matching import Matches, Similarities
from ...model.tiny.stem import STRIDE
from ...model.tiny.tiny_network import camera_of_fov, FrameFeatures, SolvedPairs, TinyNetwork
from . import losses, matching_losses
from .clips import Clips
from .matching_losses import TruePlaces, View
from .objective import depth_parts, LossResult
from .training_settings import LossSettings

#: Cells of a pair whose fine matches are trained.
_FINE_CELLS = 160
#: Coarse matches farther from the truth than this, pixels, are replaced by the truth with noise.
_NEAR_PX, _NOISE_PX = 5.0, 3.0
#: Depth that stands in for the network's before it is trained: smooth errors of a quarter.
_DEPTH_NOISE, _NOISE_GRID = 0.25, (4, 5)
#: Where there is no depth, metres.
_SKY_M = 100.0
#: Errors of pairs that share nothing; radians, and units of the scene scale.
_NOTHING_SHARED = 1.0
#: Share of the clips of which a frame is also paired with one of another clip.
_FOREIGN = 0.25
#: Share of the steps in which pairs are solved, for their confidences alone.
_SOLVED = 0.33


class PairPlan(NamedTuple):
    """Which frames of a batch form pairs.

    :ivar source: (P,) and ``target``: (P,) indices into the B * S frames.
    :ivar shared: (P,) bool: both frames are of one clip.
    """

    source: Tensor
    target: Tensor
    shared: Tensor


def plan_pairs(B: int, S: int, rng: np.random.Generator) -> PairPlan:
    """Pair neighbouring frames, two frames farther apart, and some frames of different clips."""
    inside = [(s, s + 1) for s in range(S - 1)]
    if S > 2:
        gap = int(rng.integers(2, S))
        first = int(rng.integers(S - gap))
        inside.append((first, first + gap))
    pairs = [(b * S + i, b * S + j, True) for b in range(B) for i, j in inside]
    if B > 1:
        chosen = rng.permutation(B)[: max(1, round(_FOREIGN * B))]
        pairs += [(int(b) * S, (int(b) + 1) % B * S, False) for b in chosen]
    source, target, shared = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return PairPlan(source, target, shared)


def evaluate_tiny(
    network: TinyNetwork,
    clips: Clips,
    settings: LossSettings,
    rng: np.random.Generator,
    autocast: torch.autocast,
    causal: bool,
    matching_alone: bool,
) -> LossResult:
    """Run the network on clips and compare with the ground truth.

    :param rng: of everything that is drawn.
    :param matching_alone: train the stem and its descriptors only, with approximate true depth.
    """
    B, S, H, W = clips.shape
    valid = clips.depth > 0
    truth = clips.depth[..., None] * clips.rays[:, None]
    true_scale = losses.scene_scale(truth, valid)
    camera = clips.camera
    parts: dict[str, Tensor] = {}
    errors: dict[str, Tensor] = {}
    if matching_alone:
        with autocast:
            descriptors = network.describe_alone(clips.images)
        h, w = descriptors.coarse.shape[-2:]
        log_depth = approximate_log_depth(clips.depth, (h, w), rng)
        features = FrameFeatures(*descriptors, log_depth, clips.fov[:, None].expand(-1, S, -1))
        own_scale = true_scale
    else:
        with autocast:
            encoded = network.encode(network.describe(clips.images), causal=causal)
        depth, confidence = encoded.dense[:2]
        points = depth[..., None] * losses.pixel_rays(encoded.fov, H, W)
        own_scale = losses.scene_scale(points, valid)
        scales = own_scale, true_scale
        parts, errors = depth_parts(
            depth, confidence, encoded.fov, points, clips, scales, settings
        )
        features = FrameFeatures(*encoded.cache.pair_features)
        if rng.uniform() < settings.own_camera:
            camera = camera_of_fov(encoded.fov.detach().mean(1), (H, W))
    plan = PairPlan(*(part.to(clips.depth.device) for part in plan_pairs(B, S, rng)))
    flat = FrameFeatures(*(f.flatten(0, 1) for f in features))
    source, target = (FrameFeatures(*(f[k] for f in flat)) for k in plan[:2])
    h, w = source.coarse.shape[-2:]
    true = _true_places(clips, plan, (h, w))
    similarities = network.matcher.similarities(source.coarse, target.coarse)
    matches = network.matcher.match(similarities, w)
    sides = ((similarities, source, target), (similarities.reversed, target, source))
    seed = torch.Generator(clips.depth.device).manual_seed(int(rng.integers(2**62)))
    found = [
        _match_losses(network, *side, match, places, seed)
        for side, match, places in zip(sides, matches, true, strict=True)
    ]
    for name in found[0]:
        parts[name] = (found[0][name] + found[1][name]) / 2
    if rng.uniform() < _SOLVED:
        solved = network.solve(source, target, matches, camera[plan.source // S])
        scales = own_scale, true_scale
        parts['pair_confidence'], found_errors = _pair_losses(
            clips, plan, solved, scales, settings
        )
        errors |= found_errors
    total = torch.stack([getattr(settings, name) * value for name, value in parts.items()]).sum()
    with torch.no_grad():
        distance = (matches[0].pixel - true[0].pixel).norm(dim=-1)[true[0].visible]
        errors['matched'] = (distance < matching_losses.RIGHT_PX).float().mean().nan_to_num()
    return LossResult(total, {name: value.detach() for name, value in parts.items()}, errors)


def _pair_losses(
    clips: Clips,
    plan: PairPlan,
    solved: SolvedPairs,
    scales: tuple[Tensor, Tensor],
    settings: LossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the confidences of pairs, and their errors."""
    R, t = _motions(clips, plan)
    own, true = (scale[plan.source // clips.shape[1], None] for scale in scales)
    rotation = losses.chord(solved.rotation, R)
    translation = (solved.translation / own - t / true).norm(dim=-1)
    both = torch.stack((translation, rotation), dim=-1).clamp(max=_NOTHING_SHARED)
    both = torch.where(plan.shared[:, None], both, _NOTHING_SHARED)
    logits = torch.stack((solved.logit_translation, solved.logit_rotation), dim=-1)
    loss = matching_losses.pair_confidence_loss(logits, both, settings.alpha_rotation)
    return loss, {
        'rotation_deg': torch.rad2deg(rotation[plan.shared].median()),
        'translation': translation[plan.shared].median(),
    }


def _match_losses(
    network: TinyNetwork,
    similarities: Similarities,
    source: FrameFeatures,
    target: FrameFeatures,
    matches: Matches,
    true: TruePlaces,
    seed: torch.Generator,
) -> dict[str, Tensor]:
    """Return the losses of the matches of one side in the other."""
    columns = source.coarse.shape[-1]
    count = min(_FINE_CELLS, true.visible.shape[-1])
    cells = torch.multinomial(true.visible + 1e-6, count, generator=seed)
    at = cells[..., None].expand(-1, -1, 2)
    near, truth = matches.pixel.gather(1, at), true.pixel.gather(1, at)
    noise = torch.randn(truth.shape, generator=seed, device=truth.device)
    wrong = (near - truth).norm(dim=-1, keepdim=True) > _NEAR_PX
    start = torch.where(wrong, truth + _NOISE_PX * noise, near)
    fine = network.matcher.refine(source.fine, target.fine, cells, start.clamp(-1e4, 1e4))
    return {
        'match': matching_losses.coarse_loss(similarities, true, columns),
        'fine': matching_losses.fine_loss(fine, truth, true.visible.gather(1, cells)),
        'match_confidence': matching_losses.match_confidence_loss(
            matches.logit, matches.pixel, true
        ),
    }


def _true_places(
    clips: Clips, plan: PairPlan, cells: tuple[int, int]
) -> tuple[TruePlaces, TruePlaces]:
    """Return the true places of the cells of i in j, and of those of j in i."""
    S = clips.shape[1]
    depth, moving = clips.depth.flatten(0, 1), clips.moving.flatten(0, 1)
    i, j = (View(depth[k], moving[k], clips.camera[k // S]) for k in plan[:2])
    R, t = _motions(clips, plan)
    there = matching_losses.true_places(i, j, R, t, cells)
    back = matching_losses.true_places(j, i, R.mT, -(R.mT @ t[..., None])[..., 0], cells)
    shared = plan.shared[:, None]
    return (
        there._replace(visible=there.visible & shared),
        back._replace(visible=back.visible & shared),
    )


def _motions(clips: Clips, plan: PairPlan) -> tuple[Tensor, Tensor]:
    """Return the true motions of the pairs: (P, 3, 3) and (P, 3)."""
    poses = clips.T_world_camera.flatten(0, 1)
    R_i, R_j = (poses[k, :3, :3] for k in plan[:2])
    t_i, t_j = (poses[k, :3, 3] for k in plan[:2])
    return R_j.mT @ R_i, (R_j.mT @ (t_i - t_j)[..., None])[..., 0]


def approximate_log_depth(
    depth: Tensor, cells: tuple[int, int], rng: np.random.Generator
) -> Tensor:
    """Return (B, S, h, w) log depth of cells with smooth errors like a network's."""
    B, S = depth.shape[:2]
    known = F.avg_pool2d(torch.where(depth > 0, depth, _SKY_M).log(), STRIDE)
    drawn = rng.normal(0, _DEPTH_NOISE, (B * S, 1, *_NOISE_GRID)).astype(np.float32)
    noise = F.interpolate(torch.from_numpy(drawn), size=cells, mode='bicubic', align_corners=True)
    return known + noise[:, 0].unflatten(0, (B, S)).to(depth.device)
