"""Bags: what is written is read back to the byte and nanosecond, and broken ones are refused."""

from contextlib import closing
import os
import re
import sqlite3

import cv2
import numpy as np
import pytest
from r3_ros.commands.cli import main
from r3_ros.core.config import R3Config
from r3_ros.core.errors import ConfigError, OutputError, SourceError
from r3_ros.core.parameter_fields import updated
from r3_ros.input.bag_source import BagReader, IMAGE
from r3_ros.input.bag_writer import write_sequence
from r3_ros.input.camera_model import camera_model
from r3_ros.input.open_source import open_source
from r3_ros.input.source import RawFrame
from r3_ros.offline.stream_run import undistorted_frames
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
import scripted
from sequences import HEIGHT, stamp, WIDTH, write_folder
import yaml

LENS = camera_model(
    WIDTH, HEIGHT, [50, 0, 31, 0, 51, 23, 0, 0, 1], 'plumb_bob', [-0.2, 0.1, 0.01, 0.02, 0.0]
)
STORE = get_typestore(Stores.ROS2_JAZZY)


def frames(count: int = 6, start_ns: int = scripted.START_NS) -> list[RawFrame]:
    return [
        RawFrame(start_ns + i * 100_000_001, scripted.pattern_image(WIDTH, HEIGHT, shade=i))
        for i in range(count)
    ]


def read(path, **options):
    with open_source(path, **options) as source:
        return source, list(source)


