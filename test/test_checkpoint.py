"""Weights: the whole of a sound file is loaded, and nothing of any other."""

import contextlib
import difflib
import hashlib
import json
import os
from pathlib import Path
import pickle
import re
import resource
import shlex
import struct
import subprocess
import sys

import numpy as np
import pytest
from r3_ros.errors import CheckpointError, ModelError, OutputError
from r3_ros.model import checkpoint
from r3_ros.model.checkpoint import inspect_checkpoint, load_network, save_network
from r3_ros.model.checkpoint_file import CheckpointFile, CONVERT, is_finite
from r3_ros.model.checkpoint_keys import official_name
from r3_ros.model.network import build_network
from r3_ros.model.variants import VARIANTS
from safetensors.torch import load_file, save_file
import torch
from torch import nn

PARITY = Path(__file__).parents[2] / 'shared' / 'parity'
MANIFESTS = sorted(PARITY.glob('manifest-*.json'))

#: Names by which the one norm of the ray branch is known, and the one that files hold.
NORM = 'head.scratch.output_conv2_aux.{}.2.{}'
ROOT = Path(__file__).resolve().parents[1]


class Config:
    """A network small enough to be written to a file in every test."""

    def __init__(self, name, width=4, camera=None, blocks=1, encoder=False):
        self.name, self.width, self.blocks, self.encoder = name, width, blocks, encoder
        self.camera = camera or VARIANTS['r3-tiny'].camera


class Toy(nn.Module):
    """Has the peculiarities of the real ones: moved names, a shared norm, two confidences."""

    def __init__(self, config):
        super().__init__()
        width = config.width
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
        if config.camera is VARIANTS['r3-tiny'].camera:
            self.cam_dec = nn.Module()
            self.cam_dec.fc_rel_conf = nn.Linear(width, 1)
            self.cam_dec.fc_rel_conf_t = nn.Linear(width, 1)
        if config.encoder:
            self.cam_enc = nn.Linear(9, width)

    @staticmethod
    def keeps_float32(name):
        return name.endswith('_token') or name.startswith('cam_')


TOYS = {
    'toy': Config('toy'),
    'toy-wide': Config('toy-wide', width=6),
    'toy-deep': Config('toy-deep', blocks=3, encoder=True),
    'toy-metric': Config('toy-metric', width=8, camera=VARIANTS['da3metric-large'].camera),
}


@pytest.fixture
def toys(monkeypatch):
    """Have the loader know these instead of the real ones."""
    monkeypatch.setattr(checkpoint, 'VARIANTS', TOYS)
    monkeypatch.setattr(checkpoint, 'build_network', Toy)


def weights(variant='toy', prefix='da3.', seed=0):
    """Return what a file of a toy holds, by key: the shared norm once."""
    torch.manual_seed(seed)
    state = Toy(TOYS[variant]).state_dict()
    names = {official_name(name): torch.randn_like(tensor) for name, tensor in state.items()}
    shared = {NORM.format(i, kind) for i in (1, 2, 3) for kind in ('weight', 'bias')}
    return {f'{prefix}{name}': names[name] for name in names if name not in shared}


@pytest.fixture
def store(tmp_path):
    """Write tensors to a file."""

    def write(tensors, name='weights.safetensors'):
        save_file(tensors, tmp_path / name, {'format': 'pt'})
        return tmp_path / name

    return write


def refusal(path, loader=load_network, **options):
    """Return the message of a refusal, which is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        loader(path, **options)
    message = str(caught.value)
    assert message.startswith(f'cannot use {path} as weights: ')
    assert '\n' not in message
    return message.partition('as weights: ')[2]


def headed(header, data=b''):
    """Return a safetensors file of a header, taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def entry(begin, end, shape=(2,), dtype='F32'):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]}


# --- What is loaded ---


def test_every_parameter_is_the_one_in_the_file(toys, store):
    tensors = weights()
    loaded = load_network(store(tensors))
    state = loaded.network.state_dict()
    for parameter, tensor in state.items():
        name = re.sub(r'(aux\.)\d(\.2\.)', r'\g<1>0\2', official_name(parameter))
        assert torch.equal(tensor, tensors[f'da3.{name}']), parameter
    assert loaded.variant == 'toy' and loaded.notes == ()
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


