"""VGGT: depth, points and poses of S frames that all see one another (arXiv 2503.11651).

Also LingBot-Map (arXiv 2604.14141), which has its layers but for the points.

Each frame alone passes through a complete vision transformer, DINOv2 with registers. Its patch
tokens then pass through pairs of blocks: one within a frame, one across all frames. Poses are
refined in several rounds from the camera tokens of the last pair. Tracks are left out.

Shapes: S frames, h x w patches, C width, D = 2 C, P tokens of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
import re

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..core.resize_geometry import Geometry
from ..input.network_input import vggt_geometry
from .backbone import Backbone
from .camera_head import camera_poses
from .depth_head import DualHead, PointHead
from .layers import Block, EPSILON, EPSILON_BLOCK, in_float32, LayerNorm, Mlp, Rotation, rotations
from .multi_view import FrameFeatures, MultiViewNetwork, Views
from .network import in_small_batches, normalised
from .pass_memory import pass_bytes
from .variants import BackboneConfig, CameraOutput, NetworkConfig, PATCH, TABLE_SIDE

#: Register tokens of the image encoder; as many accompany the camera token later.
REGISTERS = 4
#: Blocks and heads of the camera head, and how often it refines the poses.
_TRUNK, _TRUNK_HEADS, _ROUNDS = 4, 16, 4
#: Translation, quaternion ``xyzw``, vertical and horizontal field of view.
_POSE = 9

#: Base of the rotary frequencies of LingBot-Map; channels turned by frame, row and column.
_VIDEO_BASE, _VIDEO_CHANNELS = 10_000.0, (20, 22, 22)

#: A frame has no pose if both dense heads differ by more than this share of the depth: a guess,
#: generous since the weights of the authors were not run. Compared at every so many pixels.
_MOST_DISAGREEMENT, _STRIDE = 0.5, 4

#: Parameters that stay float32 in every precision; the authors run all heads so.
_FLOAT32 = re.compile(r'^(camera|depth|point)_head\.|\.(\w*norm\d?|ls\d)\.|_tokens?$|\.pos_embed$')


@dataclass(frozen=True)
class VggtPrediction:
    """The output for S frames, in one unit that the network chooses.

    :ivar encodings: (S, 9) poses: of VGGT world to camera, of LingBot-Map camera to world. The
        world is about the first camera.
    :ivar depth: (S, H, W), along the optical axis; ``confidence`` likewise, > 1.
    :ivar points: (S, H, W, 3) in the world; ``point_confidence`` (S, H, W) > 1. None if not
        requested, and of LingBot-Map.
    """

    encodings: Tensor
    depth: Tensor
    confidence: Tensor
    points: Tensor | None = None
    point_confidence: Tensor | None = None


class ImageEncoder(Backbone):
    """DINOv2 with registers: every block sees one frame alone."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, config.width))
        self.norm = LayerNorm(config.width, eps=EPSILON_BLOCK)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) normalised images to (N, h * w, C) patch tokens."""
        x = self.embed(images)
        registers = self.register_tokens.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1 + REGISTERS :])

    def _resized_positions(self, rows: int, columns: int) -> Tensor:
        table = self.pos_embed[:, 1:].unflatten(1, (TABLE_SIDE, TABLE_SIDE)).permute(0, 3, 1, 2)
        # Unlike in DA3: to a size, and smoothed where it becomes smaller.
        resized = F.interpolate(
            table, size=(rows, columns), mode='bicubic', align_corners=False, antialias=True
        )
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


class Aggregator(nn.Module):
    """The image encoder, and the pairs of blocks that relate frames."""

    #: Tokens of a frame before its patches: camera and registers.
    special = 1 + REGISTERS

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        C, first = config.width, config.alternate_from
        assert first is not None
        self._taps = [(tap - first) // 2 for tap in config.taps]
        self.patch_embed = ImageEncoder(replace(config, depth=first, alternate_from=None))
        # Entry 0: the first frame; entry 1: every other.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, C))
        self.register_token = nn.Parameter(torch.zeros(1, 2, REGISTERS, C))

        def blocks() -> nn.ModuleList:
            pairs = range(len(config.cross_frame_blocks))
            return nn.ModuleList(
                Block(C, config.heads, normalise=True, epsilon=EPSILON) for _ in pairs
            )

        self.frame_blocks, self.global_blocks = blocks(), blocks()

    def forward(self, patches: Tensor, rows: int, columns: int) -> tuple[list[Tensor], Tensor]:
        """Relate frames to one another.

        :param patches: (S, h * w, C) of the image encoder, h = rows and w = columns.
        :returns: four taps (S, h * w, D) of patch features, and (S, D) camera tokens of the last
            pair.
        """
        S = len(patches)
        within, _ = rotations(rows, columns, patches.device, self.special)
        across = self._rotation_across(S, rows, columns, patches.device)
        x = torch.cat([self._special_tokens(S), patches], dim=1)  # (S, P, C)
        taps = []
        blocks = zip(self.frame_blocks, self.global_blocks, strict=True)
        for pair, (frame_block, global_block) in enumerate(blocks):
            local = frame_block(x, within)
            x = global_block(local.flatten(0, 1)[None], across)[0].unflatten(0, (S, -1))
            if pair in self._taps:
                taps.append(torch.cat([local, x], dim=-1))
        return [tap[:, self.special :] for tap in taps], taps[-1][:, 0]

    def _special_tokens(self, S: int) -> Tensor:
        """Return the (S, 5, C) tokens before the patches."""
        first, other = torch.cat([self.camera_token, self.register_token], dim=2)[0]
        return torch.cat([first[None], other.expand(S - 1, -1, -1)])

    def _rotation_across(self, S: int, rows: int, columns: int, device: torch.device) -> Rotation:
        """Return the table of S * P tokens: the same positions in every frame."""
        within, _ = rotations(rows, columns, device, self.special)
        return Rotation(*(torch.cat([table] * S) for table in within))


class VideoAggregator(Aggregator):
    """That of LingBot-Map: frames in order, each with a token about the scale of the scene."""

    special = Aggregator.special + 1

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        # Entry 0: frames that see one another; entry 1: later ones, one by one. Only 0 is used.
        self.scale_token = nn.Parameter(torch.zeros(1, 2, 1, config.width))

    def _special_tokens(self, S: int) -> Tensor:
        scale = self.scale_token[0, :1].expand(S, -1, -1)
        return torch.cat([super()._special_tokens(S), scale], dim=1)

    def _rotation_across(self, S: int, rows: int, columns: int, device: torch.device) -> Rotation:
        return video_rotation(S, rows, columns, self.special, device)


@lru_cache(maxsize=16)
def video_rotation(
    frames: int, rows: int, columns: int, special: int, device: torch.device
) -> Rotation:
    """Return the table of LingBot-Map's blocks across frames, for all tokens of all frames.

    Patch (r, c) of frame s is at (s, special + r, special + c), special token i at (s, i, i).
    """
    with torch.inference_mode(False):
        diagonal = torch.arange(special, device=device)
        row = torch.arange(special, special + rows, device=device)
        column = torch.arange(special, special + columns, device=device)
        places = torch.cat([diagonal[:, None].expand(-1, 2), torch.cartesian_prod(row, column)])
        frame = torch.arange(frames, device=device).repeat_interleave(len(places))
        positions = torch.cat([frame[:, None], places.repeat(frames, 1)], dim=1).double()
        angles = torch.cat(
            [
                positions[:, axis, None]
                * _VIDEO_BASE ** -(torch.arange(0, channels, 2, device=device).double() / channels)
                for axis, channels in enumerate(_VIDEO_CHANNELS)
            ],
            dim=1,
        )
        return Rotation(angles.cos().float(), angles.sin().float())


class RefiningCameraHead(nn.Module):
    """Poses and fields of view from camera tokens, each round a correction of the last one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_norm = LayerNorm(width, eps=EPSILON)
        self.trunk = nn.Sequential(
            *(Block(width, _TRUNK_HEADS, epsilon=EPSILON) for _ in range(_TRUNK))
        )
        self.trunk_norm = LayerNorm(width, eps=EPSILON)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, _POSE))
        self.embed_pose = nn.Linear(_POSE, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.pose_branch = Mlp(width, width // 2, _POSE)

    def forward(self, camera_tokens: Tensor) -> Tensor:
        """Map (S, D) camera tokens of all frames to (S, 9) encodings."""
        tokens = self.token_norm(camera_tokens)[None]
        centred = F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON_BLOCK)
        known, encodings = self.empty_pose_tokens, torch.zeros((), device=tokens.device)
        for _ in range(_ROUNDS):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
            x = self.trunk(tokens + gate * (centred * (1 + scale) + shift))
            # Without gradients through earlier rounds, as in training.
            encodings = encodings.detach() + self.pose_branch(self.trunk_norm(x))
            known = encodings.detach()
        return torch.cat([encodings[0, :, :7], F.relu(encodings[0, :, 7:])], dim=-1)


class VggtNetwork(MultiViewNetwork):
    """VGGT without tracks, and LingBot-Map on frames that all see one another."""

    image_size = TABLE_SIDE * PATCH
    point_head: PointHead | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.variant, self.descriptor_size = config.name, config.backbone.width
        self._is_video = config.camera is CameraOutput.VIDEO
        D = config.backbone.feature_width
        self.aggregator = (VideoAggregator if self._is_video else Aggregator)(config.backbone)
        self.depth_head = DualHead(config.depth_head, D)
        self.camera_head = RefiningCameraHead(D)
        self.point_head = None if self._is_video else PointHead(config.depth_head, D)

    @staticmethod
    def keeps_float32(name: str) -> bool:
        """Return whether a parameter stays float32 in every precision."""
        return _FLOAT32.search(name) is not None

    def geometry(self, width: int, height: int, image_size: int) -> Geometry:
        """Return the geometry of VGGT's rule, which crops upright images to squares."""
        return vggt_geometry(width, height, image_size)

    def encode(self, images: Tensor) -> FrameFeatures:
        """Run the image encoder on (S, 3, H, W) images.

        :raises FrameError: wrong shape or type.
        """
        x = normalised(images, dimensions=4)
        tokens = self.aggregator.patch_embed(x)
        rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        return FrameFeatures((tokens,), tokens.mean(dim=1), rows, columns)

    def predict(self, features: FrameFeatures, points: bool = False) -> VggtPrediction:
        """Predict S frames together; the first one is the reference.

        :param points: also run the point head.
        """
        grid = {'rows': features.rows, 'columns': features.columns}
        taps, camera_tokens = self.aggregator(*features.tensors, **grid)
        with in_float32(features.device):
            encodings = self.camera_head(camera_tokens)
            maps = in_small_batches(partial(self.depth_head, **grid), taps)
            if points and self.point_head is not None:
                maps += in_small_batches(partial(self.point_head, **grid), taps)
        return VggtPrediction(encodings, *maps)

    def relate(self, features: FrameFeatures) -> Views:
        """Predict the frames together; those of LingBot-Map are in order of time.

        A frame of VGGT has no pose if its depth contradicts its points.
        """
        found = self.predict(features, points=True)
        T = camera_poses(found.encodings)
        if not self._is_video:
            R = T[:, :3, :3].mT.clone()
            T[:, :3, :3], T[:, :3, 3:] = R, -R @ T[:, :3, 3:]
        if found.points is not None:
            # Negated, so that points that are not finite do not agree.
            T[~(disagreement(found, T) <= _MOST_DISAGREEMENT)] = torch.nan
        return Views(T, found.encodings[:, 7:], found.depth, found.confidence)

    def forward(self, images: Tensor) -> VggtPrediction:
        """Predict S frames (S, 3, H, W) of a scene, with points; the first is the reference.

        :raises FrameError: wrong shape or type of the images.
        """
        return self.predict(self.encode(images), points=True)

    def pass_bytes(self, width: int, height: int, frames: int, depth: bool = True) -> int:
        """Return an upper bound of the peak memory of a pass, without the weights."""
        points = 0 if self._is_video else 16 * frames * width * height
        # The heads are float32 in every precision, as are most tensors between blocks.
        return points + pass_bytes(self.config, height // PATCH, width // PATCH, frames, 4, True)


def disagreement(found: VggtPrediction, T_world_camera: Tensor) -> Tensor:
    """Return how far the two dense heads differ about the place of the pixels.

    :param T_world_camera: (S, 4, 4).
    :returns: (S,) median distance over the depth, of the half of the pixels with the surer depth.
    """
    assert found.points is not None
    points = found.points[:, ::_STRIDE, ::_STRIDE]
    depth, confidence = (m[:, ::_STRIDE, ::_STRIDE] for m in (found.depth, found.confidence))
    v, u = (
        torch.linspace(-1, 1, n, device=depth.device) * tangent[:, None]
        for n, tangent in zip(depth.shape[1:], (found.encodings[:, 7:] / 2).tan().T, strict=True)
    )
    v, u = v[:, :, None].expand_as(depth), u[:, None].expand_as(depth)
    seen = torch.stack([u, v, torch.ones_like(depth)], dim=-1) * depth[..., None]
    turned = torch.einsum('sij,shwj->shwi', T_world_camera[:, :3, :3], seen)
    distance = (turned + T_world_camera[:, None, None, :3, 3] - points).norm(dim=-1) / depth
    sure = confidence >= confidence.flatten(1).median(dim=1).values[:, None, None]
    return distance.masked_fill(~sure, torch.nan).flatten(1).nanmedian(dim=1).values
