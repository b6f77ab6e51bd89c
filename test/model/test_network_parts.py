"""The networks' parts against explicit formulas, and their sizes against the published ones."""

import json
import math

from network_reference import pixel_embedding, positions, resized, rotated
from networks import sample_images, shared_network, tensors_of
import numpy as np
from paths import PARITY, ROOT
import pytest
from r3_ros.core.datatypes import Intrinsics
from r3_ros.model.backbone import Backbone, KeyValues
from r3_ros.model.building import build_network
from r3_ros.model.camera_head import PairHead
from r3_ros.model.depth_head import add_position_embedding, Fusion, MonoDepth
from r3_ros.model.layers import Block, LayerNorm, Linear, Mlp, rotate, rotations, SwiGlu
from r3_ros.model.metric_predictor import metric_depth
from r3_ros.model.network import FrameCache
from r3_ros.model.reference_view import choose_reference
from r3_ros.model.variants import BackboneConfig, VARIANTS
from r3_ros.model.weights.checkpoint import official_name
import torch
from torch.utils.flop_counter import FlopCounterMode

MANIFESTS = sorted(PARITY.glob('manifest-*.json'))
CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Sizes

#: (tensors, parameters; of the backbone, the head, the camera head) of R3 in each size, as
#: published but for the tiny one of our own, which has more parts. The one norm with four names
#: counts once.
COUNTS = {
    'r3-tiny': (339, 7_748_337, 5_722_112, 1_023_258, 607_552, 97_952, 291, 722, 296_450),
    'r3-small': (387, 28_900_434, 22_059_008, 3_873_854, 2_967_572),
    'r3-base': (387, 113_804_242, 86_583_296, 15_387_582, 11_833_364),
    'r3-large': (587, 372_623_698, 304_373_760, 47_229_246, 21_020_692),
    'r3-giant': (855, 1_233_863_762, 1_136_489_216, 50_114_878, 47_259_668),
}


def bare(name):
    with torch.device('meta'):
        return build_network(VARIANTS[name])


@pytest.mark.parametrize('name', COUNTS)
def test_sizes(name):
    network = bare(name)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (network, *network.children())]
    assert (len(list(network.parameters())), *sizes) == COUNTS[name]
    assert not list(network.buffers())


def test_sizes_of_the_metric_network():
    assert sum(p.numel() for p in bare('da3metric-large').parameters()) == 334_171_394


@pytest.mark.skipif(not MANIFESTS, reason='there are no manifests of the official networks')
@pytest.mark.parametrize('path', MANIFESTS, ids=lambda path: path.stem)
def test_names_and_shapes_are_the_official_ones(path):
    manifest = json.loads(path.read_text())
    network = bare(path.stem.removeprefix('manifest-'))
    names = {official_name(name): tuple(p.shape) for name, p in network.state_dict().items()}
    expected = {
        name.removeprefix('da3.').removeprefix('model.'): tuple(entry['shape'])
        for name, entry in manifest.items()
    }
    assert names == expected


def test_variants_are_of_one_kind():
    for config in VARIANTS.values():
        backbone = config.backbone
        assert backbone.width % 64 == 0
        assert len(backbone.taps) == 4 and backbone.taps[-1] == backbone.depth - 1
        if backbone.alternate_from is not None:
            assert set(backbone.taps) <= set(backbone.cross_frame_blocks)
    blocks = {name: VARIANTS[name].backbone.cross_frame_blocks for name in COUNTS}
    assert blocks['r3-large'] == (9, 11, 13, 15, 17, 19, 21, 23)
    assert blocks['r3-tiny'] == blocks['r3-small'] == blocks['r3-base'] == (5, 7, 9, 11)
    assert blocks['r3-giant'] == tuple(range(13, 40, 2))
    assert VARIANTS['da3metric-large'].backbone.cross_frame_blocks == ()


# Layers


