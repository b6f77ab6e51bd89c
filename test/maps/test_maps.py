"""Maps on disk: what comes back is what was saved, and nobody's folder does any harm."""

import dataclasses
import os
import shutil
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from r3_ros.core.datatypes import ModelInfo, SparseLandmarks
from r3_ros.core.errors import MapError, MapProblem, OutputError
from r3_ros.core.geometry import make_T, R_BODY_OPTICAL
from r3_ros.maps import map_layout
from r3_ros.maps.cloud import Cloud
from r3_ros.maps.keyframe_images import encode_image
from r3_ros.maps.reading import read_map
from r3_ros.maps.saved_map import (
    MapFacts,
    SavedEdges,
    SavedKeyframes,
    SavedMap,
    SavedTrajectory,
)
from r3_ros.maps.writing import write_map
from r3_ros.streaming.map_snapshot import MapPlacement, saved_map, take_map_snapshot
from scipy.spatial.transform import Rotation
from scripted import frames, Script, truth
from small_engine import engine_of
import yaml

KEYFRAMES, EDGES, LANDMARKS, OBSERVATIONS, POINTS, POSES = 5, 7, 11, 20, 30, 12
WIDTH, HEIGHT = 64, 48


def motions(count, rng):
    return make_T(
        Rotation.random(count, random_state=rng).as_matrix(), rng.normal(size=(count, 3))
    )


