"""Networks of image pairs as :class:`~r3_ros.core.predictor.Predictor` of the engine.

A frame is encoded once, in ``describe``. ``predict`` runs the decoder for the frame and each
context frame: the time of a step grows with the context (``stream.*``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import math

import numpy as np
import torch

from ...core.config import MemoryConfig, ModelConfig
from ...core.datatypes import (
    DepthMap,
    Edge,
    Frame,
    FramePrediction,
    ModelInfo,
)
from ...core.errors import FrameError
from ...core.unit_scale import DepthGrid
from ..cache.frame_memory import CacheBudget
from ..device_errors import device_errors
from ..feature_predictor import FeaturePredictor
from ..network_predictor import finite_depth
from .croco import CrocoNetwork, PointNetwork, PoseNetwork
from .point_pairs import relate_points
from .pose_pairs import PairWorld, relate_poses


class PairPredictor(FeaturePredictor):
    """Relative poses, and depth if the network has it, by a network of image pairs.

    The unit of DUSt3R is about the distance of the first scene, that of MASt3R about a metre, that
    of Reloc3r the first step of the camera. The features of a frame take 3 MiB at 512 x 384; its
    depth is held too, at every fourth row and column.

    :ivar confidence_reference: the scores of point maps are shares of points that agree.
    """

    confidence_reference = 0.9

    def __init__(
        self,
        network: CrocoNetwork,
        info: ModelInfo,
        config: ModelConfig,
        budget: CacheBudget,
        device: torch.device,
        recomputed_per_frame: int = MemoryConfig.recomputed_per_frame,
    ) -> None:
        """Take a network in evaluation mode, on its device.

        :param recomputed_per_frame: images encoded again for one new frame at most.
        """
        super().__init__(network, info, config, budget, device)
        self.descriptor_size = network.config.encoder_width
        self._network = network
        self._encoded_per_frame = recomputed_per_frame
        self._depths: dict[int, DepthGrid] = {}
        self._world = PairWorld()

    @device_errors()
    @torch.inference_mode()
    def predict(
        self, frame: Frame, context_ids: Sequence[int], depth: bool = True
    ) -> FramePrediction:
        """Relate one frame to each context frame.

        :raises FrameError: the camera is not calibrated, and the network gives no focal length;
            or its output is not finite.
        """
        described = self._taken(frame)
        geometry, new = described.geometry, described.features
        context = self._context(context_ids, new, self._encoded_per_frame)
        known = None if frame.intrinsics is None else geometry.to_network(frame.intrinsics)
        edges: Sequence[Edge]
        depths: tuple[DepthMap, ...] = ()
        if isinstance(self._network, PoseNetwork):
            if known is None:
                raise FrameError(
                    f'{self.info.name} does not estimate the focal length: give the calibration '
                    'of the camera'
                )
            intrinsics, seen_fov_x = known, math.nan
            pairs = relate_poses(self._network, new, context)
            edges = self._world.edges(frame.frame_id, pairs)
        else:
            assert isinstance(self._network, PointNetwork)
            related = relate_points(
                self._network, frame.frame_id, new, context, self._depths, known
            )
            fov = self._fovs[-1] if self._fovs else np.full(2, math.nan)
            if related.focals:
                sides = np.array([geometry.height, geometry.width])
                fov = 2.0 * np.arctan(sides / 2.0 / np.median(related.focals))
            elif not self._fovs and known is None:
                raise FrameError(
                    'the network finds no focal length: its points are not in front of a camera'
                )
            intrinsics, seen_fov_x = self._intrinsics(frame, geometry, fov)
            if related.focals:
                self._fovs.append(fov)
            self._depths[frame.frame_id] = related.grid
            edges = related.edges
            if depth and self._with_depth:
                maps = np.stack([related.depth, related.confidence])
                depths = (finite_depth(frame.frame_id, maps, described.pixels, intrinsics),)
        # Nothing fails from here on, so an unusable frame leaves no state behind.
        self._features.keep(frame.frame_id, new, described.pixels)
        return FramePrediction(
            intrinsics=frame.intrinsics or geometry.to_source(intrinsics),
            seen_fov_x=seen_fov_x,
            edges=tuple(edges),
            depths=depths,
            intrinsics_estimated=frame.intrinsics is None,
        )

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop these frames."""
        frame_ids = tuple(frame_ids)
        super().forget(frame_ids)
        self._world.forget(frame_ids)
        for frame_id in frame_ids:
            self._depths.pop(frame_id, None)

    def _place(self, frame_id: int, T_world_camera: np.ndarray) -> None:
        self._world.place(frame_id, T_world_camera)

    def reset(self) -> None:
        """Drop all frames."""
        super().reset()
        self._depths = {}
        self._world = PairWorld()
