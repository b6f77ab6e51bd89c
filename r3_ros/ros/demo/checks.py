"""Checks of a live run's results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .live_run import LiveResult

#: Share of the processed frames after the start.
MIN_TRACKED_SHARE = 0.95
#: Of the path length, for exact ground truth: of the classical predictor, and of networks, whose
#: unit changes along the way.
MAX_ATE_PERCENT, MAX_NETWORK_ATE_PERCENT = 1.0, 3.0
#: Share of the sent frames. Low: a busy machine is no fault, and speed is measured by benchmarks.
MIN_PROCESSED_SHARE = 0.1
_BUSY = (
    'the machine is too slow or busy, and what else failed may follow from that. Stop other '
    'programs, or keep more frames (--set input.frame_policy=queue)'
)


class Check(NamedTuple):
    """Name, result and details of one check."""

    name: str
    passed: bool
    detail: str


def all_checks(
    result: LiveResult,
    tracked_share: float,
    ate_percent: float | None,
    exact_truth: bool,
    model: str = 'classical',
) -> list[Check]:
    """Return every check of a live run.

    :param tracked_share: of the processed frames after the start.
    :param ate_percent: None without ground truth.
    :param model: name of the predictor.
    """
    checks = [*_frame_checks(result, tracked_share), *_pose_checks(result), *_depth_checks(result)]
    for name, answer in (('map', result.saved_map), ('trajectory', result.saved_trajectory)):
        passed = answer is not None and answer.success
        detail = 'no answer' if answer is None else answer.message
        checks.append(Check(f'{name} saved by the service', passed, detail))
    if exact_truth:
        most = MAX_ATE_PERCENT if model == 'classical' else MAX_NETWORK_ATE_PERCENT
        accurate = ate_percent is not None and ate_percent <= most
        detail = 'no trajectory to compare'
        if ate_percent is not None:
            detail = f'{ate_percent:.2f} % of the path, at most {most:g} % wanted'
        checks.append(Check('accuracy against the exact ground truth', accurate, detail))
    detail = f'status {result.exit_code} after {result.stop_s:.1f} s'
    checks.append(Check('node stops cleanly', result.exit_code == 0, detail))
    return checks


def _frame_checks(result: LiveResult, tracked_share: float) -> Iterator[Check]:
    status, sent, statuses = result.last_status, len(result.sent_s), len(result.statuses)
    if status is None:
        yield Check('status', False, 'no message on ~/status')
        return
    processed, dropped = status.frames_processed, status.frames_dropped
    rejected, received = status.frames_rejected, status.frames_received
    share, diagnostics = processed / max(sent, 1), result.counts['diagnostics']
    yield Check(
        'every received frame accounted for',
        processed + dropped + rejected == received <= sent,
        f'{sent} sent, {received} received = {processed} processed + {dropped} dropped + '
        f'{rejected} rejected',
    )
    yield Check('no frame rejected', rejected == 0, f'{rejected}')
    processed_share = f'{100 * share:.1f} % of the sent frames processed'
    if share < MIN_PROCESSED_SHARE:
        processed_share += f': {_BUSY}'
    yield Check('enough frames processed', share >= MIN_PROCESSED_SHARE, processed_share)
    yield Check('one status a frame', statuses == processed, f'{statuses}')
    yield Check(
        'tracked',
        tracked_share >= MIN_TRACKED_SHARE,
        f'{100 * tracked_share:.1f} % of the frames after the start, at least '
        f'{100 * MIN_TRACKED_SHARE:.0f} % wanted',
    )
    yield Check('diagnostics', diagnostics > 0, f'{diagnostics} messages')


def _pose_checks(result: LiveResult) -> Iterator[Check]:
    in_map, in_odom, parents = result.T_map_base, result.T_odom_base, result.tf_parents
    for name, poses in (('pose', in_map), ('odometry', in_odom)):
        unknown = poses.keys() - result.sent_s.keys()
        finite = all(np.isfinite(T).all() for T in poses.values())
        yield Check(
            f'{name}: stamps of the images, finite',
            bool(poses) and not unknown and finite,
            f'{len(poses)} messages, {len(unknown)} with a stamp of no image',
        )
    yield Check(
        'pose and odometry agree on frames',
        in_map.keys() == in_odom.keys() and not result.repeated_poses,
        f'{len(in_map)} and {len(in_odom)}',
    )
    yield Check(
        'tf: map -> odom -> camera, one parent each',
        parents.get('odom') == {'map'} and all(len(p) == 1 for p in parents.values()),
        ', '.join(f'{"/".join(sorted(p))} -> {c}' for c, p in sorted(parents.items())) or 'none',
    )
    path = result.messages.get('path')
    yield Check('path', path is not None and len(path.poses) > 0, _count(result, 'path'))


def _depth_checks(result: LiveResult) -> Iterator[Check]:
    for topic in ('points', 'map_points'):
        cloud = result.messages.get(topic)
        points = np.empty((0, 3)) if cloud is None else _points(cloud)
        yield Check(
            f'{topic}: points, all finite',
            len(points) > 0 and bool(np.isfinite(points).all()),
            f'{_count(result, topic)}, {len(points)} points in the last',
        )
    image, info = (result.messages.get(f'depth/{name}') for name in ('image', 'camera_info'))
    depth = np.zeros(1) if image is None else np.frombuffer(image.data, dtype='<f4')
    known = float((np.isfinite(depth) & (depth > 0)).mean())
    yield Check(
        'depth: known pixels',
        known > 0,
        f'{_count(result, "depth/image")}, {100 * known:.0f} % of the last known',
    )
    yield Check(
        'depth comes with its calibration',
        image is not None
        and info is not None
        and info.k[0] > 0
        and (info.width, info.height) == (image.width, image.height),
        _count(result, 'depth/camera_info'),
    )


def _points(cloud: Any) -> np.ndarray:
    """Return the (N, 3) float32 points of a ``PointCloud2`` that begins with x y z."""
    data = np.frombuffer(cloud.data, dtype=np.uint8).reshape(-1, cloud.point_step)
    return np.ascontiguousarray(data[:, :12]).view('<f4')


def _count(result: LiveResult, topic: str) -> str:
    return f'{result.counts[topic]} messages'