@pytest.fixture(scope='module')
def saved():
    rng = np.random.default_rng(1)
    ids = np.array([0, 3, 8, 9, 1_000_000])
    descriptors = rng.normal(size=(KEYFRAMES, 16)).astype(np.float32)
    K = np.array([[50.0, 0, 31.5], [0, 51.0, 23.5], [0, 0, 1]])
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    png = cv2.imencode('.png', image)[1].tobytes()
    return SavedMap(
        facts=MapFacts(
            r3_ros_version='1.2.3',
            model_name='classical',
            checkpoint_sha256=None,
            descriptor_size=16,
            image_size=(WIDTH, HEIGHT),
            map_frame='map',
            base_frame='base_link',
            optical_frame='camera',
            T_base_optical=make_T(R_BODY_OPTICAL, np.array([0.1, 0, 0.2])),
            T_map_world=make_T(R_BODY_OPTICAL, np.zeros(3)),
            metres_per_unit=0.7,
            scale_source='fixed',
            voxel_size=0.035,
            session_id=3,
            saved_ns=1_700_000_000_000_000_000,
        ),
        keyframes=SavedKeyframes(
            ids=ids,
            stamps_ns=ids * 1_000_000 + 1_600_000_000_000_000_001,
            T_map_optical=motions(KEYFRAMES, rng),
            K=np.repeat(K[None], KEYFRAMES, axis=0),
            sizes=np.tile(np.array([WIDTH, HEIGHT], np.int32), (KEYFRAMES, 1)),
            confidences=np.concatenate([[[np.nan, np.nan]], rng.random((KEYFRAMES - 1, 2))]),
            variances=rng.random((KEYFRAMES, 2)),
            descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
            segments=np.array([0, 0, 0, 1, 1], np.int32),
        ),
        edges=SavedEdges(
            source_ids=np.array([0, 0, 3, 3, 8, 9, 0]),
            target_ids=np.array([3, 8, 8, 9, 9, 1_000_000, 1_000_000]),
            T_source_target=motions(EDGES, rng),
            confidences=rng.random((EDGES, 2)),
        ),
        points=Cloud(
            rng.normal(size=(POINTS, 3)).astype(np.float32),
            rng.integers(0, 255, (POINTS, 3), dtype=np.uint8),
            rng.random(POINTS).astype(np.float32),
        ),
        trajectory=SavedTrajectory(
            1_600_000_000_000_000_001 + np.arange(POSES) * 33_333_333, motions(POSES, rng)
        ),
        landmarks=SparseLandmarks(
            positions=rng.normal(size=(LANDMARKS, 3)),
            relative_sigma=rng.random(LANDMARKS),
            frame_ids=np.repeat(ids, OBSERVATIONS // KEYFRAMES),
            landmarks=rng.integers(0, LANDMARKS, OBSERVATIONS),
            pixels=rng.random((OBSERVATIONS, 2)) * [WIDTH - 1, HEIGHT - 1],
        ),
        images={0: encode_image(image), 3: png, 8: encode_image(image)},
    )


@pytest.fixture
def folder(saved, tmp_path):
    write_map(tmp_path / 'map', saved)
    return tmp_path / 'map'


def same(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name


def test_what_is_read_is_what_was_written(saved, folder):
    again = read_map(folder)
    for part in ('facts', 'keyframes', 'edges', 'points', 'landmarks'):
        same(getattr(saved, part), getattr(again, part))
    np.testing.assert_array_equal(again.trajectory.stamps_ns, saved.trajectory.stamps_ns)
    np.testing.assert_allclose(again.trajectory.T_map_base, saved.trajectory.T_map_base, atol=1e-8)
    assert again.images == saved.images
    assert again.stamps_ns == saved.stamps_ns
    assert read_map(folder, with_images=False).images == {}
    width_height = again.keyframes.intrinsics(4)
    assert (width_height.width, width_height.height, width_height.fy) == (WIDTH, HEIGHT, 51.0)


def test_a_map_without_anything_comes_back(saved, tmp_path):
    def none_of(part):
        cut = {f.name: getattr(part, f.name)[:0] for f in dataclasses.fields(part)}
        return dataclasses.replace(part, **cut)

    empty = SavedMap(
        saved.facts, none_of(saved.keyframes), none_of(saved.edges), Cloud.empty(),
        none_of(saved.trajectory), none_of(saved.landmarks),
    )  # fmt: skip
    write_map(tmp_path / 'map', empty)
    again = read_map(tmp_path / 'map')
    assert len(again.keyframes) == len(again.points) == len(again.trajectory) == 0
    assert again.bounds is None and again.stamps_ns is None


def test_without_images_and_with_more_formats(saved, tmp_path):
    size = write_map(tmp_path / 'map', saved, formats=['pcd', 'npz'], include_images=False)
    names = {path.name for path in (tmp_path / 'map').iterdir()}
    assert {'points.ply', 'points.pcd', 'points.npz'} <= names and 'keyframes' not in names
    assert size == sum(path.stat().st_size for path in (tmp_path / 'map').iterdir())
    assert read_map(tmp_path / 'map').images == {}


def test_what_interrupts_a_save_leaves_what_was_there(saved, folder):
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}

    def stop():
        raise RuntimeError('too late')

    with pytest.raises(RuntimeError, match='too late'):
        write_map(folder, saved, overwrite=True, before_done=stop)
    with pytest.raises(OutputError, match='exists'):
        write_map(folder, saved)
    assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ['map']


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_process_that_is_killed_in_a_save_leaves_no_half_map(saved, tmp_path, overwrite):
    """Everything is written and nothing has its name yet; what was there stays, and is whole."""
    path = tmp_path / 'maps' / 'kitchen'
    if overwrite:
        write_map(path, saved)
    child = os.fork()
    if not child:
        write_map(path, saved, overwrite=True, before_done=lambda: os.kill(os.getpid(), 9))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    visible = [item.name for item in path.parent.iterdir() if not item.name.startswith('.')]
    assert visible == (['kitchen'] if overwrite else [])
    if overwrite:
        same(read_map(path).keyframes, saved.keyframes)
    else:
        refused(path, MapProblem.NOT_FOUND)
    # What it left behind is in nobody's way.
    write_map(path, saved, overwrite=overwrite)
    assert len(read_map(path).points) == POINTS


@pytest.mark.parametrize(
    ('info', 'size', 'says'),
    [
        (ModelInfo('r3'), 16, "made by model 'classical', this is 'r3'"),
        (ModelInfo('classical', checkpoint_sha256='ab' * 32), 16, 'other weights'),
        (ModelInfo('classical'), 17, 'descriptors of 16 numbers'),
    ],
)
def test_a_map_of_another_model_is_refused(saved, info, size, says):
    saved.require_model(ModelInfo('classical', device='cuda:0'), 16)
    with pytest.raises(MapError, match=says) as caught:
        saved.require_model(info, size)
    assert caught.value.problem is MapProblem.CHECKPOINT_MISMATCH


# --- Folders that are not what they should be ---


def refused(folder, problem=MapProblem.BAD_FORMAT):
    with pytest.raises(MapError) as caught:
        read_map(folder)
    assert caught.value.problem is problem, caught.value
    return str(caught.value)


def edit_manifest(folder, **changes):
    path = folder / 'manifest.yaml'
    content = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *parents, key = name.split('__')
        section = content
        for parent in parents:
            section = section[parent]
        section[key] = value
    path.write_text(yaml.safe_dump(content))


def edit_arrays(path, **changes):
    """Replace arrays of an npz file; None removes one."""
    with np.load(path, allow_pickle=True) as npz:
        arrays = {name: npz[name] for name in npz.files}
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name].copy()) if callable(change) else change
    np.savez(path, **arrays)


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def test_no_folder_no_map(tmp_path):
    refused(tmp_path / 'nowhere', MapProblem.NOT_FOUND)
    (tmp_path / 'file').write_text('')
    refused(tmp_path / 'file', MapProblem.NOT_FOUND)
    (tmp_path / 'empty').mkdir()
    assert 'manifest.yaml' in refused(tmp_path / 'empty', MapProblem.NOT_FOUND)