@pytest.mark.parametrize('name', ['walk.mcap', 'walk'])
def test_images_stamps_and_calibration_survive(tmp_path, name):
    written = frames()
    summary = write_sequence(tmp_path / name, written, LENS)
    assert (summary.frames, summary.shift_ns) == (6, 0)
    source, found = read(tmp_path / name)
    assert [f.stamp_ns for f in found] == [f.stamp_ns for f in written]
    for a, b in zip(found, written, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(source.camera.K, LENS.K)
    assert source.camera.D == LENS.D and source.length == 6 and not source.warnings
    assert os.listdir(tmp_path) == [name]


def test_compressed_images_are_the_files_they_were(tmp_path):
    folder = write_folder(tmp_path / 'seq', count=4, suffix='.jpg')
    with open_source(folder) as source:
        write_sequence(tmp_path / 'a.mcap', source, source.camera, '/cam/image', compressed=True)
    bag = BagReader(tmp_path / 'a.mcap')
    kinds = {c.topic: c.msgtype for c in bag.connections}
    assert kinds['/cam/image/compressed'] == 'sensor_msgs/msg/CompressedImage'
    files = sorted((folder / 'rgb').iterdir())
    images = [c for c in bag.connections if c.topic == '/cam/image/compressed']
    for (connection, _, data), file in zip(bag.serialized(images), files, strict=True):
        message = bag.deserialize(connection, data)
        assert message.format == 'jpeg' and message.data.tobytes() == file.read_bytes()
    bag.close()
    assert len(read(tmp_path / 'a.mcap')[1]) == 4


def test_grey_images_are_written_as_mono8(tmp_path):
    grey = scripted.pattern_image(WIDTH, HEIGHT)[..., 0].copy()
    write_sequence(tmp_path / 'a.mcap', [RawFrame(5, grey)], None)
    bag = BagReader(tmp_path / 'a.mcap')
    for connection, _, data in bag.serialized():
        if connection.topic == '/camera/image_raw':
            message = bag.deserialize(connection, data)
            assert message.encoding == 'mono8' and message.step == WIDTH
    bag.close()
    np.testing.assert_array_equal(read(tmp_path / 'a.mcap')[1][0].image, grey)


def test_an_uncalibrated_camera_stays_uncalibrated(tmp_path):
    write_sequence(tmp_path / 'a.mcap', frames(2), None)
    source, _ = read(tmp_path / 'a.mcap')
    assert source.camera is None


def test_no_stamp_is_written_as_zero(tmp_path):
    """ROS reads zero as "no time", so all times move alike."""
    summary = write_sequence(tmp_path / 'a.mcap', frames(2, start_ns=0), LENS)
    assert summary.shift_ns == 10**9
    _, found = read(tmp_path / 'a.mcap')
    assert [f.stamp_ns for f in found] == [10**9, 1_100_000_001]
    assert write_sequence(tmp_path / 'b.mcap', frames(1, start_ns=1), LENS).shift_ns == 0
    summary = write_sequence(tmp_path / 'c.mcap', frames(1, start_ns=-5), LENS)
    assert (summary.shift_ns, summary.first_ns) == (10**9 + 5, 10**9)


@pytest.mark.parametrize('stamps_ns', [[10**9, -1], [3 * 10**18]])
def test_times_that_no_message_holds_are_refused(tmp_path, stamps_ns):
    images = [RawFrame(stamp_ns, scripted.pattern_image(WIDTH, HEIGHT)) for stamp_ns in stamps_ns]
    with pytest.raises(SourceError, match='does not fit into a ROS message'):
        write_sequence(tmp_path / 'a.mcap', images, None)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('topic', ['', 'image', 'bad topic!', '/a//b', '/a/', '/1a'])
def test_a_topic_that_no_node_could_publish_is_refused(tmp_path, topic):
    with pytest.raises(ConfigError, match='no full topic name'):
        write_sequence(tmp_path / 'a.mcap', frames(1), LENS, topic)
    assert not list(tmp_path.iterdir())


def test_a_failing_source_leaves_no_bag(tmp_path):
    def broken():
        yield from frames(3)
        raise SourceError('the source broke')

    for name in ('a.mcap', 'a'):
        with pytest.raises(SourceError, match='broke'):
            write_sequence(tmp_path / name, broken(), LENS)
    assert not list(tmp_path.iterdir())


def test_an_existing_bag_is_refused(tmp_path):
    write_sequence(tmp_path / 'a.mcap', frames(1), LENS)
    with pytest.raises(OutputError, match='exists already'):
        write_sequence(tmp_path / 'a.mcap', frames(2), LENS)
    write_sequence(tmp_path / 'a.mcap', frames(2), LENS, overwrite=True)
    assert len(read(tmp_path / 'a.mcap')[1]) == 2


def image_message(stamp_ns: int, **changes):
    types = STORE.types
    sec, nanosec = divmod(stamp_ns, 10**9)
    header = types['std_msgs/msg/Header'](
        stamp=types['builtin_interfaces/msg/Time'](sec=sec, nanosec=nanosec), frame_id='cam'
    )
    fields = {
        'header': header,
        'height': HEIGHT,
        'width': WIDTH,
        'encoding': 'rgb8',
        'is_bigendian': 0,
        'step': 3 * WIDTH,
        'data': scripted.pattern_image(WIDTH, HEIGHT).reshape(-1),
    }
    return types['sensor_msgs/msg/Image'](**(fields | changes))


def write_bag(path, topics, plugin=StoragePlugin.MCAP):
    """Write a bag of {topic: [(recorded_ns, message)]}."""
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic, messages in topics.items():
            kind = messages[0][1].__msgtype__
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for recorded_ns, message in messages:
                writer.write(connection, recorded_ns, STORE.serialize_cdr(message, kind))
    return path


def write_ros1(path, publishers):
    """Write a bag of ROS 1 of [[(recorded_ns, shade)]], one connection for each publisher."""
    store = get_typestore(Stores.ROS1_NOETIC)
    new = lambda kind, **fields: store.types[kind](**fields)  # noqa: E731
    with Ros1Writer(path) as writer:
        for number, images in enumerate(publishers):
            connection = writer.add_connection(
                'cam/image_raw', IMAGE, typestore=store, callerid=f'/driver_{number}'
            )
            for recorded_ns, shade in images:
                sec, nanosec = divmod(recorded_ns, 10**9)
                stamp = new('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
                header = new('std_msgs/msg/Header', seq=0, stamp=stamp, frame_id='/cam')
                content = vars(image_message(recorded_ns)) | {
                    'header': header,
                    'data': scripted.pattern_image(WIDTH, HEIGHT, shade=shade).reshape(-1),
                }
                content.pop('__msgtype__', None)
                message = new(IMAGE, **content)
                writer.write(connection, recorded_ns, store.serialize_ros1(message, IMAGE))
    return path


def test_all_publishers_of_a_topic_are_read_in_the_order_of_time(tmp_path):
    """A driver that was restarted has two connections, and may overlap itself."""
    first, second = [(1000 * i, i) for i in (1, 2, 4)], [(1000 * i, i) for i in (3, 5)]
    bag = write_ros1(tmp_path / 'a.bag', [first, second])
    for topic in (None, '/cam/image_raw', 'cam/image_raw'):
        source, found = read(bag, topic=topic)
        assert [f.stamp_ns for f in found] == [1000 * i for i in range(1, 6)]
        assert source.length == 5 and source.topic == '/cam/image_raw' and not source.warnings
    for frame, shade in zip(found, range(1, 6), strict=True):
        expected = scripted.pattern_image(WIDTH, HEIGHT, shade=shade)
        np.testing.assert_array_equal(frame.image, expected)


def test_publishers_that_metadata_yaml_does_not_tell_apart_are_read(tmp_path):
    """Merged files keep them apart, and so does a quality of service that differs."""
    bag, qos = tmp_path / 'bag', 'offered_qos_profiles'
    never = QosTime(9223372036, 854775807)
    given = Qos(
        QosHistory.KEEP_LAST, 5, QosReliability.RELIABLE, QosDurability.VOLATILE,
        never, never, QosLiveliness.AUTOMATIC, never, False,
    )  # fmt: skip
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for number, profiles in enumerate(([], [given])):
            connection = writer.add_connection(
                '/image', IMAGE, typestore=STORE, offered_qos_profiles=profiles
            )
            for i in range(number + 1, 7, 2):
                data = STORE.serialize_cdr(image_message(stamp(i)), IMAGE)
                writer.write(connection, stamp(i), data)
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    topics = content['rosbag2_bagfile_information']['topics_with_message_count']
    assert [topic['topic_metadata'][qos] != [] for topic in topics] == [False, True]
    topics[0]['message_count'] += topics.pop()['message_count']
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(content))
    source, found = read(bag)
    assert [f.stamp_ns for f in found] == [stamp(i) for i in range(1, 7)]
    assert source.length == 6 and not source.warnings


def test_fewer_images_than_announced_are_said(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'/image': [(i, image_message(i)) for i in range(1, 4)]})
    metadata = bag / 'metadata.yaml'
    text = metadata.read_text()
    assert 'message_count: 3' in text
    metadata.write_text(text.replace('message_count: 3', 'message_count: 5'))
    source, found = read(bag)
    assert len(found) == 3 and source.skipped == 2
    assert source.warnings == ['bag announces 5 images, 3 could be read']


