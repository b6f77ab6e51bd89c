"""What predictors share whose networks keep nothing of a frame but its own features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch

from ..core.config import ModelConfig
from ..core.datatypes import KnownKeyframe, ModelInfo, SparseLandmarks
from .cache.frame_memory import CacheBudget, FrameMemory
from .multi_view import FrameFeatures, MultiViewNetwork
from .network_predictor import NetworkPredictor
from .pairs.croco import CrocoNetwork


class FeaturePredictor(NetworkPredictor[FrameFeatures]):
    """The base of the predictors with networks of several views and of image pairs.

    Until :meth:`forget`, a frame is held by its features, or by its image, from which they are
    computed again when needed.
    """

    def __init__(
        self,
        network: MultiViewNetwork | CrocoNetwork,
        info: ModelInfo,
        config: ModelConfig,
        budget: CacheBudget,
        device: torch.device,
    ) -> None:
        """Take a network in evaluation mode, on its device."""
        self._features = FrameMemory[FrameFeatures](budget)
        geometry = partial(network.geometry, image_size=config.image_size)
        super().__init__(network, info, config, self._features, device, geometry)
        self._encode = network.encode
        self._with_depth = config.depth

    def forget(self, frame_ids: Iterable[int]) -> None:
        """Drop these frames."""
        self._features.forget(frame_ids)

    def restore(
        self, keyframes: Iterable[KnownKeyframe], landmarks: SparseLandmarks | None
    ) -> None:
        """Hold the images and poses of a saved map; features are computed when first needed.

        :raises FrameError: an image cannot be used.
        :raises ModelError: the images do not fit into ``memory.max_host_mib``.
        """
        self.reset()
        for known in keyframes:
            self._features.hold_image(known.frame_id, self._pixels(known.image)[0])
            self._place(known.frame_id, known.T_world_camera)

    @abstractmethod
    def _place(self, frame_id: int, T_world_camera: np.ndarray) -> None:
        """Hold the pose of a keyframe of a saved map."""

    def _encoded(self, images: torch.Tensor) -> tuple[FrameFeatures, torch.Tensor]:
        features = self._encode(images)
        return features, features.descriptor[0]

    def _context(
        self, frame_ids: Sequence[int], new: FrameFeatures, most: int | None = None
    ) -> dict[int, FrameFeatures]:
        """Return the features of context frames, in this order, after computing missing ones.

        :param most: compute so many at most, the newest, which the next frames need too; the
            other frames are left out.
        :raises FrameError: they are of another size than the new frame.
        """
        missing = [i for i in frame_ids if not self._features.in_full(i)]
        encoded = missing[::-1][:most]
        full = [i for i in frame_ids if i in encoded or i not in missing]
        self._features.check_room_for(len(full))
        # From now on they are the last to be moved out.
        self._features.entries([i for i in full if i not in encoded])
        for frame_id in encoded:
            pixels = self._features.image(frame_id)
            self._features.keep(frame_id, self._encode(self._tensor(pixels)))
        context = dict(zip(full, self._features.entries(full), strict=True))
        for held in context.values():
            new.check_size(held)
        return context