@pytest.mark.parametrize(
    'name', ['points.ply', 'trajectory.tum', 'keyframes.npz', 'graph.npz', 'landmarks.npz']
)
def test_each_file_must_be_there_whole_and_a_file(folder, tmp_path, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-20])
    refused(folder)
    (folder / name).write_bytes(content + b'more' * 1_000_000)
    refused(folder)
    (folder / name).unlink()
    assert 'no such file' in refused(folder)
    (tmp_path / 'elsewhere').write_bytes(content)
    (folder / name).symlink_to(tmp_path / 'elsewhere')
    assert 'symbolic link' in refused(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert 'no regular file' in refused(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert 'no regular file' in refused(folder)


def test_another_version_is_reported_with_the_software_that_wrote_it(folder):
    edit_manifest(folder, format_version=2)
    reported = refused(folder, MapProblem.VERSION_MISMATCH)
    assert 'format version 2' in reported and '1.2.3' in reported


@pytest.mark.parametrize(
    'changes',
    [
        {'counts__points': -1},
        {'counts__points': 10**12},
        {'counts__keyframes': 99_999_999},
        {'counts__poses': True},
        {'counts': []},
        {'model__descriptor_size': 10**9},
        {'model__name': None},
        {'scale__metres_per_unit': 0.0},
        {'scale__metres_per_unit': float('nan')},
        {'scale__metres_per_unit': 10**400},
        {'scale__metres_per_unit': 1e-300},
        {'scale__metres_per_unit': '0.7'},
        {'scale__source': 'fixee'},
        {'scale__source': 'none'},  # and yet metres are known
        {'model__name': '\x1b[2J'},
        {'T_map_world': make_T(np.eye(3), np.full(3, 1e30)).tolist()},
        {'T_map_world': [[1, 0], [0, 1]]},
        {'T_map_world': (2.0 * np.eye(4)).tolist()},
        {'T_base_optical': 'identity'},
        {'T_base_optical': np.full((4, 4), np.nan).tolist()},
        {'image_size': [640]},
        {'format_version': 'one'},
        {'frames__map': 5},
        {'voxel_size': 'inf'},
    ],
)
def test_a_manifest_that_makes_no_sense(folder, changes):
    edit_manifest(folder, **changes)
    assert 'manifest.yaml' in refused(folder)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '- 1\n',
        'format_version: [',
        '!!python/object/apply:os.system ["touch pwned"]\n',
        'a: &a [x, x]\nb: [*a, *a]\n',
        '[' * 5000,
        'format_version: 1\n' + 'x: y\n' * 20_000,
        '\udcff',
    ],
)
def test_a_manifest_that_is_none(folder, text, monkeypatch):
    monkeypatch.chdir(folder)
    data = text.encode('utf-8', 'surrogateescape')
    (folder / 'manifest.yaml').write_bytes(data)
    assert 'manifest.yaml' in refused(folder)
    assert not (folder / 'pwned').exists()


