"""The networks as a whole: ways of seeing frames, what is kept, what a frame costs, bad input."""

import copy
from dataclasses import replace
from functools import partial
import re

from network_reference import Reference
from networks import CONFIGS, fill, own_network, sample_images, select, shared_network, tensors_of
import pytest
from r3_ros.core.errors import FrameError
from r3_ros.model.backbone import KeyValues
from r3_ros.model.building import build_network
from r3_ros.model.network import FrameCache
from r3_ros.model.variants import VARIANTS
import torch
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def assert_same(answer, expected, tolerance=2e-5):
    """Compare every tensor of two answers of one kind."""
    answer, expected = tensors_of(answer), tensors_of(expected)
    assert answer.keys() == expected.keys()
    for path, tensor in answer.items():
        torch.testing.assert_close(
            tensor, expected[path], rtol=tolerance, atol=tolerance, msg=lambda m, p=path: p + m
        )


def assert_alive(prediction):
    """Check that an answer is not one number over and over."""
    assert (prediction.depth.std(dim=(2, 3)) > 0.05).all()
    assert (prediction.confidence.std(dim=(2, 3)) > 0.05).all()
    assert (prediction.fov > 0.2).all()
    asked = prediction.pairs.numbers[:, prediction.pairs.predicted]
    assert (asked.std(dim=1) > 0.01).all()


# How frames see one another


@pytest.mark.parametrize('name', ['r3', 'r3-odd'])
@pytest.mark.parametrize('causal', [True, False])
def test_a_clip_is_what_the_description_says(name, causal):
    network, images = shared_network(name), sample_images(4)
    every = torch.ones(4, 4, dtype=torch.bool)
    asked = every.triu(1) if causal else ~torch.eye(4, dtype=torch.bool)
    expected = Reference(network).predict(images[0], every.tril() if causal else every, asked)
    got = network(images, causal=causal, rays=True)
    assert_alive(got)
    assert torch.equal(got.pairs.predicted, asked)
    assert got.pairs.numbers[0].sub(expected['pairs']).abs().max() < 3e-5
    assert (got.depth[0].log() - expected['depth'].log()).abs().max() < 3e-5
    for name in ('confidence', 'rays', 'ray_confidence', 'fov', 'camera_feature'):
        assert (getattr(got, name)[0] - expected[name]).abs().max() < 5e-5, name
    descriptor = network.describe(images).descriptor[0]
    assert (descriptor - expected['descriptor']).abs().max() < 1e-5


def test_seeing_later_frames_changes_the_answer():
    images = sample_images(3)
    causal = shared_network('r3')(images, causal=True)
    full = shared_network('r3')(images, causal=False)
    assert (causal.depth - full.depth).abs().amax(dim=(0, 2, 3))[:2].min() > 0.01
    # The last frame sees all of them in either way, but earlier ones have not seen it back.
    assert (causal.depth - full.depth)[:, 2].abs().max() > 1e-4
    assert (causal.fov - full.fov).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('name', ['r3', 'r3-odd'])
def test_a_causal_clip_is_its_frames_one_by_one(name):
    network, images = shared_network(name), sample_images(6, batch=2)
    clip = network(images, causal=True, rays=True)
    assert_alive(clip)
    entries = []
    for s in range(6):
        cached = FrameCache.join(entries) if entries else None
        described = network.describe(images[:, s : s + 1])
        frame = network.predict(described, cached, rays=True)
        row = {
            name: getattr(clip, name)[:, s : s + 1]
            for name in ('fov', 'camera_feature', 'depth', 'confidence', 'rays', 'ray_confidence')
        }
        row['cache'] = select(clip.cache, [s])
        row['pairs'] = type(clip.pairs)(
            *(part[:, : s + 1, s : s + 1] for part in clip.pairs[:-1]),
            clip.pairs.predicted[: s + 1, s : s + 1],
        )
        assert_same(frame, replace(clip, **row))
        entries.append(frame.cache)


