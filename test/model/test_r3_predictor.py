"""R3 as a predictor: conventions, what is held, and the way from a file of weights to a run."""

from dataclasses import replace
import json
import stat

from lively_network import frame, K, lively, SIZE
import numpy as np
import pytest
from r3_ros.commands.cli import main
from r3_ros.core.config import MemoryConfig, ModelConfig, R3Config
from r3_ros.core.datatypes import Frame, KnownKeyframe, ModelInfo
from r3_ros.core.error_model import ErrorModel
from r3_ros.core.errors import (
    CheckpointError,
    ConfigError,
    DeviceLostError,
    DeviceMemoryError,
    FrameError,
    ModelError,
)
from r3_ros.core.geometry import make_T, T_from_quat
from r3_ros.core.parameter_fields import updated
from r3_ros.core.predictor import Predictor
from r3_ros.factory import load_engine
from r3_ros.learning.training.initial_weights import new_network
from r3_ros.model.cache.frame_memory import CacheBudget
from r3_ros.model.loading import choose_precision, load_streaming
from r3_ros.model.r3_predictor import R3Predictor
from r3_ros.model.weights.checkpoint import IMAGE_SIZE, save_network
from r3_ros.streaming.engine import Engine
from sequences import write_folder
import torch

CONFIG = ModelConfig(name='r3', image_size=154)
ROOM = CacheBudget(device_bytes=2**28, host_bytes=0)


@pytest.fixture(scope='module')
def network():
    return lively()


@pytest.fixture
def predictor(network):
    return R3Predictor(network, ModelInfo('r3'), CONFIG, ROOM, torch.device('cpu'))


def feed(predictor, *numbers, **options):
    """Predict frames in order, each against all before it; return the predictions."""
    predictions = []
    for n, number in enumerate(numbers):
        image = frame(number, **options)
        predictor.describe(image)
        predictions.append(predictor.predict(image, numbers[:n]))
    return predictions


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_network(lively('r3-tiny'), path)
    return path


# --- The interface ---


def test_it_is_a_predictor(predictor):
    interface: Predictor = predictor
    assert {n for n in vars(Predictor) if not n.startswith('_')} <= set(dir(interface))


def test_an_edge_is_the_networks_pair_the_other_way_round(predictor, network):
    _, _, third = feed(predictor, 0, 1, 2)
    assert [(e.source_id, e.target_id) for e in third.edges] == [(0, 2), (1, 2)]
    resized = [predictor._geometry(SIZE[1], SIZE[0]).apply(frame(n).image) for n in range(3)]
    images = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)[None]
    pairs = network(images, causal=True).pairs
    for n, edge in enumerate(third.edges):
        T_frame_source = T_from_quat(
            pairs.translation[0, n, 2].numpy(), pairs.quaternion[0, n, 2].numpy()
        )
        np.testing.assert_allclose(edge.T_source_target @ T_frame_source, np.eye(4), atol=1e-4)
        logits = pairs.logit_translation[0, n, 2], pairs.logit_rotation[0, n, 2]
        scores = [float(torch.nn.functional.softplus(logit)) for logit in logits]
        confidences = [edge.confidence_translation, edge.confidence_rotation]
        np.testing.assert_allclose(confidences, scores, rtol=1e-3)


def test_the_context_may_be_any_frames_in_any_order(predictor):
    feed(predictor, 0, 1, 2, 3)
    image = frame(9)
    straight = {e.source_id: e for e in predictor.predict(image, [1, 3]).edges}
    predictor.forget([9])
    swapped = {e.source_id: e for e in predictor.predict(image, [3, 1]).edges}
    assert set(straight) == set(swapped) == {1, 3}
    for i, edge in straight.items():
        np.testing.assert_allclose(edge.T_source_target, swapped[i].T_source_target, atol=1e-4)
    predictor.forget([9])
    alone = {e.source_id: e for e in predictor.predict(image, [1]).edges}
    assert np.abs(alone[1].T_source_target - straight[1].T_source_target).max() > 1e-4