@pytest.mark.parametrize(
    ('file', 'changes', 'says'),
    [
        ('keyframes', {'ids': put(1, 0)}, 'ids must rise'),
        ('keyframes', {'ids': put(0, -1)}, 'ids must be positive'),
        ('keyframes', {'ids': lambda a: a.astype(np.int32)}, 'ids'),
        ('keyframes', {'stamps_ns': put(0, 2**63 - 1)}, 'stamps_ns'),
        ('keyframes', {'T_map_optical': put((2, 0, 3), np.nan)}, 'not finite'),
        ('keyframes', {'T_map_optical': put((2, 0, 3), np.inf)}, 'not finite'),
        ('keyframes', {'T_map_optical': lambda a: 2.0 * a}, 'no rigid motion'),
        ('keyframes', {'T_map_optical': lambda a: a[:, :3]}, 'T_map_optical'),
        ('keyframes', {'K': put((0, 0, 0), 0.0)}, 'pinhole'),
        ('keyframes', {'K': put((0, 1, 0), 1.0)}, 'pinhole'),
        ('keyframes', {'sizes': put((0, 0), 0)}, 'sizes'),
        ('keyframes', {'sizes': put((0, 0), 10**6)}, 'sizes'),
        ('keyframes', {'sizes': put(0, 16_000)}, 'sizes'),
        ('keyframes', {'descriptors': put(0, np.nan)}, 'unit vectors'),
        ('keyframes', {'descriptors': lambda a: a[:, :8]}, 'descriptors'),
        ('keyframes', {'descriptors': np.array([object()])}, 'descriptors'),
        ('keyframes', {'variances': put((0, 0), -1.0)}, 'variances'),
        ('keyframes', {'confidences': put((0, 0), -1.0)}, 'confidences'),
        ('keyframes', {'confidences': put((0, 0), 1e300)}, 'confidences'),
        ('keyframes', {'variances': put((0, 0), 1e300)}, 'variances'),
        ('keyframes', {'K': put((0, 0, 0), 1e-300)}, 'pinhole'),
        ('keyframes', {'stamps_ns': put(0, 3 * 10**18)}, 'stamps_ns'),
        ('keyframes', {'segments': put(0, 1)}, 'segments'),
        ('keyframes', {'segments': put(-1, 2**31 - 1)}, 'segments'),
        ('graph', {'confidences': put((0, 0), 1e300)}, 'confidences'),
        ('keyframes', {'segments': None}, 'must hold the arrays'),
        ('keyframes', {'more': np.zeros(3)}, 'must hold the arrays'),
        ('graph', {'source_ids': put(0, 77)}, 'not there'),
        ('graph', {'source_ids': put(0, 3)}, 'itself'),
        ('graph', {'T_source_target': put((0, 0, 0), np.nan)}, 'not finite'),
        ('graph', {'confidences': put((0, 0), np.nan)}, 'confidences'),
        ('landmarks', {'positions': put((0, 0), np.nan)}, 'not finite'),
        ('landmarks', {'landmarks': put(0, LANDMARKS)}, 'no landmark'),
        ('landmarks', {'frame_ids': put(0, 1)}, 'no keyframe'),
        ('landmarks', {'frame_ids': put(0, 2**60)}, 'no keyframe'),
        ('landmarks', {'pixels': put((0, 0), 1e6)}, 'outside'),
        ('landmarks', {'relative_sigma': put(0, np.nan)}, 'relative_sigma'),
    ],
)
def test_arrays_that_make_no_sense(folder, file, changes, says):
    edit_arrays(folder / f'{file}.npz', **changes)
    assert says in refused(folder)


def test_a_small_file_that_unpacks_to_a_huge_one_is_not_unpacked(folder):
    """The header tells the truth of an enormous array; the manifest does not know of it."""
    header = np.lib.format
    with zipfile.ZipFile(folder / 'graph.npz', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in map_layout.graph_columns(EDGES):
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                header.write_array_header_1_0(
                    member, {'descr': '<i8', 'fortran_order': False, 'shape': (2_000_000,)}
                )
                for _ in range(16):
                    member.write(bytes(1_000_000))
    assert (folder / 'graph.npz').stat().st_size < 200_000
    assert 'must have the shape' in refused(folder)


def test_a_member_that_is_longer_than_it_says(folder):
    """The directory of the archive lies about the length of a member."""
    path = folder / 'graph.npz'
    columns = map_layout.graph_columns(EDGES)
    with np.load(path) as npz:
        arrays = {name: npz[name] for name in columns}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w') as member:
                np.lib.format.write_array(member, array)
                if name == 'source_ids':
                    member.write(bytes(30_000_000))
        info = archive.getinfo('source_ids.npy')
        info.file_size -= 30_000_000
    assert 'graph.npz' in refused(folder)


@pytest.mark.parametrize('method', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compressions_are_refused(folder, method):
    with np.load(folder / 'graph.npz') as npz, zipfile.ZipFile(
        folder / 'other.npz', 'w', method
    ) as archive:  # fmt: skip
        for name in npz.files:
            with archive.open(f'{name}.npy', 'w') as member:
                np.lib.format.write_array(member, npz[name])
    (folder / 'other.npz').replace(folder / 'graph.npz')
    assert 'graph.npz' in refused(folder)


def is_deflated(path):
    with zipfile.ZipFile(path) as archive:
        return all(m.compress_type == zipfile.ZIP_DEFLATED for m in archive.infolist())


def test_a_map_that_was_packed_again_is_read(folder, saved):
    for name in ('keyframes', 'graph', 'landmarks'):
        with np.load(folder / f'{name}.npz') as npz:
            arrays = {key: npz[key] for key in npz.files}
        assert not is_deflated(folder / f'{name}.npz')
        np.savez_compressed(folder / f'{name}.npz', **arrays)
        assert is_deflated(folder / f'{name}.npz')
    same(read_map(folder).keyframes, saved.keyframes)


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30])
def test_points_must_be_somewhere(saved, tmp_path, value):
    points = saved.points.points.copy()
    points[3, 1] = value
    cloud = dataclasses.replace(saved.points, points=points)
    write_map(tmp_path / 'map', dataclasses.replace(saved, points=cloud))
    assert 'points.ply' in refused(tmp_path / 'map')


