"""Networks with full context: all images of a window in one pass, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..core.config import ModelConfig
from ..core.datatypes import ModelInfo
from ..core.errors import FrameError, ModelError
from ..core.geometry import inverse, quat_xyzw
from ..core.predictor import WindowPrediction
from ..input.network_input import intrinsics_from_fov
from .multi_view import MultiViewNetwork, Views
from .network import PairNetwork, Prediction
from .network_predictor import finite, NOT_FINITE
from .r3_predictor import geometry_rule
from .view_agreement import overlap_factors, STRIDE

#: Least score of a pair.
_LEAST_SCORE = 1e-6


class NetworkWindowPredictor:
    """Depth and relative poses of images that one pass relates."""

    def __init__(
        self,
        network: PairNetwork | MultiViewNetwork,
        info: ModelInfo,
        config: ModelConfig,
        memory_bytes: int,
        device: torch.device,
    ) -> None:
        """Take a network in evaluation mode, on its device.

        :param memory_bytes: for one pass, without the weights.
        """
        self.info = info
        self._network = network
        self._device = device
        self._with_depth = config.depth
        self._runs_depth = config.depth or isinstance(network, MultiViewNetwork)
        self._memory_bytes = memory_bytes
        # As in a stream.
        self.geometry = lru_cache(maxsize=64)(geometry_rule(network, config.image_size))

    def most_frames(self, width: int, height: int) -> int:
        """Return how many images of a prepared size fit into memory at once."""
        none, one = (
            self._network.pass_bytes(width, height, frames, self._runs_depth) for frames in (0, 1)
        )
        return max(0, (self._memory_bytes - none) // (one - none))

    @torch.inference_mode()
    def describe(self, image: np.ndarray) -> np.ndarray:
        """Return the (C,) float32 unit descriptor of an image."""
        tensor = self._tensor([image])
        if isinstance(self._network, MultiViewNetwork):
            vector = self._network.encode(tensor[0]).descriptor[0].float()
        else:
            vector = self._network.describe(tensor).descriptor[0, 0].float()
        unit: np.ndarray = (vector / vector.norm()).cpu().numpy()
        if not np.isfinite(unit).all():
            raise ModelError(
                'the descriptor of an image is not finite: try model.precision fp32, and '
                '`r3 weights check` on the weights'
            )
        return unit

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray]) -> WindowPrediction:
        """Predict all images together; the first one is the reference."""
        try:
            tensor = self._tensor(images)
            if isinstance(self._network, MultiViewNetwork):
                views = self._network.relate(self._network.encode(tensor[0]))
                return _of_views(views, self._with_depth)
            described = self._network.describe(tensor)
            prediction = self._network.predict(described, causal=False, depth=self._with_depth)
            return _on_host(prediction)
        except torch.cuda.OutOfMemoryError as error:
            raise ModelError(
                f'{len(images)} images at once do not fit into the memory of {self._device}: '
                'lower offline.max_memory_mib or offline.window_frames'
            ) from error

    def close(self) -> None:
        """Free the memory that torch caches on the device."""
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _tensor(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Return (1, S, 3, H, W) uint8 on the device."""
        sizes = {image.shape for image in images}
        if len(sizes) != 1:
            raise FrameError(f'images of one pass must be of one size, got {sorted(sizes)}')
        stacked = torch.from_numpy(np.stack(images)).to(self._device)
        return stacked.permute(0, 3, 1, 2)[None]


def _on_host(prediction: Prediction) -> WindowPrediction:
    numbers = prediction.pairs.numbers[0].double().cpu().numpy()  # (S, S, 9)
    fov = prediction.fov[0].double().cpu().numpy()
    if not (np.isfinite(numbers).all() and np.isfinite(fov).all()):
        raise ModelError(NOT_FINITE)
    predicted = prediction.pairs.predicted.cpu().numpy()
    lengths = np.linalg.norm(numbers[..., 3:7], axis=-1)
    predicted &= lengths > 0  # else there is no rotation
    relative = np.full((*lengths.shape, 7), np.nan)
    relative[predicted, :3] = numbers[predicted, :3]
    relative[predicted, 3:] = numbers[predicted, 3:7] / lengths[predicted, None]
    depth = confidence = None
    if prediction.depth is not None and prediction.confidence is not None:
        maps = torch.stack([prediction.depth[0], prediction.confidence[0]])
        depth, confidence = finite(maps.cpu().numpy())
    return WindowPrediction(relative, numbers[..., 7:], predicted, fov, depth, confidence)


def _of_views(views: Views, with_depth: bool) -> WindowPrediction:
    """Return the relations of frames whose surfaces fit, as confident as they fit well."""
    T, fov = (values.double().cpu().numpy() for values in (views.T_world_camera, views.fov))
    depth, confidence = finite(torch.stack([views.depth, views.confidence]).cpu().numpy())
    S, height, width = depth.shape
    if not np.isfinite(fov).all():
        raise ModelError(NOT_FINITE)
    posed = np.isfinite(T).all(axis=(1, 2))
    T[~posed] = np.eye(4)
    vertical, horizontal = np.median(fov, axis=0)
    intrinsics = intrinsics_from_fov(vertical, horizontal, width, height)
    T_target_source = inverse(T)[None] @ T[:, None]
    relative = np.concatenate([T_target_source[..., :3, 3], quat_xyzw(T_target_source)], axis=-1)
    grids = depth[:, ::STRIDE, ::STRIDE]
    scores = np.stack([overlap_factors(T, grids, intrinsics, n) for n in range(S)])
    related = (scores > _LEAST_SCORE) & posed & posed[:, None] & ~np.eye(S, dtype=bool)
    relative[~related] = np.nan
    scores = np.maximum(scores, _LEAST_SCORE)
    logits = np.repeat(np.log(np.expm1(scores))[..., None], 2, axis=-1)  # the softplus inverted
    maps = (depth, confidence) if with_depth else ()
    return WindowPrediction(relative, logits, related, fov, *maps)
