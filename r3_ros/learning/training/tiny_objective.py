"""The training objective of r3-tiny: depth, matches, and the confidence of solved pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.tiny.matching import Matches, peaks, Similarities
from ...model.tiny.stem import STRIDE
from ...model.tiny.tiny_network import camera_of_fov, PairFeatures, SolvedPairs, TinyNetwork
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


class TinyStep(NamedTuple):
    """What a step does with its clips.

    :ivar causal: frames attend to earlier ones only.
    :ivar matching_alone: train the stem and its descriptors only, with approximate true depth.
    :ivar solves: also solve the pairs, to train their confidences.
    :ivar rng: of everything that is drawn.
    """

    causal: bool
    matching_alone: bool
    solves: bool
    rng: np.random.Generator


class _Seen(NamedTuple):
    """The frames of a batch as the network sees them.

    :ivar scale: (B,) of the depth in ``features``.
    :ivar camera: (B, 4), with which pairs are solved.
    """

    features: PairFeatures
    scale: Tensor
    camera: Tensor
    parts: dict[str, Tensor]
    errors: dict[str, Tensor]


def evaluate_tiny(
    network: TinyNetwork,
    clips: Clips,
    settings: LossSettings,
    step: TinyStep,
    autocast: torch.autocast,
) -> LossResult:
    """Run the network on clips and compare with the ground truth.

    :param autocast: for the network itself; matches and losses are float32.
    """
    B, S, _, _ = clips.shape
    truth = clips.depth[..., None] * clips.rays[:, None]
    true_scale = losses.scene_scale(truth, clips.depth > 0)
    if step.matching_alone:
        with autocast:
            descriptors = network.describe_alone(clips.images)
        h, w = descriptors.coarse.shape[2:4]
        log_depth = approximate_log_depth(clips.depth, (h, w), step.rng)
        noise = torch.full_like(log_depth, _DEPTH_NOISE)
        fov = clips.fov[:, None].expand(-1, S, -1)
        features = PairFeatures(*descriptors, log_depth, noise, fov)
        seen = _Seen(features, true_scale, clips.camera, {}, {})
    else:
        seen = _encoded(network, clips, true_scale, settings, step, autocast)
    plan = PairPlan(*(part.to(clips.depth.device) for part in plan_pairs(B, S, step.rng)))
    frames = PairFeatures(*(f.flatten(0, 1) for f in seen.features))
    h, w = frames.coarse.shape[1:3]
    true = _true_places(clips, plan, (h, w))
    coarse = (frames.coarse[k] for k in plan[:2])
    similarities = network.matcher.similarities(*coarse)
    matches = network.matcher.match(*peaks(similarities, w), w)
    sides = (
        (similarities, plan.source, plan.target),
        (similarities.reversed, plan.target, plan.source),
    )
    seed = torch.Generator(clips.depth.device).manual_seed(int(step.rng.integers(2**62)))
    there, back = (
        _match_losses(network, frames, *side, match, places, seed)
        for side, match, places in zip(sides, matches, true, strict=True)
    )
    parts = {**seen.parts, **{name: (there[name] + back[name]) / 2 for name in there}}
    with torch.no_grad():
        distance = (matches[0].pixel - true[0].pixel).norm(dim=-1)[true[0].visible]
        matched = (distance < matching_losses.RIGHT_PX).float().mean().nan_to_num()
    errors = {**seen.errors, 'matched': matched}
    if step.solves:
        cameras = seen.camera[plan.source // S]
        solved = network.solve(network.observe(frames, plan.source, plan.target, matches, cameras))
        scales = seen.scale, true_scale
        parts['pair_confidence'], wrong = _pair_losses(clips, plan, solved, scales, settings)
        errors |= wrong
    total = torch.stack([getattr(settings, name) * value for name, value in parts.items()]).sum()
    return LossResult(total, {name: value.detach() for name, value in parts.items()}, errors)


def _encoded(
    network: TinyNetwork,
    clips: Clips,
    true_scale: Tensor,
    settings: LossSettings,
    step: TinyStep,
    autocast: torch.autocast,
) -> _Seen:
    """Run all of the network but the pairs, with the losses of depth."""
    H, W = clips.shape[2:]
    with autocast:
        encoded = network.encode(network.describe(clips.images), causal=step.causal)
    depth, confidence = encoded.dense[:2]
    points = depth[..., None] * losses.pixel_rays(encoded.fov, H, W)
    scale = losses.scene_scale(points, clips.depth > 0)
    parts, errors = depth_parts(
        depth, confidence, encoded.fov, points, clips, (scale, true_scale), settings
    )
    camera = clips.camera
    if step.rng.uniform() < settings.own_camera:
        camera = camera_of_fov(encoded.fov.detach().mean(1), (H, W))
    return _Seen(PairFeatures(*encoded.cache.pair_features), scale, camera, parts, errors)


def _pair_losses(
    clips: Clips,
    plan: PairPlan,
    solved: SolvedPairs,
    scales: tuple[Tensor, Tensor],
    settings: LossSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the confidences of pairs, and their errors.

    Without depth the scale of a clip, on either side, is the mean length of its steps.
    """
    R, t = _motions(clips, plan)
    clip = plan.source // clips.shape[1]
    has_depth = (clips.depth > 0).flatten(1).any(1)
    own, true = (
        torch.where(has_depth, scale, _mean_length(step, clip, plan.shared, len(scale)))[
            clip, None
        ]
        for scale, step in zip(scales, (solved.translation, t), strict=True)
    )
    rotation = losses.chord(solved.rotation, R)
    translation = (solved.translation / own - t / true).norm(dim=-1)
    both = torch.stack((translation, rotation), dim=-1).clamp(max=_NOTHING_SHARED)
    both = torch.where(plan.shared[:, None], both, _NOTHING_SHARED)
    logits = torch.stack((solved.logit_translation, solved.logit_rotation), dim=-1)
    # Detached: confidences alone learn.
    loss = losses.softplus_weighted(both.detach(), logits, settings.alpha_rotation)
    return loss, {
        'rotation_deg': torch.rad2deg(rotation[plan.shared].median()),
        'translation': translation[plan.shared].median(),
    }


def _mean_length(steps: Tensor, clip: Tensor, shared: Tensor, clips: int) -> Tensor:
    """Return the mean length of the translations (P, 3) within each clip: its scale, (clips,)."""
    length = torch.where(shared, steps.detach().norm(dim=-1), 0.0)
    total, count = (
        torch.zeros(clips, device=clip.device).index_add(0, clip, values)
        for values in (length, shared.float())
    )
    return (total / count.clamp(min=1)).clamp(min=1e-3)


def _match_losses(
    network: TinyNetwork,
    frames: PairFeatures,
    similarities: Similarities,
    source: Tensor,
    target: Tensor,
    matches: Matches,
    true: TruePlaces,
    seed: torch.Generator,
) -> dict[str, Tensor]:
    """Return the losses of the matches of one side in the other."""
    columns = frames.coarse.shape[2]
    count = min(_FINE_CELLS, true.visible.shape[-1])
    cells = torch.multinomial(true.visible + 1e-6, count, generator=seed)
    at = cells[..., None].expand(-1, -1, 2)
    near, truth = matches.pixel.gather(1, at), true.pixel.gather(1, at)
    noise = torch.randn(truth.shape, generator=seed, device=truth.device)
    wrong = (near - truth).norm(dim=-1, keepdim=True) > _NEAR_PX
    start = torch.where(wrong, truth + _NOISE_PX * noise, near)
    start = start.clamp(-1e4, 1e4)
    fine = network.matcher.refine(frames.fine, source, target, cells, start)
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