def test_the_digest_is_that_of_the_whole_file(toys, store):
    path = store({**weights(), 'da3.gs_head.weight': torch.ones(7)})
    assert load_network(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_values_arrive_whatever_their_size(toys, store, monkeypatch):
    """Several times the bytes that are read at once, and not a multiple of them."""
    monkeypatch.setitem(TOYS, 'toy-large', Config('toy-large', width=1100))
    tensors = weights('toy-large')
    loaded = load_network(store(tensors), dtype=torch.bfloat16)
    for i in range(4):
        name = f'head.output_conv2_aux.{i}.0.weight'
        expected = tensors[f'da3.{official_name(name)}'].to(torch.bfloat16)
        assert torch.equal(loaded.network.get_parameter(name), expected)


@pytest.mark.parametrize(
    'prefix', ['', 'da3.', 'model.', 'net.', 'net.da3.', 'module.model.', 'net.module.model.da3.']
)
def test_official_prefixes_do_not_matter(toys, store, prefix):
    tensors = weights(prefix=prefix)
    network = load_network(store(tensors)).network
    assert torch.equal(
        network.backbone.cls_token, tensors[f'{prefix}backbone.pretrained.cls_token']
    )
    missing = f'{prefix}head.projects.bias'
    del tensors[missing]
    assert f'1 missing: {missing} ' in refusal(store(tensors), variant='toy')


def test_a_name_under_two_prefixes_is_refused(toys, store):
    tensors = weights()
    tensors['model.head.projects.bias'] = tensors['da3.head.projects.bias'].clone()
    message = refusal(store(tensors))
    assert 'da3.head.projects.bias' in message and 'model.head.projects.bias' in message


@pytest.mark.parametrize('present', [(0,), (2,), (1, 3), (0, 1, 2, 3)])
def test_the_shared_norm_comes_from_the_highest_name_present(toys, store, present):
    tensors = weights()
    for kind in ('weight', 'bias'):
        del tensors[f'da3.{NORM.format(0, kind)}']
        for i in present:
            tensors[f'da3.{NORM.format(i, kind)}'] = torch.full((4,), 1.0 + i)
    network = load_network(store(tensors)).network
    norms = [branch['2'] for branch in network.head.output_conv2_aux]
    for norm in norms:
        assert norm.weight is norms[0].weight
        assert torch.equal(norm.weight, torch.full((4,), 1.0 + max(present)))


def test_a_norm_without_any_of_its_names_is_missing_once(toys, store):
    tensors = weights()
    del tensors[f'da3.{NORM.format(0, "bias")}']
    assert f'1 missing: da3.{NORM.format(0, "bias")}' in refusal(store(tensors))


def test_an_older_file_gives_its_one_confidence_twice(toys, store):
    tensors = weights()
    for kind in ('weight', 'bias'):
        del tensors[f'da3.cam_dec.fc_rel_conf_t.{kind}']
    loaded = load_network(store(tensors))
    decoder = loaded.network.cam_dec
    assert torch.equal(decoder.fc_rel_conf_t.weight, tensors['da3.cam_dec.fc_rel_conf.weight'])
    assert torch.equal(decoder.fc_rel_conf_t.bias, tensors['da3.cam_dec.fc_rel_conf.bias'])
    assert decoder.fc_rel_conf_t.weight is not decoder.fc_rel_conf.weight
    assert len(loaded.notes) == 1 and 'fc_rel_conf_t' in loaded.notes[0]


def test_half_a_confidence_is_missing(toys, store):
    tensors = weights()
    del tensors['da3.cam_dec.fc_rel_conf_t.bias']
    assert '1 missing: da3.cam_dec.fc_rel_conf_t.bias' in refusal(store(tensors))


@pytest.mark.parametrize(
    'part', ['cam_enc', 'aux_cam_decs', 'gs_head', 'gs_adapter', 'projections']
)
def test_parts_without_use_are_ignored_with_one_note(toys, store, part):
    extra = {f'da3.{part}.{i}.weight': torch.full((3,), float('nan')) for i in range(3)}
    path = store({**weights(), **extra, 'da3.gs_head.steps': torch.ones(2, dtype=torch.int64)})
    notes = load_network(path, variant='toy').notes
    assert notes == inspect_checkpoint(path).notes
    mine = [note for note in notes if f'{part}.*' in note]
    assert len(mine) == 1 and ('4' if part == 'gs_head' else '3') in mine[0]


def test_a_pose_encoder_is_loaded_where_the_network_has_one(toys, store):
    tensors = weights('toy-deep', prefix='model.')
    loaded = load_network(store(tensors))
    assert loaded.variant == 'toy-deep' and loaded.notes == ()
    assert torch.equal(loaded.network.cam_enc.weight, tensors['model.cam_enc.weight'])
    tensors['model.cam_enc.more'] = torch.ones(1)
    assert '1 unexpected: model.cam_enc.more' in refusal(store(tensors))


def test_of_a_nested_file_the_network_asked_for_is_loaded(toys, store):
    any_view = weights(prefix='model.da3.')
    metric = weights('toy-metric', prefix='model.da3_metric.')
    path = store({**any_view, **metric})
    token = 'backbone.pretrained.cls_token'

    found = load_network(path)
    assert found.variant == 'toy'
    assert torch.equal(found.network.backbone.cls_token, any_view[f'model.da3.{token}'])
    assert len(found.notes) == 1 and f'{len(metric)} tensors da3_metric.*' in found.notes[0]

    asked = load_network(path, variant='toy-metric')
    assert torch.equal(asked.network.backbone.cls_token, metric[f'model.da3_metric.{token}'])
    assert len(asked.notes) == 1 and f'{len(any_view)} tensors da3.*' in asked.notes[0]

    path = store({**any_view, **metric, 'model.stray': torch.ones(1)})
    for variant in (None, 'toy', 'toy-metric'):
        assert '1 unexpected: model.stray' in refusal(path, variant=variant)
    assert load_network(store(metric)).variant == 'toy-metric'


# --- Types ---


@pytest.mark.parametrize('stored', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('wanted', [torch.float32, torch.float16, torch.bfloat16])
def test_types_are_converted_as_torch_does(toys, store, stored, wanted):
    tensors = {key: tensor.to(stored) for key, tensor in weights().items()}
    network = load_network(store(tensors), dtype=wanted).network
    for parameter, tensor in network.named_parameters():
        dtype = torch.float32 if Toy.keeps_float32(parameter) else wanted
        assert tensor.dtype == dtype
        assert torch.equal(tensor, tensors[f'da3.{official_name(parameter)}'].to(dtype)), parameter


@pytest.mark.parametrize('dtype', [torch.float64, torch.int8, torch.float8_e4m3fn])
def test_other_stored_types_are_refused(toys, store, dtype):
    tensors = weights()
    tensors['da3.head.projects.bias'] = tensors['da3.head.projects.bias'].to(dtype)
    path = store(tensors)
    for loader in (load_network, inspect_checkpoint):
        message = refusal(path, loader)
        assert 'da3.head.projects.bias is stored as ' in message and 'BF16' in message


def test_other_types_are_not_asked_for(toys, store):
    with pytest.raises(ModelError, match='float64.*bfloat16'):
        load_network(store(weights()), dtype=torch.float64)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('stored', [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(toys, store, value, stored):
    tensors = {key: tensor.to(stored) for key, tensor in weights().items()}
    tensors['da3.head.projects.weight'][3, 2] = value
    message = refusal(store(tensors))
    assert 'da3.head.projects.weight holds a value that is not finite' in message


def test_values_too_large_for_the_type_asked_for_are_refused(toys, store):
    tensors = weights()
    tensors['da3.head.projects.weight'][0, 0] = -1e5
    path = store(tensors)
    message = refusal(path, dtype=torch.float16)
    assert 'da3.head.projects.weight holds a value too large for float16' in message
    assert load_network(path, dtype=torch.bfloat16).network.head.projects.weight[0, 0] < -9e4


def test_the_largest_and_smallest_numbers_are_finite():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        limits = torch.finfo(dtype)
        numbers = [limits.max, limits.min, limits.tiny, limits.smallest_normal / 4, 0.0, -0.0]
        assert is_finite(torch.tensor(numbers, dtype=dtype))
        assert not is_finite(torch.tensor([1.0, float('-nan')], dtype=dtype))
    assert is_finite(torch.tensor(3.0)) and is_finite(torch.empty(0, 4))


# --- What does not fit ---


def test_a_missing_key_is_named_with_the_one_meant(toys, store):
    tensors = weights()
    tensors['da3.head.project.bias'] = tensors.pop('da3.head.projects.bias')
    message = refusal(store(tensors))
    assert (
        '1 missing: da3.head.projects.bias (closest in the file: da3.head.project.bias)' in message
    )
    assert (
        '1 unexpected: da3.head.project.bias (closest in the network: da3.head.projects.bias)'
        in message
    )


def test_a_key_too_many_is_named_with_the_closest(toys, store):
    message = refusal(store({**weights(), 'da3.cam_dec.fc_rel_conf_s.bias': torch.ones(1)}))
    assert (
        'it fits no known network; nearest is toy: 1 unexpected: da3.cam_dec.fc_rel_conf_s.bias '
        '(closest in the network: da3.cam_dec.fc_rel_conf_t.bias)' in message
    )
    assert 'missing' not in message


def test_another_shape_is_told_with_both_shapes(toys, store):
    tensors = weights()
    tensors['da3.head.projects.weight'] = torch.zeros(4, 5)
    tensors['da3.head.projects.bias'] = torch.zeros(())
    message = refusal(store(tensors))
    assert '2 of another shape: ' in message
    assert 'da3.head.projects.weight (4x5 in the file, 4x4 wanted)' in message
    assert 'da3.head.projects.bias (a scalar in the file, 4 wanted)' in message


def test_the_shape_of_every_alias_counts(toys, store):
    tensors = {**weights(), f'da3.{NORM.format(2, "bias")}': torch.zeros(3)}
    assert '1 of another shape: da3.head.scratch.output_conv2_aux.2.2' in refusal(store(tensors))


def test_of_many_faults_five_of_a_kind_are_listed(toys, store):
    tensors = weights()
    for i in range(9):
        tensors[f'da3.stray{i}'] = torch.ones(1)
    message = refusal(store(tensors), variant='toy')
    assert '9 unexpected: ' in message and 'and 4 more' in message
    assert message.count('stray') == 5


def test_a_file_of_another_variant_is_recognised(toys, store):
    path = store(weights('toy-deep'))
    assert 'it is a toy-deep file and not toy: ' in refusal(path, variant='toy')
    tensors = weights('toy-deep')
    del tensors['da3.head.projects.bias']
    message = refusal(store(tensors), variant='toy-wide')
    assert 'nearer is toy-deep, with 1 difference' in message


def test_a_file_of_another_model_is_not_of_a_known_one(toys, store):
    message = refusal(store({'conv1.weight': torch.ones(3), 'fc.bias': torch.ones(2)}))
    assert 'known network (toy, toy-wide' in message
    assert 'known network' in refusal(store({'__': torch.ones(0)}))


def test_names_of_a_damaged_file_stay_on_one_line(toys, store):
    strays = {'da3.a\nb\x1b[2J': torch.ones(1), 'da3.' + 'x' * 10_000: torch.ones(1)}
    message = refusal(store({**weights(), **strays}))
    assert r'a\nb\x1b[2J' in message and len(message) < 1500


def test_of_absurdly_many_tensors_few_are_compared(toys, tmp_path, monkeypatch):
    compared = []
    find = difflib.get_close_matches

    def count(name, names, *arguments):
        compared.append(len(names))
        return find(name, names, *arguments)

    monkeypatch.setattr(difflib, 'get_close_matches', count)
    path, tensors = tmp_path / 'weights.safetensors', 20_000
    names = {f'da3.backbone.{i}': entry(4 * i, 4 * i + 4, (1,)) for i in range(tensors)}
    path.write_bytes(headed(names, bytes(4 * tensors)))
    assert f'{tensors} unexpected' in refusal(path, variant='toy')
    assert 0 < sum(compared) < 2 * tensors


def test_an_unknown_variant_is_no_fault_of_the_file(toys, store):
    with pytest.raises(ModelError, match='no network r4; choose one of toy, ') as caught:
        load_network(store(weights()), variant='r4')
    assert not isinstance(caught.value, CheckpointError)


@pytest.mark.parametrize('device', ['cuda:77', 'moon'])
def test_a_device_that_is_not_there_is_told(toys, store, device):
    with pytest.raises(ModelError, match=f'cannot put the weights on {device}: .'):
        load_network(store(weights()), device=device)


# --- Files that are no weights ---


def test_paths_without_a_file_are_told(toys, tmp_path):
    assert 'no such file' in refusal(tmp_path / 'none.safetensors')
    assert 'is a folder' in refusal(tmp_path)
    (tmp_path / 'pipe').unlink(missing_ok=True)
    os.mkfifo(tmp_path / 'pipe')
    assert 'no regular file' in refusal(tmp_path / 'pipe')
    (tmp_path / 'file').touch()
    assert 'Not a directory' in refusal(tmp_path / 'file' / 'weights.safetensors')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_that_may_not_be_read_is_told(toys, store):
    path = store(weights())
    path.chmod(0)
    assert 'Permission denied' in refusal(path)


def test_a_truncated_file_is_refused_wherever_it_ends(toys, store):
    path = store(weights())
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], 'little')
    assert 'empty' in refusal(shortened(path, whole, 0))
    for length in (1, 7, 8, 9, header - 1):
        assert 'cut off within its header' in refusal(shortened(path, whole, length))
    for length in (header, header + 1, (header + len(whole)) // 2, len(whole) - 1):
        for loader in (load_network, inspect_checkpoint):
            assert 'cut off or damaged' in refusal(shortened(path, whole, length), loader)
    assert 'cut off or damaged' in refusal(shortened(path, whole + b'more', len(whole) + 4))


def shortened(path, whole, length):
    path.write_bytes(whole[:length])
    return path


@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickle_is_refused_and_can_be_converted_as_told(toys, tmp_path, zipped):
    path, converted = tmp_path / 'old.pt', tmp_path / 'new.safetensors'
    tensors = weights()
    tensors[f'da3.{NORM.format(1, "bias")}'] = tensors[f'da3.{NORM.format(0, "bias")}']
    torch.save({'state_dict': tensors}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert 'a pickle' in message
    command = shlex.split(message[message.index('python -c') :])
    assert command == shlex.split(CONVERT)
    subprocess.run([sys.executable, *command[1:3], path, converted], check=True)
    loaded = load_network(converted)
    assert torch.equal(loaded.network.head.projects.bias, tensors['da3.head.projects.bias'])


@pytest.mark.parametrize('protocol', range(2, 6))
def test_a_plain_pickle_is_refused_without_being_run(toys, tmp_path, protocol):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'sprung'),)

    path = tmp_path / 'weights.safetensors'
    path.write_bytes(pickle.dumps({'a': Trap()}, protocol=protocol))
    assert 'a pickle' in refusal(path)
    assert not (tmp_path / 'sprung').exists()


def test_other_files_are_refused(toys, tmp_path):
    path = tmp_path / 'weights.safetensors'
    for content, what in (
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'Git LFS pointer'),
        (b'<!DOCTYPE html><html></html>', 'web page'),
        (b'\x89PNG\r\n\x1a\n' + bytes(100), 'no safetensors file'),
        (b'hello', 'cut off or'),
        (bytes(1000), 'cut off or damaged'),
    ):
        path.write_bytes(content)
        assert re.search(f'{what}|no safetensors', refusal(path)), content


def test_a_header_that_begins_like_a_pickle_is_a_header(toys, tmp_path):
    text = json.dumps({'a': entry(0, 8)}).encode().ljust(0x0280)
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(headed(text, bytes(8)))
    assert path.read_bytes()[:2] == b'\x80\x02'
    assert CheckpointFile(path).tensors[0].key == 'a'


@pytest.mark.parametrize(
    'content',
    [
        struct.pack('<Q', 2**63) + b'{}',
        struct.pack('<Q', 2**40) + b'{}',
        struct.pack('<Q', 17 << 20) + bytes(18 << 20),
        headed(b'{"a":'),
        headed(b'[]'),
        headed(b'\xff\xfe{}'),
        headed(b'[' * 100_000),
        headed({'a': entry(0, 8), 'b': entry(4, 12)}, bytes(12)),
        headed({'a': entry(0, 8), 'b': entry(12, 20)}, bytes(20)),
        headed({'a': entry(8, 0)}, bytes(8)),
        headed({'a': entry(-8, 0)}, bytes(8)),
        headed({'a': entry(0, 8, shape=[-2])}, bytes(8)),
        headed({'a': entry(0, 8, shape=[3])}, bytes(8)),
        headed({'a': entry(0, 8, shape=[2**62, 8])}, bytes(8)),
        headed({'a': entry(0, 2**40, shape=[2**38])}, bytes(8)),
        headed({'a': entry(0, 8, dtype='F31')}, bytes(8)),
        headed({'a': {'dtype': 'F32'}}, bytes(8)),
        headed(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 8)).encode(),) * 2), bytes(8)),
    ],
)
def test_headers_that_lie_are_refused(toys, tmp_path, content):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(path)
    assert 'damaged' in message or 'cut off' in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_any_damage_to_a_header_is_told(toys, store):
    """No byte of it leads to another exception, or to other weights."""
    path = store(weights())
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], 'little')
    expected = load_network(path).network.state_dict()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(header)] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            for name, tensor in load_network(path).network.state_dict().items():
                assert torch.equal(tensor, expected[name])