def test_the_first_frame_has_depth_and_no_edges(predictor):
    (first,) = feed(predictor, 0)
    assert first.edges == ()
    (depth,) = first.depths
    assert depth.depth.shape == depth.confidence.shape == depth.image.shape[:2] == (98, 154)
    assert (depth.depth > 0).all() and (depth.confidence >= 1).all()
    assert depth.depth.std() > 0.01 * depth.depth.mean()


def test_depth_is_left_out_on_request(network):
    config = replace(CONFIG, depth=False)
    predictor = R3Predictor(network, ModelInfo('r3'), config, ROOM, torch.device('cpu'))
    assert feed(predictor, 0, 1)[1].depths == ()


def test_the_descriptor_is_a_unit_vector_that_tells_images_apart(predictor):
    descriptors = [predictor.describe(frame(n)) for n in (0, 1, 0)]
    assert descriptors[0].shape == (predictor.descriptor_size,) == (192,)
    assert descriptors[0].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-5)
    assert descriptors[0] @ descriptors[2] > 0.99999 > descriptors[0] @ descriptors[1]


def test_predict_needs_no_describe_before_it(predictor):
    described = feed(predictor, 0, 1)[1]
    predictor.reset()
    predictor.predict(frame(0), [])
    direct = predictor.predict(frame(1), [0])
    edges = described.edges[0].T_source_target, direct.edges[0].T_source_target
    np.testing.assert_array_equal(*edges)


# --- Cameras ---


def test_a_calibrated_camera_keeps_its_calibration(predictor):
    (first,) = feed(predictor, 0)
    assert first.intrinsics == K and not first.intrinsics_estimated
    geometry = predictor._geometry(SIZE[1], SIZE[0])
    assert first.depths[0].intrinsics == geometry.to_network(K)


def test_an_unknown_camera_is_estimated_and_steadied(predictor):
    predictions = feed(predictor, *range(4), intrinsics=None)
    assert all(p.intrinsics_estimated for p in predictions)
    geometry = predictor._geometry(SIZE[1], SIZE[0])
    fov = np.median(predictor._fovs, axis=0)
    last = predictions[-1].depths[0].intrinsics
    assert last.fy == pytest.approx(geometry.height / 2 / np.tan(fov[0] / 2))
    assert last.fx == pytest.approx(geometry.width / 2 / np.tan(fov[1] / 2))
    assert last.cx == (geometry.width - 1) / 2
    assert predictions[-1].intrinsics == geometry.to_source(last)
    assert (predictions[-1].intrinsics.width, predictions[-1].intrinsics.height) == SIZE[::-1]


def test_square_images_are_seen_whole(predictor):
    (first,) = feed(predictor, 0, intrinsics=None, size=(160, 160))
    assert first.depths[0].depth.shape == (154, 154)


# --- What is held ---


def test_forgotten_frames_are_freed_and_unknown_ones_ignored(predictor):
    feed(predictor, 0, 1, 2)
    predictor.forget([1, 77])
    assert set(predictor._memory._on_device) == {0, 2}
    predictor.predict(frame(3), [0, 2])
    with pytest.raises(KeyError):
        predictor.predict(frame(4), [1])


def test_a_reset_starts_anew(predictor):
    before = feed(predictor, 0, 1)
    predictor.reset()
    assert not len(predictor._memory)
    after = feed(predictor, 0, 1)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.depths[0].depth, b.depths[0].depth)


def test_the_image_is_not_modified_and_may_be_read_only(predictor):
    input_frame = frame(0, size=(98, 154), intrinsics=None)  # already as the network wants it
    input_frame.image.setflags(write=False)
    before = input_frame.image.copy()
    (depth,) = predictor.predict(input_frame, []).depths
    np.testing.assert_array_equal(input_frame.image, before)
    assert not np.shares_memory(depth.image, input_frame.image)


def test_the_stream_says_what_a_good_score_is(predictor):
    guess = predictor.confidence_reference
    predictions = feed(predictor, *range(13))
    best = [
        np.mean(
            sorted(0.5 * (e.confidence_translation + e.confidence_rotation) for e in p.edges)[-3:]
        )
        for p in predictions[1:]
    ]
    assert predictor.confidence_reference == pytest.approx(np.mean(best[:10]))
    predictor.reset()
    assert predictor.confidence_reference == guess