def test_times_of_poses_fit_into_messages(folder):
    path = folder / 'trajectory.tum'
    lines = path.read_text().splitlines()
    lines[-1] = '4000000000.0 ' + lines[-1].partition(' ')[2]
    path.write_text('\n'.join(lines) + '\n')
    assert 'stamps_ns is beyond what a message can hold' in refused(folder)


def test_images_are_what_they_should_be(folder, tmp_path):
    images = folder / 'keyframes'
    assert sorted(p.name for p in images.iterdir()) == ['000000.jpg', '000003.png', '000008.jpg']
    whole = (images / '000000.jpg').read_bytes()
    huge = bytearray((images / '000003.png').read_bytes())
    for side, reason in ((10**4, 'too large'), (10**2, '100x100')):
        huge[16:24] = side.to_bytes(4, 'big') * 2
        huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, 'big')
        (images / '000003.png').write_bytes(huge)
        assert reason in refused(folder)
    (images / '000003.png').write_bytes(b'GIF89a')
    assert 'no image' in refused(folder)
    (images / '000003.png').unlink()
    assert '2 images, the manifest says 3' in refused(folder)
    (tmp_path / 'elsewhere').write_bytes(whole)
    (images / '000003.jpg').symlink_to(tmp_path / 'elsewhere')
    assert 'symbolic link' in refused(folder)
    shutil.rmtree(images)
    assert 'missing' in refused(folder)
    (tmp_path / 'others').mkdir()
    images.symlink_to(tmp_path / 'others')
    refused(folder)


# --- From a session ---


def test_a_session_comes_back_as_it_was():
    engine = engine_of(Script())
    for frame in frames(40):
        engine.step(frame)
    snapshot = take_map_snapshot(
        engine.session, engine.predictor, {0: b'first', 999: b'not a keyframe'}
    )
    T_map_world = make_T(R_BODY_OPTICAL, np.array([1.0, 2.0, 3.0]))
    T_base_optical = make_T(R_BODY_OPTICAL, np.array([0.0, 0.0, 0.5]))
    placement = MapPlacement(T_map_world, T_base_optical, 'map', 'base', 'camera')
    saved = saved_map(snapshot, placement, voxel_size=0.05)
    path = engine.predictor.script.path
    keyframes = saved.keyframes
    assert keyframes.ids.tolist() == engine.session.bank.ids() and len(keyframes) > 5
    for stamp_ns, T in zip(keyframes.stamps_ns, keyframes.T_map_optical, strict=True):
        np.testing.assert_allclose(T, T_map_world @ truth(path, int(stamp_ns)), atol=1e-9)
    poses = dict(zip(keyframes.ids.tolist(), keyframes.T_map_optical, strict=True))
    for n in range(len(saved.edges)):
        source, target = int(saved.edges.source_ids[n]), int(saved.edges.target_ids[n])
        T = np.linalg.inv(poses[source]) @ poses[target]
        np.testing.assert_allclose(saved.edges.T_source_target[n], T, atol=1e-9)
    assert len(saved.edges) >= len(keyframes) - 1
    assert len(saved.trajectory) == 40
    T_map_base = saved.trajectory.T_map_base[-1] @ T_base_optical
    stamp_ns = int(saved.trajectory.stamps_ns[-1])
    np.testing.assert_allclose(T_map_base, T_map_world @ truth(path, stamp_ns), atol=1e-9)
    assert len(saved.points) and saved.images == {0: b'first'}
    assert np.isnan(keyframes.confidences[0]).all() and (keyframes.confidences[1:] == 2.0).all()
    assert set(keyframes.segments) == {0}
    assert saved.facts.descriptor_size == 128 and saved.facts.model_name == 'scripted'