def test_a_clip_after_cached_frames_continues_it():
    network, images = shared_network('r3'), sample_images(5)
    whole = network(images, causal=True)
    start = network(images[:, :2], causal=True)
    rest = network.predict(network.describe(images[:, 2:]), start.cache, causal=True)
    assert_same(rest.depth, whole.depth[:, 2:])
    assert_same(rest.pairs.predicted, whole.pairs.predicted[:, 2:])
    assert_same(rest.pairs.numbers, whole.pairs.numbers[:, :, 2:])
    joined = FrameCache.join([start.cache, rest.cache])
    assert_same(select(joined, range(5)), select(whole.cache, range(5)))


@pytest.mark.parametrize('frames', [[3, 0, 2, 1], [2], [3, 1], [0, 1, 2, 3]])
def test_cached_frames_may_stand_in_any_order(frames):
    network, images = shared_network('r3'), sample_images(5, batch=2)
    cache = network(images[:, :4], causal=True).cache
    described = network.describe(images[:, 4:])
    inner = sorted(frames)
    expected = network.predict(described, select(cache, inner))
    got = network.predict(described, select(cache, frames))
    for name in ('depth', 'confidence', 'fov', 'cache'):
        assert_same(getattr(got, name), getattr(expected, name))
    places = [inner.index(i) for i in frames] + [len(frames)]  # the last row is the frame itself
    assert_same(got.pairs.numbers, expected.pairs.numbers[:, places])
    if len(frames) < 4:
        everything = network.predict(described, cache)
        assert (got.depth - everything.depth).abs().max() > 1e-3
        # A pair's first layer sees its two frames alone, yet the target has looked at all.
        assert not torch.allclose(got.fov, everything.fov, atol=1e-4)


def test_no_cached_frame_is_as_none_at_all():
    network, images = shared_network('r3'), sample_images(2)
    empty = select(network(images, causal=True).cache, [])
    assert empty.frames == 0
    described = network.describe(images[:, :1])
    assert_same(network.predict(described, empty), network.predict(described))


def test_clips_of_a_batch_do_not_mix():
    for name, options in (('r3', {'causal': True}), ('r3', {'causal': False}), ('da3', {})):
        network, images = shared_network(name), sample_images(4, batch=2)
        both = tensors_of(network(images, **options))
        for b in range(2):
            for path, alone in tensors_of(network(images[b : b + 1], **options)).items():
                if path == '.pairs.predicted':
                    assert torch.equal(both[path], alone)
                else:
                    assert_same(both[path][b : b + 1], alone)


def test_the_reference_is_the_first_frame_unless_the_caller_says_otherwise():
    network, images = shared_network('r3'), sample_images(3)
    described, second = network.describe(images[:, :1]), network.describe(images[:, 1:2])
    plain = network.predict(described)
    assert_same(plain, network.predict(described, reference=True), 0)
    source = network.predict(described, reference=False)
    assert (plain.depth - source.depth).abs().max() > 0.01
    # After a cached frame it is not, but may be.
    after = network.predict(second, plain.cache)
    assert_same(after, network.predict(second, plain.cache, reference=False), 0)
    again = network.predict(second, plain.cache, reference=True)
    assert (after.depth - again.depth).abs().max() > 0.01
    # Within a clip the flag is the first frame's alone.
    described = network.describe(images)
    got = network.predict(described, reference=False)
    sees, asked = torch.ones(2, 3, 3, dtype=torch.bool)
    expected = Reference(network).predict(images[0], sees.tril(), asked.triu(1), roles=[1, 1, 1])
    assert (got.depth[0] - expected['depth']).abs().max() < 1e-4
    assert (got.fov[0] - expected['fov']).abs().max() < 1e-5


def test_plain_da3_answers_in_the_order_of_the_views():
    network, images = shared_network('da3'), sample_images(4)
    chosen = network(images)
    order = [2, 0, 3, 1]
    moved = network(images[:, order])
    assert order[int(moved.reference)] == int(chosen.reference)
    assert_same(moved.encodings, chosen.encodings[:, order])
    assert_same(moved.depth, chosen.depth[:, order])


def test_each_clip_of_a_batch_has_its_own_reference():
    network = shared_network('da3')
    images = torch.cat([sample_images(4, seed=seed) for seed in range(6)])
    references = network(images).reference
    assert len(set(references.tolist())) > 1
    for b, reference in enumerate(references):
        assert network(images[b : b + 1]).reference == reference