def test_weights_with_an_error_model_say_what_a_good_score_is(predictor, monkeypatch):
    monkeypatch.setattr(predictor, 'error_model', ErrorModel(reference=4.5))
    feed(predictor, *range(3))
    assert predictor.confidence_reference == 4.5


# --- Trouble ---


@pytest.mark.parametrize(
    ('image', 'reason'),
    [
        (np.zeros((*SIZE, 4), np.uint8), 'red green blue'),
        (np.zeros((*SIZE, 3), np.float32), 'array of uint8'),
    ],
)
def test_other_images_are_refused(predictor, image, reason):
    with pytest.raises(FrameError, match=reason):
        predictor.describe(Frame(image, 0, None, 0))


def test_answers_that_are_not_finite_are_refused_and_leave_no_trace(predictor, network):
    feed(predictor, 0)
    bias = network.cam_dec.fc_rel_t.bias
    kept = bias.clone()
    bias[0] = torch.nan
    try:
        predictor.describe(frame(1))
        with pytest.raises(FrameError, match='not finite'):
            predictor.predict(frame(1), [0])
    finally:
        bias.copy_(kept)
    assert set(predictor._memory._on_device) == {0}
    cls_token = network.backbone.pos_embed
    kept = cls_token.clone()
    cls_token.fill_(torch.nan)
    try:
        with pytest.raises(FrameError, match='not finite'):
            predictor.describe(frame(1))
    finally:
        cls_token.copy_(kept)


def test_a_view_of_no_width_is_refused_unless_the_camera_is_known(predictor, network):
    bias = network.cam_dec.fc_fov[0].bias
    kept = bias.clone()
    bias.fill_(-100.0)
    try:
        assert predictor.predict(frame(0), []).intrinsics == K
        predictor.reset()
        with pytest.raises(FrameError, match='fields of view'):
            predictor.predict(frame(0, intrinsics=None), [])
        assert not len(predictor._memory)
    finally:
        bias.copy_(kept)


# --- Loading ---


def test_a_file_of_weights_becomes_a_predictor_that_says_what_it_is(checkpoint):
    predictor = load_streaming(replace(CONFIG, checkpoint=str(checkpoint)), MemoryConfig())
    assert predictor.info.name == 'r3' and len(predictor.info.checkpoint_sha256) == 64
    assert (predictor.info.device, predictor.info.precision) == ('cpu', 'fp32')
    assert stat.S_IMODE(checkpoint.stat().st_mode) & 0o600 == 0o600


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_lower_precisions_are_near(tmp_path, precision):
    path = tmp_path / 'weights.safetensors'
    save_network(lively('r3-small'), path)
    near, exact = (
        feed(
            load_streaming(replace(CONFIG, checkpoint=str(path), precision=p), MemoryConfig()),
            0,
            1,
        )[1]
        for p in (precision, 'fp32')
    )
    ratio = near.depths[0].depth / exact.depths[0].depth
    assert 0 < np.abs(np.log(ratio)).max() < 0.2
    edges = near.edges[0].T_source_target, exact.edges[0].T_source_target
    np.testing.assert_allclose(*edges, atol=0.1)


def test_frames_left_with_their_image_are_computed_again_one_at_a_time(checkpoint):
    config = replace(CONFIG, checkpoint=str(checkpoint))
    memory = MemoryConfig(recomputed_per_frame=1)
    predictor = load_streaming(config, memory)
    feed(predictor, 0, 1, 2, 3)
    assert predictor.capacity == memory.max_host_mib * 2**20 // (168 * 112 * 3)
    for number in (1, 2):
        pixels = predictor._memory.image(number)
        predictor._memory.hold_image(number, pixels)
    assert {e.source_id for e in predictor.predict(frame(4), [0, 1, 2, 3]).edges} == {0, 1, 3}


def test_missing_weights_are_reported_with_the_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    with pytest.raises(ModelError, match=r'r3 weights get r3_long.*put.*model\.checkpoint'):
        load_streaming(replace(CONFIG, name='r3_long'), MemoryConfig())


