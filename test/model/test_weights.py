"""Weights: which there are, under which licence, and fetching them from a hub that misbehaves."""

import hashlib
import json
import os
from pathlib import Path
import random
from types import SimpleNamespace

from hub_server import COMMIT, Hub, running
from paths import ROOT
import pytest
from r3_ros.commands import cli
from r3_ros.commands.options import size_text
from r3_ros.core.errors import ModelError
from r3_ros.model.weights import catalogue as weights
from r3_ros.model.weights.catalogue import CATALOGUE

pytest.importorskip('huggingface_hub')

CONTENT = random.Random(0).randbytes(100_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SMALL = 'depth-anything/DA3-SMALL/model.safetensors'
FETCHED = ['da3_small.json', 'da3_small.safetensors']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the weights folder of this test; nothing outside of it is seen."""
    from huggingface_hub import constants

    folder = tmp_path / 'weights'
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(folder))
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.delenv('HF_TOKEN', raising=False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'no_token'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    return folder


@pytest.fixture
def hub(folder, monkeypatch):
    """Serve a hub that holds one file; the hub's library never waits before it tries again."""
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, 'time', SimpleNamespace(sleep=lambda seconds: None))
    with running(Hub({SMALL: CONTENT})) as hub:
        monkeypatch.setenv('HF_ENDPOINT', hub.address)
        yield hub


@pytest.fixture
def target(folder):
    return folder / 'da3_small.safetensors'


def get(*arguments, name='da3_small', yes=True):
    return cli.main(['weights', 'get', name, *(['--yes'] if yes else []), *arguments])


def names_in(folder):
    return sorted(os.listdir(folder)) if folder.exists() else []


# --- What there is, and where ---


def test_each_entry_fills_a_network_that_can_be_built():
    from r3_ros.model.variants import PAIR_VARIANTS, VARIANTS

    assert {entry.variant for entry in CATALOGUE.values()} <= {*VARIANTS, *PAIR_VARIANTS}
    assert {CATALOGUE[name].variant for name in ('r3', 'r3_long')} == {'r3-large'}
    assert CATALOGUE['da3_large_1.1'].variant == CATALOGUE['da3_large'].variant == 'da3-large'


def test_commercial_use_is_allowed_by_the_licence_alone():
    allowed = {name for name, entry in CATALOGUE.items() if entry.commercial_use}
    assert allowed == {
        'r3_tiny', 'da3_small', 'da3_base', 'da3metric_large', 'vggt_commercial', 'lingbot_map',
    }  # fmt: skip
    restricted = {e.licence for e in CATALOGUE.values() if not e.commercial_use}
    assert restricted == {'CC-BY-NC-4.0', 'CC-BY-NC-SA-4.0'}


def test_the_page_lists_every_entry_with_its_licence_and_those_to_ship_first(capsys):
    page = (ROOT / 'docs/weights.md').read_text(encoding='utf-8')
    rows = {line.split('|')[1].strip(' `'): line for line in page.splitlines() if '|' in line}
    for entry in CATALOGUE.values():
        row = rows[entry.name]
        commercial = 'yes' if entry.commercial_use else '**no**'
        assert (
            (entry.repo or 'this package') in row
            and f'| {commercial} | {entry.licence}' in row
            and f'`{entry.variant}`' in row
        )
    assert cli.main(['weights', 'list']) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    listed = [name for name in listed if name in CATALOGUE]
    assert listed == [name for name in rows if name in CATALOGUE]
    free = [CATALOGUE[name].commercial_use for name in listed]
    assert free == sorted(free, reverse=True)


def test_a_wrong_name_is_refused_with_all_names():
    with pytest.raises(ModelError, match=r"no weights named 'da3-small'.* da3_small, "):
        weights.known('da3-small')


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('R3_ROS_WEIGHTS', raising=False)
    monkeypatch.setenv('XDG_DATA_HOME', 'relative')
    assert weights.weights_folder() == tmp_path / '.local/share/r3_ros/weights'
    monkeypatch.setenv('XDG_DATA_HOME', '/data')
    assert weights.weights_folder() == Path('/data/r3_ros/weights')
    monkeypatch.setenv('R3_ROS_WEIGHTS', '~/mine')
    assert weights.weights_folder() == tmp_path / 'mine'


def test_weights_are_found_in_the_folder_and_then_in_the_hubs_cache(folder, target, tmp_path):
    assert weights.find_weights('da3_small') is None
    repo = tmp_path / 'cache' / 'models--depth-anything--DA3-SMALL'
    cached = repo / 'snapshots' / COMMIT / 'model.safetensors'
    cached.parent.mkdir(parents=True)
    cached.touch()
    (repo / 'refs').mkdir()
    (repo / 'refs/main').write_text(COMMIT)
    assert weights.find_weights('da3_small') == cached
    target.parent.mkdir()
    target.touch()
    assert weights.find_weights('da3_small') == target