def test_images_are_known_where_the_bag_defines_other_types_alone(tmp_path):
    topics = {
        '/image': [(1, image_message(stamp(0)))],
        '/chatter': [(1, STORE.types['std_msgs/msg/String'](data='hello'))],
    }
    bag = write_bag(tmp_path / 'bag', topics, StoragePlugin.SQLITE3)
    with closing(sqlite3.connect(next(bag.glob('*.db3')))) as storage, storage:
        done = storage.execute(f"DELETE FROM message_definitions WHERE topic_type = '{IMAGE}'")
        assert done.rowcount == 1
    assert [f.stamp_ns for f in read(bag)[1]] == [stamp(0)]


def test_mcap_of_ros_1_is_refused_for_that(tmp_path):
    write_sequence(tmp_path / 'a.mcap', frames(1), LENS)
    whole = (tmp_path / 'a.mcap').read_bytes()
    (tmp_path / 'a.mcap').write_bytes(whole.replace(b'ros2', b'ros1', 1))
    with pytest.raises(SourceError, match=r'For one of ROS 1 name the \.bag') as refusal:
        open_source(tmp_path / 'a.mcap')
    assert 'recover' not in str(refusal.value)


def test_a_bag_that_names_no_storage_is_refused_with_what_helps(tmp_path):
    bag = write_bag(tmp_path / 'bag', {'/image': [(1, image_message(1))]})
    metadata = bag / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('identifier: mcap', "identifier: ''"))
    with pytest.raises(SourceError, match='set storage_identifier to mcap or sqlite3') as refusal:
        open_source(bag)
    assert 'reindex' not in str(refusal.value)
    assert len(read(next(bag.glob('*.mcap')))[1]) == 1


