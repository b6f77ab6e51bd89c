"""Our networks on the input of a golden file, in every mode that it holds results of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import hashlib
import re

import numpy as np
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import inverse
from r3_ros.model.depth_head import MonoDepth
from r3_ros.model.metric_predictor import SKY_THRESHOLD
from r3_ros.model.network import (
    AbsolutePrediction,
    DA3Network,
    FrameCache,
    MetricNetwork,
    Prediction,
    R3Network,
)
from r3_ros.model.variants import CameraOutput
from r3_ros.model.vggt import VggtNetwork
import torch
from torch import Tensor

from .comparison import Output
from .golden import FIRST_OF_CHUNK, Golden
from .poses import (
    camera_arrays,
    decoded,
    DEFAULT_TOP,
    intrinsics_of,
    resolve_poses,
    SMALLEST_TANGENT,
)
from .recording import Recording
from .stand_in_weights import Networks, StandInWeights

#: The modes of a clip, each a prefix of array names.
FULL, CAUSAL, ONLINE = 'full', 'causal', 'online'
#: Pair outputs of the last streamed frame alone.
_LAST = '_last'
_DEPTH = re.compile(r'depth|depth_conf|layer\d_rn|refinenet\d')
_RAYS = re.compile(r'ray|ray_conf')
_PYRAMID = re.compile(r'layer\d_rn|refinenet\d')
#: The authors draw at most this many pixels, at random, for the depth of the sky.
_SKY_SAMPLE = 100_000
#: With fewer pixels of sky, or of anything else, the sky keeps its depth.
_MIN_PIXELS = 10
_FAR_QUANTILE = 0.99


def network_outputs(golden: Golden, networks: Networks, sky_margin: float) -> dict[str, Output]:
    """Run the network of a file.

    :param sky_margin: share of the spread of the sky within which a pixel may count as sky or not.
    :raises SourceError: no usable input, or no weights.
    """
    images = input_images(golden, networks.weights)
    assert golden.subject.variant is not None
    network = networks.get(golden.subject.variant, golden.subject.small_signal)
    images = images.to(networks.device)
    with torch.inference_mode(), _exact_float32():
        if isinstance(network, R3Network):
            return _r3_outputs(golden, network, images)
        if isinstance(network, DA3Network):
            return _views_outputs(golden, images, lambda views: _da3_arrays(network, views))
        if isinstance(network, VggtNetwork):
            return _views_outputs(golden, images, lambda views: _vggt_arrays(network, views))
        assert isinstance(network, MetricNetwork)
        return _views_outputs(
            golden, images, lambda views: _metric_arrays(network, views, sky_margin)
        )


def input_images(golden: Golden, weights: StandInWeights) -> Tensor:
    """Return (S, 3, H, W) images: uint8, or float of 0 to 1 if generated from a key.

    :raises SourceError: there are none, or their SHA-256 is wrong.
    """
    if 'pixels' not in golden.arrays:
        if 'image_key' not in golden.arrays:
            raise SourceError('it holds neither pixels nor an image_key: there is no input')
        return _synthetic_image(str(golden.arrays['image_key']), weights)
    pixels = golden.arrays['pixels']
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not pixels.size:
        raise SourceError(
            f'pixels should be (frames, H, W, 3) uint8, they are {pixels.shape} {pixels.dtype}'
        )
    if 'pixels_sha256' in golden.arrays:
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
        if digest != str(golden.arrays['pixels_sha256']):
            raise SourceError('pixels do not have the SHA-256 that it states: it was changed')
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _synthetic_image(key: str, weights: StandInWeights) -> Tensor:
    found = re.fullmatch(r'image-(\d+)x(\d+)', key)
    if found is None:
        raise SourceError(f'image_key should be image-HEIGHTxWIDTH, it is {key!r}')
    height, width = int(found[1]), int(found[2])
    values = weights.unit(key, 3 * height * width).reshape(1, 3, height, width)
    # -1 to 1, but for the rounding to float32
    signed = (values / np.sqrt(3.0) * 0.999).astype(np.float32)
    return (torch.from_numpy(signed) + 1) / 2


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Disable TF32, which has the precision of bfloat16."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _r3_outputs(golden: Golden, network: R3Network, images: Tensor) -> dict[str, Output]:
    outputs: dict[str, Output] = {}
    for mode in (FULL, CAUSAL, ONLINE):
        if wanted := golden.named(mode):
            found = _clip_arrays(network, images, mode, wanted)
            outputs |= {f'{mode}.{name}': output for name, output in found.items()}
    return outputs


def _clip_arrays(
    network: R3Network, images: Tensor, mode: str, wanted: dict[str, np.ndarray]
) -> dict[str, Output]:
    """Return at least the wanted arrays of a clip in one mode."""
    depth = any(_DEPTH.fullmatch(name) for name in wanted)
    rays = any(_RAYS.fullmatch(name) for name in wanted)
    with Recording(network, wanted) as recording:
        if mode == ONLINE:
            predictions = _frame_by_frame(network, images, depth, rays)
        else:
            causal = mode == CAUSAL
            predictions = [network(images[None], causal=causal, depth=depth, rays=rays)]
    arrays = recording.arrays()
    first = int(wanted.get(FIRST_OF_CHUNK, np.zeros(())))
    for name in [name for name in arrays if _PYRAMID.fullmatch(name)]:
        arrays[name] = arrays[name][first:][: len(np.atleast_1d(wanted[name]))]
    arrays |= _frame_arrays(network, predictions)
    pairs = _pair_arrays(predictions, wanted.get('rel_pose_mask') if mode == FULL else None)
    arrays |= pairs
    arrays |= _assembled(pairs, mode, images.shape[-1], images.shape[-2], wanted.get('pose_enc'))
    outputs = {name: Output(array) for name, array in arrays.items()}
    return outputs | _last_frame(pairs)


def _frame_by_frame(
    network: R3Network, images: Tensor, depth: bool, rays: bool
) -> list[Prediction]:
    """Stream a clip with all frames cached."""
    predictions: list[Prediction] = []
    for image in images:
        described = network.describe(image[None, None])
        cached = FrameCache.join([p.cache for p in predictions]) if predictions else None
        predictions.append(network.predict(described, cached, depth=depth, rays=rays))
    return predictions


def _frame_arrays(network: R3Network, predictions: list[Prediction]) -> dict[str, np.ndarray]:
    """Return the arrays with one entry per frame."""
    features = [p.camera_feature for p in predictions]
    parts: dict[str, Sequence[Tensor | None]] = {
        'depth': [p.depth for p in predictions],
        'depth_conf': [p.confidence for p in predictions],
        'ray': [p.rays for p in predictions],
        'ray_conf': [p.ray_confidence for p in predictions],
        'cam_projected': features,
        'abs_pose_enc': [network.cam_dec.absolute(feature) for feature in features],
    }
    return {
        name: _numpy(torch.cat([part for part in present if part is not None], dim=1)[0])
        for name, present in parts.items()
        if present[0] is not None
    }


def _pair_arrays(
    predictions: list[Prediction], golden_mask: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return pair outputs as (S, S, ...) arrays, row to column.

    :param golden_mask: that of a run with full context. The authors' released configuration
        leaves out pairs backwards in time there; then so do we.
    """
    fov = np.concatenate([_numpy(p.fov[0]) for p in predictions])  # (S, 2)
    S = len(fov)

    def joined(parts: list[Tensor]) -> np.ndarray:  # each (rows so far, columns of the call, ...)
        columns = [_numpy(part) for part in parts]
        rows = [[(0, S - len(c)), *[(0, 0)] * (c.ndim - 1)] for c in columns]
        return np.concatenate([np.pad(c, r) for c, r in zip(columns, rows, strict=True)], axis=1)

    mask = joined([p.pairs.predicted for p in predictions]).astype(bool)
    forwards = np.triu(np.ones((S, S), dtype=bool), 1)
    if golden_mask is not None and np.array_equal(golden_mask, forwards):
        mask = mask & forwards
    translation = joined([p.pairs.translation[0] for p in predictions])
    quaternion = joined([p.pairs.quaternion[0] for p in predictions])
    conf_t = joined([p.pairs.logit_translation[0] for p in predictions]) * mask
    conf_r = joined([p.pairs.logit_rotation[0] for p in predictions]) * mask
    views = np.broadcast_to(fov, (S, S, 2))  # a pair carries the view of its target
    rel = np.concatenate([translation, quaternion, views], axis=-1) * mask[..., None]
    rel[np.arange(S), np.arange(S), 7:9] = fov
    return {
        'rel_pose_enc': rel,
        'rel_pose_conf_t': conf_t,
        'rel_pose_conf_r': conf_r,
        'rel_pose_conf': (conf_t + conf_r) / 2,
        'rel_pose_mask': mask,
    }