def test_rotations_turn_by_row_and_column():
    rows, columns = 5, 7
    x = noise(2, 3, 1 + rows * columns, 64)
    grid = [(r + 1.0, c + 1.0) for r in range(rows) for c in range(columns)]
    within, across = rotations(rows, columns, CPU)
    apart = torch.tensor([(0.0, 0.0), *grid], dtype=torch.float64)
    together = torch.tensor([(0.0, 0.0)] + [(1.0, 1.0)] * len(grid), dtype=torch.float64)
    for table, where in ((within, apart), (across, together)):
        assert table.cos.dtype == torch.float32
        got = rotate(x, table).flatten(0, 1)
        for n, head in enumerate(x.double().flatten(0, 1)):
            assert (got[n] - rotated(head, where)).abs().max() < 2e-6


def test_rotated_products_depend_on_the_distance_alone():
    within, _ = rotations(4, 6, CPU)
    q, k = noise(64, seed=1), noise(64, seed=2)
    turned_q = rotate(q.expand(1, 1, 25, 64), within)[0, 0, 1:].unflatten(0, (4, 6))
    turned_k = rotate(k.expand(1, 1, 25, 64), within)[0, 0, 1:].unflatten(0, (4, 6))
    product = torch.einsum('abd,ced->abce', turned_q, turned_k)
    for row, column in ((1, 0), (0, 2), (1, 2)):
        moved = product[row:, column:, row:, column:]
        still = product[: 4 - row, : 6 - column, : 4 - row, : 6 - column]
        torch.testing.assert_close(moved, still, rtol=0, atol=1e-4)
    assert (product[0, 0, 0, 0] - product[0, 0, 0, 1]).abs() > 1e-2


def test_tables_are_made_once_and_work_anywhere():
    first = rotations(3, 9, CPU)
    with torch.inference_mode():
        second = rotations(3, 9, CPU)
        third = rotations(9, 3, CPU)
    assert first[0].cos is second[0].cos
    assert not third[0].cos.is_inference()


@pytest.mark.parametrize(
    ('pattern', 'epsilon'),
    [
        (r'backbone.blocks.*.norm', 1e-6),
        ('_norm', 1e-5),
        ('backbone.norm', 1e-5),
        ('head', 1e-5),
        ('cam_enc', 1e-5),
    ],
)
def test_epsilons(pattern, epsilon):
    network = bare('da3-small')

    def kind(name):
        if name.startswith(('head', 'cam_enc', 'backbone.norm')):
            return name.split('.')[0] if not name.startswith('backbone') else 'backbone.norm'
        return '_norm' if name.endswith(('q_norm', 'k_norm')) else 'backbone.blocks.*.norm'

    norms = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.LayerNorm)}
    chosen = [module for name, module in norms.items() if kind(name) == pattern]
    assert chosen and all(isinstance(m, LayerNorm) and m.eps == epsilon for m in chosen)