def test_compressed_messages_need_the_folder(tmp_path):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/image', IMAGE, typestore=STORE)
        writer.write(connection, 1, STORE.serialize_cdr(image_message(stamp(0)), IMAGE))
    assert [f.stamp_ns for f in read(tmp_path / 'bag')[1]] == [stamp(0)]
    with pytest.raises(SourceError, match='messages in .* are compressed: name the folder'):
        read(next((tmp_path / 'bag').glob('*.db3')))


def test_the_hint_and_the_format_are_heeded_as_by_the_node(tmp_path):
    rgb = scripted.pattern_image(WIDTH, HEIGHT)
    untyped = {'/image': [(1, image_message(stamp(0), encoding='8UC3', data=rgb.reshape(-1)))]}
    bag = write_bag(tmp_path / 'untyped', untyped)
    source, (frame,) = read(bag, encoding_hint='rgb8')
    np.testing.assert_array_equal(frame.image, rgb)
    assert not source.warnings
    source, (frame,) = read(bag)
    np.testing.assert_array_equal(frame.image, rgb[..., ::-1])
    assert source.warnings == ['8UC3 is read as bgr8, see input.encoding_hint']

    file = cv2.imencode('.png', rgb)[1].reshape(-1)
    message = STORE.types['sensor_msgs/msg/CompressedImage'](
        header=image_message(stamp(0)).header, format='rgb8; png compressed rgb8', data=file
    )
    _, (frame,) = read(write_bag(tmp_path / 'bag', {'/image/compressed': [(1, message)]}))
    np.testing.assert_array_equal(frame.image, rgb)


def test_twelve_bits_in_sixteen_are_spread_over_eight(tmp_path):
    grey = scripted.pattern_image(WIDTH, HEIGHT)[..., 0]
    fields = {'encoding': 'mono16', 'step': 2 * WIDTH}
    deep = image_message(stamp(0), data=(grey.astype('<u2') << 4).view('u1').reshape(-1), **fields)
    source, (frame,) = read(write_bag(tmp_path / 'bag', {'/image': [(1, deep)]}))
    np.testing.assert_array_equal(frame.image, grey)
    assert '0 to 4095' in source.warnings[0]


@pytest.mark.parametrize('plugin', list(StoragePlugin))
def test_both_storages_and_their_single_files(tmp_path, plugin):
    messages = [(i, image_message(stamp(i))) for i in range(3)]
    bag = write_bag(tmp_path / 'bag', {'/image': messages}, plugin)
    single = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    for path in (bag, single):
        assert [f.stamp_ns for f in read(path)[1]] == [stamp(i) for i in range(3)]


def test_several_image_topics_must_be_chosen_from(tmp_path):
    messages = [(1, image_message(5))]
    bag = write_bag(tmp_path / 'bag', {'/left/image': messages, '/right/image': messages})
    with pytest.raises(SourceError, match='/left/image, /right/image'):
        open_source(bag)
    source, found = read(bag, topic='/right/image')
    assert source.topic == '/right/image' and len(found) == 1
    with pytest.raises(SourceError, match='no images on /middle.*/left/image'):
        open_source(bag, topic='/middle')


@pytest.mark.parametrize(
    ('image', 'rectified'),
    [('/cam/image_rect', True), ('/cam/image_rect_color', True), ('/cam/image_direct', False)],
)
@pytest.mark.parametrize('compressed', [False, True])
def test_rectified_images_are_known_by_their_topic(tmp_path, image, rectified, compressed):
    write_sequence(tmp_path / 'a.mcap', frames(1), LENS, image, compressed)
    source, _ = read(tmp_path / 'a.mcap')
    assert source.camera.is_distorted != rectified


@pytest.mark.parametrize('option', ['auto', 'on', 'off'])
@pytest.mark.parametrize('name', ['image_rect', 'image_raw'])
def test_recorded_images_are_undistorted_as_the_parameter_says(tmp_path, option, name):
    write_sequence(tmp_path / 'a.mcap', frames(1), LENS, f'/cam/{name}')
    config = updated(R3Config(), {'input.rectification': option})
    with open_source(tmp_path / 'a.mcap') as source:
        (raw,) = source
        ((frame, _),) = undistorted_frames(source, config, None)
    undone = option == 'on' or (option == 'auto' and name == 'image_raw')
    assert (frame.image != raw.image).any() == undone
    if option == 'off':
        assert frame.intrinsics == source.calibration.intrinsics