def test_looking_sends_nothing_to_the_network(hub, target, capsys):
    said = weights.missing_message('da3_small')
    assert 'r3 weights get da3_small' in said and '\n' not in said
    assert f'model.safetensors of {CATALOGUE["da3_small"].page} at {target}' in said
    assert cli.main(['weights', 'list']) == 0
    assert cli.main(['weights', 'check', 'da3_small']) == 2
    assert hub.requests == []


def test_the_list_fits_a_terminal_and_says_what_is_here(hub, target, capsys):
    get()
    capsys.readouterr()
    assert cli.main(['weights', 'list']) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert all(len(line) <= 100 for line in rows.values())
    assert set(CATALOGUE) < set(rows)
    assert '100 kB' in rows['da3_small'] and 'Apache-2.0' in rows['da3_small']
    assert 'absent' in rows['r3'] and ' no ' in rows['r3']
    assert str(target.parent) in out


def test_the_included_weights_are_here_whole_and_cannot_be_fetched(hub, capsys):
    path = weights.find_weights('r3_tiny')
    assert path is not None and path.stat().st_size < 24e6
    assert cli.main(['weights', 'check', 'r3_tiny']) == 0
    out = capsys.readouterr().out
    assert 'a whole r3-tiny network' in out and 'of this package' in out
    assert cli.main(['weights', 'get', 'r3_tiny']) == 2
    assert 'come with this package' in capsys.readouterr().err
    assert hub.requests == []


# --- Fetching ---


def test_a_file_is_fetched_verified_and_recorded(hub, folder, target, capsys):
    assert get() == 0
    assert target.read_bytes() == CONTENT
    assert names_in(folder) == FETCHED
    record = json.loads((folder / 'da3_small.json').read_text())
    assert record['revision'] == COMMIT and record['licence'] == 'Apache-2.0'
    assert weights.recorded_digest(target) == record['sha256'] == DIGEST
    contents = [path for method, path, _ in hub.requests if method == 'GET']
    assert len(contents) == 1 and COMMIT in contents[0], 'the branch may have moved meanwhile'
    out = capsys.readouterr().out
    assert 'Apache-2.0: commercial use is allowed' in out and str(target) in out


def test_what_is_here_and_whole_is_not_fetched_again(hub, target, capsys):
    get()
    before = len(hub.requests)
    assert get() == 0
    assert len(hub.requests) == before
    assert 'nothing to fetch' in capsys.readouterr().out


def test_a_damaged_file_is_fetched_again(hub, target):
    get()
    target.write_bytes(CONTENT[:-1] + b'x')
    assert get() == 0
    assert target.read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_compared_and_kept(hub, folder, target, capsys):
    folder.mkdir()
    target.write_bytes(CONTENT)
    assert get() == 0
    assert hub.ranges() == [] and weights.recorded_digest(target) == DIGEST
    weights.record_path(target).unlink()
    target.write_bytes(b'my own weights')
    assert get() == 2
    assert 'put there by hand' in capsys.readouterr().err
    assert target.read_bytes() == b'my own weights' and names_in(folder) == [target.name]


def test_a_revision_can_be_named(hub, target):
    get()
    hub.files[SMALL] = CONTENT[::-1]
    assert get() == 0 and target.read_bytes() == CONTENT
    assert get('--revision', 'v1') == 0 and target.read_bytes() == CONTENT[::-1]
    assert weights.recorded_digest(target) == hashlib.sha256(CONTENT[::-1]).hexdigest()


# --- Consent ---