def _assembled(
    pairs: dict[str, np.ndarray], mode: str, width: int, height: int, golden: np.ndarray | None
) -> dict[str, np.ndarray]:
    rel, conf_t, conf_r = (
        pairs[f'rel_pose_{name}'].astype(np.float64) for name in ('enc', 'conf_t', 'conf_r')
    )
    top = None if mode == ONLINE else DEFAULT_TOP
    poses = resolve_poses(rel, conf_t, conf_r, pairs['rel_pose_mask'], top)
    return camera_arrays(poses, width, height, golden)


def _last_frame(pairs: dict[str, np.ndarray]) -> dict[str, Output]:
    """Return the pair outputs, of which only the column of the last frame is compared."""
    outputs = {}
    for name, values in pairs.items():
        counts = np.zeros(values.shape, dtype=bool)
        counts[:-1, -1] = True
        outputs[name + _LAST] = Output(values, counts)
    return outputs


def _views_outputs(
    golden: Golden, images: Tensor, run: Callable[[Tensor], dict[str, Output]]
) -> dict[str, Output]:
    """Run the first N images for every group ``viewsN`` of arrays."""
    outputs: dict[str, Output] = {}
    for group in sorted({name.split('.')[0] for name in golden.arrays if '.' in name}):
        found = re.fullmatch(r'views([1-9]\d*)', group)
        if found is None:
            continue
        count = int(found[1])
        if count > len(images):
            raise SourceError(f'{group} needs {count} images, it holds {len(images)}')
        outputs |= {f'{group}.{name}': output for name, output in run(images[:count]).items()}
    return outputs