# What is computed, and when


class Ran:
    """Names of the modules that ran since this was made."""

    def __init__(self, network):
        self.names = []
        self._handles = [
            module.register_forward_hook(partial(self._note, name))
            for name, module in network.named_modules()
        ]

    def _note(self, name, *_):
        self.names.append(name)

    def matching(self, pattern):
        """Return the names that ran and match, each time it did, and forget all."""
        found = [name for name in self.names if re.fullmatch(pattern, name)]
        self.names.clear()
        return found


@pytest.fixture
def ran():
    network = copy.deepcopy(shared_network('r3'))
    return network, Ran(network)


def test_describe_runs_the_blocks_before_any_role_and_predict_the_rest(ran):
    network, modules = ran
    described = network.describe(sample_images(2))
    assert modules.matching(r'backbone\.(patch_embed|blocks\.\d+)|cam_dec|head') == [
        'backbone.patch_embed',
        'backbone.blocks.0',
        'backbone.blocks.1',
    ]
    network.predict(described)
    assert modules.matching(r'backbone\.(patch_embed|blocks\.\d+)') == [
        f'backbone.blocks.{i}' for i in range(2, 10)
    ]


def test_rays_are_computed_where_asked_for_and_change_nothing_else(ran):
    network, modules = ran
    images = sample_images(2)
    with_rays = network(images, rays=True)
    assert modules.matching(r'head\.refinenet\d_aux') != []
    without = network(images)
    assert modules.matching(r'head\..*_aux.*') == []
    assert without.rays is None and without.ray_confidence is None
    assert torch.equal(without.depth, with_rays.depth)
    assert with_rays.rays.shape == (1, 2, 24, 40, 6)
    assert (with_rays.ray_confidence > 1).all() and with_rays.rays.std() > 0.05


def test_without_depth_no_head_runs_and_the_poses_are_the_same(ran):
    network, modules = ran
    described = network.describe(sample_images(2))
    full = network.predict(described)
    assert modules.matching('head') == ['head']
    poses = network.predict(described, depth=False)
    assert modules.matching(r'head.*') == []
    assert poses.depth is None and poses.confidence is None
    assert_same(replace(full, depth=None, confidence=None), poses, 0)


def test_the_head_takes_few_frames_at_once(ran):
    network, modules = ran
    images = sample_images(3, batch=2)
    both = network(images)
    assert modules.matching('head') == ['head', 'head']
    assert_same(both.depth[1, 2], network(images[1:], causal=False).depth[0, 2])
    metric = shared_network('metric')
    images = sample_images(5)[0]
    together = metric(images)
    for i in range(5):
        alone = metric(images[i : i + 1])
        assert_same(alone.depth[0], together.depth[i])
        assert_same(alone.sky[0], together.sky[i])


# Nothing is kept but what is given


def test_the_same_call_gives_the_same_bits():
    for name in ('r3', 'da3'):
        assert_same(
            shared_network(name)(sample_images(3)), shared_network(name)(sample_images(3)), 0
        )
    images = sample_images(2)[0]
    assert_same(shared_network('metric')(images), shared_network('metric')(images), 0)


def test_streams_through_one_network_do_not_meet():
    network = shared_network('r3')
    streams = [sample_images(3, seed=1), sample_images(3, seed=2, size=(70, 56))]

    def follow(images):
        caches = []
        for s in range(3):
            cached = FrameCache.join(caches) if caches else None
            prediction = network.predict(network.describe(images[:, s : s + 1]), cached)
            caches.append(prediction.cache)
            yield prediction

    apart = [list(follow(images)) for images in streams]
    turns = zip(*(follow(images) for images in streams), strict=True)
    for s, pair in enumerate(turns):
        for stream, prediction in enumerate(pair):
            assert_same(prediction, apart[stream][s], 0)


