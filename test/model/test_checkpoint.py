"""Weights: the whole of a sound file is loaded, and nothing of any other."""

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from types import SimpleNamespace

from paths import PARITY, ROOT
import pytest
from r3_ros.core.errors import CheckpointError, ModelError, OutputError
from r3_ros.model.building import build_network
from r3_ros.model.variants import VARIANTS
from r3_ros.model.weights import checkpoint
from r3_ros.model.weights.checkpoint import load_network, official_name, save_network
from safetensors import safe_open
from safetensors.torch import save_file
import torch
from torch import nn

MANIFESTS = sorted(PARITY.glob('manifest-*.json'))

#: Names by which the one norm of the ray branch is known.
NORM = 'da3.head.scratch.output_conv2_aux.{}.2.{}'
BIAS = 'da3.head.projects.bias'
WEIGHT = 'da3.head.projects.weight'


class Config:
    """A network small enough to be written to a file in every test."""

    def __init__(self, width=4, blocks=1, encoder=False):
        self.backbone, self.blocks = SimpleNamespace(width=width), blocks
        self.encoder = encoder


class Toy(nn.Module):
    """Has the peculiarities of the real ones: moved names, a shared norm, two confidences."""

    def __init__(self, config):
        super().__init__()
        width = config.backbone.width
        norm = nn.LayerNorm(width)
        self.backbone = nn.Module()
        self.backbone.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.backbone.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.blocks))
        self.head = nn.Module()
        self.head.projects = nn.Linear(width, width)
        self.head.layer1_rn = nn.Conv2d(width, 2, 3, bias=False)
        self.head.output_conv2_aux = nn.ModuleList(
            nn.ModuleDict({'0': nn.Linear(width, width), '2': norm}) for _ in range(4)
        )
        self.cam_dec = nn.Module()
        self.cam_dec.fc_rel_conf = nn.Linear(width, 1)
        self.cam_dec.fc_rel_conf_t = nn.Linear(width, 1)
        if config.encoder:
            self.cam_enc = nn.Linear(9, width)

    @staticmethod
    def keeps_float32(name):
        return name.endswith('_token') or name.startswith('cam_')


TOYS = {
    'toy': Config(),
    'toy-deep': Config(blocks=3, encoder=True),
    'toy-wide': Config(width=6),
}


@pytest.fixture
def toys(monkeypatch):
    """Have the loader know these instead of the real ones."""
    monkeypatch.setattr(checkpoint, '_CONFIGS', TOYS)
    monkeypatch.setattr(checkpoint, 'build_network', Toy)


def weights(variant='toy', prefix='da3.', seed=0):
    """Return what a file of a toy holds, by key: the shared norm once."""
    torch.manual_seed(seed)
    state = Toy(TOYS[variant]).state_dict()
    return {
        f'{prefix}{official_name(name)}': torch.randn_like(tensor)
        for name, tensor in state.items()
        if not re.search(r'aux\.[123]\.2\.', name)
    }


@pytest.fixture
def store(tmp_path):
    """Write tensors to a file."""

    def write(tensors, metadata=None):
        save_file(tensors, tmp_path / 'weights.safetensors', metadata)
        return tmp_path / 'weights.safetensors'

    return write