def test_norms_answer_in_float32():
    norm = LayerNorm(8, eps=1e-5)
    x = noise(3, 8).to(torch.float16) * 1000
    got = norm(x)
    assert got.dtype == torch.float32
    x = x.double()
    expected = (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    assert (got - expected).abs().max() < 1e-5


def test_feed_forward_layers():
    mlp, glu = Mlp(6, 8, 4), SwiGlu(6, 8)
    x = noise(5, 6)
    y = x @ mlp.fc1.weight.T + mlp.fc1.bias
    y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
    torch.testing.assert_close(mlp(x), y @ mlp.fc2.weight.T + mlp.fc2.bias)
    gate, value = (x @ glu.w12.weight.T + glu.w12.bias).split(8, dim=1)
    y = gate * torch.sigmoid(gate) * value
    torch.testing.assert_close(glu(x), y @ glu.w3.weight.T + glu.w3.bias)


def test_a_block_keeps_the_stream_in_float32():
    for dtype in (torch.bfloat16, torch.float16):
        block = Block(128, 2, normalise=True)
        for name, parameter in block.named_parameters():
            if 'norm' not in name and 'gamma' not in name:
                parameter.data = parameter.data.to(dtype)
        x = 1 + 1e-4 * noise(2, 4, 128)  # below the resolution of either dtype
        out = block(x, rotations(1, 3, CPU)[0])
        assert out.dtype == torch.float32
        assert (out - x).abs().max() < 1 and torch.unique(out).numel() > 900


# Positions


@pytest.mark.parametrize(('rows', 'columns'), [(20, 36), (36, 20), (1, 3), (37, 36), (50, 61)])
def test_positions_are_resized_as_trained(rows, columns):
    backbone = Backbone(BackboneConfig(64, 4, (0, 1, 2, 3), None))
    backbone.pos_embed.copy_(noise(1, 1370, 64))
    got = backbone._positions(rows, columns)[0]
    expected = positions(backbone.pos_embed[0].double(), rows, columns)
    assert got.shape == (1 + rows * columns, 64)
    assert (got - expected).abs().max() < 1e-4
    assert torch.equal(got[0], backbone.pos_embed[0, 0])


def test_positions_of_the_trained_square_are_used_as_stored():
    backbone = Backbone(BackboneConfig(64, 4, (0, 1, 2, 3), None))
    assert backbone._positions(37, 37) is backbone.pos_embed
    images = torch.zeros(1, 3, 518, 518)
    backbone.pos_embed.copy_(noise(1, 1370, 64))
    difference = backbone.embed(images)[0, 1:] - backbone.pos_embed[0, 1:]
    torch.testing.assert_close(difference, backbone.patch_embed.proj.bias.expand(1369, -1))


@pytest.mark.parametrize('shape', [(8, 10, 18), (16, 5, 3), (64, 1, 7)])
@pytest.mark.parametrize('aspect', [1.8, 1.0, 0.5])
def test_pixels_know_their_place(shape, aspect):
    maps = noise(2, *shape)
    expected = maps.double() + pixel_embedding(*shape, aspect)
    assert (add_position_embedding(maps.clone(), aspect) - expected).abs().max() < 1e-6
    low = add_position_embedding(maps.to(torch.bfloat16), aspect)
    assert low.dtype == torch.bfloat16 and (low - expected).abs().max() < 0.05


def test_a_fusion_may_convolve_before_it_enlarges():
    fusion = Fusion(8, has_side=True)
    top, side = noise(2, 8, 5, 9), noise(2, 8, 5, 9, seed=1)
    got = fusion(top, side, (10, 17))
    x = fusion.resConfUnit2(top + fusion.resConfUnit1(side))
    expected = fusion.out_conv(resized(x.double(), 10, 17).float())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


# Pairs


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('cached', [0, 1, 3])
def test_pairs_one_by_one(causal, cached):
    head, S, width = shared_network('r3').cam_dec, 3, 256
    assert isinstance(head, PairHead)
    feature = noise(2, cached + S, width)
    pairs = head(head.source_half(feature), head.target_half(feature[:, cached:]), causal)
    for i in range(cached + S):
        for s in range(S):
            j = cached + s
            asked = i < j if causal else i != j
            assert bool(pairs.predicted[i, s]) == asked
            got = [part[:, i, s] for part in pairs[:-1]]
            if not asked:
                assert not any(part.any() for part in got)
                continue
            e = head.rel_backbone(torch.cat([feature[:, i], feature[:, j]], dim=-1))
            for part, layer in zip(
                got,
                (head.fc_rel_t, head.fc_rel_qvec, head.fc_rel_conf_t, head.fc_rel_conf),
                strict=True,
            ):
                expected = layer(e).reshape(part.shape)
                torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


# Reference views


def merits(tokens):
    """Return how well each view of one clip (S, C) would do, by loops."""
    S = len(tokens)
    if S < 3:
        return np.arange(S) == 0
    unit = [t / np.sqrt((t**2).sum()) for t in tokens]
    cosine = [[float(a @ b) - (a is b) for b in unit] for a in unit]
    score = np.zeros(S)
    for measure in (
        [sum(row) / (S - 1) for row in cosine],
        [np.sqrt((t**2).sum()) for t in tokens],
        [u.var(ddof=1) for u in unit],
    ):
        low, high = min(measure), max(measure)
        score += [abs((m - low) / (high - low + 1e-8) - 0.5) for m in measure]
    return -score


def test_reference_views_chosen_by_loops():
    seen = set()
    for seed, S in enumerate([1, 2, 3, 3, 4, 5, 8, 12]):
        tokens = noise(4, S, 32, seed=seed) * (1 + noise(4, S, 1, seed=seed + 50).abs())
        got = choose_reference(tokens)
        assert got.dtype == torch.int64
        for clip, chosen in zip(tokens.double().numpy(), got.tolist(), strict=True):
            merit = merits(clip).astype(float)
            assert merit[chosen] >= merit.max() - 1e-6
            seen.add(chosen)
    assert len(seen) >= 4


# Metres


K = Intrinsics(fx=200.0, fy=180.0, cx=125.5, cy=69.5, width=252, height=140)


def test_metres_by_the_focal_length():
    depth = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    sky = torch.tensor([[[0.0, 0.29], [0.3, 9.0]]])
    metres = metric_depth(MonoDepth(depth, sky), K)
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres[0, 0], np.array([1.0, 2.0]) * 190 / 300, rtol=1e-6)
    assert np.isnan(metres[0, 1]).all()
    assert torch.equal(depth, torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))