def at_terminal(monkeypatch, answer):
    asked = []

    def reply(question):
        asked.append(question)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr('sys.stdin', SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr('builtins.input', reply)
    return asked


@pytest.mark.parametrize('answer', ['', 'n', 'maybe', EOFError()])
def test_without_consent_nothing_is_fetched(hub, folder, monkeypatch, capsys, answer):
    asked = at_terminal(monkeypatch, answer)
    assert get(yes=False) == 1
    assert '100 kB' in asked[0] and hub.ranges() == [] and not folder.exists()
    out = capsys.readouterr().out
    assert out.index('Apache-2.0') < out.index('nothing was fetched')


def test_consent_can_be_given_at_a_terminal(hub, target, monkeypatch):
    at_terminal(monkeypatch, 'y')
    assert get(yes=False) == 0
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize('name', ['r3', 'da3_large', 'da3_giant_1.1'])
def test_the_licence_is_shown_before_anything_is_asked_of_the_hub(hub, monkeypatch, capsys, name):
    monkeypatch.setattr('sys.stdin', SimpleNamespace(isatty=lambda: False))
    assert get(name=name, yes=False) == 2
    said = capsys.readouterr()
    assert 'CC-BY-NC-4.0: not for commercial use' in said.out and '--yes' in said.err
    assert ('secondary source' in said.out) == (name == 'r3')
    assert hub.requests == []


# --- Trouble ---


def test_a_connection_that_breaks_off_leaves_nothing(hub, folder, target, capsys):
    hub.cuts = [40_000, *[0] * 20]
    assert get() == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert 'broke off' in lines[-1] and names_in(folder) == []
    hub.cuts = []
    assert get() == 0 and target.read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_leaves_what_was_there(hub, folder, target, capsys):
    hub.digest = '0' * 64
    assert get() == 2
    said = capsys.readouterr().err
    assert DIGEST in said and '0' * 64 in said and names_in(folder) == []
    hub.digest = None
    get()
    hub.digest = '0' * 64
    assert get('--revision', 'v1') == 2
    assert target.read_bytes() == CONTENT and names_in(folder) == FETCHED


def test_a_hub_that_names_no_digest_is_refused(hub, folder, capsys):
    hub.digest = '0' * 40
    assert get() == 2
    assert 'could not be verified' in capsys.readouterr().err and not folder.exists()


@pytest.mark.parametrize(
    ('status', 'arguments', 'said'),
    [
        (None, ['--revision', 'gone'], 'has no such revision'),
        ((404, 'EntryNotFound'), [], 'holds no file model.safetensors'),
        ((404, 'RepoNotFound'), [], 'does not exist, or needs a login'),
        ((401, 'RepoNotFound'), [], 'HF_TOKEN'),
        ((403, 'GatedRepo'), [], 'accept the terms'),
        ((500, ''), [], '500'),
    ],
)
def test_a_refusal_is_reported_in_one_line(hub, folder, capsys, status, arguments, said):
    hub.status = status
    assert get(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not folder.exists()


def test_without_internet_it_says_where_the_file_goes(folder, target, monkeypatch, capsys):
    with running(Hub({})) as gone:
        pass
    monkeypatch.setenv('HF_ENDPOINT', gone.address)
    assert get() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f'{gone.address} cannot be reached' in lines[0]
    page = f'{gone.address}/depth-anything/DA3-SMALL'
    assert f'put model.safetensors of {page} at {target}' in lines[0]
    assert not folder.exists()


def test_a_pickle_is_never_fetched(hub, folder, capsys):
    assert get(name='lingbot_map') == 2
    said = capsys.readouterr().err
    assert 'published as a pickle' in said and str(folder / 'lingbot_map.safetensors') in said
    assert hub.requests == [] and not folder.exists()


def test_the_hubs_offline_mode_is_kept(hub, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert get() == 2
    assert 'HF_HUB_OFFLINE is set' in capsys.readouterr().err and hub.requests == []


def test_a_folder_that_cannot_be_made_is_reported(hub, tmp_path, capsys):
    (tmp_path / 'weights').write_text('a file')
    assert get() == 2
    assert 'cannot write' in capsys.readouterr().err


# --- Checking ---


@pytest.fixture(scope='module')
def tiny_file(tmp_path_factory):
    """Return a file with all weights of the smallest network."""
    pytest.importorskip('torch')
    from r3_ros.model.building import build_network
    from r3_ros.model.variants import VARIANTS
    from r3_ros.model.weights.checkpoint import save_network

    path = tmp_path_factory.mktemp('tiny') / 'tiny.safetensors'
    save_network(build_network(VARIANTS['r3-tiny']), path)
    return path


def test_check_compares_with_the_record_and_loads(tiny_file, capsys):
    record, digest = weights.record_path(tiny_file), weights.sha256_of(tiny_file)
    record.write_text(json.dumps({'sha256': digest}))
    assert cli.main(['weights', 'check', str(tiny_file)]) == 0
    out = capsys.readouterr().out
    assert 'r3-tiny' in out and f'{digest}, as recorded' in out
    record.write_text(json.dumps({'sha256': '0' * 64}))
    assert cli.main(['weights', 'check', str(tiny_file)]) == 2
    assert 'damaged or was changed' in capsys.readouterr().err
    record.unlink()
    assert cli.main(['weights', 'check', str(tiny_file)]) == 0
    assert f'{digest}, none recorded' in capsys.readouterr().out


def test_check_refuses_weights_of_another_network(folder, target, tiny_file, capsys):
    folder.mkdir()
    target.symlink_to(tiny_file)
    assert cli.main(['weights', 'check', 'da3_small']) == 2
    said = capsys.readouterr().err
    assert 'it is a r3-tiny file and not da3-small' in said and len(said.splitlines()) == 1


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"sha256": "abc"}', '{"sha256": 1}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path, content):
    path = tmp_path / 'da3_large_1.1.safetensors'
    weights.record_path(path).write_text(content)
    assert weights.record_path(path).name == 'da3_large_1.1.json'
    assert weights.recorded_digest(path) is None


@pytest.mark.parametrize(
    ('size_bytes', 'text'),
    [(999, '999 B'), (100_000, '100 kB'), (137_200_000, '137 MB'), (1_420_000_000, '1.42 GB')],
)
def test_sizes_are_for_people(size_bytes, text):
    assert size_text(size_bytes) == text
