"""Whatever is changed in a saved map: it is refused when it is read, or all that follows works."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
import io
import math

import numpy as np
import pytest
from r3_ros.core.datatypes import SparseLandmarks
from r3_ros.core.errors import MapError
from r3_ros.core.geometry import make_T, R_BODY_OPTICAL
from r3_ros.maps.keyframe_images import KeyframeImages
from r3_ros.maps.reading import read_map
from r3_ros.maps.saved_map import SavedMap
from r3_ros.maps.writing import write_map
from r3_ros.streaming.map_snapshot import (
    MapPlacement,
    saved_map,
    take_map_snapshot,
)
from scripted import frames, PERIOD_NS, Script, START_NS
from small_engine import engine_of
import yaml

COUNT = 12
DUMPER = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
MISSING = object()
#: In the place of any value of the manifest.
ODD = (MISSING, None, True, 'text\x1b[2J', [])
#: In the place of whole numbers and of others, in the arrays.
WHOLE = (-2, -1, 2**31 - 1, 2**62)
BROKEN = (math.nan, -1.0, 1e-300, 1e8, 1e300)
OPTIONS = {'keyframe__max_interval': 3, 'relocalise__min_frames': 1}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Write a small map with a scale, images of its keyframes and several segments."""
    engine, images = engine_of(Script(), **OPTIONS), KeyframeImages()
    engine.set_scale(2.0, lock=True)
    for frame in frames(COUNT):
        images.note(frame.image, engine.step(frame))
    snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
    placement = MapPlacement(
        make_T(R_BODY_OPTICAL, np.zeros(3)), make_T(R_BODY_OPTICAL, np.zeros(3)), 'map', 'b', 'c'
    )
    saved = saved_map(snapshot, placement, engine.config.map.voxel_size)
    ids = saved.keyframes.ids
    landmarks = SparseLandmarks(
        positions=np.random.default_rng(0).normal(size=(3, 3)),
        relative_sigma=np.full(3, 0.1),
        frame_ids=np.repeat(ids[:2], 3),
        landmarks=np.tile(np.arange(3), 2),
        pixels=np.full((6, 2), 5.0),
    )
    saved = replace(saved, landmarks=landmarks)
    assert len(saved.keyframes) >= 4 and len(saved.edges) >= 3 and len(saved.points)
    path = tmp_path_factory.mktemp('fuzz') / 'map'
    write_map(path, saved)
    return path


def manifest_changes(content, path=()) -> Iterator[tuple[str, object]]:
    """Yield what is changed, and the manifest with that change."""

    def changed(value):
        whole = deepcopy(root)
        section = whole
        for key in path[:-1]:
            section = section[key]
        if value is MISSING:
            del section[path[-1]]
        else:
            section[path[-1]] = value
        return whole

    root, value = content, content
    for key in path:
        value = value[key]
    if path:
        near = ()
        if isinstance(value, str):
            near = (value[:-1] + chr(ord(value[-1]) ^ 1), value.upper(), '')
        elif isinstance(value, (int, float)):
            near = (-value, value + 1, str(value), math.nan, 1e-300, 1e300, 10**400)
        for odd in (*ODD, *near):
            yield f'{".".join(map(str, path))} = {str(odd)[:40]!r}', changed(odd)
    keys = ()
    if isinstance(value, dict):
        keys = tuple(value)
    elif isinstance(value, list):
        keys = (0,)  # one number of a matrix stands for the others
    for key in keys:
        yield from manifest_changes(root, (*path, key))


def array_changes(arrays) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for name, array in arrays.items():
        for value in WHOLE if array.dtype.kind == 'i' else BROKEN:
            if array.dtype.kind == 'i' and value > np.iinfo(array.dtype).max:
                continue
            for rows in (0, slice(None)):
                odd = array.astype(np.float64 if array.dtype.kind == 'f' else array.dtype)
                # One number of a row, so that a matrix stays one as far as it can.
                odd[(rows, *(-1,) * (array.ndim - 1))] = value
                with np.errstate(over='ignore'):
                    odd = odd.astype(array.dtype)
                yield f'{name}[{rows}] = {value}', {**arrays, name: odd}
        yield f'{name} backwards', {**arrays, name: array[::-1].copy()}
        yield f'{name} all alike', {**arrays, name: np.repeat(array[:1], len(array), axis=0)}


def points_changes(data) -> Iterator[tuple[str, bytes]]:
    body = len(data.partition(b'end_header\n')[0]) + len('end_header\n')
    for column, at in (('x', 0), ('confidence', 15)):
        for value in (math.nan, -1.0, 0.0, 9e8, 1e30):
            odd = bytearray(data)
            odd[body + at : body + at + 4] = np.float32(value).tobytes()
            yield f'{column} of a point = {value}', bytes(odd)


