"""Weights: which there are, under which licence, and fetching them from a hub that misbehaves."""

import hashlib
import json
import os
from pathlib import Path
import random
from types import SimpleNamespace

from hub_server import COMMIT, Hub, running
import pytest
from r3_ros import cli, weights
from r3_ros.errors import ModelError
from r3_ros.weights import CATALOGUE

pytest.importorskip('huggingface_hub')

ROOT = Path(__file__).resolve().parents[1]
CONTENT = random.Random(0).randbytes(100_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SMALL = 'depth-anything/DA3-SMALL/model.safetensors'


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
    """Serve a hub that holds one file; the library writes it in small pieces, and never waits."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1000)
    monkeypatch.setattr(file_download, 'time', SimpleNamespace(sleep=lambda seconds: None))
    with running(Hub({SMALL: CONTENT})) as hub:
        monkeypatch.setenv('HF_ENDPOINT', hub.address)
        yield hub


@pytest.fixture
def target(folder):
    return folder / 'da3-small.safetensors'


def get(*arguments, name='da3-small', yes=True):
    return cli.main(['weights', 'get', name, *(['--yes'] if yes else []), *arguments])


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


FETCHED = ['da3-small.json', 'da3-small.safetensors']


# --- What there is ---


def test_each_entry_fills_a_network_that_can_be_built():
    from r3_ros.model.variants import VARIANTS

    assert {entry.variant for entry in CATALOGUE.values()} <= set(VARIANTS)
    assert {CATALOGUE[name].variant for name in ('r3', 'r3_long')} == {'r3-large'}
    assert CATALOGUE['da3-large-1.1'].variant == CATALOGUE['da3-large'].variant == 'da3-large'
    assert CATALOGUE['r3'].training_views == (4, 32)
    assert CATALOGUE['r3_long'].training_views == (32, 100)


def test_who_may_earn_money_with_them():
    allowed = {name for name, entry in CATALOGUE.items() if entry.commercial_use}
    unknown = {name for name, entry in CATALOGUE.items() if entry.commercial_use is None}
    assert allowed == {'da3-small', 'da3-base', 'da3metric-large'}
    assert unknown == {'r3', 'r3_long'}
    for entry in CATALOGUE.values():
        licence = {True: 'Apache-2.0', False: 'CC-BY-NC-4.0', None: 'NOASSERTION'}
        assert entry.licence == licence[entry.commercial_use]
        if entry.commercial_use is False:
            assert 'not for commercial use' in entry.licence_text()
    assert 'CC BY-NC 4.0' in CATALOGUE['r3'].note


def test_the_page_lists_every_entry_with_its_licence():
    page = (ROOT / 'docs/weights.md').read_text(encoding='utf-8')
    rows = {line.split('|')[1].strip(' `'): line for line in page.splitlines() if '|' in line}
    for entry in CATALOGUE.values():
        row = rows[entry.name]
        licence = 'not stated' if entry.commercial_use is None else entry.licence
        commercial = {True: 'yes', False: '**no**', None: 'unknown'}[entry.commercial_use]
        assert entry.repo in row and licence in row and f'| {commercial} |' in row


def test_a_wrong_name_is_told_with_the_closest_one():
    with pytest.raises(ModelError, match=r"'da3_small'.*did you mean da3-small\?"):
        weights.known('da3_small')
    with pytest.raises(ModelError, match='r3 weights list'):
        weights.known('resnet')


# --- Where they are ---


def test_the_folder_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.delenv('R3_ROS_WEIGHTS', raising=False)
    monkeypatch.setenv('XDG_DATA_HOME', 'relative')
    assert weights.weights_folder() == tmp_path / '.local/share/r3_ros/weights'
    monkeypatch.setenv('XDG_DATA_HOME', '/data')
    assert weights.weights_folder() == Path('/data/r3_ros/weights')
    monkeypatch.setenv('R3_ROS_WEIGHTS', '~/mine')
    assert weights.weights_folder() == tmp_path / 'mine'


def test_a_user_without_a_home_is_asked_for_a_folder(monkeypatch):
    def no_home():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.delenv('R3_ROS_WEIGHTS', raising=False)
    monkeypatch.delenv('XDG_DATA_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', no_home)
    with pytest.raises(ModelError, match='set R3_ROS_WEIGHTS'):
        weights.weights_folder()
    monkeypatch.setenv('R3_ROS_WEIGHTS', '~no-such-user/mine')
    assert weights.weights_folder().name == 'mine'


@pytest.mark.parametrize(
    'arguments', [['list'], ['check', 'r3'], ['check', 'n' * 300], ['get', 'r3', '--yes']]
)
def test_a_folder_that_may_not_be_looked_into_is_told(arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('R3_ROS_WEIGHTS', str(tmp_path / ('n' * 300)))
    assert cli.main(['weights', *arguments]) == 2
    said = capsys.readouterr().err
    assert 'cannot look for weights at' in said and len(said.splitlines()) == 1


def test_weights_are_found_in_the_folder_and_then_in_the_hubs_cache(folder, target, tmp_path):
    assert weights.find_weights('da3-small') is None
    cached = put_in_cache(tmp_path / 'cache')
    assert weights.find_weights('da3-small') == cached
    target.parent.mkdir()
    target.touch()
    assert weights.find_weights('da3-small') == target
    with pytest.raises(ModelError):
        weights.find_weights('da4')


def put_in_cache(cache, content=CONTENT, digest=DIGEST):
    """Lay a file down as the hub's library does and return where it is found."""
    repo = cache / 'models--depth-anything--DA3-SMALL'
    snapshot = repo / 'snapshots' / COMMIT
    for path in (repo / 'blobs', repo / 'refs', snapshot):
        path.mkdir(parents=True)
    (repo / 'refs/main').write_text(COMMIT)
    (repo / 'blobs' / digest).write_bytes(content)
    (snapshot / 'model.safetensors').symlink_to(f'../../blobs/{digest}')
    return snapshot / 'model.safetensors'


def test_missing_weights_are_told_with_and_without_internet(folder, target):
    said = weights.missing_message('da3-small')
    assert 'r3 weights get da3-small' in said and '\n' not in said
    assert f'model.safetensors of {CATALOGUE["da3-small"].page} at {target}' in said


def test_looking_asks_the_network_nothing(hub, capsys):
    assert weights.find_weights('da3-small') is None
    weights.missing_message('r3')
    assert cli.main(['weights', 'list']) == 0
    assert cli.main(['weights', 'check', 'da3-small']) == 2
    assert hub.requests == []


# --- The list ---


def test_the_list_fits_a_terminal_and_says_what_is_here(hub, target, capsys):
    get()
    capsys.readouterr()
    assert cli.main(['weights', 'list']) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert all(len(line) <= 100 for line in rows.values())
    assert set(CATALOGUE) < set(rows)
    assert '100 kB' in rows['da3-small'] and 'Apache-2.0' in rows['da3-small']
    assert 'absent' in rows['r3'] and 'unknown' in rows['r3']
    assert ' no ' in rows['da3-giant']
    assert str(target.parent) in out


def test_the_list_for_programs(hub, target, capsys):
    get()
    capsys.readouterr()
    assert cli.main(['weights', 'list', '--json']) == 0
    entries = {entry['name']: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(CATALOGUE)
    assert entries['da3-small']['path'] == str(target)
    assert entries['da3-small']['size_bytes'] == len(CONTENT)
    assert entries['r3']['path'] is None and entries['r3']['commercial_use'] is None


# --- Fetching ---


def test_a_file_is_fetched_verified_and_recorded(hub, folder, target, capsys):
    assert get() == 0
    assert target.read_bytes() == CONTENT
    assert sorted(os.listdir(folder)) == FETCHED
    record = weights.read_record(target)
    assert (record.repo, record.file) == ('depth-anything/DA3-SMALL', 'model.safetensors')
    assert (record.revision, record.sha256, record.size_bytes) == (COMMIT, DIGEST, len(CONTENT))
    assert record.licence == 'Apache-2.0' and record.fetched.endswith('+00:00')
    assert [method for method, *_ in hub.requests] == ['HEAD', 'GET']
    assert COMMIT in hub.requests[1][1], 'the branch may move between the two'
    out = capsys.readouterr().out
    assert 'Apache-2.0: commercial use is allowed' in out and str(target) in out


def test_a_terminal_sees_a_progress_bar(hub, monkeypatch, capfd):
    monkeypatch.setenv('TQDM_POSITION', '-1')  # has the hub's library show it in a test too
    assert get() == 0
    assert '100%' in capfd.readouterr().err


def test_what_is_here_and_whole_is_not_fetched_again(hub, target, capsys):
    get()
    before = len(hub.requests)
    assert get() == 0
    assert len(hub.requests) == before
    assert 'here already and verified' in capsys.readouterr().out


def test_a_damaged_file_is_fetched_again(hub, target, capsys):
    get()
    target.write_bytes(CONTENT[:-1] + b'x')
    assert get() == 0
    assert target.read_bytes() == CONTENT
    assert 'is damaged' in capsys.readouterr().out


def test_a_file_put_there_by_hand_is_compared_and_kept(hub, folder, target):
    folder.mkdir()
    target.write_bytes(CONTENT)
    assert get() == 0
    assert hub.ranges() == [] and weights.read_record(target).sha256 == DIGEST


def test_another_file_put_there_by_hand_is_not_overwritten(hub, folder, target, capsys):
    folder.mkdir()
    target.write_bytes(b'my own weights')
    assert get() == 2
    assert 'put there by hand' in capsys.readouterr().err
    assert target.read_bytes() == b'my own weights' and names_in(folder) == [target.name]


def test_weights_in_the_hubs_cache_are_not_fetched(hub, tmp_path, capsys):
    put_in_cache(tmp_path / 'cache')
    assert get() == 0
    assert hub.requests == [] and 'verified' in capsys.readouterr().out


def test_weights_damaged_in_the_hubs_cache_are_fetched(hub, tmp_path, target):
    put_in_cache(tmp_path / 'cache', content=b'other')
    assert get() == 0
    assert target.read_bytes() == CONTENT


def test_a_revision_can_be_named(hub, target):
    get()
    hub.files[SMALL] = CONTENT[::-1]
    assert get() == 0 and target.read_bytes() == CONTENT
    assert get('--revision', 'v1') == 0 and target.read_bytes() == CONTENT[::-1]
    assert '/v1/' in hub.requests[-2][1]
    assert weights.read_record(target).sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_another_folder_can_be_named(hub, folder, tmp_path, capsys):
    other = tmp_path / 'other'
    assert get('--folder', str(other)) == 0
    assert names_in(other) == FETCHED and not folder.exists()
    assert f'R3_ROS_WEIGHTS={other}' in capsys.readouterr().out


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


@pytest.mark.parametrize('name', ['da3-large', 'da3-large-1.1', 'da3-giant', 'da3-giant-1.1'])
def test_the_licence_is_shown_before_anything_is_asked_of_the_hub(hub, monkeypatch, capsys, name):
    monkeypatch.setattr('sys.stdin', SimpleNamespace(isatty=lambda: False))
    assert get(name=name, yes=False) == 2
    said = capsys.readouterr()
    assert 'CC-BY-NC-4.0: not for commercial use' in said.out and '--yes' in said.err
    assert hub.requests == []


def test_the_unknown_licence_of_r3_is_said_plainly(hub, capsys):
    get(name='r3')
    out = ' '.join(capsys.readouterr().out.split())
    assert 'not stated' in out and 'treat these as non-commercial' in out


# --- Trouble ---


def assert_nothing_visible(folder):
    assert not [path for path in folder.glob('*') if not path.name.startswith('.')]


def test_a_cut_is_mended_within_one_call(hub, target):
    hub.cuts = [40_000, 30_000]
    assert get() == 0
    assert target.read_bytes() == CONTENT
    assert hub.ranges() == [None, 'bytes=40000-', 'bytes=70000-']


def test_after_an_interrupt_the_next_call_goes_on(hub, folder, target, monkeypatch, capsys):
    from huggingface_hub import file_download

    def interrupt(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file_download, 'time', SimpleNamespace(sleep=interrupt))
        hub.cuts = [40_000]
        assert get() == 130
    said = capsys.readouterr().err
    assert '40 kB of 100 kB are kept; the same command goes on from there' in said
    assert_nothing_visible(folder)
    assert get() == 0
    assert target.read_bytes() == CONTENT and names_in(folder) == FETCHED
    assert hub.ranges() == [None, 'bytes=40000-']
    assert '40 kB of 100 kB are here' in capsys.readouterr().out


def test_a_connection_that_stays_away_keeps_what_there_is(hub, folder, target, capsys):
    hub.cuts = [40_000, *[0] * 20]
    assert get() == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith('broke off; 40 kB of 100 kB are kept, and the same command goes on from there')
    )
    assert_nothing_visible(folder)
    hub.cuts = []
    assert get() == 0
    assert target.read_bytes() == CONTENT and hub.ranges()[-1] == 'bytes=40000-'


def test_a_server_without_ranges_costs_time_but_no_harm(hub, target):
    hub.cuts, hub.ignores_ranges = [40_000], True
    assert get() == 0
    assert target.read_bytes() == CONTENT


def test_what_is_left_of_another_revision_is_not_continued(hub, folder, target):
    hub.cuts = [40_000, *[0] * 20]
    get()
    hub.cuts, hub.files[SMALL] = [], CONTENT[::-1]
    assert get() == 0
    assert target.read_bytes() == CONTENT[::-1] and names_in(folder) == FETCHED


def test_what_is_left_is_not_trusted(hub, folder, target, capsys):
    """Too long: from the beginning. Complete but wrong: refused, and from the beginning."""
    from r3_ros.weights_download import partial_path

    left = partial_path(target, SimpleNamespace(sha256=DIGEST))
    left.parent.mkdir(parents=True)
    left.write_bytes(CONTENT + b'and more')
    assert get() == 0 and target.read_bytes() == CONTENT
    target.unlink()
    left.parent.mkdir()
    left.write_bytes(CONTENT[::-1])
    assert get() == 2 and not target.exists() and not left.exists()
    assert get() == 0 and target.read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_removed(hub, folder, capsys):
    hub.digest = '0' * 64
    assert get() == 2
    said = capsys.readouterr().err
    assert DIGEST in said and '0' * 64 in said and len(said.splitlines()) == 1
    assert os.listdir(folder) == []


def test_a_wrong_digest_leaves_the_file_that_was_there(hub, folder, target):
    get()
    hub.digest = '0' * 64
    assert get('--revision', 'v1') == 2
    assert target.read_bytes() == CONTENT and names_in(folder) == FETCHED


def test_a_hub_that_names_no_digest_is_refused(hub, folder, capsys):
    hub.digest = '0' * 40
    assert get() == 2
    assert 'names no SHA-256' in capsys.readouterr().err and not folder.exists()


@pytest.mark.parametrize(
    ('status', 'arguments', 'said'),
    [
        (None, ['--revision', 'gone'], "has no revision 'gone'"),
        ((404, 'EntryNotFound'), [], 'holds no file model.safetensors'),
        ((404, 'RepoNotFound'), [], 'does not exist, or needs a login'),
        ((401, 'RepoNotFound'), [], 'HF_TOKEN'),
        ((403, 'GatedRepo'), [], 'accept the terms'),
        ((500, ''), [], 'answered 500'),
    ],
)
def test_a_refusal_is_told_in_one_line(hub, folder, capsys, status, arguments, said):
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
    assert len(lines) == 1 and f'cannot reach {gone.address}' in lines[0]
    assert (
        f'put model.safetensors of {gone.address}/depth-anything/DA3-SMALL at {target}'
        in (lines[0])
    )
    assert not folder.exists()


def test_the_hubs_offline_mode_is_kept(hub, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert get() == 2
    assert 'HF_HUB_OFFLINE is set' in capsys.readouterr().err and hub.requests == []


def test_a_full_disk_is_told_before_anything_is_fetched(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr('shutil.disk_usage', lambda path: SimpleNamespace(free=99_999))
    assert get() == 2
    said = capsys.readouterr().err
    assert '100 kB free and da3-small.safetensors needs 100 kB' in said
    assert hub.ranges() == [] and names_in(folder) == []


def test_a_folder_that_cannot_be_made_is_told(hub, tmp_path, capsys):
    (tmp_path / 'weights').write_text('a file')
    assert get() == 2
    assert 'cannot write' in capsys.readouterr().err


def test_two_processes_do_not_write_the_same_file(hub, target, capsys):
    from r3_ros.weights_download import _opened_alone, partial_path

    partial = partial_path(target, SimpleNamespace(sha256=DIGEST))
    partial.parent.mkdir(parents=True)
    with _opened_alone(partial, target):
        assert get() == 2
    assert 'another process' in capsys.readouterr().err
    assert get() == 0 and target.read_bytes() == CONTENT


# --- Checking ---


@pytest.fixture(scope='module')
def tiny_file(tmp_path_factory):
    """Return a file with all weights of the smallest network."""
    pytest.importorskip('torch')
    from r3_ros.model.checkpoint import save_network
    from r3_ros.model.network import build_network
    from r3_ros.model.variants import VARIANTS

    path = tmp_path_factory.mktemp('tiny') / 'tiny.safetensors'
    save_network(build_network(VARIANTS['r3-tiny']), path)
    return path


@pytest.fixture
def tiny(hub, folder, tiny_file, monkeypatch):
    """Have the hub serve the smallest network as ``r3``; return where it is fetched to."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'DOWNLOAD_CHUNK_SIZE', 1 << 20)
    monkeypatch.setitem(
        CATALOGUE, 'r3', weights.Weights(**{**vars(CATALOGUE['r3']), 'variant': 'r3-tiny'})
    )
    hub.files['KevinXu02/R3/r3.safetensors'] = tiny_file.read_bytes()
    return folder / 'r3.safetensors'


def test_check_says_what_a_fetched_file_is(tiny, capsys):
    assert get(name='r3') == 0
    capsys.readouterr()
    assert cli.main(['weights', 'check', 'r3']) == 0
    out = capsys.readouterr().out
    assert str(tiny) in out and weights.sha256_of(tiny) in out
    assert 'r3-tiny' in out and 'as recorded on' in out and 'F32' in out


def test_check_finds_a_changed_byte(tiny, tiny_file, hub, capsys):
    get(name='r3')
    content = bytearray(tiny.read_bytes())
    content[-1] ^= 1
    tiny.write_bytes(content)
    assert cli.main(['weights', 'check', str(tiny)]) == 2
    said = capsys.readouterr().err
    assert 'damaged or was changed' in said and len(said.splitlines()) == 1


def test_check_says_that_a_file_put_there_by_hand_could_not_be_compared(tiny_file, capsys):
    assert cli.main(['weights', 'check', str(tiny_file)]) == 0
    out = capsys.readouterr().out
    assert 'not compared' in out and weights.sha256_of(tiny_file) in out


def test_check_refuses_weights_of_another_network(folder, target, tiny_file, capsys):
    folder.mkdir()
    target.symlink_to(tiny_file)
    assert cli.main(['weights', 'check', 'da3-small']) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize('content', [b'', b'not weights', CONTENT])
def test_check_refuses_what_is_no_file_of_weights(tmp_path, capsys, content):
    pytest.importorskip('torch')
    path = tmp_path / 'some.safetensors'
    path.write_bytes(content)
    assert cli.main(['weights', 'check', str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and len(said.splitlines()) == 1


def test_check_says_what_is_missing(folder, capsys):
    assert cli.main(['weights', 'check', 'da3-small']) == 2
    assert 'r3 weights get da3-small' in capsys.readouterr().err
    assert cli.main(['weights', 'check', 'gone.safetensors']) == 2
    assert 'neither a file nor a name' in capsys.readouterr().err


@pytest.mark.parametrize(
    'content',
    [
        '',
        '[]',
        '{}',
        '{"sha256": "abc"}',
        json.dumps(
            dict.fromkeys(
                ('name', 'repo', 'file', 'revision', 'sha256', 'size_bytes', 'licence', 'fetched'),
                1,
            )
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_none(tmp_path, content):
    path = tmp_path / 'da3-large-1.1.safetensors'
    weights.record_path(path).write_text(content)
    assert weights.record_path(path).name == 'da3-large-1.1.json'
    assert weights.read_record(path) is None


@pytest.mark.parametrize(
    ('size_bytes', 'text'),
    [(999, '999 B'), (100_000, '100 kB'), (137_200_000, '137 MB'), (1_420_000_000, '1.42 GB')],
)
def test_sizes_are_for_people(size_bytes, text):
    assert weights.size_text(size_bytes) == text