def test_weights_in_their_folder_are_found_by_name(checkpoint, monkeypatch):
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(checkpoint.parent))
    checkpoint.rename(checkpoint.parent / 'r3_long.safetensors')
    assert load_streaming(replace(CONFIG, name='r3_long'), MemoryConfig()).info.name == 'r3_long'


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / 'da3.safetensors'
    save_network(lively('da3-small'), path)
    with pytest.raises(CheckpointError, match="da3-small, which is not for model.name 'r3'"):
        load_streaming(replace(CONFIG, checkpoint=str(path)), MemoryConfig())


def test_a_missing_device_is_an_error(checkpoint):
    if torch.cuda.is_available():
        pytest.skip('a CUDA device is there')
    with pytest.raises(ModelError, match="set model.device to 'cpu'"):
        load_streaming(replace(CONFIG, checkpoint=str(checkpoint), device='cuda'), MemoryConfig())


def test_the_device_decides_the_precision_unless_it_is_given(monkeypatch):
    gpu = torch.device('cuda', 0)
    for capability, expected in (((8, 7), 'bf16'), ((7, 5), 'fp16')):
        monkeypatch.setattr(
            torch.cuda, 'get_device_capability', lambda device, found=capability: found
        )
        assert choose_precision('auto', gpu) == expected
    assert choose_precision('auto', torch.device('cpu')) == 'fp32'
    assert choose_precision('fp32', gpu) == 'fp32'


def test_images_have_the_size_that_the_weights_were_trained_on(tmp_path):
    network = lively('r3-tiny')
    path = tmp_path / 'weights.safetensors'

    def size(**config):
        loaded = load_streaming(
            ModelConfig(name='r3', checkpoint=str(path), **config), MemoryConfig(max_gpu_mib=64)
        )
        return max(loaded._geometry(640, 480).apply(np.zeros((480, 640, 3), np.uint8)).shape)

    save_network(network, path, {IMAGE_SIZE: '168'})
    assert size() == 168 and size(image_size=154) == 154
    save_network(network, path)
    assert size() == 504
    save_network(network, path, {IMAGE_SIZE: '169'})
    with pytest.raises(CheckpointError, match='images of 169 pixels'):
        size()


@pytest.mark.parametrize(('chosen', 'threads'), [(None, 1), ('2', 2)])
def test_a_small_network_takes_one_thread_unless_configured(
    tmp_path, monkeypatch, chosen, threads
):
    if chosen is None:
        monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    else:
        monkeypatch.setenv('OMP_NUM_THREADS', chosen)
    path = tmp_path / 'weights.safetensors'
    save_network(new_network('r3-tiny', 0), path)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_streaming(replace(CONFIG, checkpoint=str(path)), MemoryConfig(max_gpu_mib=64)).close()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('size', [500, 224, 98])
def test_sizes_that_would_crop_are_refused(size):
    with pytest.raises(ConfigError, match='multiple of 14'):
        updated(R3Config(), {'model.image_size': size})


# --- From end to end ---


def test_a_folder_of_images_runs_through_the_network(checkpoint, tmp_path):
    folder = write_folder(tmp_path / 'seq', count=6)
    settings = [f'model.checkpoint={checkpoint}', 'model.image_size=154']
    options = [option for setting in settings for option in ('--set', setting)]
    status = main(
        [
            'run',
            str(folder),
            '-o',
            str(tmp_path / 'out'),
            '--model',
            'r3',
            '--save-depth',
            *options,
        ]
    )
    assert status == 0
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['model'] == 'r3' and len(summary['checkpoint_sha256']) == 64
    assert summary['frames']['processed'] == 6
    assert len(list((tmp_path / 'out' / 'depth').glob('*.npz'))) == 6


