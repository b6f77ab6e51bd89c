"""Checks of a live run's results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .live_run import LiveResult

#: Share of the processed frames.
MIN_TRACKED_SHARE = 0.95
#: Of the path length, for exact ground truth.
MAX_ATE_PERCENT = 1.0
#: Share of the sent frames.
MAX_DROPPED_SHARE = 0.5


@dataclass(frozen=True)
class Check:
    """Name, result and details of one check."""

    name: str
    passed: bool
    detail: str


def all_checks(
    result: LiveResult, tracked_share: float, ate_percent: float | None, exact_truth: bool
) -> list[Check]:
    """Return every check of a live run.

    :param ate_percent: None without ground truth.
    """
    return [
        *_frame_checks(result, tracked_share),
        *_pose_checks(result),
        *_cloud_checks(result),
        *_depth_checks(result),
        *_save_checks(result),
        *_accuracy_check(ate_percent, exact_truth),
        Check(
            'node stops cleanly',
            result.exit_code == 0,
            f'status {result.exit_code} after {result.stop_s:.1f} s',
        ),
    ]


def _frame_checks(result: LiveResult, tracked_share: float) -> Iterator[Check]:
    status, sent = result.received.last_status, len(result.sent_s)
    if status is None:
        yield Check('status', False, 'no message on ~/status')
        return
    accounted = status.frames_processed + status.frames_dropped + status.frames_rejected
    yield Check(
        'every received frame accounted for',
        accounted == status.frames_received <= sent,
        f'{sent} sent, {status.frames_received} received = {status.frames_processed} processed + '
        f'{status.frames_dropped} dropped + {status.frames_rejected} rejected',
    )
    yield Check('no frame rejected', status.frames_rejected == 0, f'{status.frames_rejected}')
    lost = 1.0 - status.frames_processed / max(sent, 1)
    yield Check(
        'keeps up with the camera',
        lost <= MAX_DROPPED_SHARE,
        f'{100 * (1 - lost):.1f} % of the sent frames processed',
    )
    yield Check(
        'one status a frame',
        len(result.received.statuses) == status.frames_processed,
        f'{len(result.received.statuses)}',
    )
    yield Check(
        'tracked',
        tracked_share >= MIN_TRACKED_SHARE,
        f'{100 * tracked_share:.1f} % of the processed frames, at least '
        f'{100 * MIN_TRACKED_SHARE:.0f} % wanted',
    )
    yield Check(
        'diagnostics', result.received.diagnostics > 0, f'{result.received.diagnostics} messages'
    )


def _pose_checks(result: LiveResult) -> Iterator[Check]:
    received = result.received
    for name, poses in (('pose', received.T_map_base), ('odometry', received.T_odom_base)):
        unknown = poses.keys() - result.sent_s.keys()
        finite = all(np.isfinite(T).all() for T in poses.values())
        yield Check(
            f'{name}: stamps of the images, finite',
            bool(poses) and not unknown and finite,
            f'{len(poses)} messages, {len(unknown)} with a stamp of no image',
        )
    yield Check(
        'pose and odometry agree on frames',
        received.T_map_base.keys() == received.T_odom_base.keys() and not received.repeated_poses,
        f'{len(received.T_map_base)} and {len(received.T_odom_base)}',
    )
    parents = received.tf_parents
    yield Check(
        'tf: map -> odom -> camera, one parent each',
        parents.get('odom') == {'map'} and all(len(p) == 1 for p in parents.values()),
        ', '.join(f'{"/".join(sorted(p))} -> {c}' for c, p in sorted(parents.items())) or 'none',
    )
    path = result.messages.get('path')
    yield Check('path', path is not None and len(path.poses) > 0, _count(result, 'path'))


def _cloud_checks(result: LiveResult) -> Iterator[Check]:
    for topic in ('points', 'map_points'):
        cloud = result.messages.get(topic)
        points = np.empty((0, 3)) if cloud is None else cloud_xyz(cloud)
        yield Check(
            f'{topic}: points, all finite',
            len(points) > 0 and bool(np.isfinite(points).all()),
            f'{_count(result, topic)}, {len(points)} points in the last',
        )


def cloud_xyz(cloud: Any) -> np.ndarray:
    """Return the (N, 3) float32 points of a ``PointCloud2`` that begins with x y z."""
    data = np.frombuffer(cloud.data, dtype=np.uint8).reshape(-1, cloud.point_step)
    return np.ascontiguousarray(data[:, :12]).view('<f4')


def _depth_checks(result: LiveResult) -> Iterator[Check]:
    image = result.messages.get('depth/image')
    info = result.messages.get('depth/camera_info')
    known = 0.0
    if image is not None:
        depth = np.frombuffer(image.data, dtype='<f4')
        known = float((np.isfinite(depth) & (depth > 0)).mean())
    yield Check(
        'depth: known pixels',
        known > 0,
        f'{_count(result, "depth/image")}, {100 * known:.0f} % of the last known',
    )
    yield Check(
        'depth comes with its calibration',
        info is not None
        and image is not None
        and info.k[0] > 0
        and (info.width, info.height) == (image.width, image.height),
        _count(result, 'depth/camera_info'),
    )


def _count(result: LiveResult, topic: str) -> str:
    return f'{result.received.counts.get(topic, 0)} messages'


def _save_checks(result: LiveResult) -> Iterator[Check]:
    for name, answer in (('map', result.saved_map), ('trajectory', result.saved_trajectory)):
        detail = 'no answer' if answer is None else answer.message
        yield Check(f'{name} saved by the service', answer is not None and answer.success, detail)


def _accuracy_check(ate_percent: float | None, exact_truth: bool) -> Iterator[Check]:
    if exact_truth:
        yield Check(
            'accuracy against the exact ground truth',
            ate_percent is not None and ate_percent <= MAX_ATE_PERCENT,
            'no trajectory to compare'
            if ate_percent is None
            else f'{ate_percent:.2f} % of the path, at most {MAX_ATE_PERCENT:g} % wanted',
        )
