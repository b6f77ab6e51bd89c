"""The demo's parts around the real node, and its checks against results that are wrong."""

from collections import Counter
from contextlib import closing
import json
from types import SimpleNamespace

import numpy as np
import pytest
from r3_ros.commands.cli import build_parser, main
from r3_ros.core.config import R3Config
from r3_ros.core.errors import R3Error
from r3_ros.core.geometry import R_BODY_OPTICAL
from r3_ros.core.trajectory_file import read_tum
from r3_ros.evaluation.report.report_page import write_report
from r3_ros.input.bag_writer import write_sequence
from r3_ros.input.open_source import open_source
from r3_ros.input.source import RawFrame
from r3_ros.offline.depth_samples import DepthSample
from r3_ros.offline.run_files import load_summary, read_covariances
from r3_ros.ros.demo.checks import all_checks
from r3_ros.ros.demo.live_files import write_live_run
from r3_ros.ros.demo.live_run import LiveResult
from sequences import stamp, write_folder, write_textured_folder


def good_result(count: int = 20) -> LiveResult:
    """Return what a flawless run leaves."""
    stamps = [stamp(i) for i in range(count)]
    status = SimpleNamespace(
        frames_processed=count, frames_dropped=2, frames_rejected=0, frames_received=count + 2
    )
    points = np.ones((7, 5), '<f4')
    cloud = SimpleNamespace(data=points.tobytes(), point_step=20)
    depth = SimpleNamespace(data=np.ones((4, 6), '<f4').tobytes(), width=6, height=4)
    saved = SimpleNamespace(success=True, message='saved', points=7)
    return LiveResult(
        T_map_base={s: np.eye(4) for s in stamps},
        T_odom_base={s: np.eye(4) for s in stamps},
        statuses={s: status for s in stamps},
        last_status=status,
        tf_parents={'odom': {'map'}, 'camera': {'odom'}},
        counts=Counter(diagnostics=3),
        sent_s={s: 0.0 for s in [*stamps, stamp(count), stamp(count + 1)]},
        messages={
            'points': cloud,
            'map_points': cloud,
            'depth/image': depth,
            'depth/camera_info': SimpleNamespace(k=[5.0], width=6, height=4),
            'path': SimpleNamespace(poses=[1]),
        },
        saved_map=saved,
        saved_trajectory=saved,
        exit_code=0,
    )


def failed(
    result: LiveResult, tracked: float = 1.0, ate: float | None = 0.2, model: str = 'classical'
) -> set[str]:
    checks = all_checks(result, tracked, ate, exact_truth=True, model=model)
    return {c.name for c in checks if not c.passed}


def test_a_flawless_run_passes():
    assert failed(good_result()) == set()


def spoil_status(field, value):
    def change(result):
        setattr(result.last_status, field, value)

    return change


def spoil_pose(result):
    result.T_map_base[stamp(3)] = np.full((4, 4), np.nan)


def invent_stamp(result):
    result.T_map_base[stamp(3) + 1] = np.eye(4)


def second_parent(result):
    result.tf_parents['odom'].add('world')


def spoil_cloud(result):
    points = np.ones((7, 5), '<f4')
    points[2, 1] = np.inf
    result.messages['map_points'].data = points.tobytes()


@pytest.mark.parametrize(
    ('spoil', 'name'),
    [
        (spoil_status('frames_received', 23), 'every received frame accounted for'),
        (spoil_status('frames_rejected', 1), 'no frame rejected'),
        (spoil_status('frames_processed', 1), 'enough frames processed'),
        (lambda r: r.statuses.popitem(), 'one status a frame'),
        (lambda r: r.counts.clear(), 'diagnostics'),
        (spoil_pose, 'pose: stamps of the images, finite'),
        (invent_stamp, 'pose: stamps of the images, finite'),
        (lambda r: r.T_odom_base.clear(), 'odometry: stamps of the images, finite'),
        (lambda r: r.T_odom_base.popitem(), 'pose and odometry agree on frames'),
        (second_parent, 'tf: map -> odom -> camera, one parent each'),
        (lambda r: r.messages.pop('path'), 'path'),
        (lambda r: r.messages.pop('points'), 'points: points, all finite'),
        (spoil_cloud, 'map_points: points, all finite'),
        (lambda r: r.messages.pop('depth/image'), 'depth: known pixels'),
        (
            lambda r: setattr(r.messages['depth/camera_info'], 'width', 5),
            'depth comes with its calibration',
        ),
        (lambda r: setattr(r, 'saved_map', None), 'map saved by the service'),
        (
            lambda r: setattr(r.saved_trajectory, 'success', False),
            'trajectory saved by the service',
        ),
        (lambda r: setattr(r, 'exit_code', -9), 'node stops cleanly'),
    ],
)
def test_everything_wrong_is_found(spoil, name):
    result = good_result()
    spoil(result)
    assert name in failed(result)


