"""R3 with full context: all images of a window in one pass, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..core.config import ModelConfig
from ..core.datatypes import ModelInfo
from ..core.errors import FrameError, ModelError
from ..core.predictor import WindowPrediction
from ..input.network_input import PATCH
from .depth_head import BRANCH_CHANNELS
from .network import HEAD_FRAMES, PairNetwork, Prediction
from .r3_predictor import geometry_rule
from .tiny.tiny_network import MOST_SIMILARITIES
from .variants import CameraOutput, NetworkConfig, TABLE_SIDE

_FLOAT32_BYTES = 4


class R3WindowPredictor:
    """Depth and relative poses of images predicted together by the R3 network."""

    def __init__(
        self,
        network: PairNetwork,
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
        self._memory_bytes = memory_bytes
        self._element_bytes = network.backbone.patch_embed.proj.weight.element_size()
        # As in a stream.
        self.geometry = lru_cache(maxsize=64)(geometry_rule(network, config.image_size))

    def most_frames(self, width: int, height: int) -> int:
        """Return how many images of a prepared size fit into memory at once."""
        rows, columns = height // PATCH, width // PATCH
        none, one = (
            pass_bytes(
                self._network.config, rows, columns, n, self._element_bytes, self._with_depth
            )
            for n in (0, 1)
        )
        return max(0, (self._memory_bytes - none) // (one - none))

    @torch.inference_mode()
    def describe(self, image: np.ndarray) -> np.ndarray:
        """Return the (C,) float32 unit descriptor of an image."""
        vector = self._network.describe(self._tensor([image])).descriptor[0, 0].float()
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
            described = self._network.describe(self._tensor(images))
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


def pass_bytes(
    config: NetworkConfig, rows: int, columns: int, frames: int, element_bytes: int, depth: bool
) -> int:
    """Return an upper bound of the peak memory of a pass, without the weights.

    :param rows: patches in a column of an image; ``columns``: in a row.
    :param element_bytes: of the network's precision.
    """
    backbone = config.backbone
    patches = rows * columns
    tokens = (1 + patches) * backbone.width
    kept = 2 * len(backbone.cross_frame_blocks) * tokens * element_bytes  # keys and values
    taps = len(backbone.taps) * patches * backbone.feature_width * _FLOAT32_BYTES
    stream = 4 * tokens * _FLOAT32_BYTES  # described, local, the block's input and its output
    hidden = backbone.swiglu_width * 3 if backbone.swiglu_width else 8 * backbone.width
    feed_forward = (1 + patches) * hidden * element_bytes
    # Projections, and queries and keys normalised and rotated in float32.
    attention = 4 * tokens * element_bytes + 6 * tokens * _FLOAT32_BYTES
    per_frame = kept + taps + stream + max(feed_forward, attention)
    # Resizing of the position table.
    fixed = 3 * TABLE_SIDE**2 * backbone.width * _FLOAT32_BYTES
    matches = config.camera is CameraOutput.MATCHES
    if depth or matches:  # pairs by matches need depth
        pixels = patches * PATCH**2
        # Full-size maps: half of the features, before and after the position embedding, and the
        # last layer before and after its ReLU; then the outputs of all frames.
        of_pixel = config.depth_head.features * element_bytes
        of_pixel += 2 * BRANCH_CHANNELS * _FLOAT32_BYTES
        head = HEAD_FRAMES * pixels * of_pixel
        # Afterwards the similarities of some pairs, before and after their exponential.
        fixed += max(head, int(2.2 * MOST_SIMILARITIES * _FLOAT32_BYTES) if matches else 0)
        per_frame += 4 * pixels * _FLOAT32_BYTES
    return frames * per_frame + fixed


def _on_host(prediction: Prediction) -> WindowPrediction:
    numbers = prediction.pairs.numbers[0].double().cpu().numpy()  # (S, S, 9)
    fov = prediction.fov[0].double().cpu().numpy()
    if not (np.isfinite(numbers).all() and np.isfinite(fov).all()):
        raise ModelError(
            "the network's output is not finite: try model.precision fp32, and "
            '`r3 weights check` on the weights'
        )
    predicted = prediction.pairs.predicted.cpu().numpy()
    lengths = np.linalg.norm(numbers[..., 3:7], axis=-1)
    predicted &= lengths > 0  # else there is no rotation
    relative = np.full((*lengths.shape, 7), np.nan)
    relative[predicted, :3] = numbers[predicted, :3]
    relative[predicted, 3:] = numbers[predicted, 3:7] / lengths[predicted, None]
    depth = confidence = None
    if prediction.depth is not None and prediction.confidence is not None:
        depth = prediction.depth[0].cpu().numpy()
        confidence = prediction.confidence[0].cpu().numpy()
        bad = ~(np.isfinite(depth) & np.isfinite(confidence))
        depth[bad], confidence[bad] = np.nan, 1.0
    return WindowPrediction(relative, numbers[..., 7:], predicted, fov, depth, confidence)