def test_inputs_and_caches_are_left_alone():
    network, images = shared_network('r3'), sample_images(3)
    cache = network(images[:, :2], causal=True).cache
    described = network.describe(images[:, 2:])
    before = {
        name: tensor.clone()
        for part in (cache, described, [images])
        for name, tensor in tensors_of(part).items()
    }
    network.predict(described, cache, rays=True)
    for part in (cache, described, [images]):
        for name, tensor in tensors_of(part).items():
            assert torch.equal(tensor, before[name]), name
    shared_network('da3')(images)
    assert torch.equal(images, before['.0'])


def test_a_cache_entry_holds_its_own_numbers_alone():
    network = shared_network('r3')
    cache = network.predict(network.describe(sample_images(1))).cache
    tensors = tensors_of(cache).values()
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(held.values()) == sum(t.numel() * t.element_size() for t in tensors)
    tokens, blocks = 1 + 3 * 5, 4
    assert sum(held.values()) == 4 * (2 * blocks * tokens * 128 + 256)


def test_a_cached_frame_survives_its_image():
    network, images = shared_network('r3'), sample_images(2)
    cache = network(images, causal=True).cache
    kept = {name: tensor.clone() for name, tensor in tensors_of(cache).items()}
    images.zero_()
    network(sample_images(2, seed=9))
    for name, tensor in tensors_of(cache).items():
        assert torch.equal(tensor, kept[name])


def test_positions_follow_the_weights_and_the_size():
    network = own_network('r3')
    small, wide = sample_images(1), sample_images(1, size=(28, 112))
    first = network(small).depth
    assert_same(network(wide), fill(build_network(CONFIGS['r3']))(wide), 0)
    assert torch.equal(network(small).depth, first)
    network.backbone.pos_embed.mul_(0.5)
    halved = network(small).depth
    assert (halved - first).abs().max() > 1e-3
    fresh = own_network('r3')
    fresh.backbone.pos_embed.mul_(0.5)
    assert torch.equal(fresh(small).depth, halved)
    network.load_state_dict(shared_network('r3').state_dict())
    assert torch.equal(network(small).depth, first)
    network.backbone.pos_embed.data = 2 * network.backbone.pos_embed.data
    assert (network(small).depth - first).abs().max() > 1e-3


def test_inference_mode_is_no_trap():
    images, network = sample_images(2), own_network('r3')
    expected = shared_network('r3')(images).depth
    with torch.inference_mode():
        born_inside = own_network('r3')
        assert torch.equal(born_inside(images).depth, expected)
        kept = network(images, causal=True).cache
    assert torch.equal(born_inside(images).depth, expected)
    described = network.describe(images[:, :1])
    assert torch.isfinite(network.predict(described, kept).depth).all()
    with torch.enable_grad():
        network(images).depth.log().mean().backward()
    assert torch.isfinite(network.backbone.pos_embed.grad).all()


#: In every file, and read by no answer: the absolute pose and its fields of view, inherited, and
#: the coarser levels of the ray branch.
UNREAD = (
    r'cam_dec\.(fc_t|fc_qvec|fc_abs_fov)\.'
    r'|head\.(output_conv1_aux\.[012]\.|output_conv2_aux\.[012]\.[05]\.)'
)


@pytest.mark.parametrize('name', ['r3', 'r3-odd'])
def test_every_other_parameter_learns(name):
    network = own_network(name)
    network(sample_images(3))  # what this remembers must not stand in the way
    with torch.enable_grad():
        got = network(sample_images(3), rays=True)
        numbers = [got.depth.log(), got.confidence, got.rays, got.ray_confidence, got.fov]
        sum(number.square().mean() for number in [*numbers, got.pairs.numbers]).backward()
    for parameter_name, parameter in network.named_parameters():
        if re.match(UNREAD, parameter_name):
            assert parameter.grad is None, parameter_name
        else:
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().max() > 0, parameter_name


def test_plain_da3_and_the_metric_network_learn_too():
    da3, metric = own_network('da3'), own_network('metric')
    with torch.enable_grad():
        chosen = da3(sample_images(3), rays=True)
        answers = [chosen.encodings, chosen.depth, chosen.confidence, chosen.rays]
        sum(t.square().mean() for t in [*answers, chosen.ray_confidence]).backward()
        mono = metric(sample_images(2)[0])
        (mono.depth.mean() + mono.sky.square().mean()).backward()
    for network, unread in (
        (da3, UNREAD.replace('fc_t|fc_qvec|', '') + '|cam_enc'),
        (metric, r'-'),
    ):
        for name, parameter in network.named_parameters():
            assert (parameter.grad is None) == (re.match(unread, name) is not None), name
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