def test_poor_tracking_and_accuracy_are_found():
    assert failed(good_result(), tracked=0.9) == {'tracked'}
    assert failed(good_result(), ate=1.5) == {'accuracy against the exact ground truth'}
    assert failed(good_result(), ate=1.5, model='r3_tiny') == set()
    assert failed(good_result(), ate=3.5, model='r3_tiny') == {
        'accuracy against the exact ground truth'
    }
    assert failed(good_result(), ate=None) == {'accuracy against the exact ground truth'}


def test_a_node_that_never_spoke_is_found():
    assert 'status' in failed(LiveResult())


def live_result() -> LiveResult:
    """Return six frames of a camera that moves ahead by 0.1 a frame: a start of two, one lost."""
    result = LiveResult()
    T = np.eye(4)
    T[:3, :3] = R_BODY_OPTICAL
    for i in range(6):
        result.sent_s[stamp(i)] = float(i)
        result.resident_mib[stamp(i)] = 100.0 + i
        result.statuses[stamp(i)] = SimpleNamespace(
            state=3 if i < 2 else 6 if i == 4 else 4, state_reason='', frame_index=i,
            is_keyframe=i % 2 == 0, confidence_translation=1.0, confidence_rotation=1.0,
            confidence_ratio=1.0, frames_in_context=i, time_wait=0.001, time_preprocess=0.002,
            time_inference=0.02, time_publish=0.003, segment_id=0, scale_source=0, SCALE_NONE=0,
        )  # fmt: skip
        T[0, 3] = 0.1 * i
        if i not in (0, 4):
            result.T_map_base[stamp(i)] = result.T_odom_base[stamp(i)] = T.copy()
            # Of x in map, which is z of the camera.
            result.map_covariance[stamp(i)] = np.diag([4.0, 1.0, 1.0, 1e-4, 1e-4, 1e-4])
            result.twist_covariance[stamp(i)] = np.diag([1.0, 1.0, 1.0, 1e-4, 1e-4, 1e-4])
            result.arrival_s[stamp(i)] = i + 0.05
    result.last_status = SimpleNamespace(
        frames_received=6, frames_dropped=0, frames_rejected=0, fov_x_calibrated=1.0
    )
    depth = np.ones((3, 4), np.float32)
    result.depth_samples.note([DepthSample(2, depth, depth, np.zeros((3, 4, 3), np.uint8))])
    return result


def test_the_files_of_a_live_run_are_those_of_a_recorded_one(tmp_path):
    images = [RawFrame(stamp(i), np.zeros((30, 40, 3), np.uint8)) for i in range(7)]
    result = live_result()
    # Its status was not received any more.
    result.T_map_base[stamp(6)] = np.eye(4)
    summary = write_live_run(tmp_path, result, R3Config(), 'camera', images)
    assert summary == load_summary(tmp_path)
    assert summary['frames']['processed'] == 6 and summary['frames']['with_pose'] == 4
    assert summary['tracked_share'] == pytest.approx(3 / 6) and summary['keyframes'] == 3
    assert summary['path_length'] == pytest.approx(0.4)
    assert summary['timing_ms']['latency']['median'] == pytest.approx(50.0)
    assert summary['timing_ms']['step']['max'] == pytest.approx(20.0)
    assert [event['frame'] for event in summary['events']] == [4]  # a quick start is none
    assert summary['resident_peak_mib'] == 105.0
    assert len(read_tum(tmp_path / 'trajectory.tum')) == 4
    assert [path.name for path in (tmp_path / 'moments').iterdir()] == ['000004.jpg']
    write_report(tmp_path)
    report = (tmp_path / 'report.html').read_text()
    for part in ('latency, 95th percentile', 'memory of the process', 'some keyframes'):
        assert part in report


def test_covariances_of_a_live_run_are_of_the_camera_without_the_factor_of_no_scale(tmp_path):
    config = R3Config()
    write_live_run(tmp_path, live_result(), config, 'camera', [])
    found = read_covariances(tmp_path)
    factor = config.covariance.unscaled_factor
    known = [1, 2, 3, 5]
    assert np.isnan(found.covariance[[0, 4]]).all()
    np.testing.assert_allclose(
        found.covariance[known].diagonal(axis1=1, axis2=2),
        [[1 / factor, 1 / factor, 4 / factor, 1e-4, 1e-4, 1e-4]] * 4,
        atol=1e-12,
    )
    # Along the viewing direction, since the last frame with a pose.
    np.testing.assert_allclose(found.T_previous_camera[[2, 5], 2, 3], [0.1, 0.2], atol=1e-12)
    elapsed_s = (stamp(5) - stamp(3)) / 1e9
    np.testing.assert_allclose(found.step_covariance[5, 0, 0], elapsed_s**2 / factor)
    assert np.isnan(found.step_covariance[1]).all()