@pytest.mark.slow
def test_memory_of_a_long_stream_is_bounded(checkpoint):
    changes = {
        'model.name': 'r3',
        'model.checkpoint': str(checkpoint),
        'model.image_size': 154,
        'model.depth': False,
        'keyframe.max_keyframes': 4,
        'keyframe.max_interval': 1,
        'stream.recent_frames': 2,
    }
    engine = load_engine(updated(R3Config(), changes))
    try:
        for n in range(15):
            engine.step(replace(frame(n), frame_id=-1))
        held = engine.predictor._memory._on_device
        assert len(held) <= 6 and {*engine.session.recent, *engine.session.bank.ids()} == set(held)
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize('every,expected', [(1, 12), (3, 6), (0, 3)])
def test_depth_of_every_nth_frame_and_of_keyframes(network, every, expected):
    changes = {
        'model.depth_every': every,
        'keyframe.overlap_threshold': 0.0,
        'keyframe.max_interval': 5,
        'tracking.lost_ratio': 0.0,
        'tracking.low_confidence_ratio': 0.0,
    }
    predictor = R3Predictor(network, ModelInfo('r3'), CONFIG, ROOM, torch.device('cpu'))
    engine = Engine(predictor, updated(R3Config(), changes))
    estimates = [engine.step(replace(frame(n), frame_id=-1)) for n in range(12)]
    with_depth = {e.frame_id for e in estimates if e.depths}
    keyframes = {e.frame_id for e in estimates if e.is_keyframe}
    assert keyframes == {0, 5, 10} and keyframes <= with_depth
    assert len(with_depth) == expected


def test_keyframes_may_be_admitted_by_the_pose_token(network):
    changes = {
        'keyframe.mode': 'pose_token',
        'tracking.lost_ratio': 0.0,
        'tracking.low_confidence_ratio': 0.0,
        'stream.recent_frames': 12,
    }
    counts = []
    for threshold in (0.0, 1.0):
        predictor = R3Predictor(network, ModelInfo('r3'), CONFIG, ROOM, torch.device('cpu'))
        engine = Engine(
            predictor, updated(R3Config(), {**changes, 'keyframe.token_threshold': threshold})
        )
        estimates = [engine.step(replace(frame(n), frame_id=-1)) for n in range(6)]
        counts.append(sum(e.is_keyframe for e in estimates))
        tokens = [predictor.predict(frame(n), [0]).pose_token for n in (7, 8)]
        engine.close()
    assert counts == [1, 6]
    for token in tokens:
        assert token.shape == (2 * network.config.backbone.width,)
        assert np.linalg.norm(token) == pytest.approx(1.0, abs=1e-5)
    assert not np.array_equal(*tokens)


@pytest.mark.slow
def test_the_bank_shrinks_to_what_fits(network):
    changes = {
        'keyframe.max_interval': 1,
        'stream.recent_frames': 2,
        'stream.recent_keyframes': 2,
        'stream.retrieved_keyframes': 1,
    }
    entry_bytes = 2 * 4 * 192 * (1 + 7 * 11) * 4 + 384 * 4  # four layers, float32
    budget = CacheBudget(
        device_bytes=9 * entry_bytes, host_bytes=11 * 154 * 98 * 3
    )  # of 11 images
    config = replace(CONFIG, depth=False)
    predictor = R3Predictor(network, ModelInfo('r3'), config, budget, torch.device('cpu'))
    engine = Engine(predictor, updated(R3Config(), changes))
    evicted = []
    for n in range(30):
        evicted += engine.step(replace(frame(n), frame_id=-1)).evicted
        assert len(predictor._memory) <= predictor.capacity == 11
    assert len(engine.session.bank) == 11 - 2 - 1 and len(evicted) == 30 - 8


@pytest.mark.slow
@pytest.mark.ros
def test_the_node_runs_the_network_and_tells_which(checkpoint, graph):
    from diagnostic_msgs.msg import DiagnosticArray
    from ros_graph import image_message
    from sensor_msgs.msg import Image

    settings = {'name': 'r3', 'checkpoint': str(checkpoint), 'image_size': 154}
    loaded = load_streaming(ModelConfig(**settings), MemoryConfig())
    geometry = loaded._geometry(SIZE[1], SIZE[0])
    g = graph(**{f'model__{name}': value for name, value in settings.items()})
    g.node._load_engine = load_engine
    g.start()
    depths = g.listen('/r3/depth/image', Image)
    diagnostics = g.listen('/diagnostics', DiagnosticArray)
    stamps = []
    for n in range(3):
        stamps.append(g.send(image_message(g.stamp_ns, frame(n).image), calibrated=True))
    g.until(lambda: len(depths) == 3)
    assert [m.header.stamp.sec for m in depths] == [ns // 10**9 for ns in stamps]
    assert (depths[0].height, depths[0].width) == (geometry.height, geometry.width)
    g.until(
        lambda: any("'r3' runs on the CPU" in s.message for d in diagnostics for s in d.status)
    )


@pytest.mark.ros
def test_the_node_says_why_it_has_no_network(tmp_path, graph, monkeypatch, capfd):
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))
    g = graph(model__name='r3')
    g.node._load_engine = load_engine
    assert not g.node.autostart()
    assert 'r3 weights get r3' in capfd.readouterr().err