# --- A file that changes ---


@pytest.mark.parametrize('change', ['grown', 'cut', 'rewritten'])
def test_a_file_changed_while_it_is_read_is_refused(toys, store, change):
    path = store(weights())

    def interfere(done, total):
        with open(path, 'r+b') as file:
            if change == 'cut':
                file.truncate(done)
            elif change == 'grown':
                file.seek(0, os.SEEK_END)
                file.write(b'more')
            else:
                file.seek(total - 4)
                file.write(b'\0\0\0\0')
        os.utime(path, ns=(0, 0))

    assert 'changed while it was being read' in refusal(path, progress=interfere)


def test_a_file_replaced_while_it_is_read_is_read_to_its_end(toys, store, tmp_path):
    tensors, path = weights(), store(weights())
    other = store(weights(seed=1), 'other.safetensors')

    def replace(done, total):
        if other.exists():
            os.replace(other, path)

    network = load_network(path, progress=replace).network
    assert torch.equal(network.head.projects.weight, tensors['da3.head.projects.weight'])


def test_a_file_replaced_afterwards_does_not_touch_the_network(toys, store):
    tensors = weights()
    path = store(tensors)
    network = load_network(path).network
    path.write_bytes(b'')
    assert torch.equal(network.head.projects.weight, tensors['da3.head.projects.weight'])