def test_forms_of_one_topic_are_no_choice_and_depth_comes_last(tmp_path):
    topics = ['/cam/image/compressedDepth', '/cam/image/compressed', '/cam/image']
    while topics:
        messages = {topic: [(1, image_message(5))] for topic in topics}
        with open_source(write_bag(tmp_path / str(len(topics)), messages)) as source:
            assert source.topic == topics.pop()


def test_a_bag_without_images_says_what_it_holds(tmp_path):
    text = STORE.types['std_msgs/msg/String'](data='hello')
    bag = write_bag(tmp_path / 'bag', {'/chatter': [(1, text)]})
    with pytest.raises(SourceError, match='no image topic; it holds /chatter'):
        open_source(bag)


def test_a_missing_bag_is_named(tmp_path):
    with pytest.raises(SourceError, match=r'gone\.mcap does not exist'):
        BagReader(tmp_path / 'gone.mcap')


def test_an_image_topic_without_images_is_reported(tmp_path):
    with Writer(tmp_path / 'bag', version=9) as writer:
        writer.add_connection('/camera/image', 'sensor_msgs/msg/Image', typestore=STORE)
    with pytest.raises(SourceError, match='has the topic /camera/image, but no image'):
        open_source(tmp_path / 'bag')


def test_unusable_messages_are_skipped_and_counted(tmp_path):
    messages = [
        (1, image_message(10)),
        (2, image_message(20, encoding='32FC1')),
        (3, image_message(30, step=5)),
        (4, image_message(40, data=np.zeros(10, np.uint8))),
        (5, image_message(50)),
    ]
    source, found = read(write_bag(tmp_path / 'bag', {'/image': messages}))
    assert [f.stamp_ns for f in found] == [10, 50]
    assert source.skipped == 3
    for reason in ("'32FC1' is not supported", 'contradict', 'cut off'):
        assert any(reason in warning for warning in source.warnings)


def test_images_without_a_stamp_get_the_time_of_recording(tmp_path):
    messages = [(1000, image_message(0)), (2000, image_message(0))]
    source, found = read(write_bag(tmp_path / 'bag', {'/image': messages}))
    assert [f.stamp_ns for f in found] == [1000, 2000]
    assert source.warnings == ['images without a stamp: the time of recording is used']


def test_a_cut_off_bag_is_refused_or_used_as_far_as_it_goes(tmp_path):
    write_sequence(tmp_path / 'a.mcap', frames(40), LENS)
    whole = (tmp_path / 'a.mcap').read_bytes()
    for share in (0.0, 0.001, 0.01, 0.3, 0.5, 0.97):
        (tmp_path / 'cut.mcap').write_bytes(whole[: int(share * len(whole))])
        try:
            source, found = read(tmp_path / 'cut.mcap')
        except SourceError as error:
            assert share < 0.02 and 'cut.mcap' in str(error)
            assert 'damaged' in str(error) or 'ends too early' in str(error)
        else:
            assert abs(len(found) - 40 * share) < 2
            stamps = [frame.stamp_ns for frame in found]
            assert stamps == [frame.stamp_ns for frame in frames(40)][: len(found)]
            amount = f'{len(found)} frames over {(stamps[-1] - stamps[0]) / 1e9:.1f} s'
            assert 'not closed' in source.warnings[0] and amount in source.warnings[0]
            np.testing.assert_array_equal(source.camera.K, LENS.K)


@pytest.mark.parametrize('is_zeros', [False, True])
def test_a_cut_file_in_a_bag_folder_is_read_as_far_as_it_goes(tmp_path, is_zeros):
    write_sequence(tmp_path / 'bag', frames(10), LENS)
    (file,) = (tmp_path / 'bag').glob('*.mcap')
    whole = file.read_bytes()
    half = len(whole) // 2
    # Zeros are what a power failure leaves.
    file.write_bytes(whole[:half] + bytes(half if is_zeros else 0))
    source, found = read(tmp_path / 'bag')
    assert 3 <= len(found) <= 5 and 'not closed' in source.warnings[-1]