@pytest.mark.parametrize(
    ('raised', 'reported'),
    [
        (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), DeviceMemoryError),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED, out of memory'), DeviceMemoryError),
        (RuntimeError('CUDA error: an illegal memory access was encountered'), DeviceLostError),
        (torch.AcceleratorError('CUDA error: unspecified launch failure'), DeviceLostError),
        (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), RuntimeError),
    ],
)
def test_errors_of_the_device_are_reported_in_our_words(predictor, monkeypatch, raised, reported):
    feed(predictor, 0, 1)

    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(predictor._network, 'predict', fail)
    image = frame(2)
    predictor.describe(image)
    with pytest.raises(reported, match=str(raised)[:20]) as caught:
        predictor.predict(image, (0, 1))
    assert type(caught.value) is reported
    monkeypatch.undo()
    # Nothing was remembered of the frame: it may be tried again, with less held.
    assert len(predictor._memory) == 2
    predictor.shrink()
    assert predictor.predict(image, (0, 1)).edges
    assert predictor.device_memory() is None


def test_an_engine_that_shrinks_goes_on(network):
    config = updated(R3Config(), {'keyframe.max_interval': 1})
    budget = CacheBudget(device_bytes=2**28, host_bytes=2**28)
    predictor = R3Predictor(network, ModelInfo('r3'), CONFIG, budget, torch.device('cpu'))
    engine = Engine(predictor, config)
    for number in range(10):
        engine.step(frame(number))
    slots = predictor._memory._device_capacity
    engine.shrink()
    assert len(engine.session.bank) == len(
        {*engine.session.recent, *engine.session.bank.ids()} & set(predictor._memory._images)
    )
    assert predictor._memory._device_capacity < slots
    assert engine.step(frame(10)).frame_id == 10


def test_keyframes_of_a_saved_map_are_context_as_if_they_had_been_seen(network):
    """Each is computed when it is wanted, beside those that were taken near it."""
    budget = CacheBudget(device_bytes=2**28, host_bytes=2**24)
    predictor = R3Predictor(network, ModelInfo('r3'), CONFIG, budget, torch.device('cpu'))
    known = [
        KnownKeyframe(
            n, n, frame(n).image, K, make_T(np.eye(3), np.array([n, 0.0, 0.0])),
            np.zeros(predictor.descriptor_size, np.float32),
        )
        for n in range(4)
    ]  # fmt: skip
    predictor.restore(iter(known), None)
    assert predictor.landmarks({}) is None
    image = frame(7)
    predictor.describe(image)
    prediction = predictor.predict(image, [0, 1, 3])
    assert [edge.source_id for edge in prediction.edges] == [0, 1, 3]
    assert all(np.isfinite(edge.T_source_target).all() for edge in prediction.edges)
    predictor.forget([0, 1, 2, 3])
    predictor.reset()
    first = feed(predictor, 0)[0]
    assert first.edges == (), 'nothing of the map is left'


def test_the_view_is_reported_whatever_the_calibration(predictor, network):
    calibrated = feed(predictor, 0, 1)
    other = R3Predictor(network, ModelInfo('r3'), CONFIG, ROOM, torch.device('cpu'))
    guessed = feed(other, 0, 1, intrinsics=None)
    for known, unknown in zip(calibrated, guessed, strict=True):
        assert known.intrinsics == K and not known.intrinsics_estimated
        assert known.seen_fov_x == pytest.approx(unknown.seen_fov_x)
        assert unknown.intrinsics.fov_x == pytest.approx(unknown.seen_fov_x)