def _da3_arrays(network: DA3Network, views: Tensor) -> dict[str, Output]:
    p: AbsolutePrediction = network(views[None], rays=True)
    assert p.rays is not None and p.ray_confidence is not None
    encodings = _numpy(p.encodings[0]).astype(np.float64)
    T_camera_world = inverse(decoded(encodings))
    size = (views.shape[-1], views.shape[-2])
    arrays = {
        'depth': _numpy(p.depth[0]),
        'depth_conf': _numpy(p.confidence[0]),
        'ray': _numpy(p.rays[0]),
        'ray_conf': _numpy(p.ray_confidence[0]),
        'extrinsics': T_camera_world[:, :3],
        'intrinsics': intrinsics_of(encodings[:, 7:9], *size, SMALLEST_TANGENT),
        'reference_view': _numpy(p.reference[0]),
    }
    return {name: Output(array) for name, array in arrays.items()}


def _vggt_arrays(network: VggtNetwork, views: Tensor) -> dict[str, Output]:
    frames = network.encode(views)
    features, camera_tokens = network.aggregator(*frames.tensors, frames.rows, frames.columns)
    p = network.predict(frames, points=True)
    arrays = {
        'patches': frames.tensors[0],
        'feat3': features[3],
        'cam_token3': camera_tokens,
        'depth': p.depth,
        'depth_conf': p.confidence,
    }
    if p.points is not None and p.point_confidence is not None:
        arrays |= {'points': p.points, 'points_conf': p.point_confidence}
    outputs = {name: Output(_numpy(array)) for name, array in arrays.items()}
    encodings = _numpy(p.encodings).astype(np.float64)
    cameras = camera_arrays(encodings, views.shape[-1], views.shape[-2], None)
    if network.config.camera is CameraOutput.VIDEO:  # its encodings are camera-to-world
        cameras['w2c'], cameras['c2w'] = cameras['c2w'], cameras['w2c']
    return outputs | {name: Output(array) for name, array in cameras.items()}


def _metric_arrays(network: MetricNetwork, views: Tensor, sky_margin: float) -> dict[str, Output]:
    p: MonoDepth = network(views)
    raw, sky = _numpy(p.depth), _numpy(p.sky)
    # Pixels near the threshold may fall on either side, with very different depths.
    counts = np.abs(sky - SKY_THRESHOLD) > sky_margin * sky.std()
    is_sky = sky >= SKY_THRESHOLD
    if np.count_nonzero(~is_sky) > _SKY_SAMPLE:
        counts &= ~is_sky
    return {
        'raw_depth': Output(raw),
        'depth': Output(with_far_sky(raw, sky), counts),
        'sky': Output(sky),
    }


def with_far_sky(depth: np.ndarray, sky: np.ndarray) -> np.ndarray:
    """Return depth (..., H, W) whose sky has the 0.99 quantile of the other depths.

    The authors take the quantile of at most 100,000 random pixels; here all are used.
    """
    is_sky = sky >= SKY_THRESHOLD
    if min(is_sky.sum(), (~is_sky).sum()) <= _MIN_PIXELS:
        return depth.copy()
    far = np.quantile(depth[~is_sky], _FAR_QUANTILE)
    return np.where(is_sky, far, depth).astype(depth.dtype)


def _numpy(tensor: Tensor) -> np.ndarray:
    if tensor.dtype.is_floating_point:
        tensor = tensor.float()
    return tensor.cpu().numpy()