def trajectory_changes(text) -> Iterator[tuple[str, bytes]]:
    lines = text.splitlines()
    for column in (0, 1, 7):
        for word in ('nan', '-1', '0', '1e8', '1e300', '4000000000.5', 'x'):
            for row in (1, len(lines) - 1):
                fields = lines[row].split()
                fields[column] = word
                odd = [*lines[:row], ' '.join(fields), *lines[row + 1 :]]
                yield f'line {row}, column {column} = {word}', '\n'.join(odd).encode()


def packed(arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def changes(base) -> Iterator[tuple[str, str, bytes]]:
    """Yield a file's name, what is changed in it, and its changed content."""
    content = yaml.safe_load((base / 'manifest.yaml').read_text())
    for what, odd in manifest_changes(content):
        text = yaml.dump(odd, Dumper=DUMPER, allow_unicode=True)
        yield 'manifest.yaml', what, text.encode()
    for name in ('keyframes.npz', 'graph.npz', 'landmarks.npz'):
        with np.load(base / name) as npz:
            arrays = {key: npz[key] for key in npz.files}
        for what, odd in array_changes(arrays):
            yield name, what, packed(odd)
    for what, data in points_changes((base / 'points.ply').read_bytes()):
        yield 'points.ply', what, data
    for what, data in trajectory_changes((base / 'trajectory.tum').read_text()):
        yield 'trajectory.tum', what, data


@pytest.fixture(scope='module')
def accepted(base) -> list[tuple[str, SavedMap]]:
    """Read the map with each change; return those that are not refused, without effect once."""
    found, refused = {}, 0
    for name, what, data in changes(base):
        before = (base / name).read_bytes()
        (base / name).write_bytes(data)
        try:
            saved = read_map(base)
        except MapError as error:
            assert str(error).isprintable(), what
            refused += 1
        else:
            key = repr(saved.facts) if name == 'manifest.yaml' else data
            found.setdefault(key, (f'{name}: {what}', saved))
        finally:
            (base / name).write_bytes(before)
    assert refused > 300 and len(found) > 50
    return list(found.values())


def gone_on_with(saved):
    """Load a map and process the next frame; None if the engine refuses the map."""
    engine = engine_of(Script(), **OPTIONS)
    try:
        loaded = engine.load_map(saved)
    except MapError:
        return None
    (frame,) = frames(1, start_ns=START_NS + COUNT * PERIOD_NS)
    estimate, images = engine.step(frame), KeyframeImages()
    images.update(loaded.images)
    images.note(frame.image, estimate)
    return engine, images, estimate


@pytest.mark.slow
def test_a_changed_map_is_refused_or_gone_on_with_and_saved_again(accepted, tmp_path, monkeypatch):
    monkeypatch.setattr('os.fsync', lambda descriptor: None)
    found = 0
    for n, (what, saved) in enumerate(accepted):
        try:
            with np.errstate(over='raise', invalid='raise', divide='raise'):
                after = gone_on_with(saved)
                if after is None:
                    continue
                engine, images, estimate = after
                if estimate.T_world_camera is not None:
                    found += 1
                    assert np.isfinite(estimate.T_world_camera).all()
                snapshot = take_map_snapshot(engine.session, engine.predictor, images.copy())
                again = saved_map(snapshot, saved.facts, 0.05)
            write_map(tmp_path / str(n), again)
            read_map(tmp_path / str(n))
        except Exception as error:
            raise AssertionError(f'after {what}: {type(error).__name__}: {error}') from error
    assert found > 20


@pytest.mark.slow
@pytest.mark.ros
def test_messages_of_a_session_in_a_changed_map_can_be_built(accepted):
    pytest.importorskip('rclpy', reason='rclpy is not installed')
    pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')
    from r3_ros.ros.outputs.health import Health
    from r3_ros.ros.outputs.messages import (
        estimate_fields,
        path_message,
        scale_fields,
        status_message,
    )

    for what, saved in accepted:
        after = gone_on_with(saved)
        if after is None:
            continue
        engine, _, estimate = after
        record = engine.session.trajectory_view()
        known = np.isfinite(record.T_final[:, 0, 0])
        try:
            fields = estimate_fields(estimate) | scale_fields(engine.session.scale.view())
            message = status_message(estimate.stamp_ns, Health(), **fields)
            assert message.scale_source or not message.scale_locked
            stamps_ns = record.stamps_ns[known].tolist()
            path = path_message(START_NS, 'map', stamps_ns, record.T_final[known])
            for pose in path.poses:
                assert abs(pose.header.stamp.sec) <= 2**31
                assert math.isfinite(pose.pose.position.x)
        except Exception as error:
            raise AssertionError(f'after {what}: {type(error).__name__}: {error}') from error