# What a frame costs


def convolution(inputs, outputs, kernel, area):
    return 2 * inputs * outputs * kernel**2 * area


def published_flops(height, width, cached):
    """Operations of the authors' streamed frame, R3-large: what is needed, the ray branch."""
    C, D, F, levels = 1024, 2048, 256, (256, 512, 1024, 1024)
    h, w = height // 14, width // 14
    tokens = 1 + h * w
    areas = (16 * h * w, 4 * h * w, h * w, -(-h // 2) * -(-w // 2))
    fused = (64 * h * w, *areas[:3])
    needed = 24 * 24 * C**2 * tokens + convolution(3, C, 14, h * w)
    needed += 16 * 4 * tokens**2 * C + 8 * 4 * tokens**2 * C * (cached + 1)
    needed += sum(convolution(D, level, 1, h * w) for level in levels)
    needed += convolution(256, 256, 4, h * w) + convolution(512, 512, 2, h * w)
    needed += convolution(1024, 1024, 3, areas[3])
    needed += sum(convolution(c, F, 3, area) for c, area in zip(levels, areas, strict=True))
    units = (2, 2, 2, 1)
    fusion = sum(n * 2 * convolution(F, F, 3, area) for n, area in zip(units, areas, strict=True))
    fusion += sum(convolution(F, F, 1, area) for area in fused)
    needed += fusion + convolution(F, F // 2, 3, fused[0])
    needed += convolution(F // 2, 32, 3, height * width) + convolution(32, 2, 1, height * width)
    needed += 2 * 2 * D**2 + 2 * 9 * D  # camera feature, and the absolute pose
    needed += cached * (2 * (2 * D * D + D**2) + 2 * 9 * D)
    rays = fusion + sum(5 * convolution(F, F // 2, 3, area) for area in fused)
    rays += convolution(F // 2, 32, 3, fused[0]) + convolution(32, 7, 1, fused[0])
    return needed, rays


@pytest.mark.slow
@pytest.mark.parametrize(
    ('size', 'cached', 'needed', 'total'),
    [
        ((280, 504), 1, 661, 925),
        pytest.param((280, 504), 8, 781, 1044, marks=pytest.mark.slow),
        ((280, 504), 16, 917, 1181),
        pytest.param((280, 504), 100, 2350, 2614, marks=pytest.mark.slow),
        ((378, 504), 1, 925, 1281),
        pytest.param((378, 504), 8, 1142, 1498, marks=pytest.mark.slow),
        pytest.param((378, 504), 16, 1391, 1747, marks=pytest.mark.slow),
        pytest.param((378, 504), 100, 3999, 4355, marks=pytest.mark.slow),
    ],
)
def test_a_frame_costs_what_it_must_and_no_more(size, cached, needed, total):
    """The published cost without the ray branch, less what the same numbers can be had for."""
    required, rays = published_flops(*size, cached)
    assert (round(required / 1e9), round((required + rays) / 1e9)) == (needed, total)

    D, F, patches = 2048, 256, size[0] * size[1] // 196
    # A pair's first layer: once per frame and half instead of once per pair and both.
    split = cached * 2 * (2 * D * D) - 2 * (2 * D * D)
    # 1x1 convolutions of the fusions: before the enlargement instead of after it.
    coarse = -(-size[0] // 28) * -(-size[1] // 28)
    early = convolution(F, F, 1, (64 + 16 + 4 + 1) * patches - (16 + 4 + 1) * patches - coarse)
    absolute_pose = 2 * 7 * D

    with torch.device('meta'):
        network = build_network(VARIANTS['r3-large']).eval()
        keys = torch.empty(1, 16, cached, 1 + patches, 64)
        cache = FrameCache((KeyValues(keys, keys),) * 8, (torch.empty(1, cached, D),))
        with FlopCounterMode(display=False) as counter:
            network.predict(network.describe(torch.empty(1, 1, 3, *size)), cache)
    assert counter.get_total_flops() == required - split - early - absolute_pose


def test_published_totals():
    totals = [(280, 504, 1, 924.96), (280, 504, 100, 2613.83), (378, 504, 100, 4354.54)]
    for height, width, cached, giga in totals:
        assert round(sum(published_flops(height, width, cached)) / 1e9, 2) == giga


def test_each_pair_costs_a_third_of_the_published():
    counts = []
    for cached in (1, 2):
        with torch.device('meta'):
            head = build_network(VARIANTS['r3-large']).cam_dec
            with FlopCounterMode(display=False) as counter:
                head(torch.empty(1, cached + 1, 2048), torch.empty(1, 1, 2048), causal=True)
        counts.append(counter.get_total_flops())
    assert round((counts[1] - counts[0]) / 1e9, 4) == 0.0084


# The host never waits for the device


def on_meta(network):
    with torch.device('meta'):
        bare = build_network(network.config)
    return bare.eval()


def walk(network, device):
    """Do everything a stream does, by shapes alone."""
    images = sample_images(3).to(device)
    entries = []
    for s in range(3):
        cached = select(FrameCache.join(entries), range(s)) if entries else None
        described = network.describe(images[:, s : s + 1])
        entries.append(network.predict(described, cached, rays=True).cache)
    return network(images)


def test_nothing_is_read_back_to_choose_what_to_compute():
    """Tensors without numbers refuse .item(), .cpu(), .tolist(), bool() and nonzero()."""
    images = sample_images(3).to('meta')
    da3 = on_meta(shared_network('da3'))
    answers = [
        walk(on_meta(shared_network('r3')), 'meta'),
        da3(images),
        on_meta(shared_network('metric'))(images[0]),
    ]
    for answer in answers:
        assert answer.depth.is_meta and answer.depth.shape[-3:] == (3, 42, 70)


@pytest.mark.slow
@pytest.mark.parametrize(
    'read',
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.Tensor.nonzero,
        torch.Tensor.__bool__,
    ],
)
@pytest.mark.parametrize('part', ['backbone', 'backbone.blocks.5.attn', 'head', 'cam_dec.fc_fov'])
def test_reading_back_would_be_noticed(part, read):
    network = on_meta(shared_network('r3'))
    network.get_submodule(part).register_forward_hook(lambda *args: read(first_of(args[2]).sum()))
    if part == 'backbone':  # called by its methods
        forward = network.backbone.embed
        network.backbone.embed = lambda x, *added: read(x.sum()) or forward(x, *added)
    with pytest.raises(RuntimeError, match='meta'):
        walk(network, 'meta')


def first_of(answer):
    return next(iter(tensors_of(answer).values()))


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_is_never_waited_for(dtype):
    network = converted('r3', dtype).cuda()
    walk(network, 'cuda')  # tables are made once
    torch.cuda.synchronize()
    images = sample_images(3).cuda()
    torch.cuda.set_sync_debug_mode('error')
    try:
        entries = []
        for s in range(3):
            cached = select(FrameCache.join(entries), range(s)) if entries else None
            described = network.describe(images[:, s : s + 1])
            entries.append(network.predict(described, cached, rays=True).cache)
        answer = network(images)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert answer.depth.is_cuda and torch.isfinite(answer.depth).all()


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['r3', 'r3-odd', 'da3', 'metric'])
def test_a_gpu_gives_the_same_answer(name):
    network = shared_network(name)
    images = sample_images(3) if name != 'metric' else sample_images(3)[0]
    on_gpu = {
        path: tensor.cpu()
        for path, tensor in tensors_of(copy.deepcopy(network).cuda()(images.cuda())).items()
    }
    expected = tensors_of(network(images))
    assert on_gpu.keys() == expected.keys()
    for path, tensor in expected.items():
        if tensor.is_floating_point():
            assert (on_gpu[path] - tensor).abs().max() < 1e-2 * max(1.0, float(tensor.std())), path


# Precision


def converted(name, dtype):
    """Return a copy in another precision, as the loader makes one."""
    network = copy.deepcopy(shared_network(name))
    for parameter_name, parameter in network.named_parameters():
        if not network.keeps_float32(parameter_name):
            parameter.data = parameter.data.to(dtype)
    return network


@pytest.mark.slow
@pytest.mark.parametrize('name', ['r3', 'r3-odd', 'da3', 'metric'])
@pytest.mark.parametrize(('dtype', 'bound'), [(torch.bfloat16, 0.1), (torch.float16, 0.012)])
def test_half_precision_stays_near_float32(name, dtype, bound):
    images = sample_images(3) if name != 'metric' else sample_images(3)[0]
    network = converted(name, dtype)
    answers, expected = tensors_of(network(images)), tensors_of(shared_network(name)(images))
    for path, tensor in answers.items():
        if path.startswith('.cache.key_values'):
            assert tensor.dtype == dtype
        elif path in ('.depth', '.confidence', '.fov', '.encodings', '.sky') or '.pairs' in path:
            if not tensor.is_floating_point():
                continue
            assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all(), path
            difference = tensor - expected[path]
            if path == '.depth':
                difference = tensor.log() - expected[path].log()
            assert difference.abs().mean() < bound * max(0.5, float(expected[path].std())), path
            assert difference.abs().max() > 0, path


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_loud_activations_stay_finite_in_half_precision(dtype):
    """A residual stream beyond float16, as trained transformers may have, passes the norms."""
    network = converted('r3', dtype)
    network.backbone.pos_embed.data *= 1e5
    described = network.describe(sample_images(2))
    assert described.tokens.abs().max() > torch.finfo(torch.float16).max
    got = network.predict(described, rays=True)
    for path, tensor in tensors_of(got).items():
        assert torch.isfinite(tensor.float()).all(), path


# Bad input


@pytest.mark.parametrize(
    ('images', 'says'),
    [
        (torch.zeros(1, 3, 42, 70), r'\(B, S, 3, H, W\)'),
        (torch.zeros(42), r'\(B, S, 3, H, W\)'),
        (torch.zeros(1, 1, 42, 70, 3), 'multiples of 14'),
        (torch.zeros(1, 1, 3, 43, 70), 'multiples of 14'),
        (torch.zeros(1, 1, 3, 42, 75), 'multiples of 14'),
        (torch.zeros(1, 0, 3, 42, 70), 'no image'),
        (torch.zeros(0, 1, 3, 42, 70), 'no image'),
        (torch.zeros(1, 1, 3, 0, 70), 'no image'),
        (torch.zeros(1, 1, 3, 42, 70, dtype=torch.int64), 'uint8'),
        (torch.zeros(1, 1, 3, 42, 70, dtype=torch.bool), 'uint8'),
        (torch.zeros(1, 1, 3, 42, 70, dtype=torch.complex64), 'uint8'),
    ],
)
def test_images_that_are_none(images, says):
    for network in (shared_network('r3'), shared_network('da3')):
        with pytest.raises(FrameError, match=says):
            network(images)
    if images.ndim == 5:
        with pytest.raises(FrameError):
            shared_network('metric')(images[:, 0] if images.shape[1] else images.flatten(0, 1))


def test_bytes_are_read_as_0_to_255():
    images = (sample_images(2) * 255).to(torch.uint8)
    expected = shared_network('r3')(images.float() / 255)
    assert_same(shared_network('r3')(images), expected, 1e-4)


def test_cached_frames_must_fit():
    network = shared_network('r3')
    described = network.describe(sample_images(1))
    other_size = network(sample_images(2, size=(42, 84)), causal=True).cache
    other_batch = network(sample_images(2, batch=2), causal=True).cache
    own = network(sample_images(2), causal=True).cache
    other_network = replace(own, key_values=own.key_values[:-1])
    of_two = replace(own, pair_features=(own.pair_features[0][:, :1],))
    same_tokens = network(sample_images(2, size=(70, 42)), causal=True).cache  # as good as any
    for cache in (other_size, other_batch, other_network, of_two):
        with pytest.raises(FrameError, match='does not fit the cached ones'):
            network.predict(described, cache)
    assert network.predict(described, same_tokens).depth.shape == (1, 1, 42, 70)