def test_progress_runs_from_the_header_to_the_end(toys, store):
    path = store({**weights(), 'da3.gs_head.weight': torch.ones(700_000)})
    calls = []
    load_network(path, progress=lambda done, total: calls.append((done, total)))
    done = [call[0] for call in calls]
    assert done == sorted(set(done)) and done[-1] == path.stat().st_size
    assert {call[1] for call in calls} == {path.stat().st_size}


# --- Without the tensors ---


def test_inspection_needs_the_header_alone(toys, store):
    tensors = weights()
    tensors['da3.head.projects.weight'] = tensors['da3.head.projects.weight'].half()
    tensors['da3.head.projects.bias'][:] = float('nan')
    path = store(tensors)
    info = inspect_checkpoint(path)
    assert info == inspect_checkpoint(path, 'toy')
    assert info.variant == 'toy' and info.notes == ()
    assert info.size_bytes == path.stat().st_size
    assert info.stored_dtypes == ('F16', 'F32')
    assert 'it is a toy file' in refusal(path, inspect_checkpoint, variant='toy-wide')


# --- Saving ---


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_saved_is_loaded_again(toys, store, tmp_path, dtype):
    first = load_network(store(weights()), dtype=dtype).network
    path = tmp_path / 'deeper' / 'saved.safetensors'
    save_network(first, path, {'trained on': 'toys'})
    assert load_file(path).keys() == weights().keys(), 'the shared norm is there once'
    with CheckpointFile(path) as file:
        assert b'"trained on":"toys"' in file.header
    second = load_network(path, dtype=dtype).network
    for (name, one), (other_name, other) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert name == other_name and one.dtype == other.dtype and torch.equal(one, other)