def refusal(path, **options):
    """Return the message of a refusal, which is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_network(path, **options)
    message = str(caught.value)
    assert message.startswith(f'cannot use {path} as weights: ')
    assert '\n' not in message
    return message.partition('as weights: ')[2]


# --- What is loaded ---


def test_every_parameter_is_the_one_in_the_file(toys, store):
    tensors = weights()
    path = store(tensors)
    loaded = load_network(path)
    state = loaded.network.state_dict()
    for parameter, tensor in state.items():
        name = re.sub(r'(aux\.)\d(\.2\.)', r'\g<1>0\2', official_name(parameter))
        assert torch.equal(tensor, tensors[f'da3.{name}']), parameter
    assert loaded.variant == 'toy' and loaded.notes == () and loaded.image_size is None
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


@pytest.mark.parametrize('prefix', ['', 'model.', 'net.da3.', 'net.module.model.da3.'])
def test_prefixes_of_training_code_do_not_matter(toys, store, prefix):
    tensors = weights(prefix=prefix)
    network = load_network(store(tensors)).network
    assert torch.equal(network.head.projects.bias, tensors[f'{prefix}head.projects.bias'])


def test_a_name_under_two_prefixes_is_refused(toys, store):
    tensors = weights()
    tensors['model.head.projects.bias'] = tensors[BIAS].clone()
    assert '1 unexpected: model.head.projects.bias' in refusal(store(tensors))


@pytest.mark.parametrize('present', [(0,), (2,), (1, 3), (0, 1, 2, 3)])
def test_the_shared_norm_comes_from_the_highest_name_present(toys, store, present):
    tensors = weights()
    for kind in ('weight', 'bias'):
        del tensors[NORM.format(0, kind)]
        for i in present:
            tensors[NORM.format(i, kind)] = torch.full((4,), 1.0 + i)
    network = load_network(store(tensors)).network
    norms = [branch['2'] for branch in network.head.output_conv2_aux]
    for norm in norms:
        assert norm.weight is norms[0].weight
        assert torch.equal(norm.weight, torch.full((4,), 1.0 + max(present)))


def test_an_older_file_gives_its_one_confidence_twice(toys, store):
    tensors = weights()
    for kind in ('weight', 'bias'):
        del tensors[f'da3.cam_dec.fc_rel_conf_t.{kind}']
    loaded = load_network(store(tensors))
    decoder = loaded.network.cam_dec
    assert torch.equal(decoder.fc_rel_conf_t.weight, tensors['da3.cam_dec.fc_rel_conf.weight'])
    assert decoder.fc_rel_conf_t.weight is not decoder.fc_rel_conf.weight
    assert len(loaded.notes) == 1 and 'fc_rel_conf_t' in loaded.notes[0]


def test_half_a_confidence_is_missing(toys, store):
    tensors = weights()
    del tensors['da3.cam_dec.fc_rel_conf_t.bias']
    assert '1 missing: cam_dec.fc_rel_conf_t.bias' in refusal(store(tensors))


def test_parts_that_only_other_networks_have_are_ignored_with_a_note(toys, store):
    extra = {f'da3.cam_enc.{i}.weight': torch.full((3,), float('nan')) for i in range(3)}
    path = store({**weights(), **extra, 'da3.gs_head.steps': torch.ones(2, dtype=torch.int64)})
    notes = load_network(path).notes
    assert notes == ('ignored 3 tensors cam_enc.*', 'ignored 1 tensors gs_head.*')


def test_a_pose_encoder_is_loaded_where_the_network_has_one(toys, store):
    tensors = weights('toy-deep', prefix='model.')
    loaded = load_network(store(tensors))
    assert loaded.variant == 'toy-deep' and loaded.notes == ()
    assert torch.equal(loaded.network.cam_enc.weight, tensors['model.cam_enc.weight'])
    tensors['model.cam_enc.more'] = torch.ones(1)
    assert '1 unexpected: model.cam_enc.more' in refusal(store(tensors))


def test_a_file_written_over_afterwards_does_not_touch_the_network(toys, store):
    tensors = weights()
    path = store(tensors)
    network = load_network(path).network
    path.write_bytes(b'')
    assert torch.equal(network.head.projects.weight, tensors[WEIGHT])


def test_a_file_changed_while_it_is_read_is_refused(toys, store, monkeypatch):
    path = store(weights())

    def change(config):
        os.utime(path, ns=(0, 0))
        return Toy(config)

    monkeypatch.setattr(checkpoint, 'build_network', change)
    assert 'changed while it was being read' in refusal(path)


# --- Types and values ---


@pytest.mark.parametrize('stored', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('wanted', [torch.float32, torch.float16, torch.bfloat16])
def test_types_are_converted_as_torch_does(toys, store, stored, wanted):
    tensors = {key: tensor.to(stored) for key, tensor in weights().items()}
    network = load_network(store(tensors), dtype=wanted).network
    for parameter, tensor in network.named_parameters():
        dtype = torch.float32 if Toy.keeps_float32(parameter) else wanted
        assert tensor.dtype == dtype
        assert torch.equal(tensor, tensors[f'da3.{official_name(parameter)}'].to(dtype)), parameter


@pytest.mark.parametrize('dtype', [torch.float64, torch.int8])
def test_other_stored_types_are_refused(toys, store, dtype):
    message = refusal(store({**weights(), BIAS: torch.zeros(4, dtype=dtype)}))
    assert f'{BIAS} is stored as ' in message and 'bfloat16' in message


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('stored', [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(toys, store, value, stored):
    tensors = {key: tensor.to(stored) for key, tensor in weights().items()}
    tensors[WEIGHT][3, 2] = value
    assert f'{WEIGHT} holds a value that is not finite' in refusal(store(tensors))


def test_values_too_large_for_the_type_asked_for_are_refused(toys, store):
    tensors = weights()
    tensors[WEIGHT][0, 0] = -1e5
    path = store(tensors)
    message = refusal(path, dtype=torch.float16)
    assert f'{WEIGHT} holds a value too large for torch.float16' in message
    assert load_network(path, dtype=torch.bfloat16).network.head.projects.weight[0, 0] < -9e4


@pytest.mark.parametrize('device', ['cuda:77', 'moon'])
def test_a_device_that_is_not_there_is_reported(toys, store, device):
    with pytest.raises(ModelError, match=f'cannot move the weights to {device}: .'):
        load_network(store(weights()), device=device)


# --- What does not fit ---


def test_missing_and_unexpected_keys_are_named(toys, store):
    tensors = weights()
    tensors['da3.head.project.bias'] = tensors.pop(BIAS)
    for i in range(9):
        tensors[f'da3.stray{i}'] = torch.ones(1)
    message = refusal(store(tensors))
    assert '1 missing: head.projects.bias' in message
    assert '10 unexpected: da3.head.project.bias, da3.stray0' in message
    assert 'and 5 more' in message and message.count('stray') == 4


def test_another_shape_is_named_with_both_shapes(toys, store):
    tensors = {**weights(), WEIGHT: torch.zeros(4, 5), BIAS: torch.zeros(())}
    tensors[NORM.format(2, 'bias')] = torch.zeros(3)
    message = refusal(store(tensors))
    assert '3 of another shape: ' in message
    assert f'{WEIGHT} (4x5, not 4x4)' in message and f'{BIAS} (a scalar, not 4)' in message
    assert f'{NORM.format(2, "bias")} (3, not 4)' in message


def test_a_file_of_another_variant_is_recognised(toys, store):
    path = store(weights('toy-deep'))
    assert 'it is a toy-deep file and not toy: ' in refusal(path, variant='toy')
    tensors = weights('toy-deep')
    del tensors[BIAS]
    assert 'does not fit toy-wide' in refusal(store(tensors), variant='toy-wide')
    assert 'the nearest is toy-deep: 1 missing' in refusal(store(tensors))


def test_a_file_of_another_model_is_of_no_known_network(toys, store):
    message = refusal(store({'conv1.weight': torch.ones(3), 'fc.bias': torch.ones(2)}))
    assert 'of no known network (toy, toy-deep' in message


def test_names_of_a_damaged_file_stay_on_one_line(toys, store):
    strays = {'da3.a\nb\x1b[2J': torch.ones(1), 'da3.' + 'x' * 10_000: torch.ones(1)}
    message = refusal(store({**weights(), **strays}))
    assert r'a\nb\x1b[2J' in message and len(message) < 1500


def test_an_unknown_variant_is_no_fault_of_the_file(toys, store):
    with pytest.raises(ModelError, match='no network r4; choose one of toy, ') as caught:
        load_network(store(weights()), variant='r4')
    assert not isinstance(caught.value, CheckpointError)


# --- Files that are no weights ---


def test_paths_without_a_file_are_reported(toys, tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'none.safetensors', tmp_path, tmp_path / 'pipe'):
        assert 'no such file' in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_that_may_not_be_read_is_reported(toys, store):
    path = store(weights())
    path.chmod(0)
    assert 'Permission denied' in refusal(path)


def test_a_truncated_file_is_refused_wherever_it_ends(toys, store):
    path = store(weights())
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], 'little')
    for length in (0, 1, 7, 8, header - 1, header, (header + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert 'damaged, cut off' in refusal(path)
    path.write_bytes(whole + b'more')
    assert 'damaged, cut off' in refusal(path)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickle_is_refused_without_being_run(toys, tmp_path, zipped):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'sprung'),)

    path = tmp_path / 'weights.safetensors'
    if zipped:
        torch.save({'a': Trap()}, path)
    else:
        path.write_bytes(pickle.dumps({'a': Trap()}))
    assert 'a pickle' in refusal(path)
    assert not (tmp_path / 'sprung').exists()


def test_other_files_are_refused(toys, tmp_path):
    path = tmp_path / 'weights.safetensors'
    for content, what in (
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'Git LFS pointer'),
        (b'<!DOCTYPE html><html></html>', 'web page'),
        (b'\x89PNG\r\n\x1a\n' + bytes(100), 'no safetensors file'),
        (b'hello', 'no safetensors file'),
        (bytes(1000), 'no safetensors file'),
    ):
        path.write_bytes(content)
        assert what in refusal(path), content


# --- The size of the training images ---


def test_the_size_of_the_training_images_is_read(toys, store):
    assert load_network(store(weights(), {'image_size': '168'})).image_size == 168
    assert 'images of 169 pixels' in refusal(store(weights(), {'image_size': '169'}))


# --- Saving ---


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_saved_is_loaded_again(toys, store, tmp_path, dtype):
    first = load_network(store(weights()), dtype=dtype).network
    path = tmp_path / 'deeper' / 'saved.safetensors'
    save_network(first, path, {'trained on': 'toys'})
    with safe_open(path, 'pt') as file:
        assert set(file.keys()) == weights().keys(), 'the shared norm is there once'
        assert file.metadata()['trained on'] == 'toys'
    second = load_network(path, dtype=dtype).network
    for (name, one), (other_name, other) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert name == other_name and one.dtype == other.dtype and torch.equal(one, other)


def test_what_nobody_could_load_is_not_saved(toys, tmp_path):
    path = tmp_path / 'a.safetensors'
    save_network(Toy(TOYS['toy']), path)
    before = path.read_bytes()
    network = Toy(TOYS['toy'])
    with torch.no_grad():
        network.head.projects.bias[1] = float('nan')
    with pytest.raises(OutputError, match=f'{BIAS} is torch.float32 or not finite'):
        save_network(network, path)
    with pytest.raises(OutputError, match='float64'):
        save_network(Toy(TOYS['toy']).double(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_file(toys, tmp_path):
    path = tmp_path / 'a.safetensors'
    path.write_bytes(b'old')
    program = (
        'import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        'from r3_ros.model.weights.checkpoint import save_network; from torch import nn; '
        'from r3_ros.core.errors import OutputError\n'
        'network = nn.Linear(500, 500)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n'
        'try: save_network(network, sys.argv[1])\n'
        'except OutputError as error: print(error)'
    )
    answer = run_python(program, path)
    assert answer.startswith(f'cannot write {path}: ')
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def run_python(program, *arguments):
    """Run a program on the sources and return what it prints."""
    return subprocess.run(
        [sys.executable, '-c', program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


# --- The real networks ---


@pytest.mark.skipif(not MANIFESTS, reason='there are no manifests of the official networks here')
@pytest.mark.parametrize('path', MANIFESTS, ids=lambda path: path.stem)
def test_keys_and_shapes_are_the_official_ones(path):
    manifest = json.loads(path.read_text())
    variant = path.stem.removeprefix('manifest-')
    with torch.device('meta'):
        state = build_network(VARIANTS[variant]).state_dict()
    ours = {official_name(name): list(tensor.shape) for name, tensor in state.items()}
    assert ours == {key.partition('.')[2]: entry['shape'] for key, entry in manifest.items()}


@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS)
def test_every_network_is_recognised_by_its_keys(variant):
    with torch.device('meta'):
        state = build_network(VARIANTS[variant]).state_dict(keep_vars=True)
    shapes = {f'da3.{official_name(name)}': tuple(t.shape) for name, t in state.items()}
    name, match = checkpoint._identify(shapes, None)
    assert name == variant and not match.notes
    # Only the norm of the ray branch is shared.
    assert len({id(tensor) for tensor in state.values()}) == len(match.keys)


def test_a_network_from_a_file_computes_what_the_saved_one_does(tmp_path):
    torch.manual_seed(0)
    network = build_network(VARIANTS['r3-tiny']).eval()
    path = tmp_path / 'tiny.safetensors'
    save_network(network, path)
    loaded = load_network(path)
    assert loaded.variant == 'r3-tiny'
    images = torch.rand(1, 2, 3, 28, 42)
    with torch.inference_mode():
        expected, actual = network(images), loaded.network(images)
    assert torch.equal(actual.depth, expected.depth) and torch.equal(actual.fov, expected.fov)
    torch.testing.assert_close(
        actual.pairs.translation, expected.pairs.translation, rtol=0.0, atol=5e-3
    )  # the iterations of the solver amplify the last digits


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_loading_takes_no_second_copy(tmp_path, dtype):
    """115 MB of weights, of which the scratch memory is a hundredth."""
    path = tmp_path / 'small.safetensors'
    with torch.device('meta'):
        network = build_network(VARIANTS['r3-small'])
    save_network(network.to_empty(device='cpu').apply(zero), path)
    program = (
        'import resource, sys, torch; from r3_ros.model.weights.checkpoint import load_network\n'
        'def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'before = peak()\n'
        'loaded = load_network(sys.argv[1], dtype=getattr(torch, sys.argv[2]))\n'
        'print(peak() - before)'
    )
    growth, size = int(run_python(program, path, dtype)), path.stat().st_size
    share = {'float32': 1.0, 'bfloat16': 0.6}[dtype]
    assert growth < share * size + 0.2 * size


def zero(module):
    for parameter in module.parameters(recurse=False):
        nn.init.zeros_(parameter)


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_weights_go_to_the_gpu(toys, store, dtype):
    tensors = weights()
    network = load_network(store(tensors), dtype=dtype, device='cuda').network
    for name, parameter in network.named_parameters():
        expected = tensors[f'da3.{official_name(name)}'].to(parameter.dtype)
        assert parameter.device.type == 'cuda' and torch.equal(parameter.cpu(), expected)
