"""From edges to poses, one frame at a time: online, and in order over a whole sequence.

An edge takes camera i's coordinates to camera j's, so the pose of j is the edge after the pose
of i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ...errors import ConfigError

SCORE_MODES = ('separate', 'shared', 'mean', 'min', 'translation', 'rotation')
SELECTIONS = ('translation', 'rotation', 'both')


def compose_encodings(edge: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return the (9,) pose of an edge's target, given its source's; field of view of the edge."""
    rotation = Rotation.from_quat(edge[3:7])
    quat = (rotation * Rotation.from_quat(pose[3:7])).as_quat(canonical=True)
    return np.concatenate([rotation.apply(pose[:3]) + edge[:3], quat, edge[7:9]])


def average_encodings(
    candidates: np.ndarray, weights_t: np.ndarray, weights_r: np.ndarray
) -> np.ndarray:
    """Return the weighted average (9,) of (N, 9) candidates.

    World-to-camera translations are averaged as they are, quaternions after giving each the
    sign that agrees with the first candidate.
    """
    quats = candidates[:, 3:7]
    quats = quats * np.where(quats @ quats[0] < 0, -1.0, 1.0)[:, None]
    quat = weights_r @ quats
    return np.concatenate(
        [
            weights_t @ candidates[:, :3],
            quat / np.linalg.norm(quat),
            weights_t @ candidates[:, 7:9],
        ]
    )


def resolve_online(
    rel: np.ndarray,
    poses: np.ndarray,
    conf_t: np.ndarray,
    conf_r: np.ndarray,
    mask: np.ndarray,
    topn: int,
    max_recent: int = 0,
) -> np.ndarray:
    """Return the (9,) pose of a new frame from its edges to M remembered frames, oldest first.

    :param rel: (M, 9) edges to the new frame; ``poses``: (M, 9) of the remembered frames, NaN
        where a frame has none.
    :param conf_t: (M,) logits for translation; ``conf_r``: for rotation.
    :param mask: (M,) bool, edges that exist.
    :param topn: edges kept, by mean logit; -1 keeps half of the frames.
    :param max_recent: keep only the newest frames that have a pose; 0 keeps all.
    """
    posed = np.flatnonzero(np.isfinite(poses).all(axis=1))
    sources = posed[-max_recent:] if max_recent > 0 else posed
    sources = sources[mask[sources]]
    if topn == -1:
        topn = (len(rel) + 1) // 2
    order = np.argsort(-(conf_t + conf_r)[sources], kind='stable')
    kept = np.sort(sources[order[: max(1, topn)]])
    candidates = np.stack([compose_encodings(rel[i], poses[i]) for i in kept])
    return average_encodings(candidates, _softmax(conf_t[kept]), _softmax(conf_r[kept]))


@dataclass(frozen=True)
class GreedyOptions:
    """How the offline rule picks and weighs a frame's candidates.

    :ivar topn: candidates kept; None keeps all, in order of their index.
    :ivar selection: the logit that ranks them.
    :ivar quantile: keep candidates at or above this quantile of the ranking logit; 0 is off.
    :ivar score_mode: the logits that weigh them; all but ``separate`` use one for both, and
        rank by it too.
    :ivar anchor: use only edges that touch this frame.
    """

    topn: int | None = 10
    selection: str = 'translation'
    quantile: float = 0.0
    score_mode: str = 'separate'
    anchor: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        if self.selection not in SELECTIONS or self.score_mode not in SCORE_MODES:
            raise ConfigError(
                f'selection must be one of {SELECTIONS} and score_mode one of {SCORE_MODES}, '
                f'got {self.selection!r} and {self.score_mode!r}'
            )


def resolve_greedy(
    rel: np.ndarray,
    conf_t: np.ndarray,
    conf_r: np.ndarray,
    mask: np.ndarray,
    options: GreedyOptions | None = None,
) -> np.ndarray:
    """Return (N, 9) poses of N frames in order, each from the frames before it.

    :param rel: (N, N, 9) edges, row to column; the diagonal carries each frame's view.
    :param conf_t: (N, N) logits; ``conf_r`` likewise; ``mask``: (N, N) bool.
    """
    options = options or GreedyOptions()
    weigh_t, weigh_r = _weighing_logits(conf_t, conf_r, options.score_mode)
    rank = {'translation': weigh_t, 'rotation': weigh_r, 'both': 0.5 * (weigh_t + weigh_r)}[
        options.selection
    ]
    poses = np.zeros((len(rel), 9))
    poses[0, 6] = 1.0
    poses[0, 7:9] = rel[0, 0, 7:9]
    for j in range(1, len(rel)):
        sources = _select_sources(j, rank[:, j], mask[:, j], options)
        if not len(sources):
            poses[j] = poses[j - 1]
            continue
        candidates = np.stack([compose_encodings(rel[i, j], poses[i]) for i in sources])
        poses[j] = candidates[0]
        if len(sources) > 1:
            weights = _softmax(weigh_t[sources, j]), _softmax(weigh_r[sources, j])
            poses[j] = average_encodings(candidates, *weights)
        if poses[j, 6] < 0:
            poses[j, 3:7] *= -1
    return poses


def _select_sources(
    j: int, rank: np.ndarray, mask: np.ndarray, options: GreedyOptions
) -> np.ndarray:
    sources = np.flatnonzero(mask[:j])
    if options.anchor is not None and j != options.anchor:
        sources = sources[sources == options.anchor]
    if options.quantile > 0 and len(sources):
        sources = sources[rank[sources] >= np.quantile(rank[sources], options.quantile)]
    if options.topn is None:
        return sources
    return sources[np.argsort(-rank[sources], kind='stable')][: options.topn]


def _weighing_logits(
    conf_t: np.ndarray, conf_r: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    mean = 0.5 * (conf_t + conf_r)
    return {
        'separate': (conf_t, conf_r),
        'shared': (mean, mean),
        'mean': (mean, mean),
        'min': (np.minimum(conf_t, conf_r),) * 2,
        'translation': (conf_t, conf_t),
        'rotation': (conf_r, conf_r),
    }[mode]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
