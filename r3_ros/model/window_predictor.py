"""R3 with full context: all pictures of a window in one pass, in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..config import ModelConfig
from ..datatypes import ModelInfo
from ..errors import FrameError, ModelError
from ..input.network_input import Geometry, PATCH, r3_geometry, R3Rule
from ..window_prediction import WindowPrediction
from .depth_head import BRANCH_CHANNELS
from .network import HEAD_FRAMES, Prediction, R3Network
from .variants import NetworkConfig, TABLE_SIDE

_FLOAT32_BYTES = 4


class R3WindowPredictor:
    """Depth and relative poses of pictures that all see one another, by the R3 network."""

    def __init__(
        self,
        network: R3Network,
        info: ModelInfo,
        config: ModelConfig,
        memory_bytes: int,
        device: torch.device,
    ) -> None:
        """Take a loaded network in evaluation mode, on its device.

        :param memory_bytes: what a pass may take beside the weights.
        """
        self.info = info
        self._network = network
        self._device = device
        self._with_depth = config.depth
        self._memory_bytes = memory_bytes
        self._element_bytes = network.backbone.patch_embed.proj.weight.element_size()
        # As in a stream: the same weights, the same pixels.
        self._rule = R3Rule(size=config.image_size, square_ok=True)
        self.geometry = lru_cache(maxsize=64)(self._geometry_of)

    def most_frames(self, width: int, height: int) -> int:
        """Return how many pictures of a prepared size fit into memory at once."""
        rows, columns = height // PATCH, width // PATCH
        # The head takes a few frames at a time: the rest grows by the frame.
        none, one = (
            pass_bytes(
                self._network.config, rows, columns, n, self._element_bytes, self._with_depth
            )
            for n in (0, 1)
        )
        return max(0, (self._memory_bytes - none) // (one - none))

    @torch.inference_mode()
    def describe(self, picture: np.ndarray) -> np.ndarray:
        """Run what needs no other picture and return its (C,) float32 unit descriptor."""
        tokens = self._network.describe(self._images([picture]))
        return _unit(tokens.descriptor[0, 0])

    @torch.inference_mode()
    def predict(self, pictures: Sequence[np.ndarray]) -> WindowPrediction:
        """Relate all pictures to one another; the first one is the reference."""
        try:
            described = self._network.describe(self._images(pictures))
            prediction = self._network.predict(described, causal=False, depth=self._with_depth)
            return _on_host(prediction)
        except torch.cuda.OutOfMemoryError as error:
            raise ModelError(
                f'{len(pictures)} pictures at once do not fit into the memory of {self._device}: '
                'lower offline.max_memory_mib or offline.window_frames'
            ) from error

    def close(self) -> None:
        """Let what the pass left in the device's allocator go."""
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _geometry_of(self, width: int, height: int) -> Geometry:
        return r3_geometry(width, height, self._rule)

    def _images(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        """Return (1, S, 3, H, W) uint8 on the device."""
        sizes = {picture.shape for picture in pictures}
        if len(sizes) != 1:
            raise FrameError(f'pictures of one pass must be of one size, got {sorted(sizes)}')
        stacked = torch.from_numpy(np.stack(pictures)).to(self._device)
        return stacked.permute(0, 3, 1, 2)[None]


def pass_bytes(
    config: NetworkConfig, rows: int, columns: int, frames: int, element_bytes: int, depth: bool
) -> int:
    """Return what a pass over some frames takes at its peak, weights left out, rounded up.

    :param rows: patches in a column of the picture; ``columns``: in a row.
    :param element_bytes: of the precision that the network runs in.
    """
    backbone = config.backbone
    patches = rows * columns
    tokens = (1 + patches) * backbone.width
    kept = 2 * len(backbone.cross_frame_blocks) * tokens * element_bytes  # keys and values
    taps = len(backbone.taps) * patches * backbone.feature_width * _FLOAT32_BYTES
    stream = 4 * tokens * _FLOAT32_BYTES  # described, local, the block's input and its output
    hidden = backbone.swiglu_width * 3 if backbone.swiglu_width else 8 * backbone.width
    feed_forward = (1 + patches) * hidden * element_bytes
    # Projections, and queries and keys while they are normalised and turned in float32.
    attention = 4 * tokens * element_bytes + 6 * tokens * _FLOAT32_BYTES
    per_frame = kept + taps + stream + max(feed_forward, attention)
    # The table of positions while it is resized.
    fixed = 3 * TABLE_SIDE**2 * backbone.width * _FLOAT32_BYTES
    if depth:
        pixels = patches * PATCH**2
        # Maps at full size: half of the features, before and after their positions are added, and
        # the end of the branch before and after its ReLU; then what comes out, for all frames.
        of_pixel = config.depth_head.features * element_bytes
        of_pixel += 2 * BRANCH_CHANNELS * _FLOAT32_BYTES
        fixed += HEAD_FRAMES * pixels * of_pixel
        per_frame += 4 * pixels * _FLOAT32_BYTES
    return frames * per_frame + fixed


def _unit(vector: torch.Tensor) -> np.ndarray:
    vector = vector.float()
    unit: np.ndarray = (vector / vector.norm()).cpu().numpy()
    if not np.isfinite(unit).all():
        raise ModelError(
            'the network sees nothing finite in a picture: try model.precision fp32, and '
            '`r3 weights check` on the weights'
        )
    return unit


def _on_host(prediction: Prediction) -> WindowPrediction:
    """Bring a prediction to the host."""
    pairs = prediction.pairs
    columns = torch.cat(
        [
            pairs.translation[0],
            pairs.quaternion[0],
            pairs.logit_translation[0, ..., None],
            pairs.logit_rotation[0, ..., None],
        ],
        dim=-1,
    )
    numbers = columns.double().cpu().numpy()  # (S, S, 9)
    fov = prediction.fov[0].double().cpu().numpy()
    if not (np.isfinite(numbers).all() and np.isfinite(fov).all()):
        raise ModelError(
            "the network's answer is not finite: try model.precision fp32, and "
            '`r3 weights check` on the weights'
        )
    predicted = pairs.predicted.cpu().numpy()
    lengths = np.linalg.norm(numbers[..., 3:7], axis=-1)
    predicted &= lengths > 0  # no rotation at all is no claim
    relative = np.full((*lengths.shape, 7), np.nan)
    relative[predicted, :3] = numbers[predicted, :3]
    relative[predicted, 3:] = numbers[predicted, 3:7] / lengths[predicted, None]
    depth, confidence = _dense_on_host(prediction)
    return WindowPrediction(relative, numbers[..., 7:], predicted, fov, depth, confidence)


def _dense_on_host(prediction: Prediction) -> tuple[np.ndarray | None, np.ndarray | None]:
    if prediction.depth is None or prediction.confidence is None:
        return None, None
    depth = prediction.depth[0].cpu().numpy()
    confidence = prediction.confidence[0].cpu().numpy()
    bad = ~(np.isfinite(depth) & np.isfinite(confidence))
    depth[bad], confidence[bad] = np.nan, 1.0
    return depth, confidence