@pytest.mark.ros
@pytest.mark.slow
def test_a_recording_through_the_real_node(tmp_path, capsys):
    folder = write_textured_folder(tmp_path / 'wall')
    out = tmp_path / 'out'
    status = main(['demo', '--input', str(folder), '-o', str(out)])
    text = capsys.readouterr()
    assert status in (0, 1), text.err
    summary = json.loads((out / 'summary.json').read_text())
    wrong = {check['name'] for check in summary['checks'] if not check['passed']}
    # How much a busy machine gets done is not for a test to say.
    assert wrong <= {'enough frames processed', 'tracked'}, text.err
    assert status == (1 if wrong else 0)
    assert summary['frames']['sent'] == 40
    assert summary['frames']['received'] == (
        summary['frames']['processed'] + summary['frames']['dropped']
    )
    stamps = set(read_tum(out / 'trajectory.tum').stamps_ns.tolist())
    assert stamps <= {stamp(i) for i in range(40)}
    for name in (
        'report.html', 'map.ply', 'map', 'node.log', 'frames.csv', 'evaluation.json',
        'covariances.npz',
    ):  # fmt: skip
        assert (out / name).exists()
    assert not (out / 'recording.mcap').exists()
    assert 'What was checked' in (out / 'report.html').read_text()


@pytest.mark.ros
def test_the_node_of_a_demo_has_the_parameters_that_were_asked_for():
    from r3_ros.commands import demo

    args = build_parser().parse_args(
        ['demo', '--model', 'r3_tiny', '--set', 'model.checkpoint=12', '--set', 'map.enabled=no']
    )
    config, changes = demo._node_parameters(args)
    assert (config.model.name, config.model.checkpoint) == ('r3_tiny', '12')
    assert changes == {
        'model.name': '"r3_tiny"', 'model.checkpoint': '"12"', 'map.enabled': 'false'
    }  # fmt: skip


@pytest.mark.ros
def test_a_wrong_parameter_is_reported_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['demo', '-o', str(out), '--model', 'r4']) == 2
    assert main(['demo', '-o', str(out), '--set', 'map.size=3']) == 2
    error = capsys.readouterr().err
    assert "'model.name' is 'r4'" in error and 'map.size' in error and not out.exists()


@pytest.mark.ros
def test_depth_images_are_collected_for_the_report():
    from r3_ros.msg import StreamStatus
    from r3_ros.ros.demo.live_run import _Listener
    from r3_ros.ros.outputs.messages import image_message, time_message
    import rclpy

    depth = np.full((3, 4), 2.0, np.float32)
    color = np.full((3, 4, 3), 9, np.uint8)
    images = ('color/image', 'rgb8', color), ('depth/image', '32FC1', depth)
    result, context = LiveResult(), rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        with closing(_Listener(context, result)) as listener:
            status = StreamStatus(state=StreamStatus.STATE_TRACKING, frame_index=5)
            status.header.stamp = time_message(stamp(5))
            listener._on_status(status)
            for topic, encoding, pixels in (*images, ('depth/confidence', '32FC1', depth + 1)):
                message = image_message(stamp(5), 'camera', encoding, pixels)
                listener._on_depth(topic, message)
    finally:
        rclpy.shutdown(context=context)
    (sample,) = result.depth_samples.chosen()
    assert sample.frame_id == 5
    np.testing.assert_array_equal(sample.depth, depth)
    np.testing.assert_array_equal(sample.confidence, depth + 1)
    np.testing.assert_array_equal(sample.image, color)
    assert result.counts['depth/image'] == 1


@pytest.mark.ros
def test_a_node_that_cannot_start_is_explained(tmp_path, monkeypatch):
    from r3_ros.ros.demo import live_run

    monkeypatch.setattr(live_run, '_START_TIMEOUT_S', 8.0)
    with open_source(write_folder(tmp_path / 'seq', count=2)) as source:
        write_sequence(tmp_path / 'a.mcap', source, source.camera)
    with pytest.raises(R3Error, match=r'map\.voxel_size'):
        live_run.run_live(
            tmp_path / 'a.mcap',
            tmp_path,
            {'map.voxel_size': '-1.0'},
            lambda result: None,
        )


@pytest.mark.slow
@pytest.mark.ros
def test_the_node_is_stopped_when_something_fails(tmp_path):
    from r3_ros.ros.demo.live_run import NodeProcess

    with (
        pytest.raises(KeyboardInterrupt),
        closing(NodeProcess(tmp_path / 'log', [])) as process,
    ):
        process.check()
        raise KeyboardInterrupt
    assert process.exit_code is not None
    with pytest.raises(R3Error, match='has ended with status'):
        process.check()