def test_the_metric_network_is_alive():
    answer = tensors_of(shared_network('metric')(sample_images(2)[0]))
    assert (answer['.depth'] > 0).all() and answer['.depth'].std() > 0.05
    assert (answer['.sky'] >= 0).all() and answer['.sky'].std() > 0.01


# What the documentation says


def table_rows(heading):
    text = (ROOT / 'docs' / 'network.md').read_text()
    section = text.split(f'\n## {heading}\n')[1].split('\n## ')[0]
    rows = [line for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip(' `') for cell in row.strip('|').split('|')] for row in rows]


def test_the_documented_sizes_are_true():
    rows = {row[0]: row[1:] for row in table_rows('Sizes') if row[0] in VARIANTS}
    assert list(rows) == list(VARIANTS)
    for name, row in rows.items():
        config, network = VARIANTS[name], bare(name)
        backbone = config.backbone
        parts = [sum(p.numel() for p in m.parameters()) for m in (network, *network.children())]
        expected = [
            *(backbone.width, backbone.depth, len(backbone.cross_frame_blocks)),
            *(backbone.feature_width, config.depth_head.features),
            *(*parts[:3], sum(parts[3:])),
        ]
        assert [int(cell.replace(',', '')) for cell in row] == expected, name


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'column'), [((280, 504), 1), ((378, 504), 2)])
def test_the_documented_cost_of_a_frame_is_true(size, column):
    rows = {row[0]: row[column] for row in table_rows('Sizes')}
    tokens = 1 + size[0] * size[1] // 196
    network = bare('r3-large').eval()

    def giga(cached):
        keys = torch.empty(1, 16, cached, tokens, 64, device='meta')
        sources = torch.empty(1, cached, 2048, device='meta')
        cache = FrameCache((KeyValues(keys, keys),) * 8, (sources,))
        images = torch.empty(1, 1, 3, *size, device='meta')
        with FlopCounterMode(display=False) as counter:
            entry = network.predict(network.describe(images), cache).cache
        return counter.get_total_flops() / 1e9, entry

    one, eight, sixteen = (giga(cached)[0] for cached in (1, 8, 16))
    assert rows['GFLOP of a frame with 1 cached frame'] == f'{one:.0f}'
    assert rows['with 8'] == f'{eight:.0f}' and rows['with 16'] == f'{sixteen:.0f}'
    assert rows['of each further one'] == f'{(sixteen - eight) / 8:.1f}'
    held = sum(t.numel() * t.element_size() for t in tensors_of(giga(1)[1]).values()) / 2**20
    assert rows['cache entry in float32; in bfloat16 half of it'] == f'{held:.0f} MiB'


@pytest.mark.parametrize('shape', [(5, 24), (2, 7, 24), (1, 24)])
def test_a_faster_product_on_a_cpu_is_the_same_product(shape):
    torch.manual_seed(0)
    layer, x = Linear(24, 40), torch.randn(shape)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    with torch.enable_grad():
        assert layer(x).grad_fn is not None  # torch's own, which has a gradient
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected.detach(), atol=1e-5, rtol=0)
        strided = torch.cat([x, x], dim=-1)[..., ::2]
        torch.testing.assert_close(
            layer(strided), torch.nn.functional.linear(strided, layer.weight, layer.bias),
            atol=1e-5, rtol=0,
        )  # fmt: skip
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
