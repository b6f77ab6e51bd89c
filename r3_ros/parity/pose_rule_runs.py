"""Poses from edges by the authors' rules: online, in order, and as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
import re

import numpy as np

from ..errors import R3Error, SourceError
from ..pose_encoding import decode_pose, encode_pose
from ..streaming.official.pose_graph import COMMAND_LINE, GraphOptions, PoseGraph
from ..streaming.official.pose_rules import (
    average_encodings,
    compose_encodings,
    GreedyOptions,
    resolve_greedy,
    resolve_online,
)
from .arrays import Answer, Answers, ArrayKind
from .golden import Golden
from .input_shapes import check_shapes
from .pose_runs import intrinsics_of
from .tolerances import Quantity

_GRAPH_INPUTS = {'rel': 'nn9', 'conf_t': 'nn', 'conf_r': 'nn', 'mask': 'nn'}
_ONLINE_INPUTS = {
    'rel_to_new': 'm9',
    'abs_enc': '.9',
    'conf_t': 'm',
    'conf_r': 'm',
    'mask': 'm',
    'have_pose': 'm',
}
_TRUTH = ('gt_w2c', 'gt_new')
_GREEDY = re.compile(
    r'greedy_(?:top(?P<top>[1-9]\d*)|(?P<all>all)|anchor(?P<anchor>\d+))'
    r'(?:_(?:q(?P<quantile>\d+)|sel(?P<selection>rot|both)|(?P<mode>[a-z]+)))?'
)
_SELECTIONS = {'rot': 'rotation', 'both': 'both'}
#: Of the graph: their library's values but for one, and those of the command line.
_GRAPHS = {
    'infer': COMMAND_LINE,
    'lib': GraphOptions(),
    'stride4': GraphOptions(fixed_stride=4),
    'gm': GraphOptions(geman_mcclure=0.5),
    'dcs': GraphOptions(scaling_phi=0.5),
    'pct20': GraphOptions(weakest_left_out=0.2),
    'plaus': GraphOptions(longest_per_frame=0.6),
    'excl': GraphOptions(excluded=frozenset({2, 3})),
}
#: A way of theirs that never moves from where it starts.
_STUCK = 'lm'
#: Edges that make the start of a graph: by the command line and by their library.
_TOP_OF_COMMAND_LINE, _TOP_OF_LIBRARY = 999, 10


def pose_rule_answers(golden: Golden) -> Answers:
    """Compute the poses of every graph, new frame and single rule of a file."""
    values: dict[str, Answer | str] = {}
    inputs: set[str] = set()
    for prefix in sorted({name.split('.')[0] for name in golden.arrays}):
        stored, run = golden.named(prefix), _run_of(prefix)
        if run is None:
            continue
        needed, compute = run
        taken = [name for name in stored if name in needed or name in _TRUTH]
        inputs |= {f'{prefix}.{name}' for name in taken}
        try:
            check_shapes(stored, needed)
            answers = dict(compute(stored))
        except R3Error as error:
            answers = {name: str(error) for name in stored if name not in taken}
        values |= {f'{prefix}.{name}': answer for name, answer in answers.items()}
    return Answers(values, frozenset(inputs))


_Stored = dict[str, np.ndarray]
_Found = Iterator[tuple[str, Answer | str]]


def _run_of(prefix: str) -> tuple[dict[str, str], Callable[[_Stored], _Found]] | None:
    """Return the inputs, with their axes, behind a prefix, and what makes answers of them."""
    if re.fullmatch(r'n\d+', prefix):
        return _GRAPH_INPUTS, _graph_answers
    if re.fullmatch(r'on\d+', prefix):
        return _ONLINE_INPUTS, _online_answers
    if prefix == 'enc':
        return {'in': 'n9', 'hw': '2'}, _encoding_answers
    if prefix == 'avg':
        return {'cand': 'n9', 'w_t': 'n', 'w_r': 'n'}, _average_answers
    return None


def _graph_answers(stored: _Stored) -> _Found:
    rel, conf_t, conf_r = (stored[name].astype(np.float64) for name in ('rel', 'conf_t', 'conf_r'))
    edges = rel, conf_t, conf_r, stored['mask'].astype(bool)
    for name, array in stored.items():
        if options := greedy_options(name):
            yield name, _poses(resolve_greedy(*edges, options), array)
        elif name == f'pgo_{_STUCK}':
            start = resolve_greedy(*edges, GreedyOptions(topn=_TOP_OF_LIBRARY))
            yield name, _poses(start, array)
        elif name.startswith('pgo_') and name.removeprefix('pgo_') in _GRAPHS:
            yield name, _refined(edges, _GRAPHS[name.removeprefix('pgo_')], array)


def greedy_options(name: str) -> GreedyOptions | None:
    """Return the options behind a name like ``greedy_top10_selrot``, None if there are none."""
    match = _GREEDY.fullmatch(name)
    if match is None:
        return None
    try:
        return GreedyOptions(
            topn=None if match['all'] else int(match['top'] or _TOP_OF_LIBRARY),
            selection=_SELECTIONS.get(match['selection'], 'translation'),
            quantile=int(match['quantile'] or 0) / 100,
            score_mode=match['mode'] or 'separate',
            anchor=None if match['anchor'] is None else int(match['anchor']),
        )
    except R3Error:
        return None


def _refined(
    edges: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    options: GraphOptions,
    golden: np.ndarray,
) -> Answer | str:
    """Return the loss of our poses, to be compared with that of the golden ones.

    A minimum is flat: theirs stops short of it, and poses differ more than what they are worth.
    """
    if golden.shape != (len(edges[0]), 9) or not np.isfinite(golden).all():
        return f'these are no poses of {len(edges[0])} frames: {golden.shape}'
    top = _TOP_OF_COMMAND_LINE if options == COMMAND_LINE else _TOP_OF_LIBRARY
    start = resolve_greedy(*edges, GreedyOptions(topn=top))
    graph = PoseGraph(*edges, start, options)
    # Without anything to gain, as with two frames, the loss of the start is but rounding.
    unit = max(graph.loss(start), 1e-6)
    ours, theirs = graph.solve(), golden.astype(np.float64)
    return Answer(
        values=np.array(graph.loss(ours) / unit),
        kind=ArrayKind(Quantity.REFINED, ''),
        golden=np.array(graph.loss(theirs) / unit),
    )


def _online_answers(stored: _Stored) -> _Found:
    held, count = stored['have_pose'].astype(bool), len(stored['mask'])
    if len(stored['abs_enc']) < count or not (held & stored['mask'].astype(bool)).any():
        raise SourceError('a new frame needs a remembered one with a pose')
    rel, conf_t, conf_r, poses = (
        stored[name].astype(np.float64) for name in ('rel_to_new', 'conf_t', 'conf_r', 'abs_enc')
    )
    poses = np.where(held[:, None], poses[:count], np.nan)
    resolve = partial(resolve_online, rel, poses, conf_t, conf_r, stored['mask'].astype(bool))
    for name, array in stored.items():
        match = re.fullmatch(r'(top|recent)([1-9]\d*)|half', name)
        if match is None:
            continue
        number = int(match[2] or 0)
        if match[1] == 'recent':
            pose = resolve(_TOP_OF_COMMAND_LINE, number)
        else:
            pose = resolve(number or -1)
        yield name, _poses(pose, array)


def _encoding_answers(stored: _Stored) -> _Found:
    encodings = stored['in'].astype(np.float64)
    T = decode_pose(encodings)
    height, width = (float(side) for side in stored['hw'])
    half = len(encodings) // 2
    composed = [compose_encodings(encodings[i], encodings[half + i]) for i in range(half)]
    for name, value in {
        'w2c': T[:, :3],
        'back': encode_pose(T, encodings[:, 7:]),
        'compose': np.array(composed),
    }.items():
        if name in stored:
            yield name, _poses(value, stored[name])
    yield (
        'K',
        Answer(
            intrinsics_of(encodings[:, 7:], width, height),
            kind=ArrayKind(Quantity.INTRINSICS, '...'),
        ),
    )


def _average_answers(stored: _Stored) -> _Found:
    candidates, *weights = (stored[name].astype(np.float64) for name in ('cand', 'w_t', 'w_r'))
    if 'out' in stored:
        yield 'out', _poses(average_encodings(candidates, *weights), stored['out'])


def _poses(ours: np.ndarray, golden: np.ndarray) -> Answer:
    """Return encodings or matrices; the sign of a quaternion is the golden one's."""
    kind = ArrayKind(Quantity.POSES, '.' * ours.ndim)
    return Answer(signed_as(ours, golden), kind=kind)


def signed_as(poses: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """Return (..., 9) encodings with quaternions on the golden ones' side; others as they are."""
    if poses.shape != golden.shape or poses.shape[-1] != 9:
        return poses
    dots = (poses[..., 3:7] * golden[..., 3:7]).sum(axis=-1, keepdims=True)
    signed = poses.copy()
    signed[..., 3:7] *= np.where(dots < 0, -1.0, 1.0)
    return signed
