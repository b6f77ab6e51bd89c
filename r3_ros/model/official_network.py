"""R3 as the authors' streaming loop asks for it: their terms, their units, nothing interpreted.

The cached frames are those that the loop holds, whatever its rule for that; they lie in the same
slots as those of our own engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..datatypes import ModelInfo
from ..errors import FrameError, ModelError
from ..frame_relations import Relations, Replay, View
from ..input.network_input import intrinsics_from_fov
from .memory import Context, FrameMemory, Room
from .metric import with_far_sky
from .network import FrameCache, MetricNetwork, Prediction, R3Network

_NOT_FINITE = (
    "the network's answer is not finite: try model.precision fp32, and `r3 weights check` on the "
    'weights'
)


class OfficialMetricDepth:
    """What the authors take for depth in metres.

    It is that for a focal length of 300 pixels alone, and the sky is in it, as far away as the
    farthest things of all pictures asked for at once. :func:`~r3_ros.model.metric.metric_depth`
    is what it should be.
    """

    def __init__(self, network: MetricNetwork, device: torch.device) -> None:
        """Take a loaded network in evaluation mode, on its device."""
        self._network = network
        self._device = device

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return (N, h, w) float32 of N prepared pictures (h, w, 3) uint8."""
        answer = self._network(_images(pictures, self._device))
        return with_far_sky(answer.depth.cpu().numpy(), answer.sky.cpu().numpy())


class OfficialNetwork:
    """R3 behind :class:`~r3_ros.frame_relations.Network`; pictures are prepared (h, w, 3) uint8.

    :ivar info: what it is and where it runs.
    :ivar metric: depth in metres, None if it was not asked for.
    """

    def __init__(
        self,
        network: R3Network,
        info: ModelInfo,
        room: Room,
        device: torch.device,
        metric: OfficialMetricDepth | None = None,
    ) -> None:
        """Take a loaded network in evaluation mode, on its device, and the room for its cache."""
        self.info = info
        self.metric = metric
        self._network = network
        self._device = device
        self._memory = FrameMemory(room)
        self._held: set[int] = set()
        self._replayed: tuple[tuple[int, ...], FrameCache] | None = None

    @torch.inference_mode()
    def relate(self, frame: int, picture: np.ndarray, memory: Sequence[int]) -> Relations:
        """Relate a new frame to held ones, and hold it.

        :raises FrameError: the answer is of no use; nothing is held of the frame.
        :raises ModelError: the memory does not fit into the budget.
        """
        described = self._network.describe(_images([picture], self._device)[None])
        context = self._context(memory)
        prediction = self._network.predict(described, context.cache, reference=not memory)
        rel, logits_t, logits_r, fov = _pairs(prediction)
        features = described.descriptor[0].float().cpu().numpy()
        if not _finite(rel, logits_t, logits_r, fov, features):
            raise FrameError(_NOT_FINITE)
        height, width = picture.shape[:2]
        intrinsics_from_fov(fov[0, 0], fov[0, 1], width, height)  # refuses what no camera has
        self._memory.keep(frame, prediction.cache)
        self._held.add(frame)
        # Cached frames lie in whatever order; the last row is the frame against itself.
        place = {held: row for row, held in enumerate(context.frame_ids)}
        rows = [place[held] for held in memory]
        return Relations(
            rel=rel[rows, 0],
            logits_t=logits_t[rows, 0],
            logits_r=logits_r[rows, 0],
            fov=fov[0],
            feature=features[0],
            view=_views(prediction)[0],
        )

    @torch.inference_mode()
    def replay(self, frames: Sequence[int], pictures: Sequence[np.ndarray]) -> Replay:
        """Run frames together, each seeing all; what is held does not change.

        :raises ModelError: the answer is of no use.
        """
        described = self._network.describe(_images(pictures, self._device)[None])
        prediction = self._network.predict(described, causal=False, reference=True)
        rel, logits_t, logits_r, fov = _pairs(prediction)
        features = described.descriptor[0].float().cpu().numpy()
        if not _finite(rel, logits_t, logits_r, fov, features):
            raise ModelError(_NOT_FINITE)
        self._replayed = tuple(frames), prediction.cache
        return Replay(rel, logits_t, logits_r, features, _views(prediction))

    @torch.inference_mode()
    def take_over(self, frames: Sequence[int]) -> None:
        """Hold what the last replay made of some of its frames, and nothing else."""
        assert self._replayed is not None, 'there was no replay'
        replayed, cache = self._replayed
        self._replayed = None
        self._memory.forget(self._held)
        self._held = set(frames)
        for frame in frames:
            self._memory.keep(frame, cache.select([replayed.index(frame)]))

    def keep(self, frames: Sequence[int]) -> None:
        """Hold these of the held frames alone; a replay that was not taken over is gone."""
        self._replayed = None
        self._memory.forget(self._held.difference(frames))
        self._held.intersection_update(frames)

    def close(self) -> None:
        """Free the cache; the weights go with the network."""
        self._memory.close()
        self._held.clear()
        self._replayed = None

    def _context(self, memory: Sequence[int]) -> Context:
        try:
            return self._memory.context(memory)
        except ModelError as error:
            needed_mib = (len(memory) + 1) * self._memory.entry_bytes / 2**20
            raise ModelError(
                f"the authors' loop attends to all of the {len(memory)} frames that it holds, "
                f'which takes {needed_mib:.0f} MiB with the new one: raise memory.max_gpu_mib, or '
                'take a smaller model.image_size or fewer frames'
            ) from error


def _images(pictures: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Return (N, 3, h, w) uint8 on the device."""
    return torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2)


def _pairs(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bring what was said of N cached frames and S of the call to the host, in float64.

    :returns: (N + S, S, 9) edges, (N + S, S) logits for translation and for rotation, (S, 2)
        fields of view, which are also in the edges to their frame.
    """
    pairs = prediction.pairs
    sources = pairs.translation.shape[1]
    columns = [
        pairs.translation[0],
        pairs.quaternion[0],
        prediction.fov[0].expand(sources, -1, -1),
        pairs.logit_translation[0, ..., None],
        pairs.logit_rotation[0, ..., None],
    ]
    numbers = torch.cat(columns, dim=-1).double().cpu().numpy()  # (N + S, S, 11)
    return numbers[..., :9], numbers[..., 9], numbers[..., 10], numbers[0, :, 7:9]


def _finite(*arrays: np.ndarray) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _views(prediction: Prediction) -> tuple[View, ...]:
    """Return depth and confidence of each frame of the call, NaN and 1 where one is no number."""
    assert prediction.depth is not None and prediction.confidence is not None
    depth = prediction.depth[0].cpu().numpy()
    confidence = prediction.confidence[0].cpu().numpy()
    bad = ~(np.isfinite(depth) & np.isfinite(confidence))
    depth[bad], confidence[bad] = np.nan, 1.0
    return tuple(View(*maps) for maps in zip(depth, confidence, strict=True))