def test_a_network_in_training_can_be_saved(toys, tmp_path):
    network = Toy(TOYS['toy'])
    network.head.projects.weight = nn.Parameter(torch.randn(8, 4).T[:, :4].contiguous().T)
    assert not network.head.projects.weight.is_contiguous()
    save_network(network, tmp_path / 'a.safetensors')
    loaded = load_network(tmp_path / 'a.safetensors').network
    assert torch.equal(loaded.head.projects.weight, network.head.projects.weight)


def test_what_nobody_could_load_is_not_saved(toys, tmp_path):
    path = tmp_path / 'a.safetensors'
    save_network(Toy(TOYS['toy']), path)
    before = path.read_bytes()
    network = Toy(TOYS['toy'])
    with torch.no_grad():
        network.head.projects.bias[1] = float('nan')
    with pytest.raises(
        OutputError, match=r'da3\.head\.projects\.bias is torch\.float32 or not fin'
    ):
        save_network(network, path)
    with pytest.raises(OutputError, match='float64'):
        save_network(Toy(TOYS['toy']).double(), path)
    with pytest.raises(OutputError, match='exists already'):
        save_network(Toy(TOYS['toy']), path, overwrite=False)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(toys, tmp_path):
    path = tmp_path / 'a.safetensors'
    path.write_bytes(b'old')
    program = (
        'import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        'from r3_ros.model.checkpoint import save_network; from torch import nn; '
        'from r3_ros.errors import OutputError\n'
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


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_network_is_recognised_by_its_header(tmp_path, variant):
    """A sparse file: its header is whole, its tensors are holes of the file system."""
    with torch.device('meta'):
        state = build_network(VARIANTS[variant]).state_dict()
    header, end = {}, 0
    for name, tensor in state.items():
        begin, end = end, end + 2 * tensor.numel()
        header[official_name(name)] = entry(begin, end, tensor.shape, 'BF16')
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(headed(header))
    os.truncate(path, path.stat().st_size + end)
    info = inspect_checkpoint(path)
    assert info.variant == variant and info.notes == () and info.stored_dtypes == ('BF16',)


def test_a_network_from_a_file_computes_what_the_saved_one_does(tmp_path):
    torch.manual_seed(0)
    network = build_network(VARIANTS['r3-tiny']).eval()
    path = tmp_path / 'tiny.safetensors'
    save_network(network, path)
    loaded = load_network(path)
    assert loaded.variant == 'r3-tiny'
    images = torch.rand(1, 2, 3, 28, 42)
    with torch.inference_mode():
        expected, actual = network(images, rays=True), loaded.network(images, rays=True)
    assert torch.equal(actual.depth, expected.depth) and torch.equal(actual.rays, expected.rays)
    assert torch.equal(actual.fov, expected.fov)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_loading_takes_no_second_copy(tmp_path, dtype):
    """115 MB of weights, of which the scratch memory is a hundredth."""
    path = tmp_path / 'small.safetensors'
    with torch.device('meta'):
        network = build_network(VARIANTS['r3-small'])
    save_network(network.to_empty(device='cpu').apply(zero), path)
    program = (
        'import resource, sys, torch; from r3_ros.model.checkpoint import load_network\n'
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