@pytest.mark.parametrize('cut', range(0, 400, 39))
def test_a_bag_cut_in_its_last_index_keeps_all_images(tmp_path, cut):
    write_sequence(tmp_path / 'a.mcap', frames(3), LENS)
    whole = (tmp_path / 'a.mcap').read_bytes()
    # The message index of the only chunk is followed by metadata, DataEnd and the summary.
    end = whole.rindex(b'\x0f\x04\0\0\0\0\0\0\0')
    (tmp_path / 'cut.mcap').write_bytes(whole[: end - cut])
    assert len(read(tmp_path / 'cut.mcap')[1]) == 3


@pytest.mark.parametrize(
    ('changes', 'words', 'is_calibrated'),
    [
        ({'width': 0, 'height': 0}, '', True),
        ({'d': [0.1] * 8}, 'read as rational_polynomial', True),
        ({'d': [0.1] * 5, 'distortion_model': 'fancy'}, 'not undistorted', True),
        ({'k': [np.nan] * 9}, 'ignored.*--camera', False),
        ({'width': 2 * WIDTH}, 'ignored.*aspect', False),
    ],
)
def test_recorded_calibrations_are_judged_as_live_ones(tmp_path, changes, words, is_calibrated):
    K = [50.0, 0, 31, 0, 51, 23, 0, 0, 1]
    values = {'width': WIDTH, 'height': HEIGHT, 'k': K, 'd': [0.0] * 5, 'p': [0.0] * 12} | changes
    roi = STORE.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    arrays = {n: np.array(values.pop(n), float) for n in ('k', 'd', 'p')} | {
        'r': np.eye(3).ravel()
    }
    info = STORE.types['sensor_msgs/msg/CameraInfo'](
        **{'header': image_message(1).header, 'binning_x': 0, 'binning_y': 0, 'roi': roi},
        **{'distortion_model': 'plumb_bob'} | values | arrays,
    )
    bag = write_bag(
        tmp_path / 'bag', {'/image': [(1, image_message(1))], '/camera_info': [(1, info)]}
    )
    source, _ = read(bag)
    assert (source.camera is not None) == is_calibrated
    assert re.search(words, ' '.join(source.warnings)) and bool(words) == bool(source.warnings)
    if is_calibrated:
        assert (source.camera.width, source.camera.height) == (WIDTH, HEIGHT)


def test_noise_in_a_bag_is_refused_or_passed_over_in_words(tmp_path):
    written = frames(10)
    write_sequence(tmp_path / 'a.mcap', written, LENS)
    whole = np.frombuffer((tmp_path / 'a.mcap').read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(25):
        spoiled = whole.copy()
        spoiled[rng.integers(0, len(whole), 40)] = rng.integers(0, 256, 40)
        (tmp_path / 'b.mcap').write_bytes(spoiled.tobytes())
        try:
            source, found = read(tmp_path / 'b.mcap')
        except SourceError as error:
            refused += 1
            assert 'b.mcap' in str(error)
        else:
            missing = len(written) - len(found)
            assert missing == 0 or (missing > 0 and source.warnings)
    assert refused > 0


def test_what_is_no_bag_is_refused(tmp_path):
    (tmp_path / 'a.mcap').write_bytes(b'no bag at all')
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'metadata.yaml').write_text('nothing: here')
    (tmp_path / 'a.db3').write_bytes(b'SQLite format 3\0 but no more')
    for name in ('a.mcap', 'bag', 'a.db3'):
        with pytest.raises(SourceError, match='damaged'):
            open_source(tmp_path / name)


def test_the_command_makes_a_bag_of_any_input(tmp_path, capsys):
    folder = write_folder(tmp_path / 'seq', count=6)
    assert main(['bag', str(folder), str(tmp_path / 'a.mcap'), '--max-frames', '4']) == 0
    assert '4 frames' in capsys.readouterr().out
    # A bag is an input too: raw images become compressed ones.
    again = ['--image-topic', '/cam/image', '--compressed']
    assert main(['bag', str(tmp_path / 'a.mcap'), str(tmp_path / 'b'), *again]) == 0
    source, found = read(tmp_path / 'b')
    assert [f.stamp_ns for f in found] == [stamp(i) for i in range(4)]
    assert source.topic == '/cam/image/compressed'
    assert source.camera.K[0, 0] == 51.2
    assert main(['bag', str(folder), str(tmp_path / 'a.mcap')]) == 2
    assert 'exists already' in capsys.readouterr().err
