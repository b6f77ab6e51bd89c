"""The check of a GPU where there is none: what can be run is run, the rest says why not."""

import json

from tools import gpu_check


def test_a_dry_run_writes_what_it_found_and_what_it_left_out(tmp_path, capsys):
    out = tmp_path / 'out'
    assert gpu_check.main(['--cpu', '--out', str(out), '--only', 'waits', 'retrieval']) == 0
    report = json.loads((out / 'gpu_check.json').read_text())
    checks = report['checks']
    assert checks['waits']['result'] == 'left out: needs a GPU'
    assert checks['retrieval']['result'] == 'passed'
    assert checks['retrieval']['figures']['256 keyframes, cpu: ms'] > 0
    table = (out / 'gpu_check.md').read_text()
    assert '| **retrieval** | passed |' in table
    printed = capsys.readouterr().out
    assert printed.startswith('as asked for: dry run on the CPU') and table in printed


def test_a_check_that_fails_does_not_end_the_others(tmp_path, monkeypatch):
    def breaks(setup):
        raise RuntimeError('no kernel\nfor this device')

    def differs(setup):
        return False, {'difference': 1.0}

    monkeypatch.setattr(gpu_check, 'CHECKS', ((breaks, 1), (differs, 1)))
    assert gpu_check.main(['--cpu', '--out', str(tmp_path)]) == 1
    checks = json.loads((tmp_path / 'gpu_check.json').read_text())['checks']
    assert checks['breaks']['result'] == 'failed: RuntimeError: no kernel for this device'
    assert checks['differs'] == {**checks['differs'], 'result': 'failed'}
    assert checks['differs']['figures'] == {'difference': 1.0}
