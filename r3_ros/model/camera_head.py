"""The camera outputs: fields of view, relative and absolute poses.

Everything here is float32: the cost is negligible, and logits and angles need the precision.
Shapes: B batch, S frames of the call, N cached frames, D tap width. A pose
encoding has nine numbers: translation (3), quaternion ``xyzw`` of any length (4), vertical and
horizontal field of view in radians (2).
"""

from __future__ import annotations

from typing import cast, NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .layers import Block, EPSILON, LayerNorm, Mlp


class Pairs(NamedTuple):
    """Relative poses from source i (N cached frames, then the S of the call) to frame j.

    ``X_j = R(q) X_i + t``: rows are sources, columns the frames of the call. Pairs that were not
    predicted are zero.

    :ivar translation: (B, N + S, S, 3) in the network's unit.
    :ivar quaternion: (B, N + S, S, 4) ``xyzw``, not normalised.
    :ivar logit_translation: (B, N + S, S) confidence logits; ``logit_rotation`` likewise.
    :ivar predicted: (N + S, S) bool.
    """

    translation: Tensor
    quaternion: Tensor
    logit_translation: Tensor
    logit_rotation: Tensor
    predicted: Tensor

    @property
    def numbers(self) -> Tensor:
        """(B, N + S, S, 9): translation, quaternion, both logits."""
        logits = torch.stack([self.logit_translation, self.logit_rotation], dim=-1)
        return torch.cat([self.translation, self.quaternion, logits], dim=-1)


def camera_poses(encodings: Tensor) -> Tensor:
    """Return the (..., 4, 4) motions of (..., 9) pose encodings; NaN for a zero quaternion."""
    q = F.normalize(encodings[..., 3:7], dim=-1, eps=0.0)
    x, y, z, w = q.unbind(-1)
    zero = torch.zeros_like(w)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    R = torch.eye(3, device=q.device) + 2 * (w[..., None, None] * cross + cross @ cross)
    T = torch.eye(4, device=q.device).expand(*w.shape, 4, 4).clone()
    T[..., :3, :3], T[..., :3, 3] = R, encodings[..., :3]
    return T


def _mlp(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


class FovHead(nn.Module):
    """From a camera token to the fields of view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = _mlp(width, width)
        self.fc_fov = nn.Sequential(nn.Linear(width, 2), nn.ReLU())

    def project(self, camera_tokens: Tensor) -> Tensor:
        """Return the features (B, S, D) of camera tokens (B, S, D)."""
        return self.backbone(camera_tokens.float())

    def fov(self, feature: Tensor) -> Tensor:
        """Return (B, S, 2) fields of view >= 0, vertical then horizontal."""
        return self.fc_fov(feature)


class CameraDecoder(FovHead):
    """Plain DA3's head: also the pose relative to the reference view."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)

    def absolute(self, feature: Tensor) -> Tensor:
        """Return (B, S, 9) encodings of camera-to-world poses."""
        return torch.cat([self.fc_t(feature), self.fc_qvec(feature), self.fov(feature)], dim=-1)


class PairHead(CameraDecoder):
    """R3's head: relative poses of frame pairs, with confidences of translation and rotation.

    The first layer is linear in the pair, ``W [p_i; p_j] = W_i p_i + W_j p_j``, so both halves
    are computed once per frame; the source half is cached. ``fc_abs_fov`` and the absolute pose
    of DA3 are in every file of weights but unused by R3.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.rel_backbone = _mlp(2 * width, width)
        self.fc_rel_t = nn.Linear(width, 3)
        self.fc_rel_qvec = nn.Linear(width, 4)
        self.fc_rel_conf = nn.Linear(width, 1)
        self.fc_rel_conf_t = nn.Linear(width, 1)
        self.fc_abs_fov = nn.Sequential(nn.Linear(width, 2), nn.ReLU())

    def source_half(self, feature: Tensor) -> Tensor:
        """Return ``W_i p_i`` (B, S, D)."""
        return F.linear(feature, self._first.weight.chunk(2, dim=1)[0])

    def target_half(self, feature: Tensor) -> Tensor:
        """Return ``W_j p_j + b`` (B, S, D)."""
        return F.linear(feature, self._first.weight.chunk(2, dim=1)[1], self._first.bias)

    @property
    def _first(self) -> nn.Linear:
        return cast(nn.Linear, self.rel_backbone[0])

    def forward(self, sources: Tensor, targets: Tensor, causal: bool) -> Pairs:
        """Predict the pairs of every frame of the call.

        :param sources: (B, N + S, D) source halves, the last S of them of the call's frames.
        :param targets: (B, S, D) target halves.
        :param causal: only sources before the target; else every source but the target itself.
        """
        S = targets.shape[1]
        N = sources.shape[1] - S
        columns = []
        for s in range(S):
            count = N + s if causal else N + S
            e = self.rel_backbone[1:](sources[:, :count] + targets[:, s : s + 1])
            outputs = (self.fc_rel_t, self.fc_rel_qvec, self.fc_rel_conf_t, self.fc_rel_conf)
            column = torch.cat([output(e) for output in outputs], dim=-1)  # (B, count, 9)
            columns.append(F.pad(column, (0, 0, 0, N + S - count)))
        every = torch.ones(N + S, S, dtype=torch.bool, device=targets.device)
        predicted = every.triu(1 - N) if causal else every ^ every.triu(-N).tril(-N)
        out = torch.stack(columns, dim=2) * predicted[..., None]  # (B, N + S, S, 9)
        return Pairs(out[..., :3], out[..., 3:7], out[..., 7], out[..., 8], predicted)


class PoseEncoder(nn.Module):
    """Plain DA3's encoder of known cameras: in every file of weights but unused here."""

    _HEADS = 16
    _BLOCKS = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pose_branch = Mlp(9, width // 2, width)
        self.token_norm = LayerNorm(width, eps=EPSILON)
        self.trunk = nn.Sequential(
            *(Block(width, self._HEADS, epsilon=EPSILON) for _ in range(self._BLOCKS))
        )
        self.trunk_norm = LayerNorm(width, eps=EPSILON)
