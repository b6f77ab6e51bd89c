"""The memory that one pass of a network takes."""

from __future__ import annotations

from ..input.network_input import PATCH
from .depth_head import BRANCH_CHANNELS, HEAD_FRAMES
from .tiny.matching import MOST_SIMILARITIES, PAIR_BYTES, PAIRS_AT_ONCE
from .variants import CameraOutput, NetworkConfig, TABLE_SIDE

_FLOAT32_BYTES = 4


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
    # Keys and values of the blocks across frames; VGGT relates all frames in every pass.
    blocks = 0 if config.camera.is_refined else len(backbone.cross_frame_blocks)
    kept = 2 * blocks * tokens * element_bytes
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
        # Afterwards the similarities of some pairs, before and after their exponential, then the
        # refinement of matches.
        pairs = max(int(2.2 * MOST_SIMILARITIES * _FLOAT32_BYTES), PAIRS_AT_ONCE * PAIR_BYTES)
        fixed += max(head, pairs if matches else 0)
        per_frame += 4 * pixels * _FLOAT32_BYTES
    return frames * per_frame + fixed
