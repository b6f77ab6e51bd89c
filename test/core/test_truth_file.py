"""True trajectories of data sets: as evo reads them, and what is refused."""

from evo.tools import file_interface
import numpy as np
import pytest
from r3_ros.core.errors import SourceError
from r3_ros.core.geometry import quat_xyzw, T_from_quat
from r3_ros.core.truth_file import BODY_NOTE, read_truth

COUNT = 6
STAMPS = [1_403_636_579_763_555_584 + i * 50_000_000 for i in range(COUNT)]
RNG = np.random.default_rng(0)
POSES = T_from_quat(RNG.normal(size=(COUNT, 3)), RNG.normal(size=(COUNT, 4)))


def write_kitti(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(' '.join(f'{v:.9e}' for v in T[:3].ravel()) for T in POSES))
    return path


def write_euroc(path, more=''):
    rows = zip(STAMPS, POSES[:, :3, 3], quat_xyzw(POSES), strict=True)
    lines = [','.join(map(str, [t, *p, q[3], *q[:3]])) + more for t, p, q in rows]
    path.write_text('\n'.join(['#timestamp [ns], p_RS_R_x [m], ...', *lines]))
    return path


@pytest.mark.parametrize('more', ['', ',0.1,0.2,0.3'])
def test_euroc_as_evo_reads_it(tmp_path, more):
    path = write_euroc(tmp_path / 'data.csv', more)
    poses, theirs = read_truth(path), file_interface.read_euroc_csv_trajectory(path)
    assert poses.stamps_ns.tolist() == STAMPS
    np.testing.assert_allclose(theirs.timestamps, np.array(STAMPS) / 1e9)
    np.testing.assert_allclose(poses.T_world_camera, theirs.poses_se3, atol=1e-12)
    assert poses.notes == (BODY_NOTE,)


@pytest.mark.parametrize('place', ['times.txt', 'sequences/07/times.txt'])
def test_kitti_as_evo_reads_it(tmp_path, place):
    path = write_kitti(tmp_path / ('poses.txt' if place == 'times.txt' else 'poses/07.txt'))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text('\n'.join(f'{i / 10:e}' for i in range(COUNT)))
    poses = read_truth(path)
    assert poses.stamps_ns.tolist() == [i * 100_000_000 for i in range(COUNT)]
    theirs = file_interface.read_kitti_poses_file(path)
    np.testing.assert_allclose(poses.T_world_camera, theirs.poses_se3, atol=1e-12)


def test_kitti_without_times_says_what_is_missing(tmp_path):
    path = write_kitti(tmp_path / 'poses.txt')
    with pytest.raises(SourceError, match=r'without times.*times\.txt'):
        read_truth(path)
    assert read_truth(path, STAMPS).stamps_ns.tolist() == STAMPS
    with pytest.raises(SourceError, match='6 poses for 5 times'):
        read_truth(path, STAMPS[1:])


def test_of_poses_with_one_stamp_the_first_counts(tmp_path):
    path = tmp_path / 'a.tum'
    path.write_text('1 0 0 0 0 0 0 1\n2 5 0 0 0 0 0 1\n2 6 0 0 0 0 0 1\n3 7 0 0 0 0 0 1\n')
    poses = read_truth(path)
    assert poses.stamps_ns.tolist() == [10**9, 2 * 10**9, 3 * 10**9]
    assert poses.T_world_camera[:, 0, 3].tolist() == [0, 5, 7]
    assert '1 poses repeat the stamp' in poses.notes[0] and str(path) in poses.notes[0]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('1403636579763555584,0,0,0,1,0,0\n', 'no trajectory as EuRoC'),
        ('1403636579763555584,0,0,0,0,0,0,0\n', 'no rotation'),
        ('1403636579763555584,0,0,0,1,0,0,0\n1403636579763555583,0,0,0,1,0,0,0\n', 'earlier'),
        ('1 0 0 0 0 1 0 0 0 0 2 0\n', 'pose 1 is no rotation'),
        ('1 0 0 0 0 1 0 0 0 0 1 0\n1 0\n', 'no list of poses'),
        ('1403636579763555584 0 0 0 0 0 0 1\n', 'divide nanoseconds'),
        ('', 'no poses'),
        ('1.5 0 0 0\n', '4 fields'),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    path = tmp_path / 'truth'
    path.write_text(content)
    with pytest.raises(SourceError, match=message) as error:
        read_truth(path)
    assert str(path) in str(error.value)
